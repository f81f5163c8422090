"""The generic functions: declared well, and each example true."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from query.catalogue import BUILT_IN, USER, Catalogue, NameTaken, user_function
from query.declarations import Declaration, Example
from query.errors import NAME_LENGTH_MAX, UnknownName, nearest
from query.functions import generic_declarations
from query.parsing import parse_statement
from query.syntax import CreateFunction
from tests.language.asking import Peer

ALL = generic_declarations()
EXAMPLES = [(declared, example) for declared in ALL for example in declared.examples]


@pytest.mark.parametrize("declared", ALL, ids=lambda declared: declared.signature)
def test_every_function_is_documented(declared: Declaration) -> None:
    assert declared.documentation.endswith(".")
    assert declared.examples
    assert declared.implementation is not None


@pytest.mark.parametrize(("declared", "example"), EXAMPLES, ids=[declared.signature for declared, _ in EXAMPLES])
async def test_every_example_is_true(declared: Declaration, example: Example) -> None:
    shown = await Peer().texts(example.text)
    assert shown
    if example.shows is not None:
        assert shown == [example.shows]
    assert declared.name.casefold() in example.text.casefold() or any(a in example.text for a in declared.aliases)


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        ("signature('SQRT')", ['"sqrt(Number x) -> Real"', '"sqrt(Vector x) -> Vector"', '"sqrt(Tensor x) -> Tensor"']),
        ("select r.signature from r in apropos('decimal logarithm')", ['"log10(Object x) -> Object"']),
        ("select r.home from r in doc('array')", ['"everywhere"']),
        ("round(2.5)", ["2"]),
        ("round(-1234, -2)", ["-1200"]),
        ("mod(-7, 3)", ["2"]),
        ("range(3, 1, -1)", ["3", "2", "1"]),
        ("floor(-2.5)", ["-3"]),
        ("median([1,2,3,4])", ["2.5"]),
        ("min(['b','a'])", ['"a"']),
        ("max([|2026-01-01|,|2026-01-02|])", ["|2026-01-02T00:00:00Z|"]),
        ("stdev([2,4,4,4,5,5,7,9])", [repr(math.sqrt(32 / 7))]),
        ("var([1])", ["null"]),
        ("substring('peerage', 5)", ['"age"']),
        ("argmax([[1,9],[8,2]], 2)", ["tensor('int64',[2,1])"]),
        ("argmax([])", ["null"]),
        ("tensor('uint8', [255])", ["tensor('uint8',[255])"]),
        ("dot([[1,2],[3,4]], [1,1])", ["tensor('int64',[3,7])"]),
        ("flatten([1,[2,[3]]])", ["[1,2,3]"]),
        ("extract([1,2])", ["1", "2"]),
        ("type_of(tensor('f4',[1]))", ['"Tensor"']),
        ("tensor_sum(softmax([1000.0, 1000.0]))", ["1.0"]),
    ],
)
async def test_functions(text: str, shows: list[str]) -> None:
    assert await Peer().texts(text) == shows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tensor('uint8', [256])", "uint8 holds 0 to 255, found 256"),
        ("tensor('int8', [1.5])", "int8 holds whole numbers"),
        ("tensor('f4', [[1],[2,3]])", "a tensor's rows have one shape, found [1] and [2]"),
        ("tensor('f4', ['a'])", 'a tensor holds numbers, found String "a"'),
        ("tensor('float', ['a'])", "a tensor holds numbers"),
        ("tensor('complex', [1])", 'no tensor type "complex"'),
        ("reshape([1,2,3], [2,2])", "3 elements do not fit the shape [2, 2]"),
        ("argmax([1], 2)", "argmax: axis: expected 1 to 1, found 2"),
        ("avg(['a'])", 'avg: expected numbers, found String "a"'),
        ("min([1,'a'])", "no meaning for"),
        ("doc('nope')", 'no function "nope"'),
        ("timestamp(1e20)", "expected a time in the years 1 to 9999"),
        ("round(1, 1000)", "digits"),
        ("range(1, 3, 0)", "step"),
        ("split('a', '')", "separator"),
        ("ln(0)", "ln: no result"),
        ("exp(1000)", "too large"),
        ("dot([1],[1,2])", "expected vectors of one length"),
    ],
)
async def test_functions_refuse(text: str, message: str) -> None:
    from query.errors import UserProblem

    with pytest.raises(UserProblem) as caught:
        await Peer().rows(text)
    assert message in caught.value.message


# the catalogue


def made(text: str) -> Any:
    body = parse_statement(text).body
    assert isinstance(body, CreateFunction)
    return user_function(body)


def test_layers_come_and_go() -> None:
    one, two = made("create function f() -> Integer as 1"), made("create function f() -> Integer as 2")
    base = Catalogue(ALL)
    first = base.with_functions("model a", [one])
    second = first.with_functions("model b", [two])
    assert (first.lookup("F"), second.lookup("f")) == ((one,), (two,))
    assert second.without("model b").lookup("f") == (one,)
    assert second.without("model a").lookup("f") == (two,)
    assert base.lookup("f") == ()
    assert second.with_functions(USER, [one]).with_functions("model c", [two]).lookup("f") == (one,)
    assert [second.owner(name) for name in ("f", "SQRT", "g")] == ["model b", BUILT_IN, None]
    assert second.owned("model a") == (one,)


def test_built_in_functions_stay() -> None:
    with pytest.raises(NameTaken, match='"sqrt" is a built-in function'):
        Catalogue(ALL).with_functions("model a", [made("create function SQRT(Real x) -> Real as x")])


def test_a_text_that_is_no_name_is_compared_with_none() -> None:
    """Some microseconds; with each of some names it would be seconds."""
    assert nearest("x" * NAME_LENGTH_MAX, ["x" * (NAME_LENGTH_MAX - 1)]) is not None
    before = time.process_time()
    assert nearest("ab" * 5_000_000, [f"{number}" * 40 for number in range(200)]) is None
    assert time.process_time() - before < 1


def test_unknown_functions_name_the_nearest() -> None:
    catalogue = Catalogue(ALL)
    with pytest.raises(UnknownName, match=r'no function "sofmax" — did you mean "softmax"\?'):
        catalogue.require("sofmax")
    with pytest.raises(UnknownName) as caught:
        catalogue.require("zzzz")
    assert caught.value.hint == 'apropos("zzzz") searches the functions of this peer'


def test_a_bound_declaration_replaces_the_static_one() -> None:
    from query.declarations import bind, declarations
    from tests.language.asking import Samples

    catalogue = Catalogue((*declarations(Samples), *bind(Samples())))
    assert all(declared.implementation is not None for declared in catalogue)
    assert len(catalogue.lookup("sample:kind")) == 2


# explain


async def test_explain_shows_the_stages_and_runs_nothing() -> None:
    peer = Peer()
    assert await peer.rows("//timeout: 5s\nexplain sample:write( 'a' )") == [
        ("parse", 'sample:write("a")'),
        ("function", "sample:write(String text) -> Boolean (home everywhere, role admin, changes)"),
        ("columns", "sample:write Boolean"),
        ("needs", "role admin, changes"),
        ("route", "here, because nothing sends it elsewhere"),
        ("timeout", "5s"),
    ]
    assert peer.samples.written == []


async def test_explain_says_who_would_answer() -> None:
    from tests.language.test_placement import Federation

    peer = Peer()
    peer.session.directory = Federation()
    assert ("targets", "2: E1, E2") in await peer.rows("//peer: group staging\nexplain 1 + 1")
    assert ("targets", "1: NS") in await peer.rows("explain far:groups('E1')")
    assert ("route", 'error unknown_name: no group "stagin" — did you mean "staging"?') in await peer.rows(
        "//peer: group stagin\nexplain 1"
    )
    assert ("resolve", 'error unknown_name: no function "nope"') in await peer.rows("explain nope()")


async def test_the_longest_vector_can_be_used() -> None:
    from query import limits

    longest = limits.VALUE_ELEMENTS_MAX - 1
    assert await Peer().value(f"dim(zeros({longest}) + 1)") == longest
