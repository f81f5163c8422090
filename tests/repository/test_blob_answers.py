"""A blob as an answer: whole, in ranges, and to readers that leave."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient, TestServer

from federation.names import digest_of
from peers.blob_answers import PIECE_BYTES, answer_blob

CONTENT = random.Random(1).randbytes(3 * PIECE_BYTES + 17)
DIGEST = digest_of(CONTENT)
TAG = f'"{DIGEST}"'

Client = TestClient[web.Request, web.Application]


def readers(path: Path) -> int:
    """How many handles of this process lead to a file."""
    found = 0
    for handle in Path("/proc/self/fd").iterdir():
        try:
            found += handle.readlink() == path
        except FileNotFoundError:
            continue
    return found


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
async def client(blob: Path) -> AsyncIterator[Client]:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await answer_blob(request, blob, DIGEST, headers={"Content-Type": "application/octet-stream"})

    application = web.Application()
    application.router.add_get("/", handler)
    server = TestServer(application, host="127.0.0.1")
    async with TestClient(server) as client:
        yield client


@pytest.mark.parametrize(
    ("headers", "status", "start", "stop"),
    [
        ({}, 200, 0, len(CONTENT)),
        ({"Range": "bytes=0-"}, 206, 0, len(CONTENT)),
        ({"Range": f"bytes={PIECE_BYTES + 1}-"}, 206, PIECE_BYTES + 1, len(CONTENT)),
        ({"Range": "bytes=5-9"}, 206, 5, 10),
        ({"Range": "bytes=-4"}, 206, len(CONTENT) - 4, len(CONTENT)),
        ({"Range": f"bytes=9-{10**12}"}, 206, 9, len(CONTENT)),
        ({"Range": "bytes=5-9", "If-Range": TAG}, 206, 5, 10),
        ({"Range": "bytes=5-9", "If-Range": '"another"'}, 200, 0, len(CONTENT)),
        ({"Range": f"bytes={len(CONTENT)}-"}, 416, 0, 0),
        ({"Range": "pages=1-2"}, 416, 0, 0),
        ({"If-None-Match": TAG}, 304, 0, 0),
    ],
)
async def test_what_is_asked_for_is_sent(
    client: Client, headers: dict[str, str], status: int, start: int, stop: int
) -> None:
    async with client.get("/", headers=headers) as response:
        assert (response.status, await response.read()) == (status, CONTENT[start:stop])
        assert response.headers["ETag"] == TAG
        told = {206: f"bytes {start}-{stop - 1}/{len(CONTENT)}", 416: f"bytes */{len(CONTENT)}"}.get(status)
        assert response.headers.get("Content-Range") == told


async def test_only_the_head(client: Client) -> None:
    async with client.head("/") as response:
        assert (response.status, await response.read()) == (200, b"")
        assert response.headers["Content-Length"] == str(len(CONTENT))


async def test_an_empty_blob(client: Client, blob: Path) -> None:
    os.truncate(blob, 0)
    async with client.get("/") as response:
        assert (response.status, await response.read()) == (200, b"")


async def test_a_reader_that_leaves_leaves_nothing_open(client: Client, blob: Path) -> None:
    os.truncate(blob, 64 * 1024 * 1024)  # more than the connection takes without a reader
    async with ClientSession() as session, session.get(client.make_url("/")) as response:
        await response.content.readexactly(10)
        assert readers(blob) == 1
        response.close()
    async with asyncio.timeout(10):
        while readers(blob):  # noqa: ASYNC110 — a handle has no event
            await asyncio.sleep(0)
