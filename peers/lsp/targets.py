"""Where statements go that nothing else sends anywhere: the default peer, as the command line or the workspace says.

Rules: a peer of the command line counts until another is chosen; else the key of the nearest ``.peerage.toml`` above a
text, else above the workspace's folder. What cannot be read is no default, and :attr:`Targets.complaint` says why.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from peers import workspace
from peers.lsp.scripts import folder_of
from query.errors import Problem, UserProblem


class Targets:
    """See the module. ``folders``: the workspace's, as far as there is one."""

    def __init__(self, peer: str | None, *, folders: Callable[[], list[Path]]) -> None:
        self._peer = None if peer is None else workspace.checked(peer)
        self._folders = folders
        self.complaint = ""

    def default(self, uri: str | None) -> str | None:
        """The default peer of a text, in the words of ``//peer:``."""
        if self._peer is not None:
            return self._peer
        near = self._near(uri)
        self.complaint = ""
        try:
            return None if near is None else workspace.default_peer(near)
        except Problem as problem:
            self.complaint = problem.message
            return None

    def choose(self, peer: str | None, uri: str | None) -> Path:
        """Keep another default peer in the workspace's file. Raises :class:`~query.errors.Problem`."""
        folders = self._folders()
        near = self._near(uri)
        if near is None:
            raise UserProblem("no folder to keep the default peer in", hint="open a folder, or save the text first")
        kept = workspace.find(near)
        inside = [folder for folder in folders if near.is_relative_to(folder)]
        file = workspace.save_default_peer(kept.parent if kept else (inside[0] if inside else near), peer)
        self._peer = None
        return file

    def _near(self, uri: str | None) -> Path | None:
        folder = folder_of(uri)
        if folder is not None and folder.is_dir():
            return folder
        folders = self._folders()
        return folders[0] if folders else None
