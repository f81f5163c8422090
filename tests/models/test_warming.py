"""What a model's first runs say of its pace, and where its calls run by it."""

from __future__ import annotations

import numpy as np
import pytest

from engine.engine import Engine, EngineSettings
from engine.signature import ELEMENTS_MAX
from engine.warming import MANY_ROWS, SLOW, Pace
from tests.models.making import SCALING_VECTORS, endless_when_positive, scaling
from tests.models.putting import put

ROW = np.array([[1, 2, 3, 4]], np.float32)


@pytest.mark.parametrize(
    ("elements", "expected_us"),
    [(1, 10.0), (4, 10.0), (34, 40.0), (64, 70.0), (128, 140.0), (640, 700.0)],
)
def test_between_two_measurements_cost_lies_on_their_line_and_above_it_grows_with_the_input(
    elements: int, expected_us: float
) -> None:
    assert Pace(10.0, 4, 70.0, 64).expected_us(elements) == pytest.approx(expected_us)


def test_with_one_measurement_all_cost_is_the_inputs() -> None:
    pace = Pace(10.0, 4)
    assert [pace.expected_us(elements) for elements in (1, 4, 40)] == [10.0, 10.0, 100.0]


def test_a_larger_input_that_was_measured_as_quicker_is_taken_as_no_slower() -> None:
    assert Pace(10.0, 4, 2.0, 64).expected_us(64) == 10.0


@pytest.mark.parametrize(
    ("pace", "elements"),
    [
        (Pace(10.0, 4, 70.0, 64), 137),
        (Pace(10.0, 4), 60),
        (Pace(151.0, 1), -1),
        (Pace(SLOW, 1), -1),
        (Pace(0.0, 1), ELEMENTS_MAX),
    ],
)
def test_the_largest_input_within_a_limit(pace: Pace, elements: int) -> None:
    assert pace.elements_within(150.0) == elements


async def test_a_model_is_measured_when_it_is_loaded() -> None:
    engine = Engine(EngineSettings(inline_us=1e6))
    await put(engine, scaling(), vectors=SCALING_VECTORS)
    model = engine.find_model("scaling")
    assert (model.pace.elements, model.pace.many_elements) == (4, 4 * MANY_ROWS)
    assert model.expected_us({"x": ROW}) == model.pace.p99_us
    assert model.counters.read().execution_count == 0, "nobody asked for these runs"
    assert engine.runs_inline(model, {"x": ROW})
    assert not engine.runs_inline(model, {"x": np.ones((model.inline_elements // 4 + 1, 4), np.float32)})
    engine.close()


async def test_a_graph_with_loops_never_runs_on_the_loop() -> None:
    engine = Engine(EngineSettings(inline_us=1e9))
    await put(engine, endless_when_positive())
    model = engine.find_model("scaling")
    assert not engine.runs_inline(model, {"x": ROW})
    assert model.expected_us({"x": ROW}) == SLOW
    engine.close()
