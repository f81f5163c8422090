"""Pipelines that are edited in a peer's home, and the versions that were made of them.

    pipelines/NAME/draft.json             the list of steps as it is edited
    pipelines/NAME/versions/UUID.json     a version, never written again
    pipelines/.lock                       held by who changes something

Owns these files, each written whole or not at all, durable on return. Refuses what is no definition and a version that
is not what its name says (:class:`BadPipelineFile`), naming the file, and more pipelines and versions than the bounds
below. Knows nothing of models: whether a step's model exists is asked when a step is added and when a version is made.

Rules: several processes may use one home, so every change reads, changes and writes under the lock. A draft that cannot
be read can be removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from federation.blobs import sync_folder
from federation.names import checked_model, names_model
from federation.pipeline_members import DEFINITION_BYTES_MAX
from federation.pipelines import (
    BadPipeline,
    PipelineDefinition,
    check_definition,
    version_of,
)
from peers.homes import HomeUnwritable, write_whole
from query.errors import LimitExceeded, UserProblem, unknown

PIPELINES_MAX: Final = 1000
VERSIONS_MAX: Final = 1000  # of one pipeline
_DRAFT: Final = "draft.json"
_VERSIONS: Final = "versions"


class BadPipelineFile(UserProblem):
    """A file of a pipeline in a home that is not what it should be."""

    code = "bad_pipeline_file"


class KeptVersion(Struct, frozen=True, forbid_unknown_fields=True):
    """A version as it was made; ``created`` in seconds since the epoch."""

    created: int
    definition: PipelineDefinition

    @property
    def version(self) -> str:
        return version_of(self.definition)


class PipelineDrafts:
    """The pipelines of one home. Blocking, for any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> tuple[str, ...]:
        """In the order of their names."""
        try:
            found = [one.name for one in islice(self._path.iterdir(), 2 * PIPELINES_MAX) if names_model(one.name)]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise BadPipelineFile(f"cannot read {self._path}: {error.strerror}") from error
        return tuple(sorted(found))

    def draft(self, name: str) -> PipelineDefinition:
        """Raises :class:`~query.errors.UnknownName` and :class:`BadPipelineFile`."""
        path = self._folder(name) / _DRAFT
        return self._checked(path, name, _read(path, PipelineDefinition))

    def create(self, name: str) -> bool:
        """Begin a pipeline without steps; False for one that is there, which stays as it is."""
        with self._writer():
            names = self.names()
            if name in names:
                return False
            checked_model(name)
            if len(names) >= PIPELINES_MAX:
                raise LimitExceeded(f"this home has {PIPELINES_MAX} pipelines already, the most it can have")
            _make_folder(self._path / name / _VERSIONS)
            self._write_draft(PipelineDefinition(name=name))
            return True

    def change(self, name: str, edit: Callable[[PipelineDefinition], PipelineDefinition]) -> PipelineDefinition:
        """The draft after ``edit``, which may raise; then nothing has changed. Raises as :meth:`draft`, and
        :class:`~federation.pipelines.BadPipeline` for a definition that no pipeline can have.
        """
        with self._writer():
            changed = edit(self.draft(name))
            check_definition(changed)
            self._write_draft(changed)
            return changed

    def keep(self, definition: PipelineDefinition, *, now: float) -> KeptVersion:
        """Keep a version; one that is kept already stays as it was made."""
        with self._writer():
            folder = self._folder(definition.name) / _VERSIONS
            path = folder / f"{version_of(definition)}.json"
            if path.exists():
                return self._version(path, definition.name)
            _make_folder(folder)
            if len(_files(folder)) >= VERSIONS_MAX:
                raise LimitExceeded(
                    f'pipeline "{definition.name}" has {VERSIONS_MAX} versions in this home, the most it can have',
                    hint="its releases stay when it is removed here: pipeline:remove, then create it anew",
                )
            kept = KeptVersion(int(now), definition)
            _write(path, kept)
            return kept

    def versions(self, name: str) -> tuple[KeptVersion, ...]:
        """The oldest first; of one second as their files were written."""
        paths = sorted(_files(self._folder(name) / _VERSIONS), key=lambda path: path.stat().st_mtime_ns)
        found = [self._version(path, name) for path in paths]
        return tuple(sorted(found, key=lambda kept: kept.created))

    def version(self, name: str, version: str) -> KeptVersion | None:
        """None for one that was not made here."""
        known = {path.name: path for path in _files(self._folder(name) / _VERSIONS)}
        path = known.get(f"{version}.json")
        return None if path is None else self._version(path, name)

    def remove(self, name: str) -> None:
        """Forget a pipeline and its versions; its releases stay. Raises :class:`~query.errors.UnknownName`."""
        with self._writer():
            folder = self._folder(name)
            gone = folder.with_name(f".{name}.gone")
            shutil.rmtree(gone, ignore_errors=True)
            try:
                folder.rename(gone)
                sync_folder(self._path)
            except OSError as error:
                raise HomeUnwritable(f"cannot remove {folder}: {error.strerror}") from error
            shutil.rmtree(gone, ignore_errors=True)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _folder(self, name: str) -> Path:
        if not names_model(name) or not (self._path / name).is_dir():
            problem = unknown("pipeline", name[:80], self.names())
            problem.hint = f'pipeline:create("{name}") begins one' if names_model(name) else "pipeline:list()"
            raise problem
        return self._path / name

    def _version(self, path: Path, name: str) -> KeptVersion:
        kept = _read(path, KeptVersion)
        self._checked(path, name, kept.definition)
        if f"{kept.version}.json" != path.name:
            raise BadPipelineFile(
                f"{path}: expected the version of its name, found the definition of {kept.version}",
                hint="a version is never changed; take the file away",
            )
        return kept

    def _checked(self, path: Path, name: str, definition: PipelineDefinition) -> PipelineDefinition:
        try:
            check_definition(definition)
        except BadPipeline as problem:
            raise BadPipelineFile(f"{path}: {problem.message}", hint=_MEND.format(name)) from problem
        if definition.name != name:
            raise BadPipelineFile(f'{path}: expected the name "{name}" of its folder, found "{definition.name}"')
        return definition

    def _write_draft(self, definition: PipelineDefinition) -> None:
        _write(self._path / definition.name / _DRAFT, definition)

    @contextmanager
    def _writer(self) -> Iterator[None]:
        _make_folder(self._path)
        try:
            handle = os.open(self._path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeUnwritable(f"cannot write {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


_MEND: Final = 'mend the file, or pipeline:remove("{}") forgets the pipeline in this home; its releases stay'
_Kept = TypeVar("_Kept", PipelineDefinition, KeptVersion)
msgspec.json.Decoder(KeptVersion)  # at its first use, which threads must not share


def _read(path: Path, kind: type[_Kept]) -> _Kept:
    try:
        with path.open("rb") as file:
            raw = file.read(DEFINITION_BYTES_MAX + 1)
    except OSError as error:
        raise BadPipelineFile(f"cannot read {path}: {error.strerror}", hint=_MEND.format(_name_of(path))) from error
    if len(raw) > DEFINITION_BYTES_MAX:
        raise BadPipelineFile(
            f"{path}: expected at most {DEFINITION_BYTES_MAX} bytes, found more", hint=_MEND.format(_name_of(path))
        )
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadPipelineFile(
            f"{path} is no definition of a pipeline: {error}", hint=_MEND.format(_name_of(path))
        ) from error


def _name_of(path: Path) -> str:
    return path.parent.parent.name if path.parent.name == _VERSIONS else path.parent.name


def _write(path: Path, content: PipelineDefinition | KeptVersion) -> None:
    raw = msgspec.json.format(msgspec.json.encode(content, order="deterministic"), indent=2) + b"\n"
    if len(raw) > DEFINITION_BYTES_MAX:
        raise LimitExceeded(f"{path} would have {len(raw)} bytes, expected at most {DEFINITION_BYTES_MAX}")
    write_whole(path, raw)


def _files(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return sorted(path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    return []


def _make_folder(folder: Path) -> None:
    """With those above it, each of this user alone."""
    try:
        if not folder.parent.is_dir():
            _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise HomeUnwritable(f"cannot make {folder}: {error.strerror}") from error
