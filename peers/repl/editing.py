r"""A person's editor, for ``\edit``: a file of theirs alone, which is gone afterwards."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from query import limits
from query.errors import UserProblem, WorldProblem

EDITORS: Final = ("sensible-editor", "editor", "nano", "vi")


class NoEditor(WorldProblem):
    r"""``\edit`` without an editor that can be started."""

    code = "no_editor"


def editor_of(environment: Mapping[str, str]) -> list[str]:
    """The words that start a person's editor. Raises :class:`NoEditor`."""
    for variable in ("VISUAL", "EDITOR"):
        try:
            if words := shlex.split(environment.get(variable, "")):
                return words
        except ValueError as error:
            raise NoEditor(f"{variable} is no command: {error}", hint="EDITOR=nano peerage repl") from error
    for name in EDITORS:
        if shutil.which(name):
            return [name]
    raise NoEditor("no editor: expected one in VISUAL or EDITOR, found neither", hint="EDITOR=nano peerage repl")


def edited(text: str, editor: list[str]) -> str:
    """What a person makes of a text in an editor; the file is theirs alone, and gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="peerage-") as folder:
        path = Path(folder) / "statement.pql"
        path.write_text(text.rstrip("\n") + "\n" if text else "", "utf-8")
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the editor's business
        try:
            done = subprocess.run([*editor, str(path)], check=False)
        except OSError as error:
            raise NoEditor(f"cannot start {editor[0]}: {error.strerror}", hint="EDITOR names another") from error
        finally:
            signal.signal(signal.SIGINT, before)
        if done.returncode != 0:
            raise NoEditor(f"{editor[0]} ended with status {done.returncode}; the text is as it was")
        with path.open("rb") as file:
            raw = file.read(limits.TEXT_BYTES_LOCAL_MAX + 1)
    if len(raw) > limits.TEXT_BYTES_LOCAL_MAX:
        raise UserProblem(f"the text is longer than {limits.TEXT_BYTES_LOCAL_MAX} bytes")
    return raw.decode("utf-8", errors="replace").rstrip("\n")
