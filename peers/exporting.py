"""Exporting for a device without a network: what its poll would be answered with, and the releases, as one file.

Owns the order of what is written and where blobs come from: the repository of the running nameserver, over this home's
connection, or that home's own folder. Every blob is hashed as it passes; one that is not what its digest says ends the
export. Rules: the file is written whole or not at all, 0600, durable on return; the same state and releases make the
same bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import msgspec

from federation.carried_state import CarriedContents
from federation.documents import (
    RELEASE_TYPE,
    DesiredState,
    PollAnswer,
    ReleaseRecord,
    SignedDocument,
    decode,
    encode,
)
from federation.errors import WrongHash, WrongSize
from federation.layout import ImageLayout
from federation.layout_index import RECORD, RELEASE, REPOSITORY, SUBJECT
from federation.manifests import (
    EMPTY_CONFIG,
    MANIFEST_TYPE,
    MODEL_TYPE,
    REF_NAME,
    Descriptor,
    Index,
    encode_index,
    read_manifest,
    record_attachment,
)
from federation.names import Digest, checked_digest, digest_of, model_repository
from peers.archives import ANSWER, CONTENTS, RELEASES, ROOTS, ArchiveWriter, blob_name, document_bytes_max
from peers.federation_client import FederationClient
from peers.homes import BadHome, HomeUnwritable
from peers.importing import FORM
from query.declarations import Progress, silent
from query.errors import LimitExceeded, PeerProblem

_OCI_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'
_PIECE_BYTES: Final = 1024 * 1024


class BlobSource(Protocol):
    """Where the contents of releases come from, a piece at a time; ``kind`` is ``manifests`` or ``blobs``."""

    def pieces(self, repository: str, digest: Digest, *, kind: str) -> AsyncIterator[bytes]: ...


class ClientSource:
    """The nameserver's repository, over this home's connection."""

    def __init__(self, client: FederationClient) -> None:
        self._client = client

    async def pieces(self, repository: str, digest: Digest, *, kind: str) -> AsyncIterator[bytes]:
        path = f"/v2/{repository}/{kind}/{digest}"
        async with self._client.stream(path, headers={"Accept": "*/*", "Accept-Encoding": "identity"}) as response:
            async for piece in response.content.iter_chunked(_PIECE_BYTES):
                yield piece


class LayoutSource:
    """The repository in the nameserver's own home."""

    def __init__(self, layout: ImageLayout) -> None:
        self._layout = layout

    async def pieces(self, repository: str, digest: Digest, *, kind: str) -> AsyncIterator[bytes]:
        try:
            stream = self._layout.blobs.path(digest).open("rb")
        except OSError as error:
            raise BadHome(f"{repository} lacks {digest}: {error.strerror}", hint="see peerage fsck") from error
        with stream:
            while piece := await asyncio.to_thread(stream.read, _PIECE_BYTES):
                yield piece


@dataclass(frozen=True, slots=True)
class Exported:
    """What the nameserver told of an edge (``edge:export``)."""

    answer: bytes
    desired: DesiredState
    roots: tuple[SignedDocument, ...]
    releases: tuple[SignedDocument, ...]
    further: tuple[SignedDocument, ...]
    fingerprint: str

    @staticmethod
    def of(told: Mapping[str, Any]) -> Exported:
        """Raises ``PeerProblem`` for an answer of another form."""
        try:
            body = str(told["answer"]).encode("utf-8")
            answer = decode(body, PollAnswer)
            return Exported(
                answer=body,
                desired=decode(answer.desired.payload, DesiredState),
                roots=_documents(told["roots"]),
                releases=answer.releases,
                further=_documents(told["releases"]),
                fingerprint=str(told["fingerprint"]),
            )
        except (KeyError, TypeError, msgspec.MsgspecError) as error:
            raise PeerProblem(f"the nameserver told nothing to export: {error!r}") from error


def _documents(texts: Sequence[Any]) -> tuple[SignedDocument, ...]:
    return tuple(decode(str(text).encode("utf-8"), SignedDocument) for text in texts)


@asynccontextmanager
async def new_file(path: Path) -> AsyncIterator[BinaryIO]:
    """A file that takes its place when the block ends well, and leaves nothing when it does not."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BadHome(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except OSError as error:
        raise HomeUnwritable(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


async def write_export(
    exported: Exported, stream: BinaryIO, *, source: BlobSource, progress: Progress = silent
) -> dict[str, Any]:
    """Write it all; what was written. Raises what ``source`` raises, ``WrongHash`` and ``WrongSize``."""
    return await _Export(exported, ArchiveWriter(stream), source, progress).write()


class _Export:
    def __init__(self, exported: Exported, archive: ArchiveWriter, source: BlobSource, progress: Progress) -> None:
        self._exported = exported
        self._archive = archive
        self._source = source
        self._progress = progress
        signed = (*exported.releases, *exported.further)
        self._releases = tuple((document, decode(document.payload, ReleaseRecord)) for document in signed)
        self._done = 0
        self._total = sum(record.size + record.manifest_size for _, record in self._releases)

    async def write(self) -> dict[str, Any]:
        manifests = {}
        for _, record in self._releases:
            pieces = self._source.pieces(model_repository(record.name), record.manifest, kind="manifests")
            manifests[record.manifest] = b"".join([piece async for piece in pieces])
            _check(record.manifest, record.manifest_size, manifests[record.manifest])
        attachments = {document: self._attachment(document, record) for document, record in self._releases}
        for name, content in self._documents().items():
            self._archive.put(name, content)
        self._archive.put("oci-layout", _OCI_LAYOUT)
        self._archive.put("index.json", self._index(attachments))
        written: set[Digest] = set()
        small = [*manifests.values(), EMPTY_CONFIG]
        small += [content for document, raw in attachments.items() for content in (encode(document), raw)]
        for content in small:
            if (digest := digest_of(content)) not in written:
                written.add(digest)
                self._archive.put(blob_name(digest), content)
        for _, record in self._releases:
            repository = model_repository(record.name)
            config = read_manifest(manifests[record.manifest]).config
            parts = [(checked_digest(config.digest), config.size)]
            parts += [(entry.digest, entry.size) for entry in record.files]
            for digest, size in parts:
                if digest not in written:
                    written.add(digest)
                    await self._blob(repository, digest, size)
        self._archive.finish()
        desired = self._exported.desired
        return {
            "edge": desired.name,
            "federation": desired.federation,
            "generation": desired.generation,
            "expires": desired.expires,
            "models": [model.label for model in desired.models],
            "releases": [record.label for _, record in self._releases],
            "blobs": len(written),
            "root_version": desired.root_version,
            "fingerprint": self._exported.fingerprint,
        }

    def _documents(self) -> dict[str, bytes]:
        exported, desired = self._exported, self._exported.desired
        roots, releases = msgspec.json.encode(exported.roots), msgspec.json.encode(exported.further)
        contents = CarriedContents(
            form=FORM,
            federation=desired.federation,
            edge=desired.edge,
            name=desired.name,
            etag=desired.etag,
            answer=digest_of(exported.answer),
            roots=digest_of(roots),
            releases=digest_of(releases),
        )
        documents = {CONTENTS: encode(contents), ROOTS: roots, ANSWER: exported.answer, RELEASES: releases}
        for name, content in documents.items():
            if len(content) > document_bytes_max(name):
                raise LimitExceeded(
                    f"{name} would have {len(content)} bytes: expected at most {document_bytes_max(name)}"
                )
        return documents

    def _attachment(self, document: SignedDocument, record: ReleaseRecord) -> bytes:
        return record_attachment(encode(document), subject=record.manifest, subject_size=record.manifest_size)

    def _index(self, attachments: Mapping[SignedDocument, bytes]) -> bytes:
        entries = []
        for document, record in self._releases:
            repository, raw = model_repository(record.name), attachments[document]
            tag = {REPOSITORY: repository, REF_NAME: f"{repository}:{record.version}"}
            told = {REPOSITORY: repository, SUBJECT: record.manifest, RELEASE: record.label}
            entries += [
                Descriptor(
                    media_type=MANIFEST_TYPE,
                    digest=record.manifest,
                    size=record.manifest_size,
                    artifact_type=MODEL_TYPE,
                    annotations=tag,
                ),
                Descriptor(
                    media_type=MANIFEST_TYPE,
                    digest=digest_of(raw),
                    size=len(raw),
                    artifact_type=RELEASE_TYPE,
                    annotations=told | {RECORD: digest_of(document.payload)},
                ),
            ]
        return encode_index(Index(manifests=tuple(entries)))

    async def _blob(self, repository: str, digest: Digest, size: int) -> None:
        hashed = hashlib.sha256()
        self._archive.begin(blob_name(digest), size)
        length = 0
        async for piece in self._source.pieces(repository, digest, kind="blobs"):
            length += len(piece)
            if length > size:
                break
            hashed.update(piece)
            await asyncio.to_thread(self._archive.write, piece)
            self._done += len(piece)
            self._progress("export", self._done, self._total, "bytes")
        if length != size:
            raise WrongSize(f"{digest} of {repository}: expected {size} bytes, found {length}")
        found = Digest(f"sha256:{hashed.hexdigest()}")
        if found != digest:
            raise WrongHash(f"{repository}: expected content of {digest}, found {found}")


def _check(digest: Digest, size: int, content: bytes) -> None:
    if len(content) != size:
        raise WrongSize(f"the manifest {digest}: expected {size} bytes, found {len(content)}")
    if digest_of(content) != digest:
        raise WrongHash(f"expected the manifest {digest}, found {digest_of(content)}")
