"""A workspace's ``.peerage.toml``: what editor and prompt keep for the files of one folder.

    default_peer = "E1"      # where statements go that nothing else sends anywhere, in the words of //peer:

The file is looked for in a file's folder and the folders above it; the nearest counts. Rules: other keys, comments and
order are left as they are; the file is replaced whole, through a file beside it, keeping its permissions; a file that
is no TOML is an error to who writes and to who reads. It never names a home, a key or a token: a folder that somebody
sent must not decide as whom its reader asks. Another user's file does not count in a folder where anybody may write,
and nothing is written through a link that leads out of the folder. Only the editor server and ``\\peer --save`` write
it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from query import limits
from query.errors import UserProblem, WorldProblem
from query.placement import parse_target

FILE: Final = ".peerage.toml"
DEFAULT_PEER: Final = "default_peer"
BYTES_MAX: Final = 64 * 1024
_TABLE: Final = re.compile(r"^[ \t]*\[", re.MULTILINE)
_LINE: Final = re.compile(
    r"""^(?P<key>[ \t]*(?:default_peer|"default_peer"|'default_peer')[ \t]*=[ \t]*)"""
    r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^#\n]*?)(?P<rest>[ \t]*(?:#[^\n]*)?)$""",
    re.MULTILINE,
)


class BadWorkspace(UserProblem):
    """A ``.peerage.toml`` that is none, or a default peer that cannot be one."""

    code = "bad_workspace"


class WorkspaceUnwritable(WorldProblem):
    code = "workspace_unwritable"


def find(near: Path) -> Path | None:
    """The nearest ``.peerage.toml``, from the folder ``near`` (or the folder of that file) upwards."""
    near = near.absolute()
    for folder in (near, *near.parents):
        candidate = folder / FILE
        with contextlib.suppress(OSError):
            if candidate.is_file() and not _anybodys(candidate):
                return candidate
    return None


def _anybodys(file: Path) -> bool:
    """Whether a file may be a stranger's, who left it above a folder of this user: in ``/tmp``, say."""
    return bool(file.parent.stat().st_mode & stat.S_IWOTH) and file.stat().st_uid != os.geteuid()


def default_peer(near: Path) -> str | None:
    """The default peer of the workspace that ``near`` lies in, or None. Raises :class:`BadWorkspace`."""
    file = find(near)
    return None if file is None else read_default_peer(file)


def read_default_peer(file: Path) -> str | None:
    """What one ``.peerage.toml`` says. Raises :class:`BadWorkspace`."""
    value = _read(file)[1].get(DEFAULT_PEER)
    if value is None or value == "":
        return None
    return checked(value, file)


def checked(value: object, file: Path | None = None) -> str:
    """A target that may be a default peer. Raises :class:`BadWorkspace`."""
    where = "" if file is None else f"{file}: "
    if not isinstance(value, str):
        raise BadWorkspace(f"{where}expected the name of a peer as {DEFAULT_PEER}, found {value!r:.60}")
    value = value.strip()
    if len(value) > limits.DIRECTIVE_LENGTH_MAX:
        raise BadWorkspace(f"{where}{DEFAULT_PEER} is longer than a target may be")
    if "\n" in value:
        raise BadWorkspace(f"{where}expected one line as {DEFAULT_PEER}, found several")
    try:
        parse_target(value)
    except UserProblem as problem:
        raise BadWorkspace(f"{where}{DEFAULT_PEER}: {problem.message}", hint=problem.hint) from problem
    return value


def save_default_peer(folder: Path, peer: str | None) -> Path:
    """Keep the default peer in the workspace's file, the nearest to ``folder`` or a new one there; None removes it.

    Raises :class:`BadWorkspace` and :class:`WorkspaceUnwritable`, and then the file is as it was.
    """
    value = None if peer is None else checked(peer)
    file = find(folder) or folder / FILE
    text = _read(file)[0] if file.exists() else ""
    changed = with_default_peer(text, value)
    if not _says(changed, value):  # what looks like a line or a table of its own is part of something longer
        raise BadWorkspace(f"{file}: cannot set {DEFAULT_PEER} in it", hint=f'write {DEFAULT_PEER} = "NAME" yourself')
    if changed != text:
        _replace(file, changed)
    return file


def _says(text: str, value: str | None) -> bool:
    try:
        return tomllib.loads(text).get(DEFAULT_PEER) == value
    except tomllib.TOMLDecodeError:
        return False


def with_default_peer(text: str, peer: str | None) -> str:
    """The text of a ``.peerage.toml`` with that default peer, everything else as it was."""
    table = _TABLE.search(text)
    top, rest = (text, "") if table is None else (text[: table.start()], text[table.start() :])
    line = _LINE.search(top)
    if peer is None:
        if line is None:
            return text
        return top[: line.start()] + top[line.end() :].removeprefix("\n") + rest
    quoted = json.dumps(peer, ensure_ascii=False)
    if line is not None:
        return top[: line.start()] + line["key"] + quoted + line["rest"] + top[line.end() :] + rest
    gap = "" if not top or top.endswith("\n") else "\n"
    return f"{top}{gap}{DEFAULT_PEER} = {quoted}\n" + ("\n" if rest else "") + rest


def _read(file: Path) -> tuple[str, dict[str, object]]:
    try:
        with file.open("rb") as opened:
            raw = opened.read(BYTES_MAX + 1)
    except OSError as error:
        raise BadWorkspace(f"cannot read {file}: {error.strerror}") from error
    if len(raw) > BYTES_MAX:
        raise BadWorkspace(f"{file} is longer than {BYTES_MAX} bytes")
    try:
        text = raw.decode("utf-8")
        return text, tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadWorkspace(f"{file} is no TOML: {error}") from error


def _replace(file: Path, text: str) -> None:
    target = Path(os.path.realpath(file))
    if not target.is_relative_to(os.path.realpath(file.parent)):
        raise WorkspaceUnwritable(f"{file} is a link to {target}, out of its folder", hint="put a file in its place")
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o644
        number, name = tempfile.mkstemp(prefix=f"{FILE}.", dir=target.parent)
        try:
            with os.fdopen(number, "wb") as opened:
                opened.write(text.encode("utf-8"))
                os.fchmod(opened.fileno(), mode)
            Path(name).replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise WorkspaceUnwritable(f"cannot write {target}: {error.strerror}") from error
