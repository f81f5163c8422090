"""One statement's frames come in order and its ledger sums, whatever happened."""

from __future__ import annotations

import asyncio

import pytest

from peers.answering import Answering
from query.errors import ErrorRecord
from query.frames import Column, EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame, SchemaFrame
from query.ledger import Ledger, Outcome, State


def answering(targets: tuple[str, ...], size: int = 0) -> tuple[Answering, asyncio.Queue[Frame]]:
    queue: asyncio.Queue[Frame] = asyncio.Queue(size)
    return Answering(queue, statement=3, targets=targets, query="q-1", plot="line", tagged=len(targets) > 1), queue


def drained(queue: asyncio.Queue[Frame]) -> list[Frame]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


async def test_an_error_before_the_schema_waits_for_it() -> None:
    answer, queue = answering(("e1",))
    await answer.error(ErrorRecord("x", "broken"))
    answer.settle_open(State.ERROR, "x")
    await answer.end()
    schema, error, end = drained(queue)
    assert schema == SchemaFrame(3, (), "line", "q-1")
    assert error == ErrorFrame(3, ErrorRecord("x", "broken"))
    assert isinstance(end, EndFrame)
    assert end.ledger == Ledger((Outcome("E1", State.ERROR, "x"),))
    assert not answer.answered


async def test_only_the_first_of_several_schemas_is_given_and_rows_carry_their_peer() -> None:
    answer, queue = answering(("e1", "e2"))
    columns = (Column("value", "Integer"),)
    await answer.schema(columns)
    await answer.row((1,), peer="e1")
    await answer.schema((Column("other", "Object"),))
    answer.settle(answer.answered_by("e1"))
    answer.settle(answer.answered_by("e2"))
    await answer.end()
    assert drained(queue)[:2] == [SchemaFrame(3, columns, "line", "q-1"), RowFrame(3, (1,), "E1")]
    assert answer.answered


async def test_a_late_state_changes_nothing_and_every_target_has_one() -> None:
    answer, queue = answering(("a", "b", "c"))
    answer.settle(Outcome("A", State.ROWS, rows=2))
    answer.settle(Outcome("A", State.TIMEOUT))
    assert answer.open == ("B", "C")
    answer.settle_open(State.UNREACHABLE, "never")
    await answer.end()
    end = drained(queue)[-1]
    assert isinstance(end, EndFrame)
    assert end.ledger.counts == {"rows": 1, "unreachable": 2}
    assert not end.ledger.complete


async def test_an_answer_cannot_end_while_a_target_has_no_state() -> None:
    answer, _ = answering(("a",))
    with pytest.raises(ValueError, match="targets without a state: A"):
        await answer.end()


async def test_progress_is_dropped_rather_than_waited_for() -> None:
    answer, queue = answering(("a",), size=1)
    answer.progress("publish", 1, 10, "bytes", peer="a")
    answer.progress("publish", 2, 10, "bytes", peer="a")
    assert drained(queue) == [ProgressFrame(3, "publish", 1, 10, "bytes", None)]


async def test_a_relayed_answer_keeps_the_ledger_of_who_composed_it() -> None:
    answer, queue = answering(("all",))
    ledger = Ledger((Outcome("E1", State.ROWS, rows=1), Outcome("E2", State.UNREACHABLE, "never")))
    await answer.relay(SchemaFrame(0, ()))
    await answer.relay(RowFrame(0, (7,), "E1"))
    assert not answer.relayed
    await answer.relay(EndFrame(0, ledger, 1, 2.0))
    await answer.end()
    frames = drained(queue)
    assert frames[1] == RowFrame(3, (7,), "E1")
    end = frames[-1]
    assert isinstance(end, EndFrame)
    assert end.ledger == ledger
    assert end.statement == 3
