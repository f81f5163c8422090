"""An application face on 127.0.0.1 with a real engine behind it, in the event loop of the test."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from onnx import NodeProto, TensorProto, helper

from engine.engine import Engine, EngineSettings, Verdict
from federation.documents import TensorSpec
from federation.layout import ImageLayout
from federation.verification import VerifiedRelease
from peers.faces import ApplicationFace, application_face
from peers.homes import Home
from peers.requests import Origin
from peers.serving_parts import ServingParts
from peers.settings import EdgeSettings
from query.declarations import Caller, Role
from query.frames import Frame
from tests.models.making import DATATYPES, release
from tests.serving.refused import SIGNATURES

TYPES = DATATYPES | {
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "FP16": TensorProto.FLOAT16,
}


class NoStatements:
    """Statements of a peer that nobody asks any."""

    async def run(self, body: bytes, *, origin: Origin, query: str) -> AsyncIterator[Frame]:  # type: ignore[override]
        raise AssertionError("nobody asks this peer a statement")
        yield

    def new_query(self) -> str:
        return "q"


@dataclass
class Reply:
    """An answer: ``header`` is the length of its JSON when tensors follow it."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Face:
    """Where it listens, and what is behind it."""

    engine: Engine
    parts: ServingParts
    bound: ApplicationFace
    token: str
    http: aiohttp.ClientSession

    @property
    def port(self) -> int:
        return int(self.bound.near.rpartition(":")[2])

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """One request over the client's connections."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.request(
            method,
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else io.BytesIO(body),
            headers=named,
        ) as got:
            return Reply(got.status, got.headers, await got.read())

    async def raw(self, text: bytes) -> bytes:
        """Bytes as they are, and everything that comes back until the peer closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(text)
            await writer.drain()
            async with asyncio.timeout(20):
                return await reader.read()
        finally:
            writer.close()

    async def load(self, candidate: VerifiedRelease) -> None:
        """Into memory, with the verdict that a trial of it would have."""
        verdict = Verdict(record=candidate.record_digest, runtime=self.engine.runtime_version, peak_bytes=1)
        await self.engine.load(candidate, origin="manual", verdict=verdict)


async def until(condition: Callable[[], bool]) -> None:
    """Returns when the peer, in this loop, has come so far."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 — what is waited for is a socket's doing
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(
    folder: Path,
    *releases: VerifiedRelease,
    settings: EdgeSettings | None = None,
    engine: EngineSettings | None = None,
    **changes: Any,
) -> AsyncIterator[Face]:
    """``changes``: attributes of the inference routes' bodies and bounds."""
    async with AsyncExitStack() as stack:
        running = Engine(engine or EngineSettings())
        stack.callback(running.close)
        home = Home(folder / "home").prepare()
        parts = ServingParts(
            running,
            layout=ImageLayout(folder / "releases"),
            statements=NoStatements(),
            caller=Caller("here", Role.ADMIN),
            version="1.2.3",
            health=lambda: {"ready": True},
            **{"unready": lambda: None, **changes},
        )
        stack.push_async_callback(parts.close)
        bound = await stack.enter_async_context(
            application_face(parts.listener, home, settings or EdgeSettings(application_port=0))
        )
        http = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        face = Face(running, parts, bound, home.token(), http)
        for candidate in releases:
            await face.load(candidate)
        yield face


def identity_graph(name: str) -> bytes:
    """A graph with one of the signatures of the table of refusals, which gives back what it gets."""
    inputs, outputs = SIGNATURES[name]
    nodes: list[NodeProto] = [
        helper.make_node("Identity", [one.name], [other.name]) for one, other in zip(inputs, outputs, strict=True)
    ]
    return typed_graph(nodes, inputs, outputs)


def identity(name: str) -> VerifiedRelease:
    """A release of :func:`identity_graph`."""
    inputs, outputs = SIGNATURES[name]
    return release(identity_graph(name), name=name, inputs=inputs, outputs=outputs)


def typed_graph(nodes: list[NodeProto], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> bytes:
    """:func:`tests.models.making.graph_of` with every datatype."""

    def info(one: TensorSpec) -> Any:
        sizes = [None if size < 0 else size for size in one.shape]
        return helper.make_tensor_value_info(one.name, TYPES[one.datatype], sizes)

    graph = helper.make_graph(nodes, "graph", [info(one) for one in inputs], [info(one) for one in outputs])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = made.SerializeToString()
    return content
