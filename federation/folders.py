"""Model folders: what a person edits, read whole and strictly before it becomes a release.

A folder holds ``model.toml`` and the files that it names, and nothing that it does not name is ever read:

    name = "digits"                 # also the folder's name in a peer's home
    kind = "onnx"                   # or "functions": a model of PQL functions alone
    model = "model.onnx"            # the one ONNX file; not for kind "functions"
    functions = ["digits.pql"]      # scripts of functions that the model brings
    labels = "labels.json"          # names of classes and other settings
    vectors = "vectors.json"        # test vectors for the engine: [{"input": {…}, "output": {…}, "tolerance": 1e-4}]
    docs = ["README.md"]            # texts for people
    licenses = ["Apache-2.0"]       # SPDX
    description = "…"

    [needs]                         # or in one line: needs = {features = ">=1.2"}
    memory_bytes = 50000000         # a number: memory
    features = ">=1.2"              # a text: another model, and the condition on its version (federation/needs.py)

    [[inputs]]                      # left out: taken from the ONNX file; else they must be its own
    name = "image"
    datatype = "FP32"               # Open Inference Protocol
    shape = [-1, 64]                # -1: variable
    [[outputs]]
    …

    [[states]]                      # what is carried along a stream of calls (federation/states.py)
    input = "state"                 # gets what this output gave in the call before, zeros at first;
    output = "stateN"               # both are then no inputs or outputs to who calls the model
    [[states]]
    input = "audio"
    tail = 64                       # or: its last 64 elements are put before those of the next call

A needed model that is itself called ``memory_bytes`` or ``releases`` is written in the table ``[needs.releases]``,
where every other one may stand too.

Refuses: an unknown key, a path that leaves the folder, a link or device anywhere on a path, and sizes and counts over
:class:`FolderLimits`. Paths are opened component by component without following links, so a folder that changes
while it is read cannot lead elsewhere; a file that changes while it is read is refused, since it would be neither the
old nor the new one.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from federation.documents import Needs, StateSpec, TensorSpec
from federation.names import checked_model
from federation.needs import check_needs
from query.errors import LimitExceeded, UserProblem

DESCRIPTION_FILE: Final = "model.toml"
PATH_LENGTH_MAX: Final = 200
PATH_DEPTH_MAX: Final = 8

FileKind = Literal["weight", "weight.config", "code", "dataset", "doc"]

_PATH_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")


class BadFolder(UserProblem):
    """A model folder that cannot become a release."""

    code = "bad_folder"


@dataclass(frozen=True, slots=True)
class FolderLimits:
    """What is read from a folder at most."""

    files_max: int = 64
    file_bytes_max: int = 1024**3
    folder_bytes_max: int = 2 * 1024**3
    description_bytes_max: int = 64 * 1024


class ModelDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``model.toml``."""

    name: str
    kind: Literal["onnx", "functions"] = "onnx"
    model: str = "model.onnx"
    functions: tuple[str, ...] = ()
    labels: str | None = None
    vectors: str | None = None
    docs: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    description: str = ""
    needs: Needs = Needs()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    states: tuple[StateSpec, ...] = ()

    def named_files(self) -> tuple[tuple[str, FileKind], ...]:
        """The files that make the release, with the kind of layer each becomes."""
        files: list[tuple[str, FileKind]] = []
        if self.kind == "onnx":
            files.append((self.model, "weight"))
        if self.labels is not None:
            files.append((self.labels, "weight.config"))
        files.extend((path, "code") for path in self.functions)
        if self.vectors is not None:
            files.append((self.vectors, "dataset"))
        files.extend((path, "doc") for path in self.docs)
        return tuple(files)


@dataclass(frozen=True, slots=True)
class FolderFile:
    """A file as it was when the folder was read."""

    path: str
    kind: FileKind
    content: bytes


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder, read. ``files`` by path, in the order of the description."""

    path: Path
    description: ModelDescription
    files: Mapping[str, FolderFile]

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def weight(self) -> bytes | None:
        """The bytes of the ONNX file; None for a model of functions alone."""
        return self.files[self.description.model].content if self.description.kind == "onnx" else None


def checked_path(path: str) -> str:
    """``path`` itself when it may name a file of a release: relative, plain parts, no dot files. Raises BadFolder."""
    parts = path.split("/")
    if len(path) > PATH_LENGTH_MAX or len(parts) > PATH_DEPTH_MAX or not all(map(_PATH_PART.fullmatch, parts)):
        raise BadFolder(
            f'"{path[:PATH_LENGTH_MAX]}" cannot be a file of a model: expected a relative path of at most '
            f'{PATH_DEPTH_MAX} parts of letters, digits, ".", "_", "+" or "-", none beginning with a dot'
        )
    return path


def read_folder(path: Path, limits: FolderLimits = FolderLimits()) -> ModelFolder:
    """The folder's description and the files it names. Raises :class:`BadFolder` or :class:`LimitExceeded`."""
    try:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BadFolder(f'no model folder "{path}": {error.strerror}') from error
    try:
        raw = _read_file(root, path, DESCRIPTION_FILE, bytes_max=limits.description_bytes_max)
        description = _parsed(raw, path)
        named = description.named_files()
        if len(named) > limits.files_max:
            raise LimitExceeded(
                f"{path / DESCRIPTION_FILE} names {len(named)} files, expected at most {limits.files_max}"
            )
        files: dict[str, FolderFile] = {}
        left = limits.folder_bytes_max
        for name, kind in named:
            if checked_path(name) in files or name == DESCRIPTION_FILE:
                raise BadFolder(f'{path / DESCRIPTION_FILE} names "{name}" twice, or itself')
            content = _read_file(root, path, name, bytes_max=min(limits.file_bytes_max, left))
            left -= len(content)
            files[name] = FolderFile(name, kind, content)
    finally:
        os.close(root)
    return ModelFolder(path, description, files)


def _parsed(raw: bytes, path: Path) -> ModelDescription:
    try:
        told = msgspec.toml.decode(raw)
        if isinstance(told, dict) and isinstance(needs := told.get("needs"), dict):
            told["needs"] = _sorted_needs(needs, path)
        description = msgspec.convert(told, ModelDescription)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadFolder(f"{path / DESCRIPTION_FILE} is not a model's description: {error}") from error
    checked_model(description.name)
    if description.needs.releases:
        check_needs(description.name, description.needs.releases)
    if description.kind == "functions" and not description.functions:
        raise BadFolder(f'{path / DESCRIPTION_FILE}: kind "functions" needs at least one file in functions, found none')
    for script in description.functions:
        if not script.endswith(".pql"):
            raise BadFolder(f'{path / DESCRIPTION_FILE}: expected functions in files ending in .pql, found "{script}"')
    return description


def _sorted_needs(needs: dict[str, Any], path: Path) -> dict[str, Any]:
    """``needs`` as it is kept: what is written beside ``memory_bytes`` and has a text is a model that is needed."""
    kept = {key: value for key, value in needs.items() if key in ("memory_bytes", "releases")}
    named = {key: value for key, value in needs.items() if key not in kept}
    for key, value in kept.items():
        if isinstance(value, str):
            raise BadFolder(
                f'{path / DESCRIPTION_FILE}: "{key}" in needs is a {"table" if key == "releases" else "number"},'
                f' found the text "{value[:40]}"; a model of that name is written in [needs.releases]'
            )
    for key, value in named.items():
        if not isinstance(value, str):
            raise BadFolder(
                f'{path / DESCRIPTION_FILE}: expected a condition on the version of "{key[:80]}" that is needed,'
                f' as ">=1.2", found {value!r:.40}'
            )
    if not named:
        return kept
    releases = kept.get("releases", {})
    if not isinstance(releases, dict):
        return kept
    for key in named:
        if key in releases:
            raise BadFolder(f'{path / DESCRIPTION_FILE} names "{key}" twice in needs')
    return {**kept, "releases": {**releases, **named}}


def _read_file(root: int, folder: Path, name: str, *, bytes_max: int) -> bytes:
    """A regular file below ``root``, opened one component at a time without following links; one state of it."""
    handle = _open_beneath(root, folder, name)
    try:
        found = os.fstat(handle)
        _check_ordinary(found.st_mode, folder / name)
        if found.st_size > bytes_max:
            raise LimitExceeded(f"{folder / name} has {found.st_size} bytes, expected at most {bytes_max}")
        with os.fdopen(handle, "rb", closefd=False) as stream:
            content = stream.read(bytes_max + 1)
        after = os.fstat(handle)
    except OSError as error:
        raise BadFolder(f"{folder / name} cannot be read: {error.strerror}") from error
    finally:
        os.close(handle)
    if len(content) > bytes_max:
        raise LimitExceeded(f"{folder / name} has more than {bytes_max} bytes")
    if (after.st_size, after.st_mtime_ns) != (found.st_size, found.st_mtime_ns) or len(content) != after.st_size:
        raise BadFolder(f"{folder / name} changed while it was read", hint="wait until it is written, then try again")
    return content


def _open_beneath(root: int, folder: Path, name: str) -> int:
    *parents, last = name.split("/")
    opened: list[int] = []
    try:
        at = root
        for part in parents:
            at = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            opened.append(at)
        # Looked at before it is opened: opening a device may do something. O_NONBLOCK: a named pipe made since.
        _check_ordinary(os.stat(last, dir_fd=at, follow_symlinks=False).st_mode, folder / name)
        return os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    except FileNotFoundError as error:
        raise BadFolder(
            f"{folder / name} does not exist", hint='models:create("name") makes a folder with all that is needed'
        ) from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise BadFolder(f"{folder / name} does not lead through folders alone: one is a link or a file") from error
        raise BadFolder(f"{folder / name} cannot be opened: {error.strerror}") from error
    finally:
        for handle in opened:
            os.close(handle)


def _check_ordinary(mode: int, path: Path) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFLNK: "a link",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    raise BadFolder(f"{path} is {kinds.get(stat.S_IFMT(mode), 'something else')}, not an ordinary file")
