"""One question to many peers: what each is asked, and that the merged answer is that of the whole data."""

from __future__ import annotations

import base64
import math
import re
import sys
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from query.declarations import declarations
from query.errors import BadStatement, LimitExceeded, Problem, WrongArguments
from query.evaluation import evaluate
from query.formatting import format_statement
from query.functions.aggregates import AggregateFunctions
from query.merging import MergedGroups, MergedRows
from query.operators import BadArithmetic
from query.parsing import parse_statement
from query.part_functions import with_parts
from query.partials import BadPartial, kinds
from query.resolution import resolve
from query.session import Session
from query.splitting import MERGED_ROWS, Split, Splitting, TopRows, check_partial, split
from query.syntax import Literal, Statement
from query.values import decode_value, encode_value
from tests.language.asking import NOW, Peer


class Lent(dict[str, Any]):
    """Session variables without bounds."""


async def run(peer: Peer, statement: Statement, variables: dict[str, Any], splitting: Splitting | None = None) -> Any:
    plan = resolve(statement, with_parts(peer.current), variables)
    if splitting is not None:
        check_partial(splitting, plan)
    session = Session()
    session.variables = Lent(variables)  # type: ignore[assignment]
    return [row async for row in evaluate(plan, peer.call, session=session, catalogue=peer)]


async def together(text: str, peers: Sequence[dict[str, Any]]) -> list[Any]:
    """The rows of the whole from peers that have the variables given."""
    peer = Peer()
    statement = parse_statement(text)
    splitting = split(statement, peer.current, peers[0])
    assert splitting is not None
    if isinstance(splitting, TopRows):
        ((limit,),) = await run(peer, splitting.limit, peers[0])
        first = MergedRows(splitting, limit=limit)
        for number, variables in enumerate(peers):
            first.add(f"E{number}", travelled(await run(peer, splitting.partial, variables, splitting)))
        return first.rows()
    merged = MergedGroups(splitting)
    for number, variables in enumerate(peers):
        merged.add(f"E{number}", travelled(await run(peer, splitting.partial, variables, splitting)))
    if not merged.rows():
        return []
    return list(await run(peer, splitting.final, {**peers[0], MERGED_ROWS: merged.rows()}))


def travelled(rows: list[tuple[Any, ...]]) -> list[list[Any]]:
    return [[decode_value(encode_value(value)) for value in row] for row in rows]


def made(text: str, **variables: Any) -> Splitting | None:
    return split(parse_statement(text), Peer().current, variables)


# --- what is split --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "1 + 1",
        "count(models())",
        "sum([1, 2])",
        "set :v = count([1])",
        "select x from x in readings()",
        "select x from x in readings() order by x",
        "select x from x in readings() limit 3",
        "select vector of x from x in readings() order by x limit 3",
        "select sum(v) from Vector v in readings()",  # of each row
        "select sum([x, 1]) from x in readings()",
        "select count(range(1, x)) from x in readings()",
        "select x from x in readings() where x > max([1, 2])",
        "explain select avg(x) from x in readings()",
        "create function f() -> Number as (select avg(x) from x in [1])",
    ],
)
def test_what_runs_whole(text: str) -> None:
    assert made(text) is None


@pytest.mark.parametrize(
    ("text", "partial"),
    [
        ("select avg(temperature())", "select 'part of avg'(temperature())"),
        ("select round(max(count(f())))", "select 'part of max'(count(f()))"),
        ("select avg(t()) where ready()", "select 'part of avg'(t()) where ready()"),
        (
            "select kind, count(x) as n, sum(x) / count(x) from x in f(), kind in g() where x > 1 group by kind "
            "having count(x) > 2 order by n desc, kind limit 3",
            "select kind, 'part of count'(x), 'part of sum'(x) from x in f(), kind in g() where x > 1 group by kind",
        ),
        ("select distinct sum(avg(x)) from x in f()", "select 'part of avg'(x) from x in f()"),
        ("select floor(x) from x in f() group by floor(x)", "select floor(x) from x in f() group by floor(x)"),
        ("select x from x in f() order by g(x) limit 2", "select x as x, g(x) from x in f() order by g(x) limit 2"),
        ("select x as y from x in f() order by y limit 2", "select x as y from x in f() order by y limit 2"),
    ],
)
def test_what_each_peer_is_asked(text: str, partial: str) -> None:
    found = made(text)
    assert found is not None
    written = format_statement(found.partial)
    columns = found.columns if isinstance(found, Split) else ("order 1",)
    for column in columns:
        written = written.replace(f" as {column}", "")
    assert re.sub(r"(part of \w+)\(", r"'\1'(", written) == partial


def test_every_aggregate_of_the_language_can_be_split() -> None:
    assert {declared.name for declared in declarations(AggregateFunctions)} == set(kinds())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("select x, count(x) from x in f()", '"x" is neither grouped nor aggregated'),
        (
            "select this_peer(), avg(t())",
            "this_peer() is neither grouped nor aggregated, and may differ from peer to peer",
        ),
        ("select x from x in f() order by x limit n()", "n() is neither grouped nor aggregated"),
        ("select k, count(x), n() from x in f(), k in g() group by k", "n() is neither grouped nor aggregated"),
        ("select top_k(x, count(x)) from x in f()", "count(x) is not known to a peer alone"),
        (
            "select distinct x from x in f() order by g(x) limit 2",
            "ordered by what the select gives, and g(x) is no item of it",
        ),
    ],
)
def test_what_cannot_be_told_of_all_peers_together(text: str, message: str) -> None:
    with pytest.raises(BadStatement) as caught:
        made(text)
    assert message in caught.value.message
    assert caught.value.span is not None
    assert caught.value.hint


async def test_a_function_that_is_another_thing_on_a_peer_is_found_there() -> None:
    peer = Peer()
    await peer.rows("create function twice(Number x) -> Bag of Number as (select x * y from y in [1, 2])")
    statement = parse_statement("select count(twice(x)) from x in [1, 2]")
    found = split(statement, peer.current, {})
    assert isinstance(found, Split)
    with pytest.raises(BadStatement, match="is no aggregate over the rows on this peer"):
        await run(peer, found.partial, {}, found)


# --- that the answer is that of the whole ---------------------------------------------------------------------------

numbers = st.one_of(st.integers(-(10**20), 10**20), st.floats(allow_nan=False, allow_infinity=False))
reals = st.floats(-1e6, 1e6)
rows_of = st.lists(st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(-50, 50))), max_size=12)

EXACT = (
    "count(x)", "sum(x)", "min(x)", "max(x)", "avg(x)", "count_distinct(x)", "median(x)", "some(x > 3)",
    "notany(x > 3)", "top_k(x, 3)", "approx_count_distinct(x)", "count_distinct(x) + count(x)", "approx_top_k(x, 2)",
)  # fmt: skip
GROUPED = f"select k, {', '.join(EXACT)} from r in :rows, Object k, Object x where k = r[1] and x = r[2] group by k"
WHOLE = f"select {', '.join(EXACT)} from r in :rows, Object x where x = r[2] having count(x) > 0"


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows_of, min_size=2, max_size=5))
async def test_groups_of_all_peers_are_those_of_all_rows(parts: list[list[tuple[str, int | None]]]) -> None:
    peers = [{"rows": [list(row) for row in part]} for part in parts]
    whole = {"rows": [list(row) for part in parts for row in part]}
    for text in (GROUPED + " order by k", WHOLE, GROUPED + " having count(x) > 1 order by sum(x) desc, k limit 2"):
        assert same(await together(text, peers), await run(Peer(), parse_statement(text), whole)), text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(numbers, max_size=8), min_size=1, max_size=5))
async def test_sums_are_rounded_once(parts: list[list[int | float]]) -> None:
    """Whatever lies on which peer: the very same floats."""
    text = "select sum(x), avg(x), count(x) from x in :rows"
    together_ = await together(text, [{"rows": part} for part in parts])
    whole = await run(Peer(), parse_statement(text), {"rows": [value for part in parts for value in part]})
    assert repr(together_) == repr(whole)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(reals, max_size=8), min_size=1, max_size=5))
async def test_variances_and_infinities_merge(parts: list[list[float]]) -> None:
    text = "select var(x), stdev(x) from x in :rows"
    everything = [value for part in parts for value in part]
    ((variance, deviation),) = await together(text, [{"rows": part} for part in parts])
    ((expected, _),) = await run(Peer(), parse_statement(text), {"rows": everything})
    if expected is None:
        assert (variance, deviation) == (None, None)
    else:
        scale = max(map(abs, everything)) ** 2
        assert math.isclose(variance, expected, rel_tol=1e-9, abs_tol=1e-12 * scale + 1e-300)
        assert deviation == math.sqrt(variance)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 9))), max_size=8), min_size=2),
    st.integers(0, 12),
    st.booleans(),
)
async def test_first_rows_of_all_peers_are_those_of_all_rows(parts: Any, limit: int, distinct: bool) -> None:
    items = "distinct r[1] as a, r[2] as b" if distinct else "r[1] as a, r[2] as b"
    text = f"select {items} from r in :rows order by b desc, a limit {limit}"
    peers = [{"rows": [list(row) for row in part]} for part in parts]
    whole = {"rows": [list(row) for part in parts for row in part]}
    found = await together(text, peers)
    assert [values for _, values in found] == [list(row) for row in await run(Peer(), parse_statement(text), whole)]


async def test_special_numbers() -> None:
    text = "select sum(x), avg(x), max(x), min(x) from x in :rows"
    inf, nan = math.inf, math.nan
    for parts in (
        [[inf, 1], [2.0]],
        [[inf], [-inf]],
        [[1e308, 1e308], [-1e308, 5]],
        [[1e308], [1e308]],
        [[nan], [1]],
        [[], []],
    ):
        whole = await run(Peer(), parse_statement(text), {"rows": [value for part in parts for value in part]})
        assert repr(await together(text, [{"rows": part} for part in parts])) == repr(whole)


@pytest.mark.parametrize(
    "parts",
    [
        [[10**17, 10**17 + 1], [10**17 + 2]],
        [[10**400], [1, 2]],
        [[1e308, -1e308], [1.0]],
        [[math.inf], [1]],
        [[1, math.nan], []],
    ],
)
async def test_variances_of_great_numbers(parts: list[list[int | float]]) -> None:
    text = "select var(x) from x in :rows"
    whole = await run(Peer(), parse_statement(text), {"rows": [value for part in parts for value in part]})
    ((expected,),), ((found,),) = whole, await together(text, [{"rows": part} for part in parts])
    assert found == pytest.approx(expected, nan_ok=True)
    if parts[0][0] == 10**17:
        assert expected == 1.0


async def test_what_python_takes_for_equal_is_not_asked_once() -> None:
    text = "select sum(x * 1), sum(x * 1.0), some(x = 1), some(x = true) from x in :rows"
    assert repr(await together(text, [{"rows": [1]}, {"rows": [2]}])) == "[(3, 3.0, True, False)]"
    text = "select count_distinct(x) from x in :rows"
    assert await together(text, [{"rows": [True, ["bool", 1]]}, {"rows": [math.nan, ["NaN"]]}]) == [(4,)]


def test_many_keys_and_aggregates_are_not_compared_each_with_each() -> None:
    compared = 0

    def counting(frame: Any, event: str, _: Any) -> None:
        nonlocal compared
        compared += event == "call" and frame.f_code is Literal.__eq__.__code__

    many = range(300)
    items = ", ".join(f"{number}, sum(x + {number})" for number in many)
    text = f"select {items} from x in :r group by {', '.join(map(str, many))} order by {', '.join(map(str, many))}"
    sys.setprofile(counting)
    try:
        found = made(text, r=[1])
    finally:
        sys.setprofile(None)
    assert isinstance(found, Split)
    assert (found.keys, len(found.aggregates)) == (300, 300)
    assert compared < 5_000


async def test_vectors_add_up_and_values_travel() -> None:
    peers = [{"rows": [[1, 2], [3, 4]]}, {"rows": [[10, 20]]}]
    assert await together("select sum(x), vectorof(x[1]) from x in :rows", peers) == [([14, 26], [1, 3, 10])]


async def test_a_select_without_from_takes_each_peers_values() -> None:
    text = "select avg(:mine), count(:mine) as n, :scale * max(:mine)"
    assert await together(text, [{"mine": 1, "scale": 2}, {"mine": [2, 6], "scale": 2}]) == [(3.0, 3, 12)]


async def test_a_nested_select_has_its_own_rows() -> None:
    text = "select k, (select sum(y) + count(y) from y in [k, 1]), count(x) from r in :rows, Object k, Object x "
    text += "where k = r[1] and x = r[2] group by k order by k"
    peers = [{"rows": [[1, 2], [2, 2]]}, {"rows": [[2, 5]]}]
    assert await together(text, peers) == [(1, 4, 1), (2, 5, 2)]
    text = "select x, (select sum(x) from x in [1, 2, 3]) from x in :rows group by x order by x"
    assert await together(text, [{"rows": [1]}, {"rows": [2, 1]}]) == [(1, 6), (2, 6)]


async def test_having_is_told_as_such() -> None:
    with pytest.raises(WrongArguments, match="having: expected a Boolean, found Integer 1"):
        await together("select count(x) from x in :rows having count(x)", [{"rows": [1]}])


async def test_peers_without_rows() -> None:
    none: list[Any] = []
    assert await together("select count(x), max(x) from x in :rows", [{"rows": none}, {"rows": none}]) == [(0, None)]
    assert await together("select x, count(x) from x in :rows group by x", [{"rows": none}, {"rows": none}]) == []
    assert await together("select x, count(x) from x in :rows group by x", [{"rows": [2]}, {"rows": none}]) == [(2, 1)]
    one_of_two = [{"mine": 1, "on": True}, {"mine": 5, "on": False}]
    assert await together("select max(:mine) where :on", one_of_two) == [(1,)]


async def test_approximations_are_near() -> None:
    parts = [[number * 7 % 5000 for number in range(start, start + 4000)] for start in range(0, 20_000, 4000)]
    text = "select approx_count_distinct(x), approx_quantile(x, 0.9), approx_top_k(x % 10, 3) from x in :rows"
    ((different, ninth, often),) = await together(text, [{"rows": part} for part in parts])
    assert abs(different - 5000) < 5000 * 0.06
    assert abs(ninth - 4500) < 5000 * 0.03
    assert [record["count"] for record in often] == [2000] * 3


def test_what_occurs_most_is_known_to_within_the_error_told() -> None:
    kind = kinds()["approx_top_k"]
    parts = [[f"rare-{peer}-{number}" for number in range(400)] + ["often"] * 50 for peer in range(20)]
    merged = kind.read(kind.state(parts[0], 3))
    for part in parts[1:]:
        merged = kind.merge(merged, kind.read(kind.state(part, 3)))
    first = kind.result(merged, 1)[0]
    assert (first["value"], first["count"]) == ("often", 1000)
    assert first["error"] >= 20  # for each peer, what it left out


# --- whole peers, and what is no part -------------------------------------------------------------------------------


def groups_of(text: str) -> MergedGroups:
    found = made(text)
    assert isinstance(found, Split)
    return MergedGroups(found)


def test_a_peer_is_taken_whole_or_not_at_all() -> None:
    merged = groups_of("select k, max(x) from x in f(), k in g() group by k")
    merged.add("E1", [["a", 1], ["b", 2]])
    before = [[row[0], row[1].part] for row in merged.rows()]
    with pytest.raises(WrongArguments):
        merged.add("E2", [["a", 9], ["c", 9], ["b", "text"]])
    assert [[row[0], row[1].part] for row in merged.rows()] == before


GARBAGE = (None, True, -1, 2**70, 1.5, "x", [], {}, [1], [1, 2, 3, 4, 5], ["a"] * 6, [0, 0, 0, [math.inf], None, None],
           [1, 1, 0, [1.0] * 99, None, None], [[]] * 6, "AAAA", "%", [1, [[1]]], [5, [3, 2, 1, 0, 0, 0]])  # fmt: skip


@pytest.mark.parametrize("name", sorted(kinds()))
def test_garbage_is_refused_as_such(name: str) -> None:
    extra = {"top_k": ", 3", "approx_top_k": ", 3", "approx_quantile": ", 0.5"}.get(name, "")
    merged = groups_of(f"select {name}(x{extra}) from x in f()")
    refused = 0
    for number, wire in enumerate(GARBAGE):
        try:
            merged.add(f"E{number}", [[wire]])
        except (BadPartial, Problem):
            refused += 1
    assert refused >= (0 if name in ("vectorof", "count_distinct") else 8)
    with pytest.raises(BadPartial, match="expected rows of 1 values, found one of 2"):
        merged.add("E", [[1, 2]])


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.just(NOW)),
    lambda inner: st.one_of(st.lists(inner, max_size=7), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=20,
)
LIKE_SUMS = st.tuples(
    st.integers(), st.integers(), st.integers(), st.lists(st.floats(), max_size=3), JSON, JSON
).map(list)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(kinds())), st.one_of(JSON, LIKE_SUMS, st.lists(JSON, min_size=5, max_size=6)))
def test_whatever_a_peer_sends_is_taken_or_refused(name: str, wire: Any) -> None:
    kind = kinds()[name]
    extra = {"top_k": (3,), "approx_top_k": (3,), "approx_quantile": (0.5,)}.get(name, ())
    honest = kind.read(kind.state([1, 2.5], *extra))
    try:
        part = kind.read(wire)
        encode_value(kind.result(part, *extra))
        encode_value(kind.result(kind.merge(part, honest), *extra))
        encode_value(kind.result(kind.merge(honest, part), *extra))
    except Problem:
        pass


@pytest.mark.parametrize("name", ["approx_count_distinct", "approx_quantile"])
def test_damaged_sketches_do_no_harm(name: str) -> None:
    """The library that reads them ends the process on some."""
    kind, random = kinds()[name], Random(28)
    sizes = (0, 1, 5, 7, 8, 24, 150, 201, 400, 3000)
    honest = [
        kind.state([random.random() for _ in range(size)], *[0.5] * (name == "approx_quantile")) for size in sizes
    ]
    taken = 0
    for _ in range(4000):
        content = bytearray(base64.b64decode(random.choice(honest)))
        for _ in range(random.choice((1, 2, 8))):
            content[random.randrange(min(len(content), random.choice((16, 64, len(content)))))] = random.randrange(256)
        if random.random() < 0.2:
            del content[random.randrange(len(content)) :]
        try:
            part = kind.read(base64.b64encode(content).decode())
        except BadPartial:
            continue
        taken += 1
        kind.result(kind.merge(part, kind.read(random.choice(honest))), *[0.5] * (name == "approx_quantile"))
    assert taken > 100  # a changed count, or nothing changed


def test_great_integers_where_reals_are_expected_are_refused() -> None:
    great = 10**400
    with pytest.raises(BadPartial):
        groups_of("select avg(x) from x in f()").add("E1", [[[1, 0, 1, [great], None]]])
    with pytest.raises(BadPartial):
        groups_of("select var(x) from x in f()").add("E1", [[[2, 0, 0, [], None, great]]])
    with pytest.raises(BadArithmetic):
        kinds()["median"].result([great, great + 1])


def test_who_comes_first_with_what_is_no_order_keeps_nobody_out() -> None:
    merged = groups_of("select top_k(x, 3) from x in f()")
    with pytest.raises(WrongArguments, match="one type"):
        merged.add("E1", [[[3, [1, "text"]]]])
    merged.add("E2", [[[3, [5]]]])
    top = made("select x from x in f() order by x limit 3")
    assert isinstance(top, TopRows)
    first = MergedRows(top, limit=3)
    first.add("E1", [[math.nan]])
    first.add("E2", [["text"]])
    with pytest.raises(WrongArguments, match="one type"):
        first.add("E3", [[2]])
    assert [target for target, _ in first.rows()] == ["E2", "E1"]


def test_bounds() -> None:
    merged = groups_of("select k, count(x) from x in f(), k in g() group by k")
    merged.add("E1", [[number, 1] for number in range(100_000)])
    merged.add("E2", [[number, 1] for number in range(1000)])
    with pytest.raises(LimitExceeded, match="100000 groups"):
        merged.add("E3", [[-1, 1]])
    values = groups_of("select median(x) from x in f()")
    values.add("E1", [[[1] * 60_000]])
    with pytest.raises(LimitExceeded) as caught:
        values.add("E2", [[[1] * 60_000]])
    assert caught.value.hint == "approx_quantile(values, 0.5)"


def test_first_rows_are_bounded_and_cut() -> None:
    top = made("select x from x in f() order by x limit 10")
    assert isinstance(top, TopRows)
    merged = MergedRows(top, limit=10)
    for number in range(12):
        merged.add(f"E{number}", [[value] for value in range(number, 9_500)])
    assert merged.rows() == [(f"E{peer}", [value]) for value in range(4) for peer in range(value + 1)]
    assert len(merged) <= 100_000
    with pytest.raises(WrongArguments, match="one type"):
        merged.add("E", [["text"]])
    endless = MergedRows(top, limit=None)
    endless.add("E1", [[value] for value in range(100_000)])
    with pytest.raises(LimitExceeded):
        endless.add("E2", [[1]])


def test_what_a_group_costs_is_told_before() -> None:
    few = made("select k, avg(x) from x in f(), k in g() group by k")
    values = made("select median(x) from x in f()")
    assert isinstance(few, Split)
    assert isinstance(values, Split)
    assert few.group_bytes_about == 100
    assert values.group_bytes_about is None
