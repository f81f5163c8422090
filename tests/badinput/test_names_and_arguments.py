"""What does not exist and what does not fit: named, with what was expected, at each home of the function, and nothing
has changed. The ways in share one reader; that a change is refused the same from an edge's home is tested beside them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.wire.living import Living, living

pytestmark = pytest.mark.timeout(120)

ADD_GROUP = "edge:add_group(String edge, String group) -> Boolean"
NO_EDGE = 'no edge "e9"'
NO_GROUP = 'no group "fild" — did you mean "field"?'
LIST_EDGES = 'edge:list() lists the edges; "peerage register NAME" makes one'
FORM = 'as in {"name": "my-model", "version": "1.0"}, and "repo" where it is not the default'
LIST_GROUPS = 'edge:add_group("edge", "group") makes a group; edge:all_groups() lists them'

REFUSED = [
    # an edge, a group, a model, a version, a function, a variable, a mode that is not there
    ('edge:groups("e9")', "unknown_name", NO_EDGE, LIST_EDGES),
    ('edge:get_config("e9")', "unknown_name", NO_EDGE, LIST_EDGES),
    ('edge:actual_state("e9")', "unknown_name", NO_EDGE, LIST_EDGES),
    ('edge:explain("e9")', "unknown_name", NO_EDGE, LIST_EDGES),
    ('edge:remove("e9")', "unknown_name", NO_EDGE, LIST_EDGES),
    ('edge:set_mode("e9", "ONLINE")', "unknown_name", NO_EDGE, LIST_EDGES),
    ('edge:add_group("e9", "field")', "unknown_name", NO_EDGE, LIST_EDGES),
    ('edge:remove_group("e1", "fild")', "unknown_name", NO_GROUP, LIST_GROUPS),
    ('edge:set_group_models("fild", [])', "unknown_name", NO_GROUP, LIST_GROUPS),
    ("//peer: group fild\n1", "unknown_name", NO_GROUP, LIST_GROUPS),
    ("//peer: e9\n1", "unknown_name", 'no peer "e9"', "peers() lists who there is"),
    (
        'edge:set_group_models("field", [{"name": "thermo", "version": "1.0"}])',
        "unknown_name",
        'no model "thermo"',
        'publish it first: models:publish("thermo", "1.0"), from the home that made it',
    ),
    (
        '//peer: e1\nmodels:import("thermo", "1.0")',
        "unknown_name",
        'no version "1.0" of model "thermo" on the nameserver',
        "//peer: nameserver models:installed() lists what is there",
    ),
    (
        '//peer: e1\nmodels:infer("thermo", [1])',
        "model_not_loaded",
        'no model "thermo" is loaded here',
        "models:loaded() lists what is; //peer: EDGE above the statement asks another peer",
    ),
    (
        '//peer: e1\nmodels:unload("thermo")',
        "unknown_name",
        'no loaded model "thermo"',
        "models:loaded() lists what is",
    ),
    (
        'edge:ad_group("e1", "field")',
        "unknown_name",
        'no function "edge:ad_group" — did you mean "edge:add_group"?',
        None,
    ),
    ("//peer: e1\nedge:pol()", "unknown_name", 'no function "edge:pol" — did you mean "edge:poll"?', None),
    (
        'edge:set_mode("e1", "SLEEPY")',
        "wrong_arguments",
        'expected the mode INTERACTIVE or ONLINE, found "SLEEPY"',
        None,
    ),
    ("staging", "unknown_name", 'no variable "staging"', 'a string stands in quotes: "staging"'),
    # wrong arity
    ('edge:add_group("e1")', "wrong_arguments", "edge:add_group: expected 2 arguments, found 1", ADD_GROUP),
    (
        'edge:add_group("e1", "field", "more")',
        "wrong_arguments",
        "edge:add_group: expected 2 arguments, found 3",
        ADD_GROUP,
    ),
    (
        '//peer: e1\nmodels:infer("thermo")',
        "wrong_arguments",
        "models:infer: expected 2 or 3 arguments, found 1",
        "models:infer(String name, Object input, String stream?) -> Record",
    ),
    # wrong type
    (
        'edge:add_group(1, "field")',
        "wrong_arguments",
        "edge:add_group: edge: expected String, found Integer 1",
        ADD_GROUP,
    ),
    (
        "//peer: e1\nmodels:infer(1, [1])",
        "wrong_arguments",
        "models:infer: name: expected String, found Integer 1",
        "models:infer(String name, Object input, String stream?) -> Record",
    ),
    (
        'edge:set_group_models("field", "thermo")',
        "wrong_arguments",
        'edge:set_group_models: models: expected Vector, found String "thermo"',
        "edge:set_group_models(String group, Vector models) -> Record; a vector of one stands in brackets: […]",
    ),
    (
        'edge:set_group_models("field", [1])',
        "wrong_arguments",
        'model 1: expected a record like {"name": "m", "version": "1.0"}, found Integer 1',
        None,
    ),
    (
        'edge:set_group_models("field", [{"name": "thermo"}])',
        "wrong_arguments",
        'model 1: expected a "version" too, found "name" alone',
        FORM,
    ),
    (
        'edge:set_poll_interval("e1", "often")',
        "bad_interval",
        '"often" is not a poll interval: expected a form like "60s", "5m" or "60s~10%"',
        None,
    ),
    (
        'edge:add_group("e1", "a group")',
        "bad_name",
        '"a group" cannot name a group: expected up to 63 letters, digits, ".", "_" or "-", the first no sign',
        None,
    ),
]


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Living]:
    async with living(tmp_path, "e1") as made:
        await made.value('edge:add_group("e1", "field")')
        await made.until('edge:listening("e1")', wanted=True)
        yield made


async def standing(federation: Living) -> list[Any]:
    """Everything that the statements of this file could have changed."""
    answer = await federation.ask(
        'edge:groups("e1"); edge:get_config("e1"); edge:actual_state("e1"); models:installed();'
        "\n//peer: e1\nmodels:loaded();\n//peer: e1\nmodels:installed()"
    )
    assert answer.complete, answer.errors
    return [row.value for row in answer.rows]


async def test_what_does_not_exist_or_fit_is_named_and_changes_nothing(federation: Living) -> None:
    before = await standing(federation)
    told = []
    for text, *_ in REFUSED:
        answer = await federation.ask(text)
        (problem,) = answer.errors
        assert answer.rows == []
        assert not any(ledger.complete for ledger in answer.ledgers)
        told.append((text, problem.code, problem.message, problem.hint))
    assert told == REFUSED
    assert await standing(federation) == before


async def test_a_script_stops_where_nothing_answered(federation: Living) -> None:
    answer = await federation.ask('edge:groups("e9"); edge:add_group("e1", "other")')
    assert [problem.message for problem in answer.errors] == [NO_EDGE]
    assert await federation.value('edge:groups("e1")') == ["field"]
