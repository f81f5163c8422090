"""Steps, splits, shadows and validations, run: what is answered, what is told, and what fails."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from time import monotonic_ns
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from onnx import TensorProto, helper, numpy_helper

from engine import errors
from engine.engine import Engine, EngineSettings
from engine.inferences import Inference
from engine.passages import CHALLENGERS_S, CHALLENGERS_SHARE, CHALLENGERS_TIMES, Passage, patience_s
from engine.pipeline_rows import columns_of_rows
from engine.pipeline_steps import choosing, taken_on
from engine.pipelines import LoadedPipeline
from engine.signature import Signature
from federation.documents import TensorSpec
from federation.packing import PackedRelease
from federation.pipelines import (
    Deployment,
    KeySplit,
    LogSettings,
    ModelStep,
    PqlStep,
    RandomSplit,
    Shadow,
    Step,
    Validation,
    Weighted,
)
from federation.verification import verify
from query.errors import Problem
from tests.models.making import X, Y, endless_when_positive, graph_of, packed, scaling, spec
from tests.pipelines.defining import definition, packed_pipeline, ref_of, root_of, whole_files
from tests.pipelines.running import affine, put_pipeline, rows_of
from tests.pipelines.running import put as load

ONE = affine(1, name="one")
TWO = affine(2, name="two")
SUM = affine(1, name="sum")
TEN = affine(1, 10, name="ten")
SCALING = packed(scaling(2.0), name="scaling")


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(partition="edge-1")
    yield engine
    engine.close(wait=True)


async def put(engine: Engine, steps: Sequence[Step], *models: PackedRelease, **about: Any) -> LoadedPipeline:
    return await put_pipeline(engine, models, steps, **about)


def model(one: PackedRelease) -> ModelStep:
    return ModelStep(ref_of(one))


async def answer(pipeline: LoadedPipeline, *sums: float, **more: Any) -> Inference:
    return await pipeline.infer({"x": rows_of(*sums)}, **more)


def outputs(inference: Inference, name: str = "y") -> list[Any]:
    found: list[Any] = inference.outputs[name].tolist()
    return found


def splits(inference: Inference) -> list[str]:
    return [json.loads(text)["name"] for text in inference.outputs["_model_split"][:, 0].tolist()]


# --- models one after another ---------------------------------------------------------------------------------------


async def test_a_model_answers_each_row_and_says_who_it_is(engine: Engine) -> None:
    pipeline = await put(engine, [model(ONE)], ONE)
    inference = await answer(pipeline, 4, 8, parsed_ns=17)
    assert outputs(inference) == [4, 8]
    first, second = inference.rows()
    assert first["in"] == {"x": [1, 1, 1, 1]}
    assert second["out"] == {"y": 8}
    assert first["anomaly"] == {"count": 0}
    told = first["metadata"]
    sha = next(entry.digest for entry in ONE.record.files if entry.kind == "weight").removeprefix("sha256:")
    assert json.loads(told["last_model"]) == {"model_name": "one", "model_sha": sha}
    assert told["pipeline_version"] == pipeline.version
    assert told["partition"] == "edge-1"
    assert told["dropped"] == []
    assert told["elapsed"][0] == 17
    assert len(told["elapsed"]) == 2
    assert told["elapsed"][1] > 0
    assert first["time"] == second["time"]


async def test_steps_feed_each_other(engine: Engine) -> None:
    steps = [model(SCALING), PqlStep('{"x": y * 2, "unused": 1}'), model(ONE), PqlStep('{"z": y + 0.5, "n": round(y)}')]
    pipeline = await put(engine, steps, SCALING, ONE)
    inference = await answer(pipeline, 4, 8)
    assert outputs(inference, "z") == [16.5, 32.5]
    assert outputs(inference, "n") == [16, 32]
    assert inference.models[0].name == "one"
    assert len(inference.elapsed_ns) == 5
    assert [spec.datatype for spec in pipeline.record.outputs] == ["FP64", "INT64"]


async def test_a_pql_step_makes_of_plain_fields_what_a_model_takes(engine: Engine) -> None:
    text = '{"x": [rooms, ln(area), case when town = "Lund" then 1 else 0 end, 0.5]}'
    pipeline = await put(engine, [PqlStep(text), model(ONE)], ONE)
    rows = [{"rooms": 3, "area": 1.0, "town": "Lund"}, {"rooms": 4.5, "area": 1, "town": "Umeå"}]
    inference = await pipeline.infer(pipeline.columns_of(rows))
    assert outputs(inference) == [4.5, 5.0]
    assert [row["in"] for row in inference.rows()] == [
        {"rooms": 3.0, "area": 1.0, "town": "Lund"},
        {"rooms": 4.5, "area": 1.0, "town": "Umeå"},
    ]


async def test_numbers_that_do_not_fit_an_input_are_refused_with_their_row(engine: Engine) -> None:
    pipeline = await put(engine, [PqlStep('{"x": [a, a, a, a]}'), model(ONE)], ONE)
    with pytest.raises(errors.InputProblem) as caught:
        await pipeline.infer({"a": np.array([1.0, 1e300])})
    assert caught.value.message == 'row 2: input "x": expected numbers that fit FP32, found 1e+300'
    with pytest.raises(Problem) as failed:
        await pipeline.infer({"a": np.array([])})
    assert isinstance(failed.value, errors.InputProblem)


@pytest.mark.parametrize(
    ("datatype", "column", "wrong"),
    [("INT8", [1, 300], 300), ("UINT8", [1, -1], -1), ("UINT64", [0, -1], -1), ("FP16", [1, 70_000], 70_000)],
)
def test_integers_take_on_a_datatype_only_where_they_fit(datatype: str, column: list[int], wrong: int) -> None:
    with pytest.raises(errors.InputProblem, match=f"row 2: .* {wrong}"):
        taken_on(TensorSpec("x", datatype, (-1,)), np.array(column))
    assert taken_on(TensorSpec("x", datatype, (-1, 1)), np.array([1, 2])).shape == (2, 1)


async def test_an_error_of_an_expression_names_step_field_and_row(engine: Engine) -> None:
    pipeline = await put(engine, [PqlStep('{"x": [1 / a, a, a, a]}'), model(ONE)], ONE)
    with pytest.raises(Problem) as caught:
        await pipeline.infer({"a": np.array([1.0, 0.0])})
    assert caught.value.message == 'step 1 (pql), field "x": row 2: division by zero: 1 / 0.0'
    assert pipeline.counters.read().fail.count == 1


# --- models without a row for each row ------------------------------------------------------------------------------


def single_row() -> PackedRelease:
    """x[1,4] → y[1,1], the sum."""
    inputs, outputs = (spec("x", "FP32", 1, 4),), (spec("y", "FP32", 1, 1),)
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    graph = graph_of([helper.make_node("ReduceSum", ["x", "axes"], ["y"])], inputs, outputs, initializers=[axes])
    return packed(graph.SerializeToString(), name="single", inputs=inputs, outputs=outputs)


def whole() -> PackedRelease:
    """x[-1] → y[], the sum of all there is."""
    inputs, outputs = (spec("x", "FP32", -1),), (spec("y", "FP32"),)
    graph = graph_of([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], inputs, outputs)
    return packed(graph.SerializeToString(), name="whole", inputs=inputs, outputs=outputs)


@pytest.mark.parametrize("inline_us", [1e6, 0.0])
async def test_models_without_a_batch_dimension_run_row_by_row(inline_us: float) -> None:
    engine = Engine(EngineSettings(inline_us=inline_us))
    single, entire = single_row(), whole()
    one = await put(engine, [model(single)], single, name="one")
    assert one.record.inputs[0].shape == (-1, 4)
    inference = await answer(one, 4, 8, 12)
    assert inference.outputs["y"].tolist() == [[4], [8], [12]]
    assert one.call({"x": rows_of(2)})["y"].tolist() == [[2]]
    other = await put(engine, [model(entire)], entire, name="other")
    assert other.record.inputs[0].shape == (-1, -1)
    assert other.record.outputs[0].shape == (-1,)
    rows = other.columns_of([{"x": [1, 2, 3]}, {"x": [4, 5, 6]}])
    assert (await other.infer(rows)).outputs["y"].tolist() == [6, 15]
    engine.close(wait=True)


async def test_a_model_that_gives_other_rows_than_it_got_is_no_answer(engine: Engine) -> None:
    inputs, given = (spec("x", "FP32", -1, 4),), (spec("y", "FP32", -1),)
    shape = numpy_helper.from_array(np.array([-1], np.int64), "flat")
    graph = graph_of([helper.make_node("Reshape", ["x", "flat"], ["y"])], inputs, given, initializers=[shape])
    flat = packed(graph.SerializeToString(), name="flat", inputs=inputs, outputs=given)
    pipeline = await put(engine, [model(flat)], flat)
    with pytest.raises(errors.ModelFailed, match=r'output "y": expected 1 rows as the input has, found FP32\[4\]'):
        await answer(pipeline, 4)


# --- splits ---------------------------------------------------------------------------------------------------------


def weighted(*pairs: tuple[float, PackedRelease]) -> tuple[Weighted, ...]:
    return tuple(Weighted(weight, ref_of(one)) for weight, one in pairs)


async def test_a_random_split_takes_one_model_a_request_by_weight(engine: Engine) -> None:
    pipeline = await put(engine, [RandomSplit(weighted((3, ONE), (1, TWO), (0, TEN)))], ONE, TWO, TEN)
    taken: Counter[str] = Counter()
    for _ in range(400):
        inference = await answer(pipeline, 4, 8)
        (name,) = set(splits(inference))
        assert outputs(inference) == ([4, 8] if name == "one" else [8, 16])
        assert [one.name for one in inference.models] == [name]
        assert json.loads(next(inference.rows())["metadata"]["last_model"])["model_name"] == name
        taken[name] += 1
    assert taken.keys() == {"one", "two"}
    assert 250 < taken["one"] < 350


@pytest.mark.parametrize(("drawn", "position"), [(0.0, 1), (0.2499, 1), (0.25, 3), (0.9999999999999999, 3)])
def test_a_draw_falls_on_a_model_that_has_a_weight(drawn: float, position: int) -> None:
    step = RandomSplit(weighted((0, ONE), (1, TWO), (0, TEN), (3, SCALING), (0, ONE)))
    assert choosing(step, draw=lambda: drawn, salt="")(Passage(1, {}, {}), lambda: None) == position


async def test_a_hash_key_gives_a_value_the_same_model_always(engine: Engine) -> None:
    split = RandomSplit(weighted((1, ONE), (1, TWO)), hash_key="session")
    pipeline = await put(engine, [split], ONE, TWO)
    assert pipeline.record.inputs[1] == TensorSpec("session", "BYTES", (-1,))
    sessions = np.array([f"s{number}" for number in range(200)] * 2, np.object_)
    columns = {"x": rows_of(*range(400)), "session": sessions}
    inference = await pipeline.infer(columns)
    names = splits(inference)
    assert names[:200] == names[200:]
    assert 70 < names[:200].count("one") < 130
    expected = [at * (1 if name == "one" else 2) for at, name in enumerate(names)]
    assert np.allclose(inference.outputs["y"], expected)
    rows = list(inference.rows())
    assert [json.loads(row["metadata"]["last_model"])["model_name"] for row in rows] == names
    again = Engine()
    other = await put(again, [split], ONE, TWO)
    assert splits(await other.infer(columns)) == names
    again.close()


async def test_two_splits_of_a_pipeline_decide_independently(engine: Engine) -> None:
    """A step gives its own record alone, so here the row's sum is the key of both."""
    split = RandomSplit(weighted((1, ONE), (1, SUM)), hash_key="s")
    steps = [PqlStep('{"x": x, "s": round(sum(x))}'), split, PqlStep('{"x": [y, 0, 0, 0], "s": round(y)}'), split]
    pipeline = await put(engine, steps, ONE, SUM)
    assert pipeline.record.outputs[-1].shape == (-1, 2)
    inference = await pipeline.infer(pipeline.columns_of([{"x": [at, 0, 0, 0]} for at in range(200)]))
    assert outputs(inference) == list(range(200))
    pairs = Counter(map(tuple, inference.outputs["_model_split"].tolist()))
    assert len(pairs) == 4
    assert min(pairs.values()) > 25


async def test_a_key_split_takes_the_model_that_a_value_names(engine: Engine) -> None:
    split = KeySplit(ref_of(ONE), "country", {"se": ref_of(TWO), "no": ref_of(TEN)})
    pipeline = await put(engine, [split], ONE, TWO, TEN)
    rows = [{"x": [1, 1, 1, 1], "country": code} for code in ("se", "dk", "no", "se", "")]
    inference = await pipeline.infer(pipeline.columns_of(rows))
    assert outputs(inference) == [8, 4, 14, 8, 4]
    assert splits(inference) == ["two", "one", "ten", "two", "one"]
    assert inference.answered is not None
    assert pipeline.record.outputs[-1] == TensorSpec("_model_split", "BYTES", (-1, 1))
    assert pipeline.call(pipeline.columns_of(rows[:1]))["_model_split"].shape == (1, 1)


async def test_a_key_may_be_a_number_or_a_truth_value(engine: Engine) -> None:
    text = PqlStep('{"x": x, "old": year < 2000, "n": round(year)}')
    by_truth = await put(engine, [text, KeySplit(ref_of(ONE), "old", {"true": ref_of(TWO)})], ONE, TWO, name="truth")
    by_number = await put(engine, [text, KeySplit(ref_of(ONE), "n", {"1990": ref_of(TWO)})], ONE, TWO, name="number")
    columns = {"x": rows_of(4, 4), "year": np.array([1990.0, 2010.0])}
    for pipeline in (by_truth, by_number):
        assert splits(await pipeline.infer(columns)) == ["two", "one"]


def test_a_number_decides_as_it_is_shown_whatever_stands_beside_it() -> None:
    def positions(step: RandomSplit | KeySplit, *values: float) -> Any:
        column = np.array(values, np.float32)
        return choosing(step, draw=lambda: 0, salt="s")(Passage(len(values), {}, {"k": column}), lambda: None)

    by_key = KeySplit(ref_of(ONE), "k", {"0.1": ref_of(TWO), "0.0": ref_of(TEN)})
    assert positions(by_key, 0.1, -0.0, 0.0, 7).tolist() == [2, 1, 1, 0]
    hashed = RandomSplit(weighted(*((1, ONE) for _ in range(16))), hash_key="k")
    assert positions(hashed, -0.0).tolist() == positions(hashed, 0.0).tolist()
    assert positions(hashed, math.nan, 0.1, 0.0).tolist()[1:] == positions(hashed, 0.1, -0.0).tolist()


def test_several_values_in_a_row_decide_nothing() -> None:
    choose = choosing(KeySplit(ref_of(ONE), "k", {"a": ref_of(TWO)}), draw=lambda: 0, salt="s")
    for shape in ((2, 3), (2, 0)):
        with pytest.raises(errors.InputProblem, match="expected one value in each row to decide by"):
            choose(Passage(2, {}, {"k": np.zeros(shape)}), lambda: None)


# --- shadows --------------------------------------------------------------------------------------------------------


async def test_challengers_are_shown_and_the_champion_feeds_on(engine: Engine) -> None:
    pipeline = await put(engine, [Shadow(ref_of(ONE), (ref_of(TWO), ref_of(TEN))), PqlStep('{"z": y}')], ONE, TWO, TEN)
    inference = await answer(pipeline, 4)
    (row,) = inference.rows()
    assert row["out"] == {"z": 4}
    assert row["out_two"] == {"y": 8}
    assert row["out_ten"] == {"y": 14}
    assert list(row) == ["time", "in", "out", "out_two", "out_ten", "anomaly", "metadata"]
    assert json.loads(row["metadata"]["last_model"])["model_name"] == "one"


def failing() -> PackedRelease:
    """x[-1,4] → y[-1,4]: x and the row that its largest element counts, which need not be there."""
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["whole", "one"], ["index"]),
        helper.make_node("Gather", ["x", "index"], ["row"], axis=0),
        helper.make_node("Add", ["x", "row"], ["y"]),
    ]
    return packed(graph_of(nodes, [X], [Y], initializers=[one]).SerializeToString(), name="failing")


@pytest.mark.parametrize("inline_us", [1e6, 0.0])
async def test_a_challenger_that_fails_is_left_out_counted_and_named(inline_us: float) -> None:
    engine = Engine(EngineSettings(inline_us=inline_us))
    bad = failing()
    validations = [Validation("apart", "out_failing.y[1] > 1"), Validation("big", "out.y > 3")]
    pipeline = await put(
        engine, [Shadow(ref_of(ONE), (ref_of(bad), ref_of(TWO)))], ONE, TWO, bad, validations=validations
    )
    assert set((await answer(pipeline, 0, 0)).challengers) == {"failing", "two"}
    inference = await answer(pipeline, 40, 20)
    assert outputs(inference) == [40, 20]
    assert set(inference.challengers) == {"two"}
    assert inference.dropped == ("out_failing", "anomaly.apart")
    first, _ = inference.rows()
    assert first["anomaly"] == {"count": 1, "apart": False, "big": True}
    assert first["metadata"]["dropped"] == ["out_failing", "anomaly.apart"]
    failures = pipeline.failures.read()
    assert failures["out_failing"].rows == 2
    assert "the model cannot take this input" in failures["out_failing"].message
    assert failures["anomaly.apart"].message == "out_failing was left out"
    assert pipeline.counters.read().fail.count == 0
    engine.close(wait=True)


async def test_a_challenger_that_does_not_end_leaves_the_champion_its_time() -> None:
    engine = Engine(EngineSettings(run_s=20, inline_us=0))
    slow = packed(endless_when_positive(), name="slow")
    steps = [Shadow(ref_of(SCALING), (ref_of(slow),)), PqlStep('{"z": y}')]
    pipeline = await put(engine, steps, SCALING, slow)
    inference = await answer(pipeline, 4, deadline_s=0.6)
    assert inference.outputs["z"].tolist() == [[2, 2, 2, 2]]
    assert inference.dropped == ("out_slow",)
    engine.close(wait=True)


def test_challengers_are_waited_for_as_long_as_the_champion_explains() -> None:
    free = Passage(1, {}, {})
    assert patience_s(free, 1000) == CHALLENGERS_S
    assert patience_s(free, int(3e9)) == 3 * CHALLENGERS_TIMES
    hurried = Passage(1, {}, {}, deadline_ns=monotonic_ns() + int(1e9))
    assert 0.5 * CHALLENGERS_SHARE < patience_s(hurried, 1000) <= CHALLENGERS_SHARE
    with pytest.raises(errors.OverTime):
        patience_s(Passage(1, {}, {}, deadline_ns=monotonic_ns() - 1), 1000)


async def test_a_champion_that_fails_fails_the_request(engine: Engine) -> None:
    bad = failing()
    pipeline = await put(engine, [Shadow(ref_of(bad), (ref_of(ONE),))], ONE, bad)
    with pytest.raises(Problem):
        await answer(pipeline, 40)
    assert pipeline.counters.read().fail.count == 1


# --- validations ----------------------------------------------------------------------------------------------------


async def test_a_validation_that_is_true_is_an_anomaly_of_its_row(engine: Engine) -> None:
    validations = [
        Validation("negative", "out.y < 0"),
        Validation("odd", "out.y > 5 and in.x[1] = 2"),
        Validation("drift", "abs(out_two.y - out.y) > 7"),
    ]
    pipeline = await put(engine, [Shadow(ref_of(ONE), (ref_of(TWO),))], ONE, TWO, validations=validations)
    for count in (4, 40):
        inference = await answer(pipeline, *([-4, 4, 8, 12] * (count // 4)))
        found = [row["anomaly"] for row in inference.rows()]
        assert found[:4] == [
            {"count": 1, "negative": True, "odd": False, "drift": False},
            {"count": 0, "negative": False, "odd": False, "drift": False},
            {"count": 2, "negative": False, "odd": True, "drift": True},
            {"count": 1, "negative": False, "odd": False, "drift": True},
        ]
        assert found == found[:4] * (count // 4)
        assert inference.dropped == ()


async def test_a_validation_that_fails_on_a_row_is_counted_and_named(engine: Engine) -> None:
    validations = [Validation("ratio", "1 / round(out.y) > 0.4"), Validation("big", "out.y > 3")]
    pipeline = await put(engine, [model(ONE)], ONE, validations=validations)
    for _ in range(2):
        inference = await answer(pipeline, 0, 2, 4)
        assert [row["anomaly"] for row in inference.rows()] == [
            {"count": 0, "ratio": False, "big": False},
            {"count": 1, "ratio": True, "big": False},
            {"count": 1, "ratio": False, "big": True},
        ]
        assert inference.dropped == ("anomaly.ratio",)
    (failure,) = pipeline.failures.read().values()
    assert (failure.rows, failure.message) == (2, "row 1: division by zero: 1 / 0")


# --- what clients send ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "expected at least one row, found none"),
        (
            [{"x": [1, 2, 3, 4], "town": "", "n": 1}, {}],
            'row 2: missing field "x": expected "x", "town", "n", found none',
        ),
        ([{"x": [1, 2, 3, 4]}], 'row 1: missing field "town": expected "x", "town", "n", found "x"'),
        ([{"x": [1, 2, 3, 4], "town": "", "n": 1, "N": 2}], 'row 1: unknown field "N": expected "x", "town", "n"'),
        ([{"x": [1, 2, 3], "town": "", "n": 1}], 'row 1, field "x": expected FP32[4], found FP32[3]'),
        ([{"x": 1, "town": "", "n": 1}], 'row 1, field "x": expected FP32[4], found a single value'),
        (
            [{"x": [1, 2, 3, 4], "town": "", "n": 1}, {"x": [1, 2, 3, "4"], "town": "", "n": 1}],
            'row 2, field "x", element 4: expected a number for FP32, found a string',
        ),
        ([{"x": [1, 2, 3, None], "town": "", "n": 1}], 'row 1, field "x", element 4: expected a number for FP32'),
        ([{"x": [1, 2, 3, True], "town": "", "n": 1}], 'row 1, field "x", element 4: expected a number for FP32'),
        ([{"x": [1, 2, 3, [4]], "town": "", "n": 1}], 'row 1, field "x"'),
        ([{"x": [[1, 2, 3, 4]], "town": "", "n": 1}], 'row 1, field "x"'),
        ([{"x": [1, 2, 3, 1e39], "town": "", "n": 1}], 'row 1, field "x": expected numbers that fit FP32, found 1e+39'),
        ([{"x": [1, 2, 3, 4], "town": 5, "n": 1}], 'row 1, field "town": expected text for BYTES, found the number 5'),
        ([{"x": [1, 2, 3, 4], "town": None, "n": 1}], 'row 1, field "town": expected text for BYTES, found null'),
        ([{"x": [1, 2, 3, 4], "town": "", "n": "1"}], 'row 1, field "n": expected a number for FP64, found a string'),
        ([{"x": [1, 2, 3, 4], "town": "", "n": {}}], 'row 1, field "n"'),
        ([[1]], 'row 1: expected a record with "x", "town", "n", found a vector of 1'),
        (["abc"], 'row 1: expected a record with "x", "town", "n", found a string'),
        ([{"x": [1, 2, 3, 4], "town": "", "n": 1}, 5], "row 2: expected a record"),
    ],
)
async def test_rows_are_checked_and_errors_name_row_and_field(engine: Engine, rows: Any, message: str) -> None:
    text = PqlStep('{"x": x, "town": town || "", "n": n, "t": length(town)}')
    pipeline = await put(engine, [text, model(ONE)], ONE)
    with pytest.raises(errors.InputProblem) as caught:
        pipeline.columns_of(rows)
    assert caught.value.message.startswith(message)


async def test_rows_may_hold_a_single_element_alone_and_integers_for_reals(engine: Engine) -> None:
    single = single_row()
    pipeline = await put(engine, [PqlStep('{"x": [a, 1, 1, b[1]]}'), model(single)], single)
    columns = pipeline.columns_of([{"a": 1, "b": [2]}, {"a": 2.5, "b": [3]}])
    assert columns["a"].dtype == np.float64
    assert (await pipeline.infer(columns)).outputs["y"].tolist() == [[5], [7.5]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, 'missing input "x"'),
        ({"x": rows_of(1), "z": rows_of(1)}, 'unknown input "z"'),
        ({"x": np.zeros((1, 4))}, r'input "x": expected FP32\[-1,4\], found FP64\[1,4\]'),
        ({"x": np.zeros((0, 4), np.float32)}, "with at least one element"),
        ({"x": np.zeros(4, np.float32)}, r"found FP32\[4\]"),
    ],
)
async def test_columns_are_checked(engine: Engine, columns: Any, message: str) -> None:
    pipeline = await put(engine, [model(ONE)], ONE)
    with pytest.raises(errors.InputProblem, match=message):
        await pipeline.infer(columns)
    with pytest.raises(errors.InputProblem, match=message):
        pipeline.call(columns)


async def test_columns_have_one_number_of_rows(engine: Engine) -> None:
    pipeline = await put(engine, [PqlStep('{"x": [a, b, a, b]}'), model(ONE)], ONE)
    with pytest.raises(errors.InputProblem, match='input "b": expected 2 rows as in "a", found 1'):
        await pipeline.infer({"a": np.ones(2), "b": np.ones(1)})


async def test_not_a_number_goes_through_as_it_is(engine: Engine) -> None:
    pipeline = await put(engine, [model(SCALING)], SCALING, validations=[Validation("nan", "is_nan(out.y[1])")])
    inference = await pipeline.infer({"x": np.array([[np.nan, np.inf, -np.inf, 1]], np.float32)})
    assert str(inference.outputs["y"].tolist()) == "[[nan, inf, -inf, 2.0]]"
    assert next(inference.rows())["anomaly"] == {"count": 1, "nan": True}


# --- as a servable --------------------------------------------------------------------------------------------------


async def test_a_pipeline_is_called_like_a_model(engine: Engine) -> None:
    pipeline = await put(engine, [model(ONE)], ONE, name="pipe")
    assert engine.call("pipe", {"x": rows_of(4)})["y"].tolist() == [4]
    assert (await engine.infer("pipe", {"x": [1, 2, 3, 4]}))["y"].tolist() == [10]
    assert (await engine.infer("pipe", [{"x": [1, 2, 3, 4]}, {"x": [0, 0, 0, 1]}]))["y"].tolist() == [10, 1]
    assert engine.statistics("pipe").inference_count == 4
    assert pipeline.require_vectors() == 0
    with pytest.raises(errors.NotAModel):
        engine.find_model("pipe")


async def test_every_inference_is_told_to_the_recorder_with_its_settings() -> None:
    told: list[tuple[Inference, LogSettings]] = []
    engine = Engine(record=lambda inference, settings: told.append((inference, settings)))
    kept = LogSettings(sample=0.5, columns=("out",))
    pipeline = await put(engine, [model(ONE)], ONE, deployment=Deployment(log=kept))
    first = await answer(pipeline, 4)
    pipeline.call({"x": rows_of(8)})
    await engine.infer("pipe", {"x": [1, 2, 3, 4]})
    assert told[0] == (first, kept)
    assert [outputs(inference) for inference, _ in told] == [[4], [8], [10]]
    with pytest.raises(errors.InputProblem):
        await pipeline.infer({})
    assert len(told) == 3
    engine.close()


async def test_long_steps_leave_the_event_loop_free_and_have_a_deadline() -> None:
    engine = Engine(EngineSettings(run_s=30))
    slow = packed(endless_when_positive(), name="slow")
    pipeline = await put(engine, [model(slow), PqlStep('{"z": y}')], slow)
    assert (await pipeline.infer({"x": rows_of(-4)})).outputs["z"].tolist() == [[-1, -1, -1, -1]]
    assert not pipeline.runs_inline({"x": rows_of(4)})
    running = asyncio.ensure_future(answer(pipeline, 4, deadline_s=0.3))
    await asyncio.sleep(0)
    assert not running.done()
    with pytest.raises(errors.OverTime):
        await running
    cancelled = asyncio.ensure_future(answer(pipeline, 4))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    engine.close(wait=True)


async def test_slow_expressions_run_in_the_pool_and_have_a_deadline() -> None:
    engine = Engine()
    text = '{"x": [count(select i from i in range(1, 200) where i + a > 0), 0, 0, 0]}'
    pipeline = await put(engine, [PqlStep(text), model(ONE)], ONE)
    assert not pipeline.runs_inline({"a": np.ones(1000)})
    assert outputs(await pipeline.infer({"a": np.ones(2)})) == [200, 200]
    with pytest.raises(errors.OverTime):
        await pipeline.infer({"a": np.ones(50_000)}, deadline_s=0.2)
    engine.close(wait=True)


async def test_many_rows_are_decided_about_in_the_pool(engine: Engine) -> None:
    split = KeySplit(ref_of(ONE), "country", {"se": ref_of(TWO)})
    pipeline = await put(engine, [split], ONE, TWO)
    count = 2000
    columns = {"x": rows_of(*[4] * count), "country": np.array(["se", "dk"] * (count // 2), np.object_)}
    assert not pipeline.runs_inline(columns)
    assert outputs(await pipeline.infer(columns)) == [8, 4] * (count // 2)


async def test_a_pipeline_that_carries_nothing_takes_no_stream(engine: Engine) -> None:
    from engine.streams import StreamCall

    pipeline = await put(engine, [model(ONE)], ONE)
    with pytest.raises(errors.InputProblem, match="carries nothing from call to call"):
        await answer(pipeline, 4, stream=StreamCall(key="a"))


# --- releases that are none -----------------------------------------------------------------------------------------


async def test_a_release_whose_record_says_other_inputs_than_its_steps_is_refused_before_it_is_tried(
    engine: Engine,
) -> None:
    made = packed_pipeline(definition(ONE), models=[ONE], inputs=(X,), outputs=(Y,))
    lying = verify(made.signed, root=root_of(), manifest=made.manifest, files=whole_files(made, [ONE]))
    verdict = await engine.trial(lying)
    assert isinstance(verdict.problem(), errors.BadPipelineRelease)
    assert not verdict.passing
    with pytest.raises(errors.BadPipelineRelease, match="the signed record says other outputs than its steps have"):
        await load(engine, lying)
    assert engine.loaded() == ()


async def test_steps_that_do_not_fit_are_refused_with_the_release(engine: Engine) -> None:
    made = packed_pipeline(definition(ONE, TWO), models=[ONE, TWO], inputs=(X,), outputs=(Y,))
    broken = verify(made.signed, root=root_of(), manifest=made.manifest, files=whole_files(made, [ONE, TWO]))
    with pytest.raises(errors.BadPipelineRelease, match=r'step 2: input "x" of two@1\.0: expected'):
        await load(engine, broken)


# --- anything that JSON can be --------------------------------------------------------------------------------------

JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=3),
    lambda inner: some.lists(inner, max_size=5) | some.dictionaries(some.sampled_from("xtnz"), inner, max_size=4),
    max_leaves=12,
)
ROWS = some.lists(
    JSON
    | some.fixed_dictionaries(
        {"x": JSON | some.lists(some.floats(width=32), min_size=4, max_size=4), "t": JSON | some.text(), "n": JSON}
    ),
    max_size=4,
)


@given(rows=ROWS)
@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_rows_of_any_json_are_columns_or_a_problem(rows: Any) -> None:
    signature = Signature([X, TensorSpec("t", "BYTES", (-1,)), TensorSpec("n", "INT64", (-1, 1))], elements_max=1000)
    try:
        columns = signature.checked(columns_of_rows(signature, rows))
    except Problem:
        return
    for name, column in columns.items():
        assert len(column) == len(rows)
        for row, value in zip(rows, column.reshape(len(rows), -1).tolist(), strict=True):
            sent = row[name] if isinstance(row[name], list) else [row[name]]
            assert str(value) == str(sent) or np.array_equal(value, np.array(sent, np.float32), equal_nan=True)
