"""The pipeline server's contract over HTTP: what existing clients send and what they get."""

from __future__ import annotations

import asyncio
import io
import json
import re
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from aiohttp import ClientSession

from engine.engine import Verdict
from engine.errors import OverMemory
from federation.pipelines import ModelStep
from peers.inference_bodies import LONG_BYTES
from peers.pipeline_routes import form_of
from tests.pipelines.defining import ref_of
from tests.pipelines.running import pipeline_release, put_pipeline
from tests.pipelines.test_streams import counter
from tests.serving.facing import SUM, facing, loaded, loaded_plain

ROWS = [{"x": [1, 2, 3, 4]}, {"x": [100.5, 0, 0, 0]}]
BODY = json.dumps(ROWS).encode()
FILE = "application/vnd.apache.arrow.file"
STREAM = "application/vnd.apache.arrow.stream"


def arrow(*, stream: bool = False, **columns: Any) -> bytes:
    table = pa.table(columns)
    sink = io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def fixed(rows: list[list[float]], size: int) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float32(), size))


async def test_records_in_and_rows_out() -> None:
    async with facing() as face:
        pipeline = await loaded(face.engine)
        first, second = await face.post("/infer", BODY)
        assert list(first) == ["time", "in", "out", "out_twice", "anomaly", "metadata"]
        assert (first["in"], first["out"], first["out_twice"]) == ({"x": [1, 2, 3, 4]}, {"y": 10.0}, {"y": 20.0})
        assert (first["anomaly"], second["anomaly"]) == ({"count": 0, "high": False}, {"count": 1, "high": True})
        metadata = first["metadata"]
        assert json.loads(metadata["last_model"])["model_name"] == "sum"
        assert (metadata["pipeline_version"], metadata["partition"]) == (pipeline.version, "E1")
        assert len(metadata["elapsed"]) == 2
        assert all(ns > 0 for ns in metadata["elapsed"])
        assert metadata["dropped"] == []
        assert first["time"] == second["time"] > 1_700_000_000_000
        assert (await face.post("/pipelines/pipe", BODY))[1]["out"] == {"y": 100.5}


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; format=pandas-records",
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json;charset=utf-8",
        "",
    ],
)
async def test_any_content_type_is_json_but_arrow(content_type: str) -> None:
    async with facing() as face:
        await loaded(face.engine)
        rows = await face.post("/infer", BODY, Content_Type=content_type)
        assert [row["out"]["y"] for row in rows] == [10.0, 100.5]


@pytest.mark.parametrize("content_type", [FILE, "application/octet-stream", "application/json"])
async def test_arrow_in_and_rows_out(content_type: str) -> None:
    async with facing() as face:
        await loaded(face.engine)
        rows = await face.post("/infer", arrow(x=fixed([[1, 2, 3, 4]], 4)), Content_Type=content_type)
        assert [row["out"]["y"] for row in rows] == [10.0]
        rows = await face.post("/infer", arrow(stream=True, x=fixed([[1, 2, 3, 4]], 4)), Content_Type=STREAM)
        assert [row["out"]["y"] for row in rows] == [10.0]


@pytest.mark.parametrize(("kind", "opened"), [(FILE, pa.ipc.open_file), (STREAM, pa.ipc.open_stream)])
async def test_arrow_out(kind: str, opened: Any) -> None:
    async with facing() as face:
        await loaded(face.engine)
        table = opened(await face.post("/infer", BODY, Accept=kind)).read_all()
        assert table.column("out").to_pylist() == [{"y": 10.0}, {"y": 100.5}]
        assert table.column("in").to_pylist()[0] == {"x": [1, 2, 3, 4]}
        assert table.column("anomaly").to_pylist()[1] == {"count": 1, "high": True}
        answer = await face.post("/infer?dataset=out", arrow(x=fixed([[1, 2, 3, 4]], 4)), Accept=kind)
        assert opened(answer).read_all().schema.names == ["out"]


async def test_columns_of_the_answer_are_chosen() -> None:
    async with facing() as face:
        await loaded(face.engine)
        assert list((await face.post("/infer?dataset=*", BODY))[0]) == ["time", "in", "out", "out_twice", "anomaly"]
        assert await face.post("/infer?dataset[]=out.y&dataset[]=anomaly.high", BODY) == [
            {"out": {"y": 10.0}, "anomaly": {"high": False}},
            {"out": {"y": 100.5}, "anomaly": {"high": True}},
        ]
        row = (await face.post("/infer?dataset_exclude=metadata,in&unknown=ignored", BODY))[0]
        assert list(row) == ["time", "out", "out_twice", "anomaly"]
        told = await face.post("/infer?dataset=out.z", BODY, status=400)
        assert told["error"] == 'dataset: "out" has no "z"'
        assert face.engine.statistics("pipe").execution_count == 3, "refused before anything ran"


async def test_what_is_loaded_is_listed() -> None:
    async with facing() as face:
        assert await face.get("/pipelines") == {"pipelines": []}
        assert await face.get("/models") == {"models": []}
        pipeline = await loaded(face.engine)
        assert await face.get("/pipelines") == {
            "pipelines": [{"id": "pipe", "version": pipeline.version, "status": "Running"}]
        }
        models = (await face.get("/models"))["models"]
        assert [(one["name"], one["version"], one["status"]) for one in models] == [
            ("sum", "1.0", "Running"),
            ("twice", "1.0", "Running"),
        ]
        assert models[0]["sha"] == next(e.digest for e in SUM.record.files if e.kind == "weight").removeprefix(
            "sha256:"
        )
        assert await face.get("/healthz") == {"ready": True}


async def test_a_pipeline_that_could_not_be_loaded_is_an_error() -> None:
    async with facing(ready=False) as face:
        release = pipeline_release((SUM,), [ModelStep(ref_of(SUM))], name="big")
        problem = OverMemory("too much").record()
        verdict = Verdict(record=release.record_digest, runtime=face.engine.runtime_version, error=problem)
        with pytest.raises(OverMemory):
            await face.engine.load(release, origin="group", verdict=verdict)
        assert await face.get("/pipelines") == {
            "pipelines": [{"id": "big", "version": release.record.version, "status": "Error"}]
        }
        assert await face.post("/pipelines/big", BODY, status=404) == ["Pipeline with id big not found"]
        assert await face.get("/healthz", status=503) == {"ready": False}


async def test_a_pipeline_on_its_way_for_the_first_time_is_asked_again() -> None:
    async with facing() as face:
        release = pipeline_release((SUM,), [ModelStep(ref_of(SUM))], name="slow")
        loading = asyncio.create_task(face.engine.load(release, origin="group"))
        await asyncio.sleep(0)  # it has begun
        for path in ("/infer", "/pipelines/slow"):
            async with face.session.post(face.url + path, data=BODY) as answer:
                assert (answer.status, (await answer.json())["code"]) == (503, "model_loading")
                assert int(answer.headers["Retry-After"]) > 0
        assert await face.get("/pipelines") == {"pipelines": []}
        await loading
        assert (await face.post("/infer", BODY))[0]["out"] == {"y": 10.0}


async def test_which_pipeline_is_never_guessed() -> None:
    async with facing() as face:
        told = await face.post("/infer", BODY, status=404)
        assert told["error"] == "no pipeline is loaded here"
        assert await face.post("/pipelines/no-such", BODY, status=404) == ["Pipeline with id no-such not found"]
        await loaded_plain(face.engine, "one")
        await loaded_plain(face.engine, "two")
        told = await face.post("/infer", BODY, status=400)
        assert told == {
            "error": 'expected one loaded pipeline, found "one", "two"',
            "code": "which_pipeline",
            "hint": "POST /pipelines/NAME names one",
        }
        assert face.refused == ["unknown_name", "which_pipeline"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is not JSON"),
        (b"[]", "expected at least one row"),
        (b'[{"x": [1, 2, 3, 4]}, {"x": [1, 2, 3]}]', 'row 2, field "x"'),
        (b'[{"x": [1, 2, 3, null]}]', "found null"),
        (b'[{"x": [1, 2, 3, "4"]}]', 'row 1, field "x"'),
        (b'[{"x": [1, 2, 3, 1e39]}]', 'row 1, field "x"'),
        (b'[{"y": [1, 2, 3, 4]}]', 'missing field "x"'),
        (b'[{"x": [1, 2, 3, 4], "y": 1}]', 'unknown field "y"'),
        (b"ARROW1\0\0nonsense", "not Arrow IPC"),
        (b'{"x": {"a": 1}}', 'row 1, field "x"'),
        (arrow(x=pa.array([[1.0, 2, 3, 4]])), r"expected FP32\[-1,4\], found FP64\[1,4\]"),
        (arrow(x=fixed([[1, 2, 3]], 3)), r"found FP32\[1,3\]"),
        (arrow(y=fixed([[1, 2, 3, 4]], 4)), 'expected .*"?x"?|unknown|missing'),
        (arrow(x=pa.array([1.0], pa.float32())), r"found FP32\[1\]"),
    ],
)
async def test_bad_bodies_are_told_with_what_was_found(body: bytes, message: str) -> None:

    async with facing() as face:
        await loaded(face.engine)
        told = await face.post("/infer", body, status=400)
        assert re.search(message, told["error"]), told
        assert face.engine.statistics("pipe").execution_count == 0


async def test_not_a_number_goes_in_and_comes_out() -> None:
    async with facing() as face:
        await loaded(face.engine)
        body = json.dumps([{"x": [float("nan"), 0, 0, 0]}, {"x": [float("-inf"), 0, 0, 0]}]).encode()
        rows = await face.post("/infer?dataset=in,out", body)
        assert rows == [
            {"in": {"x": ["NaN", 0, 0, 0]}, "out": {"y": "NaN"}},
            {"in": {"x": ["-Infinity", 0, 0, 0]}, "out": {"y": "-Infinity"}},
        ]


async def test_long_bodies_and_answers_are_whole() -> None:
    async with facing() as face:
        await loaded(face.engine)
        rows = [{"x": [at, 0.25, 0, 0]} for at in range(8000)]
        body = json.dumps(rows).encode()
        assert len(body) > LONG_BYTES
        found = await face.post("/infer?dataset=in,out", body)
        assert [row["out"]["y"] for row in found] == [at + 0.25 for at in range(8000)]
        assert found[7999]["in"] == rows[7999]
        columns = np.array([row["x"] for row in rows], np.float32).tolist()
        table = pa.ipc.open_file(await face.post("/infer", arrow(x=fixed(columns, 4)), Accept=FILE)).read_all()
        assert table.column("out").to_pylist()[7999] == {"y": 7999.25}


@pytest.mark.parametrize(
    ("accepted", "form"),
    [
        ([], "records"),
        (["*/*"], "records"),
        (["text/html"], "records"),
        ([FILE], "arrow_file"),
        ([STREAM.upper()], "arrow_stream"),
        ([f"application/json, {FILE}"], "records"),
        ([f"application/json;q=0.5, {FILE}"], "arrow_file"),
        ([f"{FILE};q=0.2", "*/*;q=0.9"], "records"),
        ([f"{FILE};q=0"], "records"),
        ([f"{FILE};q=nonsense"], "records"),
        ([f"{FILE}; q=1, " + "x/y," * 5000], "arrow_file"),
    ],
)
def test_accept_chooses_the_form(accepted: list[str], form: str) -> None:
    assert form_of(accepted) == form


async def test_a_stream_goes_on_over_requests() -> None:
    model = counter(scaled=False)
    async with facing() as face:
        await put_pipeline(face.engine, [model], [ModelStep(ref_of(model))], name="sums")

        async def asked(query: str, *, status: int = 200) -> tuple[Any, Any, Any]:
            async with face.session.post(f"{face.url}/infer{query}", data=b'[{"x": [1]}, {"x": [2]}]') as answer:
                told = await answer.json()
                assert answer.status == status, told
                named = answer.headers.get("Peerage-Stream-Position"), answer.headers.get("Peerage-Stream-Restarted")
                return (told["error"] if status != 200 else [row["out"]["y"] for row in told], *named)

        assert await asked("") == ([[1.0], [3.0]], None, None)
        assert await asked("?stream=mic&stream_start=true") == ([[1.0], [3.0]], "2", None)
        assert await asked("?stream=mic&stream_end=true") == ([[4.0], [6.0]], "4", None)
        (error, *_) = await asked("?stream=mic&stream_start=false", status=400)
        assert error.startswith('stream "mic" of sums/1/counter is not open')
        assert "expected true or false" in (await asked("?stream=mic&stream_end=1", status=400))[0]
        assert "a stream's key of 1 to 256 characters" in (await asked("?stream=", status=400))[0]


async def test_more_inferences_at_once_than_are_taken_are_refused() -> None:
    async with facing(requests_max=0) as face:
        await loaded(face.engine)
        async with face.session.post(face.url + "/infer", data=BODY) as answer:
            assert (answer.status, (await answer.json())["code"]) == (429, "too_busy")
            assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_packed_bodies_and_answers(coding: str) -> None:
    bits = 31 if coding == "gzip" else 15
    packer = zlib.compressobj(wbits=bits)
    packed = packer.compress(BODY) + packer.flush()
    async with facing() as face:
        await loaded(face.engine)
        headers = {"Content-Encoding": coding, "Accept-Encoding": coding}
        async with ClientSession(auto_decompress=False) as session:
            async with session.post(face.url + "/infer?dataset=out", data=packed, headers=headers) as answer:
                assert answer.headers["Content-Encoding"] == coding
                rows = json.loads(zlib.decompress(await answer.read(), bits))
                assert rows == [{"out": {"y": 10.0}}, {"out": {"y": 100.5}}]
            async with session.post(face.url + "/infer", data=packed[:-3], headers=headers) as answer:
                assert answer.status == 400
            async with session.post(face.url + "/infer", data=BODY, headers={"Content-Encoding": "br"}) as answer:
                assert answer.status == 415
