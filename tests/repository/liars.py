"""Registries that lie: a truthful little registry on loopback, whose answer to one kind of request is replaced."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from federation.documents import RELEASE_TYPE, encode
from federation.layout import ImageLayout
from federation.layout_index import InstalledRelease
from federation.manifests import INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index, encode_index, read_manifest
from federation.names import digest_of
from tests.repository.site import served

Lie = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]


@dataclass
class Liar:
    """Has one release. ``lies``: kind of request → what is answered instead of the truth.

    Kinds: catalog tags manifest referrers attachment record blob, and ``any``.
    """

    layout: ImageLayout
    release: InstalledRelease
    lies: dict[str, Lie] = field(default_factory=dict)
    origin: str = ""
    asked: list[web.Request] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        kind, body, media_type = self._truth(request.path)
        lie = self.lies.get(kind) or self.lies.get("any")
        if lie is not None:
            return await lie(request, body)
        if kind == "nothing":
            return web.json_response({"errors": [{"code": "NAME_UNKNOWN", "message": "nothing here"}]}, status=404)
        return web.Response(body=body, headers={"Content-Type": media_type})

    def _truth(self, path: str) -> tuple[str, bytes, str]:
        layout, release = self.layout, self.release
        base = f"/v2/{release.repository}"
        attachment = layout.blobs.read(release.attachment, bytes_max=10**6)
        record = encode(layout.signed(release))
        entry = Descriptor(
            media_type=MANIFEST_TYPE, digest=release.attachment, size=len(attachment), artifact_type=RELEASE_TYPE
        )
        match path.removeprefix(base):
            case "/v2/_catalog":
                return "catalog", json.dumps({"repositories": [release.repository]}).encode(), "application/json"
            case "/tags/list":
                return "tags", json.dumps({"tags": [release.version]}).encode(), "application/json"
            case one if one in (f"/manifests/{release.version}", f"/manifests/{release.manifest}"):
                return "manifest", layout.manifest(release.repository, release.manifest).raw, MANIFEST_TYPE
            case one if one == f"/manifests/{release.attachment}":
                return "attachment", attachment, MANIFEST_TYPE
            case one if one == f"/referrers/{release.manifest}":
                return "referrers", encode_index(Index(media_type=INDEX_TYPE, manifests=(entry,))), INDEX_TYPE
            case one if one == f"/blobs/{digest_of(record)}":
                return "record", record, "application/octet-stream"
            case one if one.startswith("/blobs/sha256:"):
                digest = one.removeprefix("/blobs/")
                parts = read_manifest(layout.manifest(release.repository, release.manifest).raw)
                if digest in {part.digest for part in (parts.config, *parts.layers)}:
                    return "blob", (layout.path / "blobs/sha256" / digest[7:]).read_bytes(), "application/octet-stream"
        return "nothing", b"", ""


@asynccontextmanager
async def serving(liar: Liar, *, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The origin of a liar while the block runs."""
    async with served([web.route("*", "/{rest:.*}", liar.answer)], context=context) as address:
        liar.origin = f"{'http' if context is None else 'https'}://{address}"
        try:
            yield liar.origin
        finally:
            liar.ended.set()


# --- lies -------------------------------------------------------------------------------------------------------------


def status(code: int, *, body: str = "", **headers: str) -> Lie:
    async def lie(request: web.Request, truth: bytes) -> web.StreamResponse:
        return web.Response(status=code, text=body, headers={name.replace("_", "-"): v for name, v in headers.items()})

    return lie


def said(body: bytes, media_type: str = "application/json", **headers: str) -> Lie:
    async def lie(request: web.Request, truth: bytes) -> web.StreamResponse:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, headers={"Content-Type": media_type, **told})

    return lie


def changed(change: Callable[[bytes], bytes], media_type: str = MANIFEST_TYPE) -> Lie:
    async def lie(request: web.Request, truth: bytes) -> web.StreamResponse:
        return web.Response(body=change(truth), headers={"Content-Type": media_type})

    return lie


def flipped(truth: bytes) -> bytes:
    return bytes([truth[0] ^ 1]) + truth[1:]


def hung(liar: Liar) -> Lie:
    async def lie(request: web.Request, truth: bytes) -> web.StreamResponse:
        await liar.ended.wait()
        return web.Response()

    return lie


def dripping(liar: Liar, *, pause_s: float) -> Lie:
    """A byte at a time, each within the time of a read."""

    async def lie(request: web.Request, truth: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": MANIFEST_TYPE})
        response.content_length = max(len(truth), 1)
        await response.prepare(request)
        for byte in truth:
            if liar.ended.is_set() or request.transport is None:
                break
            await response.write(bytes([byte]))
            await asyncio.sleep(pause_s)  # the lie itself
        return response

    return lie


def dripping_head(liar: Liar, *, pause_s: float) -> Lie:
    async def lie(request: web.Request, truth: bytes) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 200 OK\r\n")
        while not liar.ended.is_set() and not request.transport.is_closing():
            request.transport.write(b"X-More: more\r\n")
            await asyncio.sleep(pause_s)  # the lie itself
        return web.Response()

    return lie


def endless(liar: Liar, piece: bytes = b" " * 65536, media_type: str = MANIFEST_TYPE) -> Lie:
    async def lie(request: web.Request, truth: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": media_type})
        await response.prepare(request)
        while not liar.ended.is_set() and request.transport is not None:
            await response.write(piece)
            await asyncio.sleep(0)  # asyncio drops what is written to a connection that is closing, without a word
        return response

    return lie


def announced(length: bytes) -> Lie:
    """The truth, under a length that is no number."""

    async def lie(request: web.Request, truth: bytes) -> web.StreamResponse:
        assert request.transport is not None
        head = b"HTTP/1.1 200 OK\r\nContent-Type: " + MANIFEST_TYPE.encode()
        request.transport.write(head + b"\r\nContent-Length: " + length + b"\r\n\r\n" + truth)
        request.transport.close()
        return web.Response()

    return lie


def cut(share: float) -> Lie:
    """The announced length, and then only a part of it."""

    async def lie(request: web.Request, truth: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = len(truth)
        await response.prepare(request)
        await response.write(truth[: int(len(truth) * share)])
        assert request.transport is not None
        request.transport.close()
        return response

    return lie
