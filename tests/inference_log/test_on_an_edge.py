"""The log of a living edge: what programs send and people ask, through every door, over restarts and settings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.serving.peering import Served, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROWS = [{"x": [1, 2, 3, 4]}, {"x": [100, 0.5, 0, 0]}]
ROW = {"x": [[1, 2, 3, 4]]}


@dataclass
class Edge:
    """``restart`` gives it other settings."""

    served: Served
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://{self.served.federation.peers['e1'].record.application}"

    async def infer(self, rows: Any = ROWS) -> Any:
        async with self.http.post(f"{self.url}/infer", data=json.dumps(rows)) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json(content_type=None)

    async def logs(self, asked: Any = None, *, query: str = "", status: int = 200) -> Any:
        shown = {"Authorization": f"Bearer {self.served.token}"}
        async with self.http.post(f"{self.url}/logs{query}", data=json.dumps(asked or {}), headers=shown) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json(content_type=None)

    async def ask(self, text: str, *, home: str = "e1") -> list[Any]:
        answer = await self.served.federation.ask(text, home=home)
        return [row.value for row in answer.checked().rows]

    async def restart(self, **settings: Any) -> None:
        await self.served.federation.stop("e1")
        await self.served.federation.start_edge("e1", **settings)
        async with asyncio.timeout(20):
            while "pipe" not in " ".join((await self.ask("models:loaded()"))[0]):  # noqa: ASYNC110 — a poll, bounded above
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with served(tmp_path_factory.mktemp("log")) as made, aiohttp.ClientSession() as http:
        yield Edge(made, http)


async def test_what_was_answered_is_what_is_logged(edge: Edge) -> None:
    answered = await edge.infer()
    logged = await edge.logs()
    assert logged == answered
    assert [sorted(row) for row in logged] == [["anomaly", "in", "metadata", "out", "out_triple", "time"]] * 2
    asked = await edge.ask('logs:local({"columns": ["*", "metadata"], "order": "oldest"})')
    assert asked == answered


async def test_metadata_and_identity_are_asked_for(edge: Edge) -> None:
    (row, _) = await edge.ask('logs:local({"order": "oldest"})')
    assert sorted(row) == ["anomaly", "in", "out", "out_triple", "time"]
    found = await edge.ask('logs:local({"columns": ["row", "anomaly.high"], "order": "oldest"})')
    (status,) = await edge.ask("logs:status()")
    uuid = edge.served.home.membership().uuid
    assert found == [
        {"row": {"edge": uuid, "epoch": status["epoch"], "sequence": sequence}, "anomaly": {"high": high}}
        for sequence, high in ((1, False), (2, True))
    ]
    assert (await edge.logs(query="?dataset=row"))[1]["row"]["sequence"] == 2


async def test_the_log_of_an_edge_is_read_from_elsewhere_too(edge: Edge) -> None:
    rows = await edge.ask('//peer: e1\nlogs:local({"columns": ["out.y"], "limit": 1})', home="ns-admin")
    assert rows == [{"out": {"y": [200.0, 1.0, 0.0, 0.0]}}]


async def test_every_door_is_logged(edge: Edge) -> None:
    """The contract's rows, the Open Inference Protocol, and the language."""
    (before,) = await edge.ask("logs:status()")
    body = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    async with edge.http.post(f"{edge.url}/v2/models/pipe/infer", json=body) as answer:
        assert answer.status == 200
    await edge.ask(f'models:infer("pipe", {json.dumps(ROW)})')
    await edge.ask(f'pipeline:infer("pipe", [{json.dumps(ROWS[0])}])')
    await edge.ask(f'models:infer("double", {json.dumps(ROW)})')  # a model alone is no pipeline
    (after,) = await edge.ask("logs:status()")
    assert after["recorded"] - before["recorded"] == 3
    newest = await edge.ask('logs:local({"columns": ["out"], "limit": 3})')
    assert newest == [{"out": {"y": [2.0, 4.0, 6.0, 8.0]}}] * 3


async def test_rows_are_found_by_pipeline_and_time(edge: Edge) -> None:
    assert await edge.ask('logs:local({"pipeline": "other"})') == []
    assert len(await edge.ask('logs:local({"pipeline": "pipe", "limit": 2})')) == 2
    first, *_, last = [row["time"] for row in await edge.ask('logs:local({"columns": "time", "order": "oldest"})')]
    assert first <= last
    times = await edge.ask(f'logs:local({{"start": {first}, "end": {last + 1}, "columns": ["time"]}})')
    assert [row["time"] for row in times] == sorted(row["time"] for row in times)
    assert len(times) == 5
    assert await edge.ask('logs:local({"start": |2020-01-01|, "end": |2021-01-01|})') == []
    assert len(await edge.ask('logs:local({"start": "2020-01-01", "end": "2100-01-01T00:00Z"})')) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('{"colums": ["time"]}', 'no option "colums" — did you mean "columns"?'),
        ('{"columns": ["output"]}', 'no column "output" — did you mean "out"?'),
        ('{"columns": []}', 'expected 1 to 64 names of columns in "columns", found []'),
        ('{"start": 5}', 'expected "start" and "end" together, found one of them'),
        ('{"start": "soon", "end": "later"}', "expected a time in \"start\", found 'soon'"),
        ('{"limit": 0}', 'expected a number from 1 to 10000 in "limit", found 0'),
        ('{"limit": true}', 'expected a number from 1 to 10000 in "limit", found True'),
        ('{"order": "random"}', "expected newest or oldest in \"order\", found 'random'"),
        ('{"pipeline": 5}', 'expected the name of a pipeline in "pipeline", found 5'),
    ],
)
async def test_options_that_are_none(edge: Edge, options: str, message: str) -> None:
    answer = await edge.served.federation.ask(f"logs:local({options})", home="e1")
    (problem,) = answer.errors
    assert message in problem.message


async def test_prometheus_is_told_how_the_log_stands(edge: Edge) -> None:
    async with edge.http.get(f"{edge.url}/metrics") as answer:
        text = await answer.text()
    assert "peerage_log_rows_total 5.0" in text
    assert "peerage_log_quota_bytes 1.073741824e+09" in text


async def test_a_deployment_says_what_is_recorded(edge: Edge) -> None:
    deploy = 'pipeline:deploy("pipe", {"group": "lab", "log": {"columns": ["out", "anomaly"]}})'
    (made,) = await edge.ask(deploy, home="ada")
    async with asyncio.timeout(20):
        while f"pipe@{made['version']}" not in (await edge.ask("models:loaded()"))[0]:  # noqa: ASYNC110 — bounded above
            await asyncio.sleep(0.05)
    answered = await edge.infer()
    assert answered[0]["in"] == {"x": [1, 2, 3, 4]}
    logged = await edge.ask('logs:local({"columns": ["*", "metadata.dropped"], "limit": 2})')
    assert [(row["in"], row["out"], row["anomaly"]["count"]) for row in logged] == [
        ({}, row["out"], row["anomaly"]["count"]) for row in reversed(answered)
    ]
    assert logged[0]["metadata"] == {"dropped": ["in.x", "out_triple.y"]}


async def test_columns_that_no_row_has_cannot_be_deployed(edge: Edge) -> None:
    text = 'pipeline:deploy("pipe", {"group": "lab", "log": {"columns": ["output"]}})'
    (problem,) = (await edge.served.federation.ask(text, home="ada")).errors
    assert problem.code == "bad_pipeline"
    assert 'the log has no column "output"' in problem.message


async def test_rows_survive_a_restart_and_numbers_are_never_given_twice(edge: Edge) -> None:
    before = await edge.ask('logs:local({"columns": ["row", "time"], "order": "oldest"})')
    await edge.restart()
    await edge.infer()
    after = await edge.ask('logs:local({"columns": ["row", "time"], "order": "oldest"})')
    assert after[: len(before)] == before
    fresh = [row["row"] for row in after[len(before) :]]
    assert [row["sequence"] for row in fresh] == [1, 2]
    assert fresh[0]["epoch"] > before[-1]["row"]["epoch"]
    assert await edge.ask("logs:gaps()") == []


async def test_a_log_that_is_turned_off_says_so(edge: Edge) -> None:
    await edge.restart(local_inference_storage="0")
    kept = sum(path.stat().st_size for path in (edge.served.home.path / "inferences").glob("*.log"))
    assert len(await edge.infer()) == 2
    for text in ("logs:local()", "logs:gaps()", "logs:status()"):
        answer = await edge.served.federation.ask(text, home="e1")
        assert [problem.code for problem in answer.errors] == ["log_off"]
    await edge.logs(status=404)
    assert sum(path.stat().st_size for path in (edge.served.home.path / "inferences").glob("*.log")) == kept


async def test_below_the_floor_of_free_disk_an_edge_answers_and_counts(edge: Edge) -> None:
    await edge.restart(local_inference_free_min="1000Ti")
    assert len(await edge.infer()) == 2
    await edge.ask("logs:local()")
    (status,) = await edge.ask("logs:status()")
    assert (status["failure"], status["refused"]) == ("disk_low", {"disk_low": 2})


async def test_peers_that_are_no_edges_keep_no_log(edge: Edge) -> None:
    for home in ("ns-admin", "ada"):
        answer = await edge.served.federation.ask("logs:status()", home=home)
        assert [problem.code for problem in answer.errors] == ["log_off"]
        assert not (edge.served.federation.folder / home / "inferences").exists()
    answer = await edge.served.federation.ask("//peer: NAMESERVER\nlogs:status()")
    assert answer.errors


async def test_a_log_is_nobody_elses(edge: Edge) -> None:
    async with edge.http.post(f"{edge.url}/logs", data=b"{}") as answer:
        assert answer.status in (401, 403)
    folder = Path(edge.served.home.path) / "inferences"
    assert folder.stat().st_mode & 0o077 == 0
