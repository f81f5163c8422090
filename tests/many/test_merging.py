"""The answers of several targets to one split statement, frame by frame: each counts whole, or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from peers.answering import Answering
from peers.merging import ASIDE_BYTES_MAX, PART_BYTES_MAX, Merging
from query.errors import BadStatement, UnknownName
from query.frames import Column, EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame, SchemaFrame
from query.ledger import Ledger, Outcome, State
from query.parsing import parse_statement
from query.partials import BadPartial
from tests.language.asking import Peer

GROUPS = "select k, count(x) as n, sum(x) from x in f(), k in g() group by k order by k"
FIRST = "select x as v from x in f() order by x desc limit 3"


async def merging(text: str, **variables: Any) -> Merging:
    peer = Peer()
    made = await Merging.of(parse_statement(text), call=peer.call, variables=variables, catalogue=peer)
    assert made is not None
    return made


def answer_of(*targets: str) -> tuple[Answering, asyncio.Queue[Frame]]:
    queue: asyncio.Queue[Frame] = asyncio.Queue()
    return Answering(queue, statement=0, targets=targets, query="q", tagged=True), queue


def taken(queue: asyncio.Queue[Frame]) -> list[Frame]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


async def given(merging: Merging) -> list[Any]:
    return [(values, peer) async for values, peer in merging.rows()]


def columns(merging: Merging) -> tuple[Column, ...]:
    return tuple(Column(name, "Object") for name in merging.splitting.columns)


def group(key: str, count: int, total: int) -> tuple[Any, ...]:
    return (key, count, [count, total, 0, [], None, None])


async def test_the_answer_so_far_is_that_of_who_came_to_the_end() -> None:
    made = await merging(GROUPS)
    answering, queue = answer_of("e1", "e2", "e3")
    assert [column.name for column in made.columns or ()] == ["k", "n", "sum(x)"]
    one, two, three = (made.part(name, answering) for name in ("e1", "e2", "e3"))
    for part in (one, two, three):
        await part.schema(columns(made))
    await one.row(group("a", 1, 10), peer="e1")
    await two.row(group("a", 2, 5), peer="e2")
    assert await given(made) == []
    one.settle(Outcome("E1", State.ROWS, rows=1))
    assert await given(made) == [(("a", 1, 10), None)]
    await two.row(group("b", 1, 1), peer="e2")
    two.settle(Outcome("E2", State.ROWS, rows=2))
    two.settle(Outcome("E2", State.ROWS, rows=2))
    assert await given(made) == [(("a", 3, 15), None), (("b", 1, 1), None)]
    three.settle(Outcome("E3", State.EMPTY))
    await made.give(answering, peer="ns")
    await answering.end()
    frames = taken(queue)
    assert [frame.values for frame in frames if isinstance(frame, RowFrame)] == [("a", 3, 15), ("b", 1, 1)]
    assert [frame.done for frame in frames if isinstance(frame, ProgressFrame)] == [1, 2, 3]
    (end,) = (frame for frame in frames if isinstance(frame, EndFrame))
    assert [str(outcome) for outcome in end.ledger.outcomes] == ["rows", "rows", "empty"]


async def test_a_vector_of_no_groups_is_a_row() -> None:
    """As one peer alone answers; nothing where nobody answered."""
    made = await merging("select vector of count(x) from x in f() group by x")
    assert await given(made) == []
    made.add("e1", columns(made), [])
    assert await given(made) == [(([],), None)]


@pytest.mark.parametrize("state", [State.UNREACHABLE, State.ERROR, State.TIMEOUT, State.CANCELLED, State.REFUSED])
async def test_half_a_peer_is_nobody(state: State) -> None:
    """It failed after it had sent a part of its groups."""
    made = await merging(GROUPS)
    answering, _ = answer_of("e1", "e2")
    whole, half = made.part("e1", answering), made.part("e2", answering)
    for part, target in ((whole, "e1"), (half, "e2")):
        await part.schema(columns(made))
        await part.row(group("a", 1, 1), peer=target)
    half.settle(Outcome("E2", state))
    whole.settle(Outcome("E1", State.ROWS))
    assert await given(made) == [(("a", 1, 1), None)]


async def test_an_answer_of_another_form_is_not_counted() -> None:
    """A peer of an older version runs the statement whole."""
    made = await merging(GROUPS)
    answering, queue = answer_of("e1")
    part = made.part("e1", answering)
    await part.schema((Column("k", "String"), Column("n", "Integer"), Column("sum(x)", "Object")))
    await part.row(("a", 3, 12), peer="e1")
    part.settle(Outcome("E1", State.ROWS, rows=1))
    await part.end()
    await made.give(answering, peer="ns")
    await answering.end()
    frames = taken(queue)
    (problem,) = (frame.error for frame in frames if isinstance(frame, ErrorFrame))
    assert (problem.code, problem.peer) == ("bad_partial", "E1")
    assert problem.message == "E1 gave no partial result of this statement"
    assert not [frame for frame in frames if isinstance(frame, RowFrame)]
    (end,) = (frame for frame in frames if isinstance(frame, EndFrame))
    assert [str(outcome) for outcome in end.ledger.outcomes] == ["error(bad_partial)"]


@pytest.mark.parametrize("values", [({"$number": "x"}, 1, [1, 1, 0, [], None, None]), ("a", -1, []), ("a",), ()])
async def test_rows_that_are_none_are_not_counted(values: tuple[Any, ...]) -> None:
    made = await merging(GROUPS)
    answering, queue = answer_of("e1", "e2")
    for name, row in (("e1", values), ("e2", group("a", 1, 7))):
        part = made.part(name, answering)
        await part.schema(columns(made))
        await part.row(row, peer=name)
        part.settle(Outcome(name.upper(), State.ROWS, rows=1))
        await part.end()
    assert await given(made) == [(("a", 1, 7), None)]
    await answering.end()
    (end,) = (frame for frame in taken(queue) if isinstance(frame, EndFrame))
    assert [outcome.state for outcome in end.ledger.outcomes] == [State.ERROR, State.ROWS]


async def test_a_part_is_bounded_in_bytes() -> None:
    made = await merging(GROUPS)
    answering, queue = answer_of("e1")
    part = made.part("e1", answering)
    await part.schema(columns(made))
    great = "k" * (PART_BYTES_MAX // 4)
    for number in range(4):
        await part.row(group(f"{number}{great}", 1, 7), peer="e1")
    part.settle(Outcome("E1", State.ROWS, rows=4))
    await part.end()
    assert await given(made) == []
    await answering.end()
    (problem,) = (frame.error for frame in taken(queue) if isinstance(frame, ErrorFrame))
    assert problem.message == f"a partial answer is over its limit of {PART_BYTES_MAX} bytes: found more"


async def test_what_all_parts_put_aside_is_bounded_together() -> None:
    made = await merging(GROUPS)
    answering, queue = answer_of("e1", "e2", "e3")
    first, second, third = (made.part(f"e{number}", answering) for number in (1, 2, 3))
    for part in (first, second, third):
        await part.schema(columns(made))
    await first.row(group("a", 1, 7), peer="e1")
    made.aside += ASIDE_BYTES_MAX  # of parts that have not ended
    await second.row(group("b", 1, 7), peer="e2")
    made.aside -= ASIDE_BYTES_MAX
    await third.row(group("c", 1, 7), peer="e3")
    for number, part in enumerate((first, second, third), 1):
        part.settle(Outcome(f"E{number}", State.ROWS, rows=1))
        await part.end()
    assert made.aside == 0
    assert sorted(values[0] for values, _ in await given(made)) == ["a", "c"]
    await answering.end()
    *_, end = taken(queue)
    assert [str(outcome) for outcome in end.ledger.outcomes] == ["rows", "error(limit)", "rows"]


async def test_first_rows_carry_their_peers_and_the_columns_of_the_answer() -> None:
    made = await merging(FIRST)
    answering, queue = answer_of("e1", "e2")
    for name, rows in (("e1", [(9,), (4,), (1,)]), ("e2", [(7,)])):
        part = made.part(name, answering)
        await part.schema((Column("v", "Integer"),))
        for row in rows:
            await part.row(row, peer=name)
        part.settle(Outcome(name.upper(), State.ROWS, rows=len(rows)))
    await made.give(answering, peer="ns")
    frames = taken(queue)
    assert frames[0] == SchemaFrame(0, (Column("v", "Integer"),), None, "q")
    rows_given = [(frame.values, frame.peer) for frame in frames if isinstance(frame, RowFrame)]
    assert rows_given == [((9,), "E1"), ((7,), "E2"), ((4,), "E1")]


async def test_whole_answers_can_be_taken_at_once() -> None:
    made = await merging(GROUPS)
    frames: list[Frame] = [SchemaFrame(0, columns(made)), RowFrame(0, group("a", 2, 3))]
    lost = EndFrame(0, Ledger((Outcome("E1", State.UNREACHABLE),)), 1, 0.0)
    assert made.take("e1", [*frames, lost]) is None
    assert await given(made) == []
    ended = EndFrame(0, Ledger((Outcome("E1", State.ROWS),)), 1, 0.0)
    assert made.take("e1", [*frames, ended]) is None
    assert await given(made) == [(("a", 2, 3), None)]
    odd = [SchemaFrame(0, (Column("x", "Object"),)), ended]
    assert isinstance(made.take("e2", odd), BadPartial)


async def test_what_cannot_be_merged_is_refused_at_the_beginning() -> None:
    with pytest.raises(BadStatement):
        await merging("select k, this_peer(), count(x) from x in f(), k in g() group by k")
    with pytest.raises(UnknownName):
        await merging("select x from x in f() order by x limit :n")
    peer = Peer()
    assert await Merging.of(parse_statement("1 + 1"), call=peer.call, variables={}, catalogue=peer) is None
