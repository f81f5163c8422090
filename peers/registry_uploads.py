"""Blobs on their way into the repository: each upload is a staged file that many requests may append to.

Owns the table of open uploads and their bounds. Refuses more uploads, bytes or time than :class:`RegistryLimits` says:
aiohttp never ends a body that was half sent, so every read has our own deadline, and a request has one over all.

Rules: an upload belongs to the member that began it, and one request at a time writes to it. When a request's body
breaks off or falls silent, its upload stays with the bytes that came, to be gone on with; any other failure ends it.
Lifetimes are looked at whenever an upload begins, so no task of its own is needed; with the process, uploads are
forgotten, and their files swept at the next start.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import ClientPayloadError, StreamReader
from aiohttp.http_exceptions import PayloadEncodingError

from federation.blobs import BlobStore, StagedBlob
from federation.errors import WrongSize
from federation.names import Digest
from peers.answers import TooBusy
from peers.blob_writing import BlobWriter
from peers.endings import to_the_end
from query.errors import DeadlinePassed, LimitExceeded, UserProblem


class UnknownUpload(UserProblem):
    """No such upload: never begun, ended, failed, expired, or somebody else's."""

    code = "upload_unknown"


class UploadOutOfOrder(UserProblem):
    """A chunk that does not begin where the last one ended, or two at once."""

    code = "upload_out_of_order"


@dataclass(frozen=True, slots=True)
class RegistryLimits:
    """What members may have under way. ``idle_s`` without a byte ends a request, ``request_s`` ends it anyway."""

    uploads_max: int = 64
    uploads_per_member_max: int = 16
    upload_bytes_max: int = 2 * 1024**3
    upload_life_s: float = 15 * 60.0
    idle_s: float = 15.0
    request_s: float = 10 * 60.0


@dataclass(slots=True)
class _Upload:
    repository: str
    owner: str
    staged: StagedBlob
    touched: float
    busy: bool = False


class Uploads:
    """The open uploads of one repository."""

    def __init__(self, blobs: BlobStore, *, clock: Callable[[], float], limits: RegistryLimits) -> None:
        self._blobs = blobs
        self._clock = clock
        self._limits = limits
        self._open: dict[str, _Upload] = {}

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, repository: str, *, owner: str) -> str:
        """The id of a new upload. Raises :class:`TooBusy`."""
        now = self._clock()
        for name, upload in tuple(self._open.items()):
            if not upload.busy and now - upload.touched > self._limits.upload_life_s:
                self._end(name)
        mine = sum(upload.owner == owner for upload in self._open.values())
        if len(self._open) >= self._limits.uploads_max or mine >= self._limits.uploads_per_member_max:
            raise TooBusy(f"{len(self._open)} uploads are under way, {mine} of them yours; end some or wait")
        name = secrets.token_hex(16)
        staged = self._blobs.stage_new(bytes_max=self._limits.upload_bytes_max)
        self._open[name] = _Upload(repository, owner, staged, now)
        return name

    def offset(self, name: str, *, owner: str, repository: str) -> int:
        """How many bytes an upload has."""
        upload = self._mine(name, owner)
        if upload.repository != repository:
            raise UnknownUpload(f'the upload {name[:40]!r} is not in "{repository}"')
        return upload.staged.offset

    async def receive(
        self,
        name: str,
        body: StreamReader,
        *,
        owner: str,
        start: int | None = None,
        declared: int | None = None,
        resumable: bool = True,
    ) -> int:
        """Append a request's body; the offset after it.

        Raises :class:`UploadOutOfOrder`, ``DeadlinePassed`` or a ``ConnectionError`` (the upload stays, unless it
        cannot be resumed by who began it), or ``LimitExceeded`` (it ends).
        """
        upload = self._mine(name, owner)
        if upload.busy or (start is not None and start != upload.staged.offset):
            raise UploadOutOfOrder(f"expected the bytes from {upload.staged.offset} on, one request at a time")
        if declared is not None and upload.staged.offset + declared > self._limits.upload_bytes_max:
            self._end(name)
            raise LimitExceeded(f"a blob of more than {self._limits.upload_bytes_max} bytes")
        upload.busy = True
        stays = False
        try:
            await self._append(upload, body, declared=declared)
            stays = True
        except (asyncio.CancelledError, ConnectionError, DeadlinePassed):
            stays = resumable
            raise
        finally:
            upload.busy = False
            upload.touched = self._clock()
            if not stays:
                self._end(name)
        return upload.staged.offset

    async def _append(self, upload: _Upload, body: StreamReader, *, declared: int | None) -> None:
        idle = self._limits.idle_s
        begun = upload.staged.offset
        try:
            async with asyncio.timeout(self._limits.request_s), BlobWriter(upload.staged) as writer:
                while True:
                    async with asyncio.timeout(idle):
                        chunk, boundary = await body.readchunk()  # of what is there, without joining it
                    if not chunk and (not boundary or body.at_eof()):  # a request without a body has boundaries alone
                        await writer.flush()
                        break
                    await writer.write(chunk)
        except TimeoutError as error:
            raise DeadlinePassed(f"the body stopped after {upload.staged.offset} bytes") from error
        except WrongSize as error:
            raise LimitExceeded(f"a blob of more than {self._limits.upload_bytes_max} bytes") from error
        except (ClientPayloadError, PayloadEncodingError) as error:
            raise ConnectionResetError(f"the body broke off: {error}") from error
        if declared is not None and upload.staged.offset - begun != declared:
            raise ConnectionResetError(f"the body broke off after {upload.staged.offset - begun} of {declared} bytes")

    async def finish(self, name: str, digest: Digest, *, owner: str) -> Digest:
        """The upload becomes a blob, durable on return. Raises ``WrongHash``; the upload ends either way."""
        upload = self._mine(name, owner)
        if upload.busy:
            raise UploadOutOfOrder("the upload is still receiving bytes")
        upload.busy = True
        try:
            return await to_the_end(asyncio.to_thread(upload.staged.finish, digest))
        finally:
            self._end(name)

    def drop(self, name: str, *, owner: str) -> None:
        self._mine(name, owner)
        self._end(name)

    def _mine(self, name: str, owner: str) -> _Upload:
        upload = self._open.get(name)
        if upload is None or upload.owner != owner:
            raise UnknownUpload(f"no upload {name[:40]!r} of yours is under way")
        return upload

    def _end(self, name: str) -> None:
        upload = self._open.pop(name, None)
        if upload is not None:
            upload.staged.close()
