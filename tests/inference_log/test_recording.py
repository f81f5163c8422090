"""What is appended is what is read: rows in the contract's form, in their order, once."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.inference_log_batches import Batch
from engine.inference_log_columns import frame_of, rows_of
from engine.inference_log_frames import FrameHeader, Head
from engine.inferences import Inference
from engine.records import Selection
from federation.pipelines import LogSettings
from tests.inference_log.filling import EDGE, MODEL, NOW_MS, OTHER, everything, inference, log_in


def records(*inferences: Inference) -> list[dict[str, Any]]:
    return [row for one in inferences for row in one.rows()]


def as_read(folder: Path, *inferences: Inference, log: LogSettings | None = None) -> list[dict[str, Any]]:
    with log_in(folder) as made:
        for one in inferences:
            made.append(one, log or LogSettings())
        return list(made.reader().read().records())


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    """Equal, also where not-a-number stands in both."""
    return json.dumps(found) == json.dumps(wanted)


def test_rows_come_back_as_they_were_answered(tmp_path: Path) -> None:
    one, many = inference(7), inference(100, count=3)
    assert as_read(tmp_path, one, many) == records(one, many)


def test_a_row_in_full(tmp_path: Path) -> None:
    (row,) = as_read(tmp_path, inference(300, count=1, dropped=("anomaly.odd",)))
    assert row == {
        "time": NOW_MS + 300,
        "in": {"x": [300.0, 100.0]},
        "out": {"y": 600.0},
        "anomaly": {"count": 1, "big": True},
        "metadata": {
            "last_model": f'{{"model_name":"double","model_sha":"{"ab" * 32}"}}',
            "pipeline_version": "v1",
            "elapsed": [11, 22],
            "dropped": ["anomaly.odd"],
            "partition": "EDGE-1",
        },
    }


def test_requests_to_several_pipelines_keep_the_order_in_which_they_came(tmp_path: Path) -> None:
    mixed = [inference(number, pipeline=f"p{number % 3}", count=1 + number % 4) for number in range(50)]
    assert as_read(tmp_path, *mixed) == records(*mixed)


def test_small_and_large_requests_of_one_form(tmp_path: Path) -> None:
    """Small ones are taken down, large ones are written from where they lie."""
    sizes = (1, 300, 2, 1, 300, 300, 1)
    made = [inference(sum(sizes[:at]), count=count) for at, count in enumerate(sizes)]
    assert as_read(tmp_path, *made) == records(*made)


def test_large_requests_of_many_forms(tmp_path: Path) -> None:
    made = [inference(at, count=40, inputs={"x": np.full((40, 30 + at % 2), at, np.float32)}) for at in range(6)]
    strided = [inference(9, count=40, inputs={"x": np.arange(2400, dtype=np.float32).reshape(60, 40).T}) for _ in "ab"]
    assert as_read(tmp_path, *made, *strided, *made) == records(*made, *strided, *made)


def test_every_row_has_a_number_of_its_own(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        for number in range(20):
            log.append(inference(number, count=3, pipeline=f"p{number % 2}"), LogSettings())
        rows, gaps = everything(log.reader(), limit=7)
        epoch = log.segments.epoch
    assert rows == [(EDGE, epoch, number) for number in range(1, 61)]
    assert gaps == []


TENSORS = {
    "bool": np.array([True, False]),
    "uint8": np.array([0, 255], np.uint8),
    "int64": np.array([-(2**63), 2**63 - 1]),
    "uint64": np.array([0, 2**64 - 1], np.uint64),
    "half": np.array([0.1, np.inf], np.float16),
    "single": np.array([[0.1, np.nan], [-np.inf, 3e38]], np.float32),
    "double": np.array([5e-324, np.nan]),
    "image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "empty": np.zeros((2, 0, 3), np.float32),
    "text": np.array(["ä€😀", ""], np.object_),
    "texts": np.array([["a", "b"], ["c", "d"]], np.object_),
    "fixed": np.array(["ab", "c"]),
    "big_endian": np.array([1.5, -2.5], ">f8"),
    "strided": np.arange(8, dtype=np.int32)[::4],
}


@pytest.mark.parametrize("name", TENSORS)
def test_every_kind_of_column(tmp_path: Path, name: str) -> None:
    column = TENSORS[name]
    made = [inference(0, count=2, inputs={"x": column}, outputs={"y": column}) for _ in range(3)]
    assert same(as_read(tmp_path / "joined", *made), records(*made))
    assert same(as_read(tmp_path / "alone", made[0]), records(made[0]))


def test_records_are_kept_with_what_is_in_them(tmp_path: Path) -> None:
    column = np.empty(3, np.object_)
    column[:] = [{"0": 0.25, "1": [1, 2]}, {"deep": {"er": None}}, {"nan": float("nan")}]
    made = inference(0, count=3, outputs={"scores": column})
    assert same(as_read(tmp_path, made), records(made))


def test_what_the_format_cannot_hold_becomes_the_nearest_text(tmp_path: Path) -> None:
    column = np.empty(2, np.object_)
    column[:] = [{"big": 2**70, "array": np.array([1, 2]), "number": np.float32(0.5)}, "half \ud800 a pair"]
    found = as_read(tmp_path, inference(0, count=2, outputs={"y": column}))
    assert [row["out"]["y"] for row in found] == [
        {"big": str(2**70), "array": [1, 2], "number": 0.5},
        "half ? a pair",
    ]


def test_requests_of_several_forms_to_one_version(tmp_path: Path) -> None:
    """A dimension that varies, a challenger that failed, a split that takes turns, steps that were left out."""
    y = np.array([1.0], np.float32)
    made = [
        inference(0, inputs={"x": np.zeros((1, 3), np.float32)}),
        inference(1, inputs={"x": np.zeros((1, 5), np.float32)}),
        inference(2, challengers={"triple": {"y": y}}),
        inference(3, dropped=("out_triple",)),
        inference(4, models=(OTHER,)),
        inference(5, count=3, models=(MODEL, OTHER), answered=np.array([1, 0, 1])),
        inference(6, elapsed_ns=(1, 2, 3)),
        inference(7, challengers={"other": {"y": y}}),
        inference(8, models=()),
    ]
    assert as_read(tmp_path, *made, *made) == records(*made, *made)


def test_columns_that_are_not_wanted_are_left_out_and_named(tmp_path: Path) -> None:
    made = inference(
        0, count=2, anomalies={"a": np.array([True, False]), "b": np.array([True, True])}, challengers={"triple": {}}
    )
    found = as_read(tmp_path, made, log=LogSettings(columns=("out", "anomaly.b")))
    assert [row["in"] for row in found] == [{}, {}]
    assert [row["out"] for row in found] == [{"y": 0.0}, {"y": 2.0}]
    assert [row["anomaly"] for row in found] == [{"count": 2, "b": True}, {"count": 1, "b": True}]
    assert found[0]["metadata"]["dropped"] == ["in.x", "anomaly.a"]
    assert found[0]["time"] == NOW_MS


def test_the_columns_that_a_reader_asks_for(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        log.append(inference(5), LogSettings())
        page = log.reader().read()
        epoch = log.segments.epoch

    def shown(*names: str) -> Any:
        (row,) = page.records(Selection.of(names, ()))
        return row

    assert sorted(shown("*")) == ["anomaly", "in", "out", "time"]
    assert sorted(shown("*", "metadata")) == ["anomaly", "in", "metadata", "out", "time"]
    assert shown("out.y", "metadata.partition") == {"out": {"y": 10.0}, "metadata": {"partition": "EDGE-1"}}
    assert shown("row") == {"row": {"edge": EDGE, "epoch": epoch, "sequence": 1}}
    assert shown("anomaly.count") == {"anomaly": {"count": 0}}
    assert next(page.records())["metadata"]["pipeline_version"] == "v1"


requests = st.lists(
    st.builds(
        lambda number, count, pipeline, width, dropped: inference(
            number,
            count=count,
            pipeline=pipeline,
            inputs={"x": np.full((count, width), number, np.float32)},
            dropped=dropped,
        ),
        st.integers(0, 1000),
        st.integers(1, 5),
        st.sampled_from(["a", "b"]),
        st.integers(0, 3),
        st.sampled_from([(), ("out_triple",)]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(made=requests, first=st.integers(1, 2**40))
def test_a_frame_gives_back_what_was_put_into_it(made: list[Inference], first: int) -> None:
    batch = Batch()
    for one in made:
        batch.add(one)
    frame = frame_of(batch, first=first)
    raw = b"".join(bytes(part) for part in frame.parts[1:])
    header = msgspec.msgpack.decode(frame.parts[1], type=FrameHeader)
    body = memoryview(raw)[len(frame.parts[1]) :]
    head = Head(0, len(frame.parts[1]), len(body), frame.first, frame.rows, frame.from_ms, frame.to_ms, 0)
    found: dict[int, dict[str, Any]] = {}
    at = 0
    for one in header.requests:
        size = sum(column.size for column in one.columns)
        rows = rows_of(one, body[at : at + size], head, edge=EDGE, epoch=1)
        found |= dict(rows.records())
        at += size
    assert at == len(body)
    assert sorted(found) == list(range(first, first + sum(one.count for one in made)))
    assert [found[number] for number in sorted(found)] == records(*made)
