"""``POST /logs``: pages of the real log, in the form and with the headers of the pipeline server's contract."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.inference_log import InferenceLog
from engine.inference_log_segments import Segments
from federation.pipelines import LogSettings
from tests.serving.face import Face, serving
from tests.serving.test_records import inference


@pytest.fixture
def log(tmp_path: Path) -> Iterator[InferenceLog]:
    """Five requests of two rows: four of "house-price", the last of "other"."""
    segments = Segments(tmp_path / "log", edge="E1", quota_bytes=1 << 24, now_ms=lambda: 1_800_000_000_000)
    made = InferenceLog(segments, now_ms=lambda: 1_800_000_000_000)
    for at in range(4):
        made.append(inference(time_ms=1000 * at), LogSettings())
    made.append(inference(pipeline="other", time_ms=9000, challengers={}), LogSettings())
    yield made
    made.close()


async def pages(face: Face, body: Any, path: str = "/logs", *, status: int = 200) -> tuple[Any, dict[str, str]]:
    shown = f"Bearer {face.token}"
    reply = await face.ask("POST", path, json.dumps(body).encode(), Authorization=shown)
    assert reply.status == status, reply.body
    return reply.json, {name.lower(): value for name, value in reply.headers.items()}


async def test_rows_are_told_oldest_first_as_they_were_answered(tmp_path: Path, log: InferenceLog) -> None:
    async with serving(tmp_path, find_log=log.reader) as face:
        rows, headers = await pages(face, {})
        assert [row["time"] for row in rows] == [0, 0, 1000, 1000, 2000, 2000, 3000, 3000, 9000, 9000]
        assert rows[0] == next(iter(inference(time_ms=0).rows()))
        assert headers["x-iteration-status"] == "All"
        assert headers["peerage-missing-rows"] == "0"
        assert "x-iteration-cursor" not in headers


async def test_pages_go_on_at_their_cursor(tmp_path: Path, log: InferenceLog) -> None:
    async with serving(tmp_path, find_log=log.reader) as face:
        seen: list[int] = []
        asked: dict[str, Any] = {"limit": 3}
        while True:
            rows, headers = await pages(face, asked, "/logs?dataset=row")
            seen += [row["row"]["sequence"] for row in rows]
            if headers["x-iteration-status"] == "All":
                break
            assert headers["x-iteration-status"] == "RecordLimited"
            asked["cursor"] = headers["x-iteration-cursor"]
        assert seen == list(range(1, 11))


async def test_rows_are_chosen(tmp_path: Path, log: InferenceLog) -> None:
    async with serving(tmp_path, find_log=log.reader) as face:
        rows, _ = await pages(face, {"pipeline": "other"}, "/logs?dataset=time,out")
        assert [sorted(row) for row in rows] == [["out", "time"]] * 2
        rows, _ = await pages(face, {"start": 1000, "end": 3000})
        assert {row["time"] for row in rows} == {1000, 2000}
        rows, _ = await pages(face, {"newest_first": True, "limit": 1})
        assert [row["time"] for row in rows] == [9000]
        assert (await pages(face, {"limit": 0}))[0] == []


@pytest.mark.parametrize(
    ("body", "path", "message"),
    [
        ([], "/logs", "expected a record, found a vector"),
        ("{}", "/logs", "expected a record, found text"),
        ({"limit": -1}, "/logs", "limit"),
        ({"limit": 100_000}, "/logs", "limit"),
        ({"cursor": "x"}, "/logs", "no place in an inference log"),
        ({"start": "now"}, "/logs", "start"),
        ({}, "/logs?dataset=outt", 'no "outt"'),
    ],
)
async def test_bad_requests_are_told(tmp_path: Path, log: InferenceLog, body: Any, path: str, message: str) -> None:
    async with serving(tmp_path, find_log=log.reader) as face:
        told, _ = await pages(face, body, path, status=400)
        assert message in told["error"]


async def test_reading_needs_the_token(tmp_path: Path, log: InferenceLog) -> None:
    """Rows hold what other programs of this device sent."""
    async with serving(tmp_path, find_log=log.reader) as face:
        reply = await face.ask("POST", "/logs", b"{}")
        assert (reply.status, reply.json["code"]) == (403, "forbidden")


async def test_a_peer_without_a_log_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as face:
        told, _ = await pages(face, {}, status=404)
        assert told["error"] == "no inference log is kept on this peer"
        assert "local_inference_storage" in told["hint"]
