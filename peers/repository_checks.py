"""Whether the repository of a home is whole: every blob hashed, every entry of the listing compared with what it names.

Reads alone: no lock is taken and nothing made, so that a running peer is not disturbed. What is written while it reads
is whole or not there (see :mod:`federation.blobs`); what is deleted while it reads is looked for again before it counts
as missing.

Rules: bytes are read a piece at a time, with progress over all of them; a listing is read with the bounds of whoever
uses it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from msgspec import UNSET

from federation.documents import DOCUMENT_BYTES_MAX, RELEASE_TYPE, ReleaseRecord, SignedDocument, decode
from federation.integrity import FINDINGS_MAX, Finding, RebuildList, Remedy, RemoveFile, UnlistManifest, brief
from federation.layout_index import (
    RECORD,
    RELEASE,
    REPOSITORY,
    SUBJECT,
    InstalledRelease,
    LayoutContents,
    annotations_of,
)
from federation.manifest_store import INDEX_BYTES_MAX
from federation.manifests import (
    INDEX_TYPE,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPE,
    BadManifest,
    Descriptor,
    Manifest,
    read_index,
    read_manifest,
)
from federation.names import BadName, Digest, checked_digest, digest_of
from federation.packing import record_digest
from query.declarations import Progress

PIECE_BYTES: Final = 1024 * 1024


@dataclass(slots=True)
class Inventory:
    """What a repository holds. ``whole``: the blobs that are what their names say, with their sizes."""

    findings: list[Finding] = field(default_factory=list)
    whole: dict[Digest, int] = field(default_factory=dict)
    contents: LayoutContents = field(default_factory=LayoutContents)
    damaged: set[Digest] = field(default_factory=set)
    read: bool = True  # whether the listing could be read

    @property
    def releases(self) -> dict[Digest, InstalledRelease]:
        """By the digest of their record."""
        return self.contents.releases


@dataclass(frozen=True, slots=True)
class Advice:
    """What becomes of what a home lost: by the kind of its peer."""

    lost: str
    unlists: bool  # whether a release that is not whole leaves the listing, because it is fetched or made again then


def check_repository(path: Path, *, advice: Advice, in_use: bool, progress: Progress) -> Inventory:
    """Everything in the repository at ``path``; nothing is wrong with one that was never made."""
    inventory = Inventory()
    if not path.is_dir():
        return inventory
    _check_marker(path, inventory)
    _read_listing(path, inventory)
    _hash_blobs(path, inventory, advice, progress)
    if not in_use:
        inventory.findings += _left_over(path)
    for entry in inventory.contents.entries:
        if len(inventory.findings) < FINDINGS_MAX:
            inventory.findings += _Entry(path, entry, inventory, advice, in_use=in_use).check()
    return inventory


def listing_of(path: Path) -> Inventory:
    """What a repository lists now, without a look at the blobs."""
    inventory = Inventory()
    _read_listing(path, inventory)
    return inventory


def _check_marker(path: Path, inventory: Inventory) -> None:
    marker = path / "oci-layout"
    expected = '{"imageLayoutVersion":"1.0.0"}'
    try:
        found = marker.read_bytes()[:200].decode("utf-8", "replace")
    except OSError as error:
        found = error.strerror or "nothing"
    if '"imageLayoutVersion"' not in found:
        remedy = RemoveFile(str(marker), "it is written anew")
        inventory.findings.append(Finding("bad_layout", str(marker), expected, brief(found), remedy))


def _read_listing(path: Path, inventory: Inventory) -> None:
    listing = path / "index.json"
    try:
        with listing.open("rb") as stream:
            raw = stream.read(INDEX_BYTES_MAX + 1)
    except FileNotFoundError:
        return
    except OSError as error:
        told = error.strerror or str(error)
        inventory.findings.append(Finding("damaged_list", str(listing), "a list of manifests", told, RebuildList()))
        inventory.read = False
        return
    try:
        inventory.contents = LayoutContents.of(read_index(raw, bytes_max=INDEX_BYTES_MAX).manifests)
    except (BadManifest, KeyError) as error:
        told = error.message if isinstance(error, BadManifest) else f"an entry without {error}"
        inventory.findings.append(Finding("damaged_list", str(listing), "a list of manifests", told, RebuildList()))
        inventory.read = False


# --- blobs -----------------------------------------------------------------------------------------------------------


def _hash_blobs(path: Path, inventory: Inventory, advice: Advice, progress: Progress) -> None:
    folder = path / "blobs" / "sha256"
    entries = sorted(_entries(folder), key=lambda entry: entry.name)
    total = sum(_size(entry) for entry in entries)
    done = 0
    for entry in entries:
        name = entry.name
        try:
            digest = checked_digest(f"sha256:{name}")
            ordinary = entry.is_file(follow_symlinks=False)
        except (BadName, OSError):
            digest, ordinary = Digest(""), False
        if not ordinary:
            told = "another name" if not digest else "a link or a folder"
            person = "look what it is, and remove it"
            inventory.findings.append(
                Finding("stray_file", entry.path, "blobs named by their digest", told, advice=person)
            )
            continue
        try:
            found, size = _hashed(Path(entry.path), _Told(progress, done, total))
        except FileNotFoundError:
            continue  # deleted meanwhile
        except OSError as error:
            told = error.strerror or str(error)
            inventory.findings.append(
                Finding("damaged_blob", digest, "a blob that can be read", told, advice=advice.lost)
            )
            continue
        done += size
        if found == digest:
            inventory.whole[digest] = size
            continue
        inventory.damaged.add(digest)
        remedy = RemoveFile(entry.path, f"it is not its digest; {advice.lost}")
        told = f"{size} bytes of {found}"
        inventory.findings.append(Finding("damaged_blob", digest, "content of that digest", told, remedy))
    if total:
        progress("hash blobs", total, total, "bytes")


@dataclass(frozen=True, slots=True)
class _Told:
    """Progress inside one blob."""

    progress: Progress
    before: int
    total: int

    def __call__(self, size: int) -> None:
        self.progress("hash blobs", self.before + size, self.total, "bytes")


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from found
    except (FileNotFoundError, NotADirectoryError):
        return


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def _hashed(path: Path, told: Callable[[int], None]) -> tuple[Digest, int]:
    sha256, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            sha256.update(piece)
            size += len(piece)
            told(size)
    return Digest(f"sha256:{sha256.hexdigest()}"), size


def _left_over(path: Path) -> list[Finding]:
    """What writers that died have left, and parts of blobs that are here already; nobody writes now."""
    findings = []
    for entry in sorted(_entries(path / "staging"), key=lambda entry: entry.name):
        whole = path / "blobs" / "sha256" / entry.name.removesuffix(".part")
        if entry.name.startswith("new-") or (entry.name.endswith(".part") and whole.exists()):
            if _locked(Path(entry.path)):
                continue
            remedy = RemoveFile(entry.path, "whoever wrote it is gone")
            findings.append(Finding("left_over", entry.path, "nothing staged", f"{_size(entry)} bytes", remedy))
    for name in (".index.json.new", ".oci-layout.new"):
        half = path / name
        if half.exists():
            remedy = RemoveFile(str(half), "it was not finished")
            findings.append(Finding("left_over", str(half), "nothing half-written", "a file", remedy))
    return findings


def _locked(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return False
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


# --- the listing -----------------------------------------------------------------------------------------------------


class _Entry:
    """One entry of ``index.json`` against what it names."""

    def __init__(self, path: Path, entry: Descriptor, inventory: Inventory, advice: Advice, *, in_use: bool) -> None:
        self._in_use = in_use
        self._path = path
        self._entry = entry
        self._inventory = inventory
        self._told = annotations_of(entry)
        self._advice = advice
        name = self._told.get(RELEASE) or self._told.get("org.opencontainers.image.ref.name") or entry.digest
        self._thing = f"{name} in {self._told.get(REPOSITORY, 'no repository')}"

    def check(self) -> list[Finding]:
        entry = self._entry
        try:
            digest = checked_digest(entry.digest)
        except BadName as error:
            return [Finding("bad_entry", self._thing, "an entry with a digest", error.message, RebuildList())]
        if REPOSITORY not in self._told:
            return [Finding("bad_entry", self._thing, "an entry with its repository", "none", RebuildList())]
        lacking = self._lacking(digest, entry.size, "the manifest")
        if lacking:
            return lacking
        raw = self._read(digest, MANIFEST_BYTES_MAX)
        if raw is None:
            return []
        try:
            if entry.media_type == INDEX_TYPE:
                read_index(raw)
                return []
            if entry.media_type != MANIFEST_TYPE:
                return []
            manifest = read_manifest(raw)
        except BadManifest as error:
            return [Finding("bad_manifest", self._thing, "a manifest", brief(error.message), self._unlist())]
        parts = {part.digest: part.size for part in (manifest.config, *manifest.layers)}
        found = [problem for part, size in parts.items() for problem in self._lacking(Digest(part), size, "a part")]
        return found or self._check_told(manifest)

    def _check_told(self, manifest: Manifest) -> list[Finding]:
        """What the entry tells of the manifest, against the manifest."""
        subject = None if manifest.subject is UNSET else manifest.subject.digest
        by_tag = subject is None and RECORD not in self._told  # what a fall-back tag attaches need not say so itself
        if self._told.get(SUBJECT) != subject and not by_tag:
            return [self._untrue(f"attached to {subject}", f"attached to {brief(self._told.get(SUBJECT))}")]
        if manifest.artifact_type != RELEASE_TYPE or RECORD not in self._told:
            return [self._untrue("no release record", "a release record")] if RECORD in self._told else []
        raw = self._read(Digest(manifest.layers[0].digest), DOCUMENT_BYTES_MAX) if len(manifest.layers) == 1 else None
        try:
            signed = decode(raw or b"", SignedDocument)
            record = decode(signed.payload, ReleaseRecord)
        except ValueError as error:  # msgspec's errors are such
            return [Finding("bad_record", self._thing, "a signed release record", brief(str(error)), self._unlist())]
        if (record.label, record_digest(signed)) != (self._told.get(RELEASE), self._told[RECORD]):
            told = f"{brief(self._told.get(RELEASE))}, record {brief(self._told[RECORD])}"
            return [self._untrue(f"{record.label}, record {record_digest(signed)}", told)]
        if f"{self._told[REPOSITORY]}@{record.manifest}" in self._inventory.contents.by_name:
            return []  # its parts are looked at with its own entry
        return self._lacking(record.manifest, record.manifest_size, "the manifest")

    def _untrue(self, expected: str, found: str) -> Finding:
        return Finding("bad_entry", self._thing, expected, found, RebuildList())

    def _lacking(self, digest: Digest, size: int, what: str) -> list[Finding]:
        known = self._inventory.whole.get(digest)
        if known is None:
            known = self._look_again(digest)
        if known == size:
            return []
        found = "a damaged one, or none" if known is None else f"one of {known} bytes"
        remedy = self._unlist()
        advice = "" if remedy else self._advice.lost
        wanted = f"{digest} of {size} bytes"
        lost = Finding("missing_blob", f"{what} of {self._thing}", wanted, found, remedy, advice)
        return [lost] if self._still_listed() else []

    def _look_again(self, digest: Digest) -> int | None:
        """A blob that was written since the blobs were hashed; a damaged one is not hashed twice."""
        try:
            path = self._path / "blobs" / "sha256" / checked_digest(digest).removeprefix("sha256:")
            if digest in self._inventory.damaged:
                return None
            found, size = _hashed(path, lambda _: None)
        except (BadName, OSError):
            return None
        return size if found == digest else None

    def _still_listed(self) -> bool:
        """False when a running peer has taken the entry off the list since it was read."""
        if not self._in_use:
            return True
        later = Inventory()
        _read_listing(self._path, later)
        return not later.read or any(entry.digest == self._entry.digest for entry in later.contents.entries)

    def _unlist(self) -> Remedy | None:
        if not self._advice.unlists:
            return None
        subject = self._told.get(SUBJECT, self._entry.digest) if RECORD in self._told else self._entry.digest
        return UnlistManifest(self._told.get(REPOSITORY, ""), Digest(subject), self._advice.lost)

    def _read(self, digest: Digest, bytes_max: int) -> bytes | None:
        """A small blob that was found whole; None when it has gone since."""
        try:
            path = self._path / "blobs" / "sha256" / checked_digest(digest).removeprefix("sha256:")
            with path.open("rb") as stream:
                raw = stream.read(bytes_max + 1)
        except (BadName, OSError):
            return None
        return raw if len(raw) <= bytes_max and digest_of(raw) == digest else None
