"""A thousand hot swaps under the face: every request is answered, by the version that the answer names."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from engine.engine import EngineSettings
from tests.models.making import SCALING_VECTORS, release, scaling, vectors_of
from tests.serving.face import Face, serving

SWAPS = 1000
CLIENTS = 4
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()
VERSIONS = {
    "1.0": release(scaling(2.0), version="1.0", vectors=SCALING_VECTORS),
    "2.0": release(scaling(3.0), version="2.0", vectors=vectors_of(({"x": [[1, 2, 3, 4]]}, {"y": [[3, 6, 9, 12]]}))),
}
ANSWERS = {"1.0": [2, 4, 6, 8], "2.0": [3, 6, 9, 12]}


class Clients:
    """Requests one after another on each connection, until it is enough."""

    def __init__(self, face: Face) -> None:
        self._face = face
        self.enough = asyncio.Event()
        self.answered = dict.fromkeys(VERSIONS, 0)
        self.wrong: list[bytes] = []

    async def asking(self) -> None:
        while not self.enough.is_set():
            reply = await self._face.ask("POST", "/v2/models/scaling/infer", BODY)
            told = reply.json
            version = told.get("model_version")
            if reply.status != 200 or told["outputs"][0]["data"] != ANSWERS[version]:
                self.wrong.append(reply.body)
                return
            self.answered[version] += 1


@pytest.mark.timeout(240)
@pytest.mark.parametrize("inline_us", [150.0, 0.0], ids=["on the loop", "in the pool"])
async def test_no_request_fails_and_none_is_answered_by_two_versions(tmp_path: Path, inline_us: float) -> None:
    settings = EngineSettings(threads=1, inline_us=inline_us)
    async with serving(tmp_path, VERSIONS["1.0"], engine=settings) as face:
        clients = Clients(face)
        tasks = [asyncio.create_task(clients.asking()) for _ in range(CLIENTS)]
        for turn in range(SWAPS):
            await face.load(VERSIONS["2.0" if turn % 2 == 0 else "1.0"])
        clients.enough.set()
        await asyncio.gather(*tasks)
        assert clients.wrong == []
        assert min(clients.answered.values()) > SWAPS // 10
        counted = {one.version: one.success.count for one in face.engine.all_statistics()}
        assert counted == clients.answered, "and none is lost to the counts"
