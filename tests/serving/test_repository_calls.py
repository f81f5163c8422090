"""The repository extension: releases of a real nameserver and edge, loaded and unloaded by tritonclient."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from aiohttp import ClientSession, web
from tritonclient.utils import InferenceServerException

from engine.engine import Engine
from engine.errors import ContentProblem, FailedVectors, OverMemory
from federation.errors import KeyRevoked
from peers.face_errors import told_on_face
from peers.inference_routes import InferenceRoutes
from query.errors import Forbidden, Problem
from tests.serving.peering import write_model
from tests.wire.living import Living, living, publish, publisher_in

ROW = np.array([[1, 2, 3, 4]], np.float32)


def row() -> triton.InferInput:
    made = triton.InferInput("x", [1, 4], "FP32")
    made.set_data_from_numpy(ROW)
    return made


async def test_releases_are_loaded_and_unloaded_by_name(tmp_path: Path) -> None:
    async with living(tmp_path) as federation:
        ada = await publisher_in(federation)
        write_model(ada, "double", 2.0)
        await publish(federation, "double", "1.0", home="ada")
        write_model(ada, "double", 3.0)
        await publish(federation, "double", "2.0", home="ada")
        await _publish_broken(federation)
        record = federation.peers["ns"].record
        token = {"Authorization": f"Bearer {federation.home('ns').token()}"}
        async with triton_aio.InferenceServerClient(record.application) as client:
            assert await client.get_model_repository_index() == [{"name": "broken"}, {"name": "double"}]
            assert not await client.is_model_ready("double")
            with pytest.raises(InferenceServerException, match='"double" is installed here and not loaded'):
                await client.infer("double", [row()])
            await client.load_model("double", headers=token)
            assert (await client.infer("double", [row()])).as_numpy("y").tolist() == [[3, 6, 9, 12]]
            assert (await client.get_model_metadata("double"))["versions"] == ["2.0"]
            await client.load_model("double", headers=token)  # it is: nothing changes
            with pytest.raises(InferenceServerException) as refused:
                await client.load_model("broken", headers=token)
            assert refused.value.status() == "409"
            assert "test vector 1" in refused.value.message()
            entries = {entry["name"]: entry for entry in await client.get_model_repository_index()}
            assert entries["double"] == {"name": "double", "version": "2.0", "state": "READY"}
            assert entries["broken"]["state"] == "UNAVAILABLE"
            assert entries["broken"]["reason"].startswith("failed_vectors: ")
            with pytest.raises(InferenceServerException, match=r"broken@1\.0 could not be loaded: failed_vectors"):
                await client.infer("broken", [row()])
            await client.unload_model("double", headers=token)
            await client.unload_model("double", headers=token)  # it is not: nothing changes
            assert not await client.is_model_ready("double")
            assert "double" in {entry["name"] for entry in await client.get_model_repository_index()}
        assert await federation.value("models:loaded()", home="ns") == []


async def _publish_broken(federation: Living) -> None:
    """A release whose own test vector it does not pass."""
    ada = federation.home("ada")
    write_model(ada, "broken", 2.0)
    vector = {"input": {"x": [[1, 2, 3, 4]]}, "output": {"y": [[9, 9, 9, 9]]}}
    (ada.models / "broken" / "vectors.json").write_text(json.dumps([vector]))
    await federation.value('models:create_release("broken", "1.0", {"test": false})', home="ada")
    await federation.value('models:publish("broken", "1.0")', home="ada")


async def test_groups_have_the_last_word_on_an_edge(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        ada = await publisher_in(federation)
        write_model(ada, "double", 2.0)
        await publish(federation, "double", "1.0", home="ada")
        await federation.value('edge:add_group("e1", "lab")')
        record = federation.peers["e1"].record
        token = {"Authorization": f"Bearer {federation.home('e1').token()}"}
        async with triton_aio.InferenceServerClient(record.application) as client, asyncio.timeout(30):
            assert await client.is_server_ready()
            await federation.value('edge:set_group_models("lab", [{"name": "double", "version": "1.0"}])')
            while not await client.is_model_ready("double"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # a poll of a real edge, bounded above
            assert await client.is_server_ready()
            await client.unload_model("double", headers=token)
            while not await client.is_model_ready("double"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            assert (await client.infer("double", [row()])).as_numpy("y").tolist() == [[2, 4, 6, 8]]


class Refusing:
    """A repository that refuses everything with one problem."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    async def installed(self) -> Collection[str]:
        return ("m",)

    async def load(self, name: str) -> None:
        raise self._problem

    async def unload(self, name: str) -> None:
        raise self._problem


@pytest.mark.parametrize(
    ("problem", "status"),
    [
        (FailedVectors("m@1: test vector 1"), 409),
        (ContentProblem("m@1"), 409),
        (OverMemory("m@1 needs 5 bytes"), 409),
        (KeyRevoked("ada's key was revoked"), 403),
        (Forbidden("load needs operator"), 403),
    ],
)
async def test_why_a_release_is_not_loaded(problem: Problem, status: int) -> None:
    engine = Engine()
    routes = InferenceRoutes(engine, repository=Refusing(problem), unready=lambda: None, version="1")
    application = web.Application()
    application.add_routes(
        [web.route(one.method, one.path, told_on_face(one.handler)) for one in routes.changing_routes()]
    )
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with (
            ClientSession() as session,
            session.post(f"http://127.0.0.1:{runner.addresses[0][1]}/v2/repository/models/m/load") as answer,
        ):
            assert answer.status == status
            told = await answer.json()
            assert (told["code"], told["error"]) == (problem.code, problem.message)
    finally:
        await runner.cleanup()
        routes.close()
        engine.close()
