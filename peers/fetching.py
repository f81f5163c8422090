"""Fetching a release into this peer's repository, byte by byte suspicious of who sends it.

The record that is fetched for was verified by the caller; everything here is measured against it. Order: manifest,
config, files, then the release is listed as installed. Each blob is staged, resumed by ``Range`` where an earlier
attempt stopped, waited for where another fetch is at it, hashed as it arrives, and ended at its signed size; so nothing
that looks finished is ever anything but what was signed, and a killed fetch goes on where it was.

Every failure is of the world (:class:`FetchProblem`, and what the client raises): the sender or the way to it gave
something else than was signed, which says nothing about the release itself. It is tried again with back-off.

    FetchProblem (WorldProblem)
    ├── Stalled             no byte, or too few, in the time allowed
    ├── Truncated           the answer ended early; what came is kept and resumed
    ├── WrongLength         more, or announced other than, the signed size
    ├── AlteredContent      the right size, another hash
    └── WrongAnswer         not a blob at all: a page of text, an encoding, a redirect, a range that was not asked for
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import quote

import aiohttp
import msgspec

from federation.blobs import BlobStore, BusyBlob, StagedBlob, StorageFull
from federation.documents import DOCUMENT_BYTES_MAX, RELEASE_TYPE, ReleaseRecord, SignedDocument, decode
from federation.errors import WrongHash, WrongSize
from federation.layout import ImageLayout
from federation.manifests import MANIFEST_BYTES_MAX, MANIFEST_TYPE, read_index, read_manifest
from federation.names import Digest, checked_digest, digest_of, model_repository
from federation.packing import record_digest, release_repository
from peers.blob_writing import BlobWriter
from peers.endings import ended, to_the_end
from query.declarations import Progress, silent
from query.errors import WorldProblem

CONFIG_BYTES_MAX: Final = 4 * 1024 * 1024
RECORDS_MAX: Final = 8  # records attached to one version that are looked at
BUSY_POLL_S: Final = 0.05  # how often a blob that another fetch writes is looked at
PROGRESS_BYTES: Final = 1024 * 1024  # how often progress is told inside a blob
ACCEPT: Final = f"{MANIFEST_TYPE}, */*"  # docker-registry denies that it has an OCI manifest unless it is named
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class FetchProblem(WorldProblem):
    code = "fetch_failed"


class Stalled(FetchProblem):
    code = "fetch_stalled"


class Truncated(FetchProblem):
    code = "fetch_truncated"


class WrongLength(FetchProblem):
    code = "fetch_wrong_length"


class AlteredContent(FetchProblem):
    code = "fetch_altered"


class WrongAnswer(FetchProblem):
    code = "fetch_wrong_answer"


class Source(Protocol):
    """Where a release is fetched from. ``stream`` raises on refusals, redirects and statuses from 400 on."""

    def stream(
        self, path: str, *, headers: dict[str, str] | None = None
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]: ...


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """``idle_s`` without a byte, and a rate below which a blob's fetch is given up (it resumes where it was)."""

    answer_s: float = 20.0
    idle_s: float = 20.0
    bytes_per_s_min: int = 8 * 1024
    grace_s: float = 60.0
    disk_reserve_bytes: int = 16 * 1024 * 1024

    def blob_s(self, size: int) -> float:
        """The longest that a blob of ``size`` may take."""
        return self.grace_s + size / self.bytes_per_s_min


async def fetch(
    signed: SignedDocument,
    *,
    client: Source,
    layout: ImageLayout,
    progress: Progress = silent,
    limits: FetchLimits = FetchLimits(),
) -> ReleaseRecord:
    """Bring a release here; what is here already is not asked for. ``signed`` was verified by the caller.

    Raises :class:`FetchProblem`, ``StorageFull`` before the first byte when the disk has no room, ``BadManifest``
    (content: a signed manifest that is none), and what ``client`` raises.
    """
    record = decode(signed.payload, ReleaseRecord)
    if layout.find_record(record_digest(signed)) is not None and _complete(record, layout.blobs):
        return record
    path = f"/v2/{release_repository(record)}"
    _check_room(record, layout.blobs, reserve=limits.disk_reserve_bytes)
    source = _Download(client, layout.blobs, record, progress, limits)
    await source.blob(f"{path}/manifests/{record.manifest}", record.manifest, record.manifest_size)
    manifest = read_manifest(layout.blobs.read(record.manifest, bytes_max=MANIFEST_BYTES_MAX))
    config = manifest.config
    if config.size > CONFIG_BYTES_MAX:
        raise WrongLength(f"the config of {record.label} has {config.size} bytes, expected at most {CONFIG_BYTES_MAX}")
    await source.blob(f"{path}/blobs/{config.digest}", checked_digest(config.digest), config.size)
    for entry in record.files:
        await source.blob(f"{path}/blobs/{entry.digest}", entry.digest, entry.size)
    await asyncio.to_thread(layout.attach, signed)
    return record


def _complete(record: ReleaseRecord, blobs: BlobStore) -> bool:
    parts = [(record.manifest, record.manifest_size), *((entry.digest, entry.size) for entry in record.files)]
    return all(blobs.size(digest) == size for digest, size in parts)


def _check_room(record: ReleaseRecord, blobs: BlobStore, *, reserve: int) -> None:
    missing = sum(entry.size for entry in record.files if blobs.size(entry.digest) != entry.size)
    free = blobs.free_bytes()
    if missing + reserve > free:
        raise StorageFull(
            f"{record.label} needs {missing} bytes and {reserve} in reserve, the disk has {free}",
            hint="free some disk space; the fetch goes on by itself",
        )


class _Download:
    """The blobs of one release, with the progress over all of them."""

    def __init__(
        self, client: Source, blobs: BlobStore, record: ReleaseRecord, progress: Progress, limits: FetchLimits
    ) -> None:
        self._client = client
        self._blobs = blobs
        self._label = f"fetch {record.label}"
        self._total = record.size + record.manifest_size
        self._done = 0
        self._progress = progress
        self._limits = limits

    async def blob(self, path: str, digest: Digest, size: int) -> None:
        staged = await self._staged(digest, size)
        if staged is not None:
            with staged:
                try:
                    async with asyncio.timeout(self._limits.blob_s(size)):
                        await self._receive(staged, path, digest, size)
                except TimeoutError as error:
                    raise Stalled(f"{path}: {staged.offset} of {size} bytes came in the time allowed") from error
        self._done += size
        self._progress(self._label, self._done, self._total, "bytes")

    async def _staged(self, digest: Digest, size: int) -> StagedBlob | None:
        """None for a blob that is here, which it may become while another release that has it too is fetched."""
        until = asyncio.get_running_loop().time() + self._limits.blob_s(size)
        while self._blobs.claim(digest) != size:
            try:
                return await self._opened(digest, size)
            except BusyBlob:
                if asyncio.get_running_loop().time() > until:
                    raise
                await asyncio.sleep(BUSY_POLL_S)
        return None

    async def _opened(self, digest: Digest, size: int) -> StagedBlob:
        """What a fetch that is cancelled meanwhile leaves is closed: the lock on it would keep every later one out."""
        opening = asyncio.ensure_future(asyncio.to_thread(self._blobs.stage, digest, size=size))
        try:
            await ended(opening)
        except asyncio.CancelledError:
            if opening.exception() is None:
                opening.result().close()
            raise
        return opening.result()

    async def _receive(self, staged: StagedBlob, path: str, digest: Digest, size: int) -> None:
        resumed = staged.resumed
        if staged.offset < size or size == 0:
            await self._request(staged, path, size)
        try:
            await to_the_end(asyncio.to_thread(staged.finish, digest))
        except WrongHash as error:
            if resumed:
                # A part that a crash left may be damaged itself: what was sent now is not to blame yet.
                with await self._opened(digest, size) as fresh:
                    await self._receive(fresh, path, digest, size)
                return
            raise AlteredContent(f"{path}: {error.message}") from error

    async def _request(self, staged: StagedBlob, path: str, size: int) -> None:
        headers = {"Accept": ACCEPT, "Accept-Encoding": "identity"}
        if staged.offset:
            headers["Range"] = f"bytes={staged.offset}-"
        async with _answered(self._client.stream(path, headers=headers), path, self._limits.answer_s) as response:
            begins = beginning(path, response.status, response.headers, offset=staged.offset, size=size)
            if begins != staged.offset:
                staged.restart()
            try:
                await self._append(staged, _chunks(response, path, self._limits.idle_s))
            except WrongSize as error:
                staged.discard()
                raise WrongLength(f"{path}: expected {size} bytes, found more") from error
        if staged.offset != size:
            raise Truncated(f"{path}: expected {size} bytes, the answer ended after {staged.offset}")

    async def _append(self, staged: StagedBlob, chunks: AsyncIterator[bytes]) -> None:
        async with BlobWriter(staged) as writer:
            told = writer.offset
            async for chunk in chunks:
                await writer.write(chunk)
                if writer.offset - told >= PROGRESS_BYTES:
                    told = writer.offset
                    self._progress(self._label, self._done + told, self._total, "bytes")
            await writer.flush()


def check_kind(path: str, headers: Mapping[str, str], expected: str) -> None:
    """A page of text, with whatever status, is none of what registries hold. Raises :class:`WrongAnswer`."""
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind.startswith("text/") or kind == "application/xhtml+xml":
        raise WrongAnswer(f"{path}: expected {expected}, found {kind[:60]}")


def beginning(path: str, status: int, headers: Mapping[str, str], *, offset: int, size: int) -> int:
    """Where the bytes of an answer begin in their blob: at ``offset``, or at 0 from a server without ranges.

    By the head alone, before a byte of the body is kept. Raises :class:`WrongAnswer` and :class:`WrongLength`.
    """
    check_kind(path, headers, "a blob")
    encoding = headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise WrongAnswer(f"{path}: expected plain bytes, found encoding {encoding[:40]}")
    if status == 206:
        told = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if told is None or told[1] != str(offset):
            raise WrongAnswer(f"{path}: expected the bytes from {offset} on, found another range")
    elif status == 200:
        offset = 0
    else:
        raise WrongAnswer(f"{path}: expected status 200 or 206, found {status}")
    announced = headers.get("Content-Length", "")
    if announced.isdecimal() and announced != str(size - offset):
        raise WrongLength(f"{path}: expected {size - offset} bytes, {announced[:20]} are announced")
    return offset


class _answered(AbstractAsyncContextManager[aiohttp.ClientResponse]):  # noqa: N801 — reads as a function
    """An answer whose head has come within ``answer_s``."""

    def __init__(
        self, opening: AbstractAsyncContextManager[aiohttp.ClientResponse], path: str, answer_s: float
    ) -> None:
        self._opening = opening
        self._path = path
        self._answer_s = answer_s

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout(self._answer_s):
                return await self._opening.__aenter__()
        except TimeoutError as error:
            raise Stalled(f"{self._path}: no answer within {self._answer_s:g} s") from error

    async def __aexit__(self, *raised: object) -> bool | None:
        return await self._opening.__aexit__(*raised)  # type: ignore[arg-type]


async def _chunks(response: aiohttp.ClientResponse, path: str, idle_s: float) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(idle_s):
                chunk = await response.content.readany()
        except TimeoutError as error:
            raise Stalled(f"{path}: no byte for {idle_s:g} s") from error
        except aiohttp.ClientPayloadError:
            return  # ended before its announced length; the count tells how early
        if not chunk:
            return
        yield chunk


async def find_records(
    name: str, version: str, *, client: Source, limits: FetchLimits = FetchLimits()
) -> tuple[SignedDocument, ...]:
    """The signed records that a repository has attached to a version: hints, until one is verified."""
    base = f"/v2/{model_repository(name)}"
    manifest = await _small(client, f"{base}/manifests/{version}", MANIFEST_BYTES_MAX, limits)
    path = f"{base}/referrers/{digest_of(manifest)}?artifactType={quote(RELEASE_TYPE, safe='')}"
    index = read_index(await _small(client, path, MANIFEST_BYTES_MAX, limits))
    records = []
    for referrer in index.manifests[:RECORDS_MAX]:
        raw = await _small(client, f"{base}/manifests/{checked_digest(referrer.digest)}", MANIFEST_BYTES_MAX, limits)
        for layer in read_manifest(raw).layers[:1]:
            path = f"{base}/blobs/{checked_digest(layer.digest)}"
            content = await _small(client, path, DOCUMENT_BYTES_MAX, limits)
            try:
                records.append(decode(content, SignedDocument))
            except msgspec.MsgspecError as error:
                raise WrongAnswer(f"{path}: expected a signed record: {error}") from error
    return tuple(records)


async def _small(client: Source, path: str, bytes_max: int, limits: FetchLimits) -> bytes:
    """A whole small body, bounded in size and time."""
    body = bytearray()
    try:
        async with asyncio.timeout(limits.grace_s):
            async with _answered(client.stream(path), path, limits.answer_s) as response:
                async for chunk in _chunks(response, path, limits.idle_s):
                    body += chunk
                    if len(body) > bytes_max:
                        raise WrongLength(f"{path}: expected at most {bytes_max} bytes, found more")
    except TimeoutError as error:
        raise Stalled(f"{path}: {len(body)} bytes came in {limits.grace_s:g} s") from error
    return bytes(body)
