"""Aggregates and first rows over more rows than may be held: the answers are those of a peer that holds them all."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from query.declarations import Role
from query.errors import BadStatement, LimitExceeded, Problem
from query.limits import EvaluationLimits
from query.merging import MergedGroups
from query.parsing import parse_statement
from query.splitting import MERGED_ROWS, Split, split
from query.values import decode_value, encode_value
from tests.language.asking import Peer
from tests.language.test_splitting import run

FEW = EvaluationLimits(bag_rows=7)

numbers = st.one_of(
    st.none(), st.integers(-50, 50), st.integers(-(10**30), 10**30), st.floats(), st.sampled_from([1, 1.0, -0.0, 0.1])
)
vectors = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2)
rows_of = st.lists(st.tuples(st.sampled_from("abc"), numbers, st.integers(-3, 3), vectors), max_size=40)

FROM = "from r in :rows, Object k, Object x, Object n, Object v where k = r[1] and x = r[2] and n = r[3] and v = r[4]"
EXACT = (
    "count(x), sum(x), avg(x), mean(x + 0.5), min(x), max(x), some(x > 3), notany(x > 3), top_k(x, 3), top_k(x, :k), "
    "approx_top_k(x, 2), approx_count_distinct(n), approx_quantile(n, 0.5), sum(v), min(k), max(k), var(n), stdev(n), "
    "sum(case when n > 0 then x end)"
)
TEXTS = (
    f"select {EXACT} {FROM}",
    f"select k, {EXACT} {FROM} group by k",
    f"select k, n % 2 as o, count(x) as c, sum(x) {FROM} group by k, n % 2 having count(x) > 1 order by c desc, k, o",
    f"select distinct count(x), n {FROM} group by n order by count(x), n limit 2",
    f"select k {FROM} group by k",
    f"select y, (select sum(x * y) {FROM}) from y in [1, 2]",
    f"select vector of (select count(x) {FROM} and n < y) from y in [0, 1, 2]",
    f"select count(n) + (select sum(y) from y in [1, 2]), max(n) {FROM}",
    f"select k, (select vector of k || y from y in ['1', '2']), max(n) {FROM} group by k",
    f"select case when count(n) < 3 then 'few' else sum(n) end {FROM} and n < 0",
    f"select sum(case when n in (select y * x from y in [1, 2]) then n else 1 end), count(x) {FROM}",
    f"select range(1, count(n) % 5), k {FROM} group by k",
    f"select sum(v), sum(case when n < 2 then n else v end) {FROM}",
    f"select k, x, n {FROM} order by n desc, k limit 3",
    f"select k, x, n {FROM} order by x, n desc limit 4",
    f"select distinct n, k {FROM} order by n limit 3",
    f"select distinct n {FROM} order by x desc limit 2",
    f"select k {FROM} order by k limit 0",
    f"select count(x) {FROM} and k = 'z'",
)


async def asked(peer: Peer, text: str, rows: Any) -> Any:
    """The rows, or what went wrong."""
    try:
        return await peer.rows(text, rows=[list(row) for row in rows], k=2)
    except BadStatement:  # a text that tests nothing
        raise
    except Problem as problem:
        return type(problem), problem.message, problem.span


def same(one: Any, other: Any, *, close: bool = False) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b, close=close) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key], close=close) for key in one)
    if isinstance(one, float):
        near = math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12) if close else one == other
        return near or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


@settings(max_examples=150, deadline=None)
@given(rows_of, st.sampled_from(TEXTS))
async def test_the_answer_is_that_of_all_rows_held(rows: list[Any], text: str) -> None:
    held, folded = await asked(Peer(), text, rows), await asked(Peer(bounds=FEW), text, rows)
    assert same(held, folded, close="var(" in text), (held, folded)


@settings(max_examples=50, deadline=None)
@given(st.lists(rows_of, min_size=1, max_size=3))
@example([[("a", None, 0, [0.0, 0.0])] * 7 + [("a", math.nan, 0, [0.0, 0.0])]])
async def test_parts_of_many_rows_go_together(parts: list[list[Any]]) -> None:
    text = f"select k, {EXACT} {FROM} group by k order by k"
    few = Peer(bounds=FEW)
    variables = {"rows": [list(row) for part in parts for row in part], "k": 2}
    splitting = split(parse_statement(text), few.current, variables)
    assert isinstance(splitting, Split)
    merged = MergedGroups(splitting)
    try:
        for number, part in enumerate(parts):
            found = await run(few, splitting.partial, variables | {"rows": [list(row) for row in part]}, splitting)
            merged.add(f"E{number}", [[decode_value(encode_value(value)) for value in row] for row in found])
    except Problem:
        assert isinstance(await asked(Peer(), text, variables["rows"]), tuple)
        return
    if merged.rows():
        together = await run(few, splitting.final, {**variables, MERGED_ROWS: merged.rows()})
        assert same(await asked(Peer(), text, variables["rows"]), together, close=True)


@pytest.mark.parametrize(
    "text",
    [
        "select 1 / sum(x) from x in range(-10, 10)",
        "select sum(case when x = 9 then 'a' else x end) from x in range(1, 30)",
        "select count(x) from x in range(1, 30) group by x % 2 having max(upper(x)) > 1",
        "select top_k(x, 0) from x in range(1, 30)",
        "select top_k(x, null) from x in range(1, 30)",
        "select approx_quantile(x, 'a') from x in range(1, 30)",
        "select min(case when x < 9 then 'a' else x end) from x in range(1, 30)",
        "select case when true then 1 else sum('a' || x) end, count(x) from x in range(1, 30)",
        "select x from x in range(1, 30) order by case when x = 1 then 'a' else x end desc limit 2",
        "select x from x in range(1, 30) order by case when x = 30 then 'a' else -x end limit 2",
    ],
)
async def test_what_goes_wrong_goes_wrong_alike(text: str) -> None:
    assert await asked(Peer(), text, []) == await asked(Peer(bounds=FEW), text, [])


@pytest.mark.parametrize(
    "text",
    [
        "select median(x) from x in range(1, 7)",
        "select count(x), vectorof(x) from x in range(1, 7)",
        "select count_distinct(x) from x in range(1, 7)",
        "select mine(x) from x in range(1, 7)",
        "select k, top_k(x, k) from x in range(1, 7), k in [1] group by k",
        "select top_k(x, this_many()) from x in range(1, 7)",
        "select count(sample:write('a' || x)) from x in range(1, 7)",
    ],
)
async def test_what_needs_all_rows_has_their_limit(text: str) -> None:
    peer = Peer(bounds=FEW, role=Role.ADMIN)
    await peer.rows("create function mine(Bag of Number v) -> Number as count(v)")
    await peer.rows("create function this_many() -> Integer as 2")
    assert await peer.rows(text)
    with pytest.raises(LimitExceeded, match="rows to be grouped is over its limit of 7 rows"):
        await peer.rows(text.replace("1, 7)", "1, 8)"))


async def test_memory_does_not_grow_with_the_rows() -> None:
    peer = Peer(bounds=EvaluationLimits(bag_rows=500))
    tracemalloc.start()
    try:
        found = await peer.rows(
            "select count(x), sum(x), avg(x), top_k(x, 2) from y in range(1, 30), x in range(1, 1000)"
        )
        assert found == [(30_000, 15_015_000, 500.5, [1000, 1000])]
        ordered = "select y, x from y in range(1, 20), x in range(1, 1000) order by -x, y desc limit 2"
        assert await peer.rows(ordered) == [(20, 1000), (19, 1000)]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


async def test_more_rows_than_a_peer_holds() -> None:
    text = "select y, count(x), avg(x), var(x) from y in [1, 2], x in range(1, 60000) group by y"
    assert [(row[:3], round(row[3])) for row in await Peer().rows(text)] == [
        ((1, 60_000, 30_000.5), 300_005_000),
        ((2, 60_000, 30_000.5), 300_005_000),
    ]
