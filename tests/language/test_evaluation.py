"""Expressions, selects, functions and what they may cost."""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from query import limits
from query.catalogue import NameTaken, user_function
from query.declarations import Role
from query.errors import (
    BadStatement,
    Forbidden,
    LimitExceeded,
    NotDeletable,
    Problem,
    Span,
    UnknownName,
    UserProblem,
    WrongArguments,
    WrongHome,
)
from query.evaluation import evaluate
from query.limits import EvaluationLimits
from query.operators import BadArithmetic
from query.parsing import parse, parse_statement
from query.resolution import resolve
from query.syntax import CreateFunction
from query.text_form import to_text
from query.values import NotAValue
from tests.language.asking import NOW, Peer


async def problem(
    text: str, kind: type[Problem] = UserProblem, *, peer: Peer | None = None, **variables: Any
) -> Problem:
    with pytest.raises(kind) as caught:
        await (peer or Peer()).rows(text, **variables)
    return caught.value


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ("1 + 2 * 3 ^ 2", "19"),
        ("2 ^ 100", "1267650600228229401496703205376"),
        ("9007199254740993 + 0", "9007199254740993"),
        ("7 / 2", "3.5"),
        ("6 / 2", "3.0"),
        ("-7 % 3", "2"),
        ("2 ^ -1", "0.5"),
        ("1e308 * 10", "Infinity"),
        ("'a' || 1 || null", "null"),
        ("'a' || 1 || [1,'x']", "\"a1[1,'x']\""),
        ("'a' + 'b' + 1", '"ab1"'),
        ("[1,2] + [10,20]", "[11,22]"),
        ("[1,2] * 2 - [1]", "[1,3]"),
        ("[[1,2],[3,4]] + [10,20]", "[[11,22],[13,24]]"),
        ("[[1],[2]] * [1,10]", "[[1,10],[2,20]]"),
        ("[1,null] + 1", "[2,null]"),
        ("-[1,2]", "[-1,-2]"),
        ("[2 ^ 70] + 1", "[1180591620717411303425]"),
        ("[9223372036854775807] * 2", "[18446744073709551614]"),
        ("[1,2.5] - 1", "[0,1.5]"),
        ("1 - [1,null]", "[0,null]"),
        ("tensor('float32',[1,2]) * 2", "tensor('float32',[2.0,4.0])"),
        ("[1,2] + tensor('int64',[10])", "tensor('int64',[11,12])"),
        ("1 = 1.0", "true"),
        ("true = 1", "false"),
        ("'a' < 'b'", "true"),
        ("[1,2] = [1,2]", "true"),
        ("[1,2] < [1,3]", "true"),
        ("{'a':1} = {'a':1.0}", "true"),
        ("1 = 'a'", "false"),
        ("NaN = NaN", "false"),
        ("1 in [1,2]", "true"),
        ("3 not in [1,2]", "true"),
        ("2 in range(1,3)", "true"),
        ("2 in (select x + 1 from x in [1])", "true"),
        ("5 between 1 and 9", "true"),
        ("'edge-7' like 'edge%'", "true"),
        ("'edge-7' like 'edge-_'", "true"),
        ("'edge-7' like '%e%e%'", "true"),
        ("'edge' like '%e%e%e%'", "false"),
        ("'a.c' like 'a_c'", "true"),
        ("'abc' like 'a.c'", "false"),
        ("case when 1 > 2 then 'a' when 2 > 1 then 'b' else 'c' end", '"b"'),
        ("case when null then 'a' end", "null"),
        ("[10,20,30][1]", "10"),
        ("[[1,2],[3,4]][2][1]", "3"),
        ("tensor('f4',[[1,2],[3,4]])[2]", "tensor('float32',[3.0,4.0])"),
        ("tensor('f4',[1,2])[2]", "2.0"),
        ("{'a':{'b':[5]}}.a.b[1]", "5"),
        ("{'a b':1}['a b']", "1"),
        ("{'Key':1}.key", "1"),
        ("{'a':1}.b", "null"),
        ("cast('12' as Integer) + 1", "13"),
        ("cast(1.9 as Integer)", "1"),
        ("cast(1 as Real)", "1.0"),
        ("cast('true' as Boolean)", "true"),
        ("cast([1,2] as Tensor)", "tensor('int64',[1,2])"),
        ("cast(tensor('f4',[1]) as Vector)", "[1.0]"),
        ("cast(['1','2'] as Vector of Integer)", "[1,2]"),
        ("cast('2026-01-31' as Timestamp)", "|2026-01-31T00:00:00Z|"),
        ("cast([1] as String)", '"[1]"'),
        ("|2026-01-31| + 60", "|2026-01-31T00:01:00Z|"),
        ("|2026-02-01| - |2026-01-31|", "86400.0"),
        ("now()", "|2026-01-31T12:00:00Z|"),
        ("SQRT(9)", "3.0"),
        ("sample:later(1)", "2"),
        ("sample:optional(1)", "[1,7]"),
        ("sample:optional(1, 2)", "[1,2]"),
        ("sample:tuple()", "[1,['a',null]]"),
        ("sample:kind(1)", '"integer"'),
        ("sample:kind('a')", '"string"'),
        ("sample:kind([1,'a'][2])", '"string"'),
        ("sum([1,2.5])", "3.5"),
        ("sum([[1,2],[3,4]])", "[4,6]"),
    ],
)
async def test_one_value(text: str, shows: str) -> None:
    assert await Peer().texts(text) == [shows]


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ("null = null", "null"),
        ("null != 1", "null"),
        ("null < 1", "null"),
        ("null + 1", "null"),
        ("null || 'a'", "null"),
        ("not null", "null"),
        ("null and false", "false"),
        ("null and true", "null"),
        ("null or true", "true"),
        ("null or false", "null"),
        ("1 in [2,null]", "null"),
        ("1 in [1,null]", "true"),
        ("null in [1]", "null"),
        ("null in []", "false"),
        ("null between 1 and 2", "null"),
        ("5 between null and 2", "false"),
        ("null like 'a'", "null"),
        ("null is null", "true"),
        ("1 is not null", "true"),
        ("null[1]", "null"),
        ("sqrt(null)", "null"),
        ("count([null,1])", "1"),
        ("sum([null,1])", "1"),
        ("avg([])", "null"),
        ("coalesce(null, 2)", "2"),
    ],
)
async def test_null_follows_sql(text: str, shows: str) -> None:
    assert await Peer().texts(text) == [shows]


async def test_where_keeps_only_true() -> None:
    assert await Peer().values("select x from x in [1,null,3] where x > 1") == [3]
    assert await Peer().values("select x from x in [1,null,3] where not x > 1") == [1]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("range(1,3)", ["1", "2", "3"]),
        ("range(1,2) * 10", ["10", "20"]),
        ("range(1,2) + range(10,11)", ["11", "12", "12", "13"]),
        ("sqrt(range(1,1))", ["1.0"]),
        ("sample:pairs()", ['{"k":\'a\',"v":1}', '{"k":\'b\',"v":2}']),
        ("sample:pairs().v", ["1", "2"]),
        ("sum(sample:pairs().v)", ["3"]),
        ("[1,2]", ["[1,2]"]),
        ("select x from x in [3,1,2] order by x", ["1", "2", "3"]),
        ("select x, -x as y from Integer x in [1,2] order by y", ["2 -2", "1 -1"]),
        ("select x from x in [1,null,2] order by x desc", ["2", "1", "null"]),
        ("select x from x in [NaN,2,1] order by x", ["1", "2", "NaN"]),
        ("select x, y from x in [1,2], y in [2,1] order by y desc, x", ["1 2", "2 2", "1 1", "2 1"]),
        ("select x from x in range(1,100) limit 2", ["1", "2"]),
        ("select x from x in range(1,9) limit 0", []),
        ("select x from x in range(1,9) order by -x limit 1", ["9"]),
        ("select x from x in sample:endless() where x % 2 = 1 limit 2", ["1", "3"]),
        ("select distinct x % 2 from x in range(1,9)", ["1", "0"]),
        ("select distinct x from x in [1,1.0,true,'1',[1],[1.0]]", ["1", "true", '"1"', "[1]"]),
        ("select vector of x * 2 from x in [1,2]", ["[2,4]"]),
        ("select vector of x, y from x in [1], y in [2,3]", ["[[1,2],[1,3]]"]),
        ("count(select x from x in range(1,9) where x > 3)", ["6"]),
        ("count((select x, y from x in [1,2], y in [1,2]))", ["4"]),
        ("select x, y from Integer x, Integer y where x in [1,2] and y = x * 2 and y > 2", ["2 4"]),
        ("select n from Record r, String n where r in sample:pairs() and n = r.k", ['"a"', '"b"']),
        ("select n from String n, Record r where n = r.k and r in sample:pairs()", ['"a"', '"b"']),
        ("select x from x in range(1,3), y in range(x,3) where y = 3", ["1", "2", "3"]),
        ("select range(1,x) from x in [1,2]", ["1", "1", "2"]),
        ("select x, range(1,x) from x in [1,2]", ["1 1", "2 1", "2 2"]),
        ("select count(x), sum(x) from x in range(1,4)", ["4 10"]),
        ("select count(x) from x in range(1,0)", ["0"]),
        ("select x from x in range(1,0)", []),
        ("select k, count(x) as n from x in range(1,9), k in [x % 3] group by k order by k", ["0 3", "1 3", "2 3"]),
        ("select x % 2, avg(x) from x in range(1,9) group by x % 2 having count(x) > 4", ["1 5.0"]),
        ("select sum(v) from Object v in [[1,2],[3,4]]", ["[4,6]"]),
        ("select sum(v) from Vector v in [[1,2],[3,4]]", ["3", "7"]),
        ("select max(x) - min(x) from x in [3,9,4]", ["6"]),
        ("select x from x in null", []),
        ("select x from x in 5", ["5"]),
        ("select x from x in tensor('int64',[1,2])", ["1", "2"]),
        ("select x from x in [1,2,3] where x in (select y from y in [2,3] where y > x)", []),
        ("select (select vector of y from y in range(1,x)) from x in [1,2]", ["[1]", "[1,2]"]),
        ("select x from x in [1,2] where exists", None),
        ("select 1", ["1"]),
        ("select 1 where 1 > 2", []),
    ],
)
async def test_rows(text: str, rows: list[str] | None) -> None:
    if rows is None:
        await problem(text, UnknownName)
    else:
        assert await Peer().texts(text) == rows


async def test_columns_have_names_and_types() -> None:
    peer = Peer()
    plan = resolve(parse_statement("select x, x + 1 as y, x/2 from Integer x in [1]"), peer.current, {})
    assert [(name, str(kind)) for name, kind in plan.columns] == [("x", "Integer"), ("y", "Integer"), ("x / 2", "Real")]
    plan = resolve(parse_statement("sample:pairs()"), peer.current, {})
    assert [(name, str(kind)) for name, kind in plan.columns] == [("sample:pairs", "Record")]


async def test_parameters_and_session_variables() -> None:
    peer = Peer()
    tensor = np.arange(4, dtype="float32")
    assert await peer.value(":n + 1", n=1) == 2
    assert (await peer.value(":T * 2", t=tensor)).tolist() == [0, 2, 4, 6]
    assert await peer.values("set :v = range(1,3); :V; sum(:v); 2 in :v; range(1,2) + :v[1]") == [
        [1, 2, 3],
        6,
        True,
        2,
        3,
    ]
    assert (await problem(":vv", UnknownName, peer=peer)).message == 'no session variable ":vv" — did you mean ":v"?'


async def test_variables_are_bounded() -> None:
    peer = Peer()
    await peer.rows("".join(f"set :v{number} = 1;" for number in range(limits.VARIABLES_MAX)))
    assert "variables" in (await problem("set :w = 1", LimitExceeded, peer=peer)).message
    await peer.rows("set :v1 = [1,1]")
    with pytest.raises(LimitExceeded, match=r":v1 is over its limit of|a value is over its limit of"):
        await peer.rows("set :v1 = [:v1,:v1];" * 64)


# functions of users


async def test_user_functions() -> None:
    peer = Peer()
    await peer.rows(
        "create function area(Real r) -> Real /* Of a circle. */ as pi() * r ^ 2;"
        "create function squares(Integer n) -> Bag of Integer as select x * x from x in range(1, n);"
        "create function total(Bag of Integer b) -> Integer as sum(b);"
        "create function fac(Integer n) -> Integer as case when n <= 1 then 1 else n * fac(n - 1) end"
    )
    assert await peer.value("area(1)") == math.pi
    assert await peer.values("squares(3)") == [1, 4, 9]
    assert await peer.values("squares(range(1,2)) + 1") == [2, 2, 5]
    assert await peer.value("total(squares(3))") == 14
    assert await peer.value("fac(30)") == math.factorial(30)
    assert (await peer.value("doc('area')"))["documentation"] == "Of a circle."
    assert await peer.value("signature('AREA')") == "area(Real r) -> Real"


async def test_functions_see_the_functions_of_now() -> None:
    peer = Peer()
    await peer.rows("create function a() -> Integer as 1; create function b() -> Integer as a() + 1")
    assert await peer.value("b()") == 2
    await peer.rows("create or replace function a() -> Integer as 10")
    assert await peer.value("b()") == 11
    await peer.rows("delete function a")
    assert (await problem("b()", UnknownName, peer=peer)).message.startswith('in b: no function "a"')


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "create function f() -> Integer as 1; create function F() -> Integer as 2",
            NameTaken,
            'a function "F" exists',
        ),
        (
            "create function sqrt(Real x) -> Real as x",
            NameTaken,
            '"sqrt" is a built-in function and cannot be replaced',
        ),
        ("create function f(Real x, Real X) -> Real as x", BadStatement, 'parameter "X" stands twice'),
        ("create function f(Real x) -> Real as y", UnknownName, 'no variable "y"'),
        ("create function f(Real x) -> Real as g(x)", UnknownName, 'no function "g"'),
        ("create function f(Real x) -> Real as :v", BadStatement, "cannot read the session variable :v"),
        ("create function f() -> Integer as 'a'; f()", WrongArguments, "f: expected a result of Integer"),
        (
            "create function f() -> Integer as range(1,2); f()",
            WrongArguments,
            "f: expected one Integer, found 2 values",
        ),
        ("delete function f", UnknownName, 'no function "f"'),
        ("delete function sqrt", NotDeletable, '"sqrt" is a built-in function and cannot be deleted'),
    ],
)
async def test_functions_that_cannot_be(text: str, kind: type[Problem], message: str) -> None:
    assert message in (await problem(text, kind)).message


async def test_a_models_function_cannot_be_deleted() -> None:
    peer = Peer()
    body = parse_statement("create function doubled(Real x) -> Real as 2 * x").body
    assert isinstance(body, CreateFunction)
    peer.current = peer.current.with_functions("model scaling", [user_function(body)])
    caught = await problem("delete function doubled", NotDeletable, peer=peer)
    assert caught.message == '"doubled" is a function of model scaling and cannot be deleted'


async def test_overloads_of_a_model_have_bodies_of_their_own() -> None:
    peer = Peer()
    script = parse("create function f(Real x) -> Real as 2 * x; create function f(Real x, Real y) -> Real as f(x) + y")
    bodies = [statement.body for statement in script]
    made = [user_function(body) for body in bodies if isinstance(body, CreateFunction)]
    peer.current = peer.current.with_functions("model scaling", made)
    assert await peer.rows("f(1, 1)") == [(3,)]
    assert await peer.rows("f(1)") == [(2,)]


async def test_a_function_that_fails_is_not_made() -> None:
    peer = Peer()
    await problem("create function f() -> Integer as g()", UnknownName, peer=peer)
    assert "f" not in peer.current


async def test_user_functions_are_bounded() -> None:
    peer = Peer()
    for number in range(0, limits.USER_FUNCTIONS_MAX, 500):
        await peer.rows("".join(f"create function f{number + n}() -> Integer as 1;" for n in range(500)))
    assert "user functions" in (await problem("create function g() -> Integer as 1", LimitExceeded, peer=peer)).message
    await peer.rows("create or replace function f1() -> Integer as 2")
    parameters = ", ".join(f"Real p{number}" for number in range(limits.PARAMETERS_MAX + 1))
    assert "parameters" in (await problem(f"create function h({parameters}) -> Real as p1", LimitExceeded)).message


@pytest.mark.parametrize(
    "body",
    [
        "f(n + 1)",
        "1 + (1 + (1 + (1 + (1 + (1 + (1 + f(n))))))",
        "case when true then f(n) end",
        "[f(n)]",
        "sum(select f(n) from x in [1])",
        "f(n) in [1]",
    ],
)
async def test_recursion_is_bounded(body: str) -> None:
    body += ")" * (body.count("(") - body.count(")"))
    peer = Peer()
    await peer.rows(f"create function f(Integer n) -> Object as {body}")
    found = await problem("f(1)", LimitExceeded, peer=peer)
    assert found.span == Span(1, 1, 1, 5)
    assert "over its limit" in found.message


async def test_recursion_of_bags_is_bounded() -> None:
    peer = Peer()
    await peer.rows("create function f(Integer n) -> Bag of Integer as select y from x in f(n), y in f(x)")
    await problem("f(1)", LimitExceeded, peer=peer)


async def test_the_deepest_text_is_evaluated() -> None:
    peer = Peer()
    chain = "+1" * (limits.EXPRESSION_DEPTH_MAX - 4)
    assert await peer.value("1" + chain) == limits.EXPRESSION_DEPTH_MAX - 3
    deep = limits.NESTING_DEPTH_MAX
    assert to_text(await peer.value("[" * (deep - 1) + "1" + "]" * (deep - 1))).count("[") == deep - 1
    assert await peer.value("abs(" * deep + "-1" + ")" * deep) == 1
    text = "1"
    for _ in range(limits.NESTING_DEPTH_MAX - 1):
        text = f"(select x from x in {text})"
    assert await peer.value(text) == 1


# errors


@pytest.mark.parametrize(
    ("text", "kind", "message", "span"),
    [
        ("1;\n  nope(1)", UnknownName, 'no function "nope"', Span(2, 3, 2, 7)),
        ("sqr(1)", UnknownName, 'no function "sqr" — did you mean "sqrt"?', Span(1, 1, 1, 4)),
        ("sampel:later(1)", UnknownName, 'did you mean "sample:later"?', Span(1, 1, 1, 13)),
        ("x + 1", UnknownName, 'no variable "x"', Span(1, 1, 1, 2)),
        ("sample:later()", WrongArguments, "sample:later: expected 1 argument, found 0", Span(1, 1, 1, 15)),
        ("sample:optional(1,2,3)", WrongArguments, "expected 1 or 2 arguments, found 3", Span(1, 1, 1, 23)),
        (
            "sample:later('a')",
            WrongArguments,
            'sample:later: n: expected Integer, found String "a"',
            Span(1, 14, 1, 17),
        ),
        (
            "sample:later([1,2.5][2])",
            WrongArguments,
            "sample:later: n: expected Integer, found Real 2.5",
            Span(1, 1, 1, 25),
        ),
        ("1 / 0", BadArithmetic, "division by zero: 1 / 0", Span(1, 1, 1, 6)),
        ("2 + 1 % 0", BadArithmetic, "division by zero: 1 % 0", Span(1, 5, 1, 10)),
        ("sqrt(-1)", BadArithmetic, "sqrt: no result for Integer -1", Span(1, 1, 1, 9)),
        ("(-8) ^ 0.5", BadArithmetic, "(-8) ^ 0.5 is no real number", Span(1, 2, 1, 11)),
        ("10.0 ^ 1000", BadArithmetic, "too large", Span(1, 1, 1, 12)),
        ("2 ^ 10 ^ 9", LimitExceeded, "an integer is over its limit", Span(1, 1, 1, 11)),
        ("2 * 'a'", WrongArguments, '"*": no meaning for Integer 2 and String "a"', Span(1, 1, 1, 8)),
        ("1 < 'a'", WrongArguments, '"<": no meaning for Integer 1 and String "a"', Span(1, 1, 1, 8)),
        ("[1,2] + [1,2,3]", WrongArguments, '"+": vectors of 2 and 3 elements do not fit together', Span(1, 1, 1, 16)),
        (
            "tensor('f4',[1,2]) + [1,2,3]",
            WrongArguments,
            "the shapes [2] and [3] do not fit together",
            Span(1, 1, 1, 29),
        ),
        ("[1,2][3]", WrongArguments, "index 3 is outside of 1 to 2", Span(1, 1, 1, 9)),
        ("[1,2][0]", WrongArguments, "index 0 is outside of 1 to 2", Span(1, 1, 1, 9)),
        ("[1]['a']", WrongArguments, 'an index: expected an Integer, found String "a"', Span(1, 1, 1, 9)),
        ("(1).k", WrongArguments, ".k: expected a Record, found Integer", Span(1, 2, 1, 6)),
        ("1 and true", WrongArguments, "and: expected a Boolean, found Integer 1", Span(1, 1, 1, 11)),
        ("case when 1 then 2 end", WrongArguments, "when: expected a Boolean, found Integer 1", Span(1, 1, 1, 23)),
        ("cast('x' as Integer)", WrongArguments, 'cast: no Integer in String "x"', Span(1, 1, 1, 21)),
        ("cast(1 as Bag of Real)", WrongArguments, "is no type of a value", Span(1, 1, 1, 23)),
        ("select x from Real x", UnknownName, 'variable "x" has no source', Span(1, 20, 1, 21)),
        ("select x from x in [1], X in [2]", UserProblem, 'variable "X" stands twice in from', Span(1, 25, 1, 33)),
        ("select x, count(x) from x in [1]", BadStatement, '"x" is neither grouped nor aggregated', Span(1, 8, 1, 9)),
        ("select x % 2 as k from x in [1] group by k", UnknownName, "knows no names of columns", Span(1, 42, 1, 43)),
        ("select x from x in [1] having x > 1", BadStatement, "having needs a group by", Span(1, 31, 1, 36)),
        (
            "select x from x in [1,'a'] order by x",
            WrongArguments,
            "order by: expected values of one type",
            Span(1, 1, 1, 38),
        ),
        (
            "select x from x in [1] limit -1",
            WrongArguments,
            "limit: expected an Integer from 0, found Integer -1",
            Span(1, 1, 1, 32),
        ),
        ("select x from String x in [1]", WrongArguments, "x: expected String, found Integer 1", Span(1, 1, 1, 30)),
        ("sample:broken()", NotAValue, "sample:broken returned no value: a set is no value", Span(1, 1, 1, 16)),
    ],
)
async def test_errors_say_what_and_where(text: str, kind: type[Problem], message: str, span: Span) -> None:
    found = await problem(text, kind)
    assert message in found.message
    assert found.span == span


async def test_hints() -> None:
    assert (await problem("sqrt")).hint == "a call needs parentheses: sqrt()"
    assert (await problem("edge1")).hint == 'a string stands in quotes: "edge1"'
    assert (await problem("n", n=1)).hint == "a session variable is written :n"
    assert (await problem("sample:later()")).hint == "sample:later(Integer n) -> Integer"
    assert (await problem("2 * 'a'")).hint == '"||" joins values as text'


async def test_away_from_home() -> None:
    found = await problem("far:groups('E1')", WrongHome)
    assert found.message == "far:groups is at home on the nameserver"
    assert found.hint == 'add "//peer: nameserver" above the statement'
    plan = resolve(parse_statement("far:groups('E1')"), Peer().current, {})
    assert [declared.name for declared in plan.functions] == ["far:groups"]


async def test_roles() -> None:
    viewer = Peer(role=Role.VIEWER)
    assert "sample:write needs the role admin" in (await problem("sample:write('a')", Forbidden, peer=viewer)).message
    assert resolve(parse_statement("sample:write('a')"), viewer.current, {}).role is Role.ADMIN
    assert resolve(parse_statement("create function f() -> Integer as 1"), viewer.current, {}).role is Role.OPERATOR
    assert resolve(parse_statement("1"), viewer.current, {}).role is Role.VIEWER
    admin = Peer()
    await admin.rows("create function w() -> Boolean as sample:write('b')")
    viewer.current = admin.current
    assert resolve(parse_statement("w()"), viewer.current, {}).role is Role.ADMIN
    await problem("w()", Forbidden, peer=viewer)
    assert admin.samples.written == []


async def test_null_changes_nothing() -> None:
    peer = Peer()
    found = await problem("sample:write(null)", WrongArguments, peer=peer)
    assert found.message == "sample:write: text: expected String, found null"
    assert peer.samples.written == []


# bounds and fairness


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("range(1,11)", "the answer is over its limit of 10 rows"),
        ("count(range(1,11))", "a bag that has to be held is over its limit of 10 elements"),
        ("select x from x in range(1,11) order by x", "order by is over its limit of 10 rows"),
        ("select distinct x from x in range(1,11)", "over its limit of 10"),
        ("select x, count(1) from x in range(1,11) group by x", "group by is over its limit of 10 groups"),
        ("select x from x in range(1,12) order by x limit 11", "order by is over its limit of 10 rows"),
        ("select median(x) from x in range(1,11)", "rows to be grouped is over its limit of 10 rows"),
        ("select x from x in sample:endless() where x < 0", "the evaluation is over its limit of 5000 steps"),
        ("set :v = range(1,11)", "a bag that has to be held is over its limit of 10 elements"),
    ],
)
async def test_bounds(text: str, message: str) -> None:
    peer = Peer(bounds=EvaluationLimits(steps=5000, rows=10, bag_rows=10))
    assert message in (await problem(text, LimitExceeded, peer=peer)).message


@pytest.mark.parametrize(
    "text",
    [
        "range(1, 10000000)",
        "zeros(100000000)",
        "tensor_zeros('f8', [100000, 100000])",
        "tensor_zeros('f4', [1000,1000]) + tensor_zeros('f4', [1000,1000,1,1])",
        "dot(tensor_zeros('f4',[4000,4000]), tensor_zeros('f4',[4000,4000]))",
        "'x' like " + "'" + "%" * 2000 + "'",
        "select " + ", ".join("x" for _ in range(3)) + " from " + ", ".join(f"x{n} in [1]" for n in range(17)),
        "2 ^ 3000",
        "set :s = 'x'; " + "set :s = :s || :s; " * 30,
        "set :s = 'xx'; " + "set :s = substitute(:s, 'x', :s); " * 10,
        "set :v = [1]; " + "set :v = concat(:v, :v); " * 30,
    ],
)
async def test_values_are_bounded(text: str) -> None:
    with pytest.raises(UserProblem):
        await Peer().rows(text)


async def test_a_long_evaluation_lets_others_run() -> None:
    peer = Peer()
    longest = 0.0
    done = False

    async def watch() -> int:
        nonlocal longest
        turns, last = 0, time.perf_counter()
        while not done:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, last, turns = max(longest, now - last), now, turns + 1
        return turns

    watching = asyncio.create_task(watch())
    await peer.rows("count(select x * y % 7 from x in range(1, 200), y in range(1, 200) where x * x + y > 3)")
    done = True
    assert await watching > 100
    assert longest < 0.25  # some milliseconds on an idle machine


async def test_cancelling_stops_an_evaluation() -> None:
    peer = Peer()
    started = asyncio.Event()

    async def consume() -> None:
        plan = resolve(parse_statement("select x from x in sample:endless() where x >= 0"), peer.current, {})
        async with aclosing(evaluate(plan, peer.call, session=peer.session, catalogue=peer)) as rows:
            async for _ in rows:
                started.set()

    task = asyncio.create_task(consume())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert peer.samples.closed.is_set()


async def test_closing_an_answer_closes_its_sources() -> None:
    peer = Peer()
    plan = resolve(parse_statement("sample:endless() + 1"), peer.current, {})
    rows = evaluate(plan, peer.call, session=peer.session, catalogue=peer)
    assert await anext(rows) == (1,)
    await rows.aclose()
    assert peer.samples.closed.is_set()
    peer.samples.closed.clear()
    assert await peer.values("select x from x in sample:endless() limit 1") == [0]
    assert peer.samples.closed.is_set()
    peer.samples.closed.clear()
    assert await peer.value("7 in sample:endless()") is True
    assert peer.samples.closed.is_set()


async def test_time_is_the_calls() -> None:
    assert await Peer().value("now() + 1 - now()") == 1.0
    assert await Peer().value("now()") == NOW == datetime(2026, 1, 31, 12, tzinfo=UTC)
