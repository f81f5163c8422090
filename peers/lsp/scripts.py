"""The texts that are open in the editor, and the scripts of its workspace.

Owns where a script's text comes from: what is open counts, else the file. A workspace's scripts are the ``.pql`` files
below its folders, at most ``SCRIPTS_MAX``, none in a hidden folder, none behind a link, none longer than a text may be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from pygls.uris import from_fs_path, to_fs_path

from peers.lsp.positions import Lines
from query import limits
from query.outline import Made, Piece, made_in, pieces

SUFFIX: Final = ".pql"
SCRIPTS_MAX: Final = 500
FOLDERS_MAX: Final = 5_000


@dataclass(frozen=True, slots=True)
class Script:
    """One text of the language and what stands in it."""

    uri: str
    lines: Lines
    pieces: list[Piece]
    made: list[Made]

    @property
    def text(self) -> str:
        return self.lines.text

    def makes(self, name: str) -> bool:
        return any(made.name.casefold() == name.casefold() for made in self.made)


def script(uri: str, text: str, encoding: str) -> Script:
    found = pieces(text)
    return Script(uri, Lines(text, encoding), found, made_in(text, found))


def folder_of(uri: str | None) -> Path | None:
    """The folder that a text lies in, None where it lies in none."""
    path = to_fs_path(uri) if uri else None
    return Path(path).parent if path else None


def workspace_scripts(folders: list[Path], opened: Mapping[str, str], encoding: str) -> list[Script]:
    """The scripts of a workspace; ``opened``: the open texts by URI, which count instead of their files."""
    found = {unquote(uri): script(uri, text, encoding) for uri, text in opened.items()}  # editors quote differently
    for path in _files(folders):
        uri = from_fs_path(str(path))
        if uri is None or unquote(uri) in found:
            continue
        text = _read(path)
        if text is not None:
            found[unquote(uri)] = script(uri, text, encoding)
        if len(found) >= SCRIPTS_MAX:
            break
    return list(found.values())


def _files(folders: list[Path]) -> Iterator[Path]:
    looked = 0
    for root in folders:
        for folder, below, files in os.walk(root):
            looked += 1
            if looked > FOLDERS_MAX:
                return
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in sorted(files):
                path = Path(folder) / name
                if name.endswith(SUFFIX) and not path.is_symlink() and path.is_file():  # no pipe, which nobody fills
                    yield path


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            raw = file.read(limits.TEXT_BYTES_LOCAL_MAX + 1)
        return None if len(raw) > limits.TEXT_BYTES_LOCAL_MAX else raw.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
