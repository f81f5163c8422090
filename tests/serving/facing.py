"""The pipeline server's face over an engine with pipelines, on a port of 127.0.0.1, in one loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientSession, web

from engine.engine import Engine
from engine.pipelines import LoadedPipeline
from federation.pipelines import ModelStep, Shadow, Step, Validation
from federation.verification import VerifiedRelease
from peers.face_errors import told_on_face
from peers.inference_bodies import Bodies
from peers.pipeline_routes import PipelineFace
from tests.pipelines.defining import ref_of
from tests.pipelines.running import affine, pipeline_release, put, put_pipeline

SUM = affine(1.0, name="sum")
TWICE = affine(2.0, name="twice")
HIGH = Validation("high", "out.y > 100")


@dataclass
class Facing:
    engine: Engine
    session: ClientSession
    url: str
    refused: list[str]

    async def get(self, path: str, *, status: int = 200) -> Any:
        async with self.session.get(self.url + path) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def post(self, path: str, body: bytes, *, status: int = 200, **headers: str) -> Any:
        """The JSON of an answer, or its bytes where it is Arrow."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.post(self.url + path, data=body, headers=named) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json() if answer.content_type == "application/json" else await answer.read()


def shadowed(name: str = "pipe") -> VerifiedRelease:
    """x[-1,4] → y[-1] = sum(x), with one challenger and one validation."""
    steps: list[Step] = [Shadow(ref_of(SUM), (ref_of(TWICE),))]
    return pipeline_release((SUM, TWICE), steps, name=name, validations=(HIGH,))


async def loaded(engine: Engine, name: str = "pipe") -> LoadedPipeline:
    return await put(engine, shadowed(name))


async def loaded_plain(engine: Engine, name: str) -> LoadedPipeline:
    return await put_pipeline(engine, (SUM,), [ModelStep(ref_of(SUM))], name=name)


@asynccontextmanager
async def facing(*, ready: bool = True, requests_max: int = 16) -> AsyncIterator[Facing]:
    engine = Engine(partition="E1")
    bodies = Bodies()
    face = PipelineFace(engine, bodies=bodies, ready=lambda: ready, requests_max=requests_max)
    refused: list[str] = []
    application = web.Application()
    application.add_routes(
        [web.route(one.method, one.path, told_on_face(one.handler, refused=refused.append)) for one in face.routes()]
    )
    runner = web.AppRunner(application, auto_decompress=False)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with ClientSession() as session:
            yield Facing(engine, session, f"http://{host}:{port}", refused)
    finally:
        await runner.cleanup()
        bodies.close()
        engine.close()
