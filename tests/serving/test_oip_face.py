"""The validation table over a socket, and what only a socket can show: methods, paths, codings, limits, time."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from onnx import helper, numpy_helper

from engine.engine import EngineSettings
from federation.documents import TensorSpec
from peers.application_server import Connections
from peers.inference_bodies import Bodies
from peers.settings import EdgeSettings
from tests.models.making import X, endless_when_positive, gathering, graph_of, release, scaling
from tests.serving.face import Face, identity, serving, until
from tests.serving.refused import ELEMENTS_MAX, REFUSED, SIGNATURES, asking, good, tensor

GOOD = asking(good())
INFER = "/v2/models/one/infer"
SETTINGS = EngineSettings(elements_max=ELEMENTS_MAX, run_s=0.3)


@pytest.fixture
async def face(tmp_path: Path) -> AsyncIterator[Face]:
    async with serving(tmp_path, identity("one"), engine=SETTINGS) as made:
        yield made


def request(path: str, body: bytes, *lines: str, method: str = "POST") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join((*head, "", "")).encode() + body


async def test_every_refusal_has_its_status_and_its_words(tmp_path: Path) -> None:
    """Over one connection, which each of them leaves as it was."""
    async with serving(tmp_path, *map(identity, SIGNATURES), engine=SETTINGS) as face:
        wrong = []
        for row in REFUSED:
            named = {} if row.header is None else {"Inference_Header_Content_Length": row.header}
            reply = await face.ask("POST", f"/v2/models/{row.model}/infer", row.body, **named)
            told = json.loads(reply.body)
            if (reply.status, told["code"]) != (row.status, row.code) or row.says not in told["error"]:
                wrong.append((row.what, reply.status, told))
        assert wrong == []
        assert (await face.ask("POST", INFER, GOOD)).json["outputs"][0]["data"] == [1, 2, 3, 4]
        assert face.bound.connections.open == 1
        assert sum(face.parts.metrics.snapshot().refused.values()) == len(REFUSED)


async def test_a_known_path_with_another_method(face: Face) -> None:
    for method, path, allowed in (
        ("GET", INFER, "POST"),
        ("GET", "/v2/models/one/versions/1.0/infer", "POST"),
        ("PUT", "/v2/models/one", "GET, HEAD"),
        ("POST", "/v2", "GET, HEAD"),
        ("DELETE", "/v2/health/live", "GET, HEAD"),
        ("GET", "/v2/repository/index", "POST"),
        ("GET", "/v2/repository/models/one/load", "POST"),
        ("POST", "/metrics", "GET, HEAD"),
    ):
        reply = await face.ask(method, path)
        assert reply.status == 405, path
        assert reply.headers["Allow"] == allowed
        assert reply.json["code"] == "wrong_method"


async def test_a_path_that_nobody_knows(face: Face) -> None:
    for path in (
        "/v2/nowhere",
        "/v2/models",
        "/v2/models/one/nothing",
        "/v2/models//infer",
        "/",
        "/v3",
        "/v2/models/a/b/infer",
    ):
        reply = await face.ask("GET", path)
        assert reply.status == 404, path
        assert reply.json["error"] == f"no GET {path} on this face"


async def test_a_model_or_version_that_nobody_knows(face: Face) -> None:
    for model in ("nobody", "ONE", "one%2F", "%FF", "one/versions/2.0", "stats"):
        for method, part in (("POST", "/infer"), ("GET", ""), ("GET", "/ready"), ("GET", "/config"), ("GET", "/stats")):
            if model == "stats" and part == "":
                continue  # the statistics of all models
            reply = await face.ask(method, f"/v2/models/{model}{part}", GOOD if method == "POST" else None)
            assert (reply.status, reply.json["code"]) == (404, "model_not_loaded"), (model, part)
    reply = await face.ask("GET", "/v2/models/on")
    assert reply.json["error"] == 'no model "on" is loaded here — did you mean "one"?'
    for part in ("load", "unload"):
        reply = await face.ask(
            "POST", f"/v2/repository/models/nobody/{part}", b"{}", Authorization=f"Bearer {face.token}"
        )
        assert (reply.status, reply.json["code"]) == (404, "model_not_loaded")


async def test_names_may_be_quoted_and_queries_are_passed_over(face: Face) -> None:
    for path in ("/v2/models/%6Fne/infer", f"{INFER}?a=1&b", "/v2/models/one/versions/1%2E0/infer?x"):
        assert (await face.ask("POST", path, GOOD)).status == 200, path
    assert (await face.ask("GET", "/v2/models/%6Fne/ready?x=1")).json == {"name": "one", "ready": True}


async def test_heads_of_answers(face: Face) -> None:
    reply = await face.ask("POST", INFER, GOOD)
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers.keys() == {"Content-Type", "Content-Length", "Date"}
    binary = asking(good(), parameters={"binary_data_output": True})
    reply = await face.ask("POST", INFER, binary)
    assert reply.headers["Content-Type"] == "application/octet-stream"
    length = int(reply.headers["Inference-Header-Content-Length"])
    assert reply.body[length:] == struct.pack("<4f", 1, 2, 3, 4)
    assert (await face.ask("HEAD", "/v2/models/one")).body == b""


async def test_http_1_0_and_closing(face: Face) -> None:
    head = b"POST /v2/models/one/infer HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n" % len(GOOD)
    closed = await face.raw(head + b"\r\n" + GOOD)
    assert closed.startswith(b"HTTP/1.1 200 OK\r\n")
    kept = await face.raw((head + b"Connection: keep-alive\r\n\r\n" + GOOD) + head + b"\r\n" + GOOD)
    assert kept.count(b"200 OK") == 2
    assert kept.count(b"Connection: keep-alive") == 1
    closing = await face.raw(request(INFER, GOOD, "Connection: close"))
    assert b"\r\nConnection: close\r\n" in closing


async def test_requests_behind_each_other_survive_a_refusal(face: Face) -> None:
    wrong = asking(good() | {"name": "z"})
    got = await face.raw(
        request(INFER, wrong)
        + request(INFER, GOOD)
        + request("/v2/models/nobody/infer", GOOD)
        + request(INFER, GOOD, "Connection: close")
    )
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"400", b"200", b"404", b"200"]


async def test_a_body_in_pieces_is_the_same_body(face: Face) -> None:
    whole = request(INFER, GOOD, "Connection: close")
    answers = set()
    for pieces in (1, 2, 3, 7):
        reader, writer = await asyncio.open_connection("127.0.0.1", face.port)
        size = len(whole) // pieces + 1
        for at in range(0, len(whole), size):
            writer.write(whole[at : at + size])
            await writer.drain()
            await asyncio.sleep(0)
        answers.add((await reader.read()).partition(b"\r\n\r\n")[2])
        writer.close()
    chunked = b"".join(b"%x\r\n%b\r\n" % (1, GOOD[at : at + 1]) for at in range(len(GOOD))) + b"0\r\n\r\n"
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    answers.add((await face.raw(head.encode() + chunked)).partition(b"\r\n\r\n")[2])
    assert len(answers) == 1


async def test_expecting_to_be_told_to_go_on(face: Face) -> None:
    got = await face.raw(request(INFER, GOOD, "Expect: 100-continue", "Connection: close"))
    assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_what_is_no_http(face: Face) -> None:
    got = await face.raw(b"\x16\x03\x01 what is this\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 400") or head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["code"] == "bad_http"
    assert (await face.ask("POST", INFER, GOOD)).status == 200


async def test_what_no_route_sees_is_told_as_json_too(face: Face) -> None:
    for line, more, status in (
        ("OPTIONS *", "", 404),
        ("CONNECT localhost:80", "", 404),
        ("GET /v2", "Expect: nothing\r\n", 417),
    ):
        got = await face.raw(f"{line} HTTP/1.1\r\nHost: localhost\r\n{more}Connection: close\r\n\r\n".encode())
        head, _, body = got.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), line
        assert json.loads(body)["code"] == "bad_http", line


@pytest.mark.parametrize(("coding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
class TestCodings:
    async def test_a_request_may_be_compressed(self, face: Face, coding: str, pack: Any) -> None:
        reply = await face.ask("POST", INFER, pack(GOOD), Content_Encoding=coding)
        assert reply.json["outputs"][0]["data"] == [1, 2, 3, 4]
        text = asking(tensor(parameters={"binary_data_size": 16}))
        binary = pack(text + struct.pack("<4f", 1, 2, 3, 4))
        named = {"Content_Encoding": coding, "Inference_Header_Content_Length": str(len(text))}
        assert (await face.ask("POST", INFER, binary, **named)).status == 200

    async def test_an_answer_is_compressed_for_who_asks_for_it(self, face: Face, coding: str, pack: Any) -> None:
        unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress}[coding]
        reply = await face.ask("POST", INFER, GOOD, Accept_Encoding=coding)
        assert reply.headers["Content-Encoding"] == coding
        assert json.loads(unpack(reply.body))["outputs"][0]["data"] == [1, 2, 3, 4]
        binary = asking(good(), parameters={"binary_data_output": True})
        reply = await face.ask("POST", INFER, binary, Accept_Encoding=coding)
        length = int(reply.headers["Inference-Header-Content-Length"])
        assert unpack(reply.body)[length:] == struct.pack("<4f", 1, 2, 3, 4)

    async def test_damage_and_bombs(self, face: Face, coding: str, pack: Any) -> None:
        reply = await face.ask("POST", INFER, pack(GOOD)[:-2], Content_Encoding=coding)
        assert (reply.status, reply.json["code"]) == (400, "bad_coding")
        bomb = pack(bytes(70 * 1024 * 1024))
        reply = await face.ask("POST", INFER, bomb, Content_Encoding=coding)
        assert (reply.status, reply.json["code"]) == (413, "limit")


async def test_other_codings(face: Face) -> None:
    reply = await face.ask("POST", INFER, GOOD, Content_Encoding="br")
    assert (reply.status, reply.json["code"]) == (415, "unknown_coding")
    reply = await face.ask("POST", INFER, GOOD, Accept_Encoding="br, gzip")
    assert "Content-Encoding" not in reply.headers


async def test_bodies_over_the_limit(tmp_path: Path) -> None:
    async with serving(tmp_path, identity("one"), bodies=Bodies(bytes_max=1000)) as face:
        told = await face.ask("POST", INFER, GOOD + b" " * 1000)
        assert (told.status, told.json["code"]) == (413, "limit")
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000000\r\n\r\n"
        chunked = b"POST %b HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % INFER.encode()
        got = await asyncio.gather(
            face.raw(head.encode()),  # answered before any of it came
            face.raw(chunked + b"800\r\n" + bytes(0x800) + b"\r\n"),
        )
        assert all(b" 413 " in one.partition(b"\r\n")[0] for one in got)
        assert (await face.ask("POST", INFER, GOOD)).status == 200


async def test_who_trickles_a_body_is_ended(tmp_path: Path) -> None:
    async with serving(tmp_path, identity("one"), bodies=Bodies(base_s=0.3, bytes_per_s=1_000_000)) as face:
        reader, writer = await asyncio.open_connection("127.0.0.1", face.port)
        writer.write(request(INFER, GOOD)[: -len(GOOD)])
        trickling = asyncio.create_task(_trickle(writer))
        answer = await asyncio.wait_for(reader.readuntil(b"}"), 10)
        assert b" 408 " in answer.partition(b"\r\n")[0]
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "timeout"
        assert (await face.ask("POST", INFER, GOOD)).status == 200
        trickling.cancel()
        writer.close()
        assert face.parts.inference.under_way == 0


async def _trickle(writer: asyncio.StreamWriter) -> None:
    for byte in GOOD:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.05)  # a slow client, that is the case


async def test_bodies_on_their_way_hold_so_much_and_no_more(tmp_path: Path) -> None:
    async with serving(tmp_path, identity("one"), bodies=Bodies(held_bytes_max=100_000)) as face:
        reader, writer = await asyncio.open_connection("127.0.0.1", face.port)
        writer.write(request(INFER, bytes(90_000))[:-10_000])
        await writer.drain()
        await until(lambda: face.parts.bodies.held_bytes >= 70_000)
        got = await face.raw(request(INFER, bytes(60_000))[:-1])
        assert b" 429 " in got.partition(b"\r\n")[0]
        assert b"\r\nRetry-After: " in got
        writer.close()
        await until(lambda: not face.parts.bodies.held_bytes)
        assert (await face.ask("POST", INFER, GOOD)).status == 200
        del reader


async def test_long_bodies_that_wait_for_an_answer_hold_so_much_and_no_more(tmp_path: Path) -> None:
    """And what they took is given back to the system once they have passed."""
    bodies = Bodies(held_bytes_max=300_000, return_s=0.0)
    waiting = endless_when_positive()
    async with serving(
        tmp_path, release(waiting, name="endless"), engine=EngineSettings(run_s=0.5), bodies=bodies
    ) as face:
        long = asking(tensor(shape=[1, 4], data=[1.0, 0, 0, 0])) + b" " * 200_000
        replies = await asyncio.gather(*(face.ask("POST", "/v2/models/endless/infer", long) for _ in range(3)))
        assert sorted((reply.status, reply.json["code"]) for reply in replies) == [
            (429, "too_busy"),
            (429, "too_busy"),
            (504, "over_time"),
        ]
        assert bodies.asked_bytes == bodies.held_bytes == 0
        await until(lambda: bodies.freed.returned > 0)


async def test_more_requests_at_once_than_allowed(tmp_path: Path) -> None:
    async with serving(tmp_path, identity("one"), requests_max=2) as face:
        waiting = []
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", face.port)
            writer.write(request(INFER, GOOD)[:-1])
            waiting.append((reader, writer))
        await until(lambda: face.parts.inference.under_way == 2)
        refused = await face.ask("POST", INFER, GOOD)
        assert (refused.status, refused.json["code"]) == (429, "too_busy")
        assert int(refused.headers["Retry-After"]) > 0
        for reader, writer in waiting:
            writer.write(GOOD[-1:])
            assert b" 200 " in await reader.readline()
            writer.close()


async def test_a_model_that_goes_round_for_ever(tmp_path: Path) -> None:
    endless = release(endless_when_positive(), name="endless")
    async with serving(tmp_path, identity("one"), endless, engine=SETTINGS) as face:
        still = asking(tensor(data=[0.0, 0, 0, 0]))
        assert (await face.ask("POST", "/v2/models/endless/infer", still)).status == 200
        short = asking(good(), parameters={"timeout": 20_000})
        replies = await asyncio.gather(
            face.ask("POST", "/v2/models/endless/infer", GOOD),
            face.ask("POST", "/v2/models/endless/infer", short),
            *(face.ask("POST", INFER, GOOD) for _ in range(20)),  # others are answered meanwhile
        )
        assert [(reply.status, reply.json["code"]) for reply in replies[:2]] == [(504, "over_time")] * 2
        assert {reply.status for reply in replies[2:]} == {200}
        failed = (await face.ask("GET", "/v2/models/endless/stats")).json["model_stats"][0]
        assert failed["inference_stats"]["fail"]["count"] >= 1
        (exceeded,) = face.engine.exceeded("endless")
        assert (exceeded.resource, exceeded.count) == ("time", 1)  # the client's own limit is nobody's excess


async def test_a_model_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What the runtime says its input cannot be is the client's; another failure is ours, told by its incident."""
    shape = numpy_helper.from_array(np.array([7], np.int64), "shape")
    seven = (TensorSpec("y", "FP32", (7,)),)
    breaking = graph_of([helper.make_node("Reshape", ["x", "shape"], ["y"])], [X], seven, initializers=[shape])
    outside = release(gathering(), name="outside", outputs=(TensorSpec("y", "FP32", (1, 4)),))
    broken = release(breaking.SerializeToString(), name="broken", outputs=seven)
    async with serving(tmp_path, outside, broken) as face:
        reply = await face.ask("POST", "/v2/models/outside/infer", GOOD)
        assert (reply.status, reply.json["code"]) == (400, "bad_input")
        reply = await face.ask("POST", "/v2/models/broken/infer", GOOD)
        assert (reply.status, reply.json["code"]) == (500, "model_failed")
        assert "Reshape" not in reply.body.decode()
        (entry,) = [entry for entry in caplog.records if entry.getMessage() == "request_failed"]
        assert vars(entry)["incident"] in reply.json["error"]
        assert entry.exc_info is not None
        assert "Reshape" in str(entry.exc_info[1])


async def test_a_full_queue(tmp_path: Path) -> None:
    endless = release(endless_when_positive(), name="endless")
    settings = EngineSettings(run_s=1.0, queue_max=2, threads=1)
    async with serving(tmp_path, endless, engine=settings) as face:
        path = "/v2/models/endless/infer"
        replies = await asyncio.gather(*(face.ask("POST", path, GOOD) for _ in range(6)))
        assert sorted({reply.status for reply in replies}) == [503, 504]
        busy = next(reply for reply in replies if reply.status == 503)
        assert busy.json["code"] == "engine_busy"
        assert int(busy.headers["Retry-After"]) > 0


async def test_long_requests_are_read_beside_the_loop(tmp_path: Path) -> None:
    count = 200_000
    values = [0.25] * count
    long = asking(tensor(shape=[count // 4, 4], data=values))
    async with serving(tmp_path, identity("one"), identity("text")) as face:
        reply = await face.ask("POST", INFER, long)
        assert reply.json["outputs"][0]["data"] == values
        text = asking(
            tensor(shape=[count // 4, 4], parameters={"binary_data_size": count * 4}),
            parameters={"binary_data_output": True},
        )
        data = struct.pack(f"<{count}f", *values)
        reply = await face.ask("POST", INFER, text + data, Inference_Header_Content_Length=str(len(text)))
        assert reply.body[int(reply.headers["Inference-Header-Content-Length"]) :] == data
        words = b"".join(struct.pack("<I", 3) + b"abc" for _ in range(20_000))
        text = asking(tensor(shape=[20_000], datatype="BYTES", parameters={"binary_data_size": len(words)}))
        reply = await face.ask(
            "POST", "/v2/models/text/infer", text + words, Inference_Header_Content_Length=str(len(text))
        )
        assert reply.json["outputs"][0]["data"] == ["abc"] * 20_000


async def test_a_swap_and_an_unload_reach_the_next_request(face: Face) -> None:
    assert (await face.ask("POST", INFER, GOOD)).json["model_version"] == "1.0"
    await face.load(release(scaling(3.0), name="one", version="2.0"))
    reply = await face.ask("POST", INFER, GOOD)
    assert (reply.json["model_version"], reply.json["outputs"][0]["data"]) == ("2.0", [3, 6, 9, 12])
    assert (await face.ask("POST", "/v2/models/one/versions/1.0/infer", GOOD)).status == 404
    assert (await face.ask("GET", "/v2/models/one")).json["versions"] == ["2.0"]
    face.engine.unload("one")
    assert (await face.ask("POST", INFER, GOOD)).status == 404


async def test_a_version_that_a_request_named_answers_it_over_a_swap(face: Face) -> None:
    """The body ends after the swap: who named a version is answered by it, everybody else by what is loaded."""
    asked = {}
    for path in ("/v2/models/one/versions/1.0/infer", INFER):
        reader, writer = await asyncio.open_connection("127.0.0.1", face.port)
        writer.write(request(path, GOOD, "Connection: close")[: -len(GOOD)] + GOOD[:-5])
        await writer.drain()
        asked[path] = reader, writer
    await until(lambda: face.parts.inference.under_way == 2 and face.parts.bodies.held_bytes == 2 * len(GOOD[:-5]))
    await face.load(release(scaling(3.0), name="one", version="2.0"))
    versions = []
    for reader, writer in asked.values():
        writer.write(GOOD[-5:])
        versions.append(json.loads((await reader.read()).partition(b"\r\n\r\n")[2])["model_version"])
        writer.close()
    assert versions == ["1.0", "2.0"]


async def test_statistics_count(face: Face) -> None:
    await face.ask("POST", INFER, GOOD)
    await face.ask("POST", INFER, asking(tensor(shape=[3, 4], data=[0.0] * 12)))
    await face.ask("POST", INFER, b"wrong")
    (one,) = (await face.ask("GET", "/v2/models/stats")).json["model_stats"]
    assert (one["name"], one["version"], one["inference_count"], one["execution_count"]) == ("one", "1.0", 4, 2)
    assert one["last_inference"] > 1_700_000_000_000
    stats = one["inference_stats"]
    assert stats["success"]["count"] == stats["compute_infer"]["count"] == stats["compute_input"]["count"] == 2
    assert all(counted.keys() == {"count", "ns"} for counted in stats.values())
    assert [entry["batch_size"] for entry in one["batch_stats"]] == [1, 3]
    assert (await face.ask("GET", "/v2/models/one/versions/1.0/stats")).json["model_stats"] == [one]


async def test_a_browser_reaches_nothing(face: Face) -> None:
    for lines in (("Host: evil.example",), ("Host: localhost", "Origin: https://evil.example")):
        text = "\r\n".join(
            (f"POST {INFER} HTTP/1.1", *lines, f"Content-Length: {len(GOOD)}", "Connection: close", "", "")
        )
        got = await face.raw(text.encode() + GOOD)
        assert b" 403 " in got.partition(b"\r\n")[0]
        assert json.loads(got.partition(b"\r\n\r\n")[2])["code"] == "forbidden"


async def test_headers_that_are_no_text_are_refused_in_words(face: Face) -> None:
    for line, code in (
        (b"Host: \xff", "forbidden"),
        (b"Host: localhost\r\nOrigin: \xff", "forbidden"),
        (b"Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.example", "forbidden"),
        (b"Host: localhost\r\nContent-Encoding: \xff", "unknown_coding"),
        (b"Host: localhost\r\nInference-Header-Content-Length: \xff", "bad_message"),
    ):
        head = b"POST %b HTTP/1.1\r\n%b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (
            INFER.encode(),
            line,
            len(GOOD),
        )
        got = await face.raw(head + GOOD)
        assert json.loads(got.partition(b"\r\n\r\n")[2])["code"] == code, line


async def test_changes_need_the_token_on_loopback(face: Face) -> None:
    for part in ("load", "unload"):
        path = f"/v2/repository/models/one/{part}"
        for shown in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": face.token}):
            reply = await face.ask("POST", path, b"{}", **shown)
            assert (reply.status, reply.json["code"]) == (403, "forbidden")
            assert face.token not in reply.body.decode()


async def test_what_load_and_unload_do_not_take(face: Face) -> None:
    token = {"Authorization": f"Bearer {face.token}"}
    for part, body, code in (
        ("load", {"parameters": {"config": "{}"}}, "unsupported_parameter"),
        ("load", {"parameters": {"file:1/model.onnx": "AAAA"}}, "unsupported_parameter"),
        ("load", {"parameters": {"version": "1"}}, "unsupported_parameter"),
        ("load", {"parameters": []}, "bad_message"),
        ("load", [], "bad_message"),
        ("unload", {"parameters": {"unload_dependents": True}}, "unsupported_parameter"),
    ):
        reply = await face.ask("POST", f"/v2/repository/models/one/{part}", json.dumps(body).encode(), **token)
        assert (reply.status, reply.json["code"]) == (400, code), body
    reply = await face.ask("POST", "/v2/repository/models/one/load", b"{", **token)
    assert (reply.status, reply.json["code"]) == (400, "bad_message")
    for body in (b"", b"{}", b'{"parameters":{}}', b" "):
        reply = await face.ask("POST", "/v2/repository/models/one/load", body, **token)
        assert (reply.status, reply.body) == (200, b"")  # it is loaded: nothing to do


async def test_the_index(face: Face) -> None:
    ready = {"name": "one", "version": "1.0", "state": "READY"}
    for body in (None, b"", b"{}", b'{"ready":true}', b'{"ready":false}'):
        assert (await face.ask("POST", "/v2/repository/index", body)).json == [ready]
    reply = await face.ask("POST", "/v2/repository/index", b'{"ready":1}')
    assert (reply.status, reply.json["code"]) == (400, "bad_message")


async def test_a_peer_that_is_not_ready_says_why(tmp_path: Path) -> None:
    async with serving(tmp_path, unready=lambda: "m@1 should be loaded and is not") as face:
        assert (await face.ask("GET", "/v2/health/live")).json == {"live": True}
        reply = await face.ask("GET", "/v2/health/ready")
        assert (reply.status, reply.json["ready"]) == (503, False)
        assert reply.json["name"] == "peerage"
        assert reply.json["reason"] == "m@1 should be loaded and is not"
        assert (await face.ask("GET", "/healthz")).status == 503


async def test_the_unix_socket_needs_no_token(face: Face) -> None:
    reader, writer = await asyncio.open_unix_connection(face.bound.socket)
    writer.write(request("/v2/repository/models/one/load", b"{}") + request(INFER, GOOD, "Connection: close"))
    got = await reader.read()
    assert [part[:3] for part in got.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200"]
    writer.close()


async def test_more_connections_than_allowed(tmp_path: Path) -> None:
    settings = EdgeSettings(application_port=0, connections_max=3)
    async with serving(tmp_path, identity("one"), settings=settings) as face:
        kept = [await asyncio.open_connection("127.0.0.1", face.port) for _ in range(3)]
        for reader, writer in kept:
            writer.write(request(INFER, GOOD))
            assert b" 200 " in await reader.readline()
        got = await face.raw(request(INFER, GOOD))
        head, _, body = got.partition(b"\r\n\r\n")
        assert b" 503 " in head
        assert b"Connection: close" in head
        assert b"Retry-After" in head
        assert json.loads(body)["code"] == "too_many_connections"
        assert face.bound.connections.refused == 1
        kept.pop()[1].close()
        await until(lambda: face.bound.connections.open == 2)
        assert b" 200 " in (await face.raw(request(INFER, GOOD, "Connection: close"))).partition(b"\r\n")[0]
        for _, writer in kept:
            writer.close()


async def test_who_says_nothing_holds_no_place() -> None:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="here")

    connections = Connections(web.Server(answer), connections_max=3, kept_s=60.0, first_s=0.1)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    asked = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    kept, silent, half = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    kept[1].write(asked)
    assert (await kept[0].readuntil(b"here")).startswith(b"HTTP/1.1 200 ")
    half[1].write(asked[:-5])
    async with asyncio.timeout(10):
        assert await silent[0].read() == await half[0].read() == b""
    await until(lambda: connections.open == 1)
    kept[1].write(asked)
    assert (await kept[0].readuntil(b"here")).startswith(b"HTTP/1.1 200 ")
    for _, writer in (kept, silent, half):
        writer.close()
    server.close()
    await until(lambda: connections.open == 0)


async def test_a_head_is_bounded_as_a_whole(face: Face) -> None:
    """Each of its lines may be long; a body is none of it."""
    lines = [f"X-{number}: {'a' * 4000}" for number in range(40)]
    got = await face.raw("\r\n".join(("GET /v2 HTTP/1.1", "Host: localhost", *lines, "")).encode())
    head, _, body = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert json.loads(body)["code"] == "bad_http"
    assert b" 200 " in (await face.raw(request(INFER, GOOD, *lines[:3], "Connection: close"))).partition(b"\r\n")[0]
    long = GOOD + b" " * 300_000
    assert (await face.ask("POST", INFER, long)).status == 200


async def test_a_model_on_its_way_into_memory_may_be_asked_again(face: Face) -> None:
    """The first load of a name answers 503 until it is there; a swap goes on answering with what was there."""
    path = "/v2/models/coming/infer"
    assert (await face.ask("POST", path, GOOD)).status == 404
    loading = asyncio.create_task(face.engine.load(release(scaling(), name="coming"), origin="manual"))
    await until(lambda: any(entry.state == "LOADING" for entry in face.engine.index()))
    reply = await face.ask("POST", path, GOOD)
    assert (reply.status, reply.json["code"]) == (503, "model_loading")
    assert int(reply.headers["Retry-After"]) > 0
    reply = await face.ask("GET", "/v2/models/coming/ready")
    assert (reply.status, reply.json["ready"], reply.json["name"]) == (503, False, "coming")
    entries = (await face.ask("POST", "/v2/repository/index")).json
    assert [entry["state"] for entry in entries if entry["name"] == "coming"] == ["LOADING"]
    assert len((await face.ask("POST", "/v2/repository/index", b'{"ready":true}')).json) == 1
    await loading
    assert (await face.ask("POST", path, GOOD)).status == 200
    swapping = asyncio.create_task(
        face.engine.load(release(scaling(3.0), name="coming", version="2.0"), origin="manual")
    )
    await until(lambda: any(entry.state == "LOADING" for entry in face.engine.index()))
    assert (await face.ask("POST", path, GOOD)).json["model_version"] == "1.0"
    await swapping
    assert (await face.ask("POST", path, GOOD)).json["model_version"] == "2.0"


async def test_a_thousand_requests_over_swaps_fail_none(face: Face) -> None:
    """Every answer is from one version or the other, as a whole."""
    releases = [release(scaling(factor), name="one", version=f"{factor:g}") for factor in (2.0, 3.0)]
    going = True
    seen = set()

    async def asking_on() -> int:
        count = 0
        while going:
            told = (await face.ask("POST", INFER, GOOD)).json
            factor = 1.0 if told["model_version"] == "1.0" else float(told["model_version"])
            assert told["outputs"][0]["data"] == [factor, 2 * factor, 3 * factor, 4 * factor]
            seen.add(told["model_version"])
            count += 1
        return count

    clients = [asyncio.create_task(asking_on()) for _ in range(4)]
    for at in range(40):
        await face.load(releases[at % 2])
        await asyncio.sleep(0)
    await until(lambda: len(seen) >= 2)
    going = False
    assert sum(await asyncio.gather(*clients)) > 10


async def test_who_does_not_read_answers_is_given_no_more(tmp_path: Path) -> None:
    count = 3_000_000
    settings = EdgeSettings(application_port=0)
    async with serving(tmp_path, identity("one"), settings=settings, bodies=Bodies(held_bytes_max=20_000_000)) as face:
        about = tensor(shape=[count // 4, 4], parameters={"binary_data_size": 4 * count})
        text = asking(about, parameters={"binary_data_output": True})
        long = text + bytes(4 * count)
        header = f"Inference-Header-Content-Length: {len(text)}"
        reader, writer = await asyncio.open_connection("127.0.0.1", face.port, limit=1024)
        writer.write(request(INFER, long, header))
        await until(lambda: face.parts.bodies.answered_bytes > 4 * count)
        named = {"Inference_Header_Content_Length": str(len(text))}
        reply = await face.ask("POST", INFER, long, **named)
        assert (reply.status, reply.json["code"]) == (429, "too_busy")
        assert (await face.ask("POST", INFER, GOOD)).status == 200  # a short one needs no place
        writer.transport.abort()
        await until(lambda: not face.parts.bodies.answered_bytes)
        assert (await face.ask("POST", INFER, long, **named)).status == 200
        assert not face.parts.bodies.answered_bytes
        del reader
