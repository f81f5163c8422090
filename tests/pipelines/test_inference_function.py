"""``pipeline:infer``: rows in, the rows of the pipeline server's contract out, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from engine.engine import Engine
from engine.errors import InputProblem, ModelNotLoaded
from engine.loaded import CONVERTED_INLINE_MAX
from engine.pipeline_functions import PipelineInference
from engine.records import ROWS_MAX
from federation.pipelines import ModelStep
from query.declarations import Call, Caller, Role
from query.errors import LimitExceeded, Problem
from tests.models.making import scaling
from tests.models.putting import put
from tests.pipelines.defining import ref_of
from tests.pipelines.running import affine, put_pipeline

ONE = affine(1, name="one")
CALL = Call(Caller("ada", Role.VIEWER), datetime(2026, 1, 31, tzinfo=UTC), "here")
ROW = {"x": [1, 2, 3, 4]}


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine(partition="here")
    await put_pipeline(engine, [ONE], [ModelStep(ref_of(ONE))])
    yield engine
    engine.close(wait=True)


async def infer(engine: Engine, rows: Any, name: str = "pipe") -> list[dict[str, Any]]:
    return list(await PipelineInference(engine).infer(CALL, name, rows))


async def test_a_record_is_one_row_and_a_vector_of_records_as_many(engine: Engine) -> None:
    (alone,) = await infer(engine, ROW)
    assert alone["out"] == {"y": 10}
    assert alone["metadata"]["partition"] == "here"
    assert alone["metadata"]["elapsed"][0] > 0
    assert [row["out"]["y"] for row in await infer(engine, [ROW, {"x": [0, 0, 0, 1]}])] == [10, 1]


async def test_many_rows_are_read_beside_the_event_loop(engine: Engine) -> None:
    count = CONVERTED_INLINE_MAX
    found = await infer(engine, [ROW] * count)
    assert len(found) == count
    assert found[-1]["out"] == {"y": 10}


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ("x", InputProblem, "expected a record or a vector of records, found String"),
        ([], InputProblem, "expected at least one row, found none"),
        ([1], InputProblem, 'row 1: expected a record with "x", found the number 1'),
        ([ROW, {}], InputProblem, 'row 2: missing field "x": expected "x", found none'),
        ([ROW] * (ROWS_MAX + 1), LimitExceeded, f"expected at most {ROWS_MAX} rows, found {ROWS_MAX + 1}"),
    ],
)
async def test_other_rows_are_refused(engine: Engine, rows: Any, kind: type[Problem], message: str) -> None:
    with pytest.raises(kind) as caught:
        await infer(engine, rows)
    assert caught.value.message == message


async def test_a_model_and_an_unknown_name_are_told(engine: Engine) -> None:
    await put(engine, scaling())
    with pytest.raises(ModelNotLoaded, match="is a model, expected a pipeline"):
        await infer(engine, ROW, "scaling")
    with pytest.raises(ModelNotLoaded, match='did you mean "pipe"'):
        await infer(engine, ROW, "pip")
