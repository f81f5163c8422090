"""A peer's model folders: read, inspected, and made into development releases.

Owns the way from a folder's name to what can be packed, and the ephemeral release of a folder, signed with this home's
identity and verified as on any device. Refuses folders that are not there, naming the nearest, and those whose
description has another name. Keeps and loads nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from federation.documents import RootRecord
from federation.folders import DESCRIPTION_FILE, BadFolder, ModelFolder, read_folder
from federation.keys import PrivateKey
from federation.names import checked_model, names_model
from federation.packing import Inspection, PackedRelease, pack
from federation.state import SUGGESTIONS_SCANNED_MAX
from federation.verification import VerifiedRelease, verify
from peers.release_ports import Trials
from query.errors import unknown


class ReleaseFolders:
    """``identity`` signs development releases; ``trials`` tells the signature of a graph."""

    def __init__(
        self, models_path: Path, *, identity: PrivateKey, root: Callable[[], RootRecord], trials: Trials
    ) -> None:
        self._models_path = models_path
        self._identity = identity
        self._root = root
        self._trials = trials

    async def read(self, name: str) -> tuple[ModelFolder, Inspection]:
        """A model's folder and what its graph says of itself. Raises ``UnknownName``, ``BadFolder`` or the trial's."""
        path = self.path_of(name)
        folder = await asyncio.to_thread(read_folder, path)
        if folder.name != name:
            raise BadFolder(
                f'{path / DESCRIPTION_FILE}: expected the name "{name}" of its folder, found "{folder.name}"',
                hint=f'a folder and its name are changed together: name = "{name}"',
            )
        weight = folder.weight
        if weight is None:
            return folder, Inspection((), (), {})
        told = await self._trials.describe(weight)
        return folder, Inspection(told.inputs, told.outputs, told.opset)

    def path_of(self, name: str) -> Path:
        """Where a model's folder is. Raises ``UnknownName`` with the nearest that there is."""
        path = self._models_path / checked_model(name)
        try:
            found = path.is_dir()
        except OSError as error:
            raise BadFolder(f"cannot look into {path}: {error.strerror}") from error
        if not found:
            hint = f'models:create("{name}") makes one, models:list() lists them'
            raise unknown("model folder", name, self._names(), hint=hint)
        return path

    async def development(
        self, folder: ModelFolder, inspection: Inspection, *, now: float
    ) -> tuple[PackedRelease, VerifiedRelease]:
        """The folder as a development release of this home's identity, packed and verified."""
        return await asyncio.to_thread(self._development, folder, inspection, now)

    async def opened(self, name: str) -> VerifiedRelease:
        """A folder as a development release that is only tried, never kept or loaded."""
        folder, inspection = await self.read(name)
        return (await self.development(folder, inspection, now=0.0))[1]

    def _development(
        self, folder: ModelFolder, inspection: Inspection, now: float
    ) -> tuple[PackedRelease, VerifiedRelease]:
        packed = pack(folder, version="", publisher=self._identity, inspection=inspection, now=now, development=True)
        release = verify(
            packed.signed,
            root=self._root(),
            manifest=packed.manifest,
            files=packed.files,
            development_key=self._identity.public,
        )
        return packed, release

    def _names(self) -> tuple[str, ...]:
        """Folders that may have been meant: some of very many, and none that cannot name a model."""
        try:
            paths = list(islice(self._models_path.iterdir(), SUGGESTIONS_SCANNED_MAX))
        except OSError:
            return ()
        return tuple(path.name for path in paths if names_model(path.name) and path.is_dir())
