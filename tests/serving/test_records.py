"""Records in and out, and the columns that a client asks for."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from engine.errors import InputProblem
from engine.inferences import AnsweringModel, Inference
from engine.records import (
    CONTAINERS_MAX,
    JSON_BYTES_MAX,
    ROWS_MAX,
    SELECTED_MAX,
    Selection,
    decode_records,
    encode_rows,
)
from query.errors import LimitExceeded

CHAMPION = AnsweringModel("price", "1.0", "ab" * 32)
OTHER = AnsweringModel("price", "2.0", "cd" * 32)


def inference(**changed: Any) -> Inference:
    about: dict[str, Any] = {
        "pipeline": "house-price",
        "version": "4e1f0000-0000-5000-8000-000000000000",
        "partition": "E1",
        "time_ms": 1_800_000_000_123,
        "count": 2,
        "inputs": {"tensor": np.array([[4.0, 2.5], [0.1, -1.0]], np.float32), "city": np.array(["Ulm", "Æ"], object)},
        "outputs": {"price": np.array([[718013.75], [0.3]], np.float32)},
        "challengers": {"forest": {"price": np.array([[1.5], [2.5]], np.float32)}},
        "anomalies": {"too_high": np.array([True, False]), "odd": np.array([True, False])},
        "models": (CHAMPION, OTHER),
        "answered": np.array([0, 1]),
        "elapsed_ns": (1000, 20_000),
    }
    return Inference(**{**about, **changed})


def rows_of(selection: Selection) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads(encode_rows(inference(), selection))
    return read


def test_a_row_is_the_contract_to_the_letter() -> None:
    first, second = json.loads(encode_rows(inference()))
    assert list(first) == ["time", "in", "out", "out_forest", "anomaly", "metadata"]
    assert first == {
        "time": 1_800_000_000_123,
        "in": {"tensor": [4.0, 2.5], "city": "Ulm"},
        "out": {"price": [718013.75]},
        "out_forest": {"price": [1.5]},
        "anomaly": {"count": 2, "too_high": True, "odd": True},
        "metadata": {
            "last_model": json.dumps({"model_name": "price", "model_sha": "ab" * 32}, separators=(",", ":")),
            "pipeline_version": "4e1f0000-0000-5000-8000-000000000000",
            "elapsed": [1000, 20_000],
            "dropped": [],
            "partition": "E1",
        },
    }
    assert second["in"] == {"tensor": [0.1, -1.0], "city": "Æ"}, "with the digits of 32 bits"
    assert second["anomaly"] == {"count": 0, "too_high": False, "odd": False}
    assert json.loads(second["metadata"]["last_model"])["model_sha"] == "cd" * 32


def test_rows_by_columns_are_the_rows_that_an_inference_says() -> None:
    odd = {'a "b"': np.array([1, 2]), "c\\d": np.array([[0.1], [2]], np.float32), "": np.array(["x", "y"], object)}
    for changed in ({}, {"outputs": odd}, {"outputs": {}, "anomalies": {}, "challengers": {}, "answered": None}):
        told = json.loads(encode_rows(inference(**changed)))
        assert told == list(inference(**changed).rows())
        assert json.loads(encode_rows(inference(**changed), Selection.of(["none"], []))) == [{}, {}]
    assert json.loads(encode_rows(inference(count=0, inputs={}, outputs={}, challengers={}, anomalies={}))) == []


def test_what_json_has_no_number_for_is_a_word() -> None:
    odd = np.array([[np.nan], [-np.inf]], np.float32)
    first, second = json.loads(encode_rows(inference(outputs={"price": odd})))
    assert (first["out"]["price"], second["out"]["price"]) == (["NaN"], ["-Infinity"])
    assert np.isnan(np.array(first["out"]["price"], float)[0]), "floats are made of the words"
    records = np.empty(2, object)
    records[:] = [{0: 0.25, 1: math.inf}, {0: 1.0, 1: 0.0}]
    first, _ = json.loads(encode_rows(inference(outputs={"probabilities": records})))
    assert first["out"]["probabilities"] == {"0": 0.25, "1": "Infinity"}


@pytest.mark.parametrize(
    ("dataset", "exclude", "groups"),
    [
        ([], [], ["time", "in", "out", "out_forest", "anomaly", "metadata"]),
        (["*"], [], ["time", "in", "out", "out_forest", "anomaly"]),
        (["*", "metadata"], [], ["time", "in", "out", "out_forest", "anomaly", "metadata"]),
        (["time,out"], [], ["time", "out"]),
        ([], ["metadata", "in"], ["time", "out", "out_forest", "anomaly"]),
        (["*"], ["out_forest"], ["time", "in", "out", "anomaly"]),
    ],
)
def test_groups_are_chosen(dataset: list[str], exclude: list[str], groups: list[str]) -> None:
    assert list(rows_of(Selection.of(dataset, exclude))[0]) == groups


def test_single_columns_are_chosen() -> None:
    row = rows_of(Selection.of(["in.city", "metadata.elapsed", "anomaly.count"], []))[0]
    assert row == {"in": {"city": "Ulm"}, "anomaly": {"count": 2}, "metadata": {"elapsed": [1000, 20_000]}}
    assert rows_of(Selection.of(["in"], ["in.city"]))[0] == {"in": {"tensor": [4.0, 2.5]}}


def test_columns_that_an_answer_will_not_have_are_refused_before_it_is_made() -> None:
    known: dict[str, tuple[str, ...] | None] = {"time": (), "in": ("city",), "out": None, "metadata": ("elapsed",)}
    Selection.of(["in.city", "out.anything", "*"], ["metadata.elapsed"]).check(known)
    with pytest.raises(InputProblem, match='an answer has no "outt" — did you mean "out"'):
        Selection.of(["outt"], []).check(known)
    with pytest.raises(InputProblem, match='"in" has no "town"'):
        Selection.of([], ["in.town"]).check(known)
    with pytest.raises(LimitExceeded, match="dataset: expected at most"):
        Selection.of([",".join(map(str, range(SELECTED_MAX + 1)))], [])


def test_a_list_of_objects_is_read_and_an_object_alone() -> None:
    assert decode_records(b'[{"a": 1, "b": "x"}, {"a": [2.5], "b": null}]') == [
        {"a": 1, "b": "x"},
        {"a": [2.5], "b": None},
    ]
    assert decode_records(b'{"a": 1}') == [{"a": 1}]


def test_what_pythons_writer_makes_of_not_a_number_is_read() -> None:
    (row,) = decode_records(json.dumps([{"a": math.nan, "b": [math.inf, -math.inf], "c": "NaN"}]).encode())
    assert math.isnan(row["a"])
    assert row["b"] == [math.inf, -math.inf]
    assert row["c"] == "NaN"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"[", "not JSON"),
        (b'[{"a": 1}] x', "not JSON"),
        (b'[{"a": 1}] NaN', "not JSON"),
        (b'\xff[{"a": 1}]', "not JSON"),
        (b'[{"a": "\xff"}]', "not UTF-8"),
        (b'[{"a": "\xff", "b": NaN}]', "not UTF-8"),
        (b'[{"a": "\\ud800", "b": NaN}]', "not UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'[{"a": NaN, "b": ' + b"[" * 100_000, "nested too deep"),
        (b"[]", "at least one row"),
        (b"3", "found a number"),
        (b'"x"', "found text"),
        (b"null", "found null"),
        (b'[{"a": 1}, 2]', "row 2: expected an object"),
        (b"[[1]]", "row 1: expected an object .* found a list"),
    ],
)
def test_bad_bodies_are_refused_with_what_was_found(body: bytes, message: str) -> None:
    with pytest.raises(InputProblem, match=message):
        decode_records(body)


def test_rows_and_brackets_are_bounded() -> None:
    with pytest.raises(LimitExceeded, match=f"at most {ROWS_MAX} rows, found {ROWS_MAX + 1}"):
        decode_records(b"[" + b",".join([b"{}"] * (ROWS_MAX + 1)) + b"]")
    with pytest.raises(LimitExceeded, match="lists and objects"):
        decode_records(b"[" + b",".join([b"[]"] * CONTAINERS_MAX) + b"]")
    with pytest.raises(LimitExceeded, match=f"expected at most {JSON_BYTES_MAX} bytes of JSON"):
        decode_records(b'[{"a": 1}]' + b" " * JSON_BYTES_MAX)
