"""A living edge as others see it: clients of both protocols, Prometheus, and an OTLP receiver."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pyarrow as pa
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.peering import Served, served
from tests.serving.receiving import Receiver, attributes, receiver

pytestmark = pytest.mark.asyncio(loop_scope="module")

FILE = "application/vnd.apache.arrow.file"
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
ROWS = json.dumps([{"x": [1, 2, 3, 4]}, {"x": [100, 0.5, 0, 0]}]).encode()
OIP = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()


@dataclass
class Watched:
    edge: Served
    http: aiohttp.ClientSession
    traces: Receiver

    async def post(self, path: str, body: bytes, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.post(self.edge.url + path, data=body, headers=named) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json() if answer.content_type == "application/json" else await answer.read()

    async def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        async with self.http.get(f"{self.edge.url}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            families = text_string_to_metric_families(await answer.text())
        return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """An edge with the pipeline "pipe" and the model "double", whose traces are received here."""
    with receiver() as traces, pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", traces.url)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        async with served(tmp_path_factory.mktemp("face")) as edge, aiohttp.ClientSession() as http:
            yield Watched(edge, http, traces)


async def test_the_pipelines_clients_are_served(watched: Watched) -> None:
    version = watched.edge.versions["pipe"]
    async with watched.http.get(f"{watched.edge.url}/pipelines") as answer:
        assert await answer.json() == {"pipelines": [{"id": "pipe", "version": version, "status": "Running"}]}
    async with watched.http.get(f"{watched.edge.url}/models") as answer:
        names = [(one["name"], one["version"]) for one in (await answer.json())["models"]]
        assert sorted(set(names)) == [("double", "1.0"), ("triple", "1.0")]
    first, second = await watched.post("/infer", ROWS)
    assert (first["out"], first["out_triple"]) == ({"y": [2, 4, 6, 8]}, {"y": [3, 6, 9, 12]})
    assert (first["metadata"]["pipeline_version"], first["metadata"]["partition"]) == (version, "e1")
    assert (first["anomaly"], second["anomaly"]) == ({"count": 0, "high": False}, {"count": 1, "high": True})
    table = pa.table({"x": pa.array([[1, 2, 3, 4]], pa.list_(pa.float32(), 4))})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    found = await watched.post("/pipelines/pipe?dataset=out", sink.getvalue(), Content_Type=FILE, Accept=FILE)
    assert pa.ipc.open_file(found).read_all().to_pylist() == [{"out": {"y": [2, 4, 6, 8]}}]


async def test_prometheus_sees_what_was_asked(watched: Watched) -> None:
    version = watched.edge.versions["pipe"]
    before = await watched.metrics()
    for _ in range(3):
        await watched.post("/infer", ROWS)
    await watched.post("/v2/models/double/infer", OIP)
    async with watched.http.post(f"{watched.edge.url}/infer", data=b"[]") as answer:
        assert answer.status == 400
    after = await watched.metrics()

    def more(name: str, /, **labels: str) -> float:
        key = name, frozenset(labels.items())
        return after[key] - before.get(key, 0.0)

    whole = {"name": "pipe", "version": version, "pipeline": "", "step": ""}
    inside = {"name": "triple", "version": "1.0", "pipeline": f"pipe@{version}", "step": ""}
    alone = {"name": "double", "version": "1.0", "pipeline": "", "step": ""}
    assert more("peerage_inference_duration_seconds_count", **whole) == 3
    assert more("peerage_inference_duration_seconds_count", **inside) == 3
    assert more("peerage_inference_duration_seconds_count", **alone) == 1
    assert more("peerage_inference_rows_total", **whole) == 6
    assert more("peerage_batch_rows_bucket", **inside, le="2.0") == 3
    assert more("peerage_requests_refused_total", code="bad_input") == 1
    loaded = {"name": "double", "version": "1.0", "kind": "onnx", "origin": "group"}
    assert after["peerage_loaded_info", frozenset(loaded.items())] == 1
    assert after["peerage_requests_under_way", frozenset({("protocol", "oip")})] == 0
    assert after["peerage_loads_total", frozenset({("result", "loaded")})] >= 2


async def test_a_traced_request_shows_its_steps(watched: Watched) -> None:
    parent = f"00-{TRACE}-{CALLER}-01"
    await watched.post("/pipelines/pipe", ROWS, traceparent=parent)
    await watched.post("/v2/models/double/infer", OIP, traceparent=parent)
    found = await asyncio.to_thread(watched.traces.wait, 8, trace=TRACE)
    requests = {one.name: one for one in found if one.parent_span_id.hex() == CALLER}
    assert sorted(requests) == ["POST /pipelines/{name}", "POST /v2/models/{model}/infer"]
    for name, release, parts in (
        (
            "POST /pipelines/{name}",
            f"pipe@{watched.edge.versions['pipe']}",
            ["read", "step 1 (double@1.0, triple@1.0)", "write"],
        ),
        ("POST /v2/models/{model}/infer", "double@1.0", ["read", "double@1.0", "write"]),
    ):
        request = requests[name]
        assert attributes(request)["peerage.release"] == release
        below = [one for one in found if one.parent_span_id == request.span_id]
        below.sort(key=lambda one: one.start_time_unix_nano)
        assert [one.name for one in below] == parts
        for one in below:
            assert request.start_time_unix_nano <= one.start_time_unix_nano <= one.end_time_unix_nano
    assert "GET" not in {one.name.split()[0] for one in watched.traces.spans}


async def test_reading_what_others_sent_needs_the_token(watched: Watched) -> None:
    async with watched.http.post(f"{watched.edge.url}/logs", data=b"{}") as answer:
        assert answer.status == 403
    evil = {"Host": "attacker.example"}
    async with watched.http.post(f"{watched.edge.url}/infer", data=ROWS, headers=evil) as answer:
        assert (answer.status, (await answer.json())["code"]) == (403, "forbidden")
