"""Which version an edge should run: the latest assignment, and what is left when it goes."""

from __future__ import annotations

import re

import pytest

from federation import assignments, commands
from federation.documents import MODELS_PER_EDGE_MAX
from federation.events import ModelsAssigned
from query.errors import LimitExceeded, UnknownName, WrongArguments
from tests.membership.small import Small


@pytest.fixture
def small() -> Small:
    small = Small()
    small.publish("m@1.0", "m@2.0", "m@3.0", "n@1.0")
    small.edge("E1", "staging")
    small.edge("E2", "production")
    return small


def test_the_latest_assignment_wins_and_not_the_highest_version(small: Small) -> None:
    small.assign("staging", "m@2.0")
    small.assign("staging", "m@1.0")
    assert small.desired("E1") == ["m@1.0"]
    assert small.desired("E2") == []


def test_a_call_replaces_the_models_it_names_and_keeps_the_others(small: Small) -> None:
    small.assign("staging", "m@1.0", "n@1.0")
    small.assign("staging", "m@2.0")
    assert small.desired("E1") == ["m@2.0", "n@1.0"]


def test_between_two_groups_the_later_call_wins(small: Small) -> None:
    small.join("E1", "production")
    small.assign("production", "m@1.0")
    small.assign("staging", "m@3.0")
    small.assign("production", "m@2.0")
    assert small.desired("E1") == ["m@2.0"]


def test_repeating_a_call_makes_it_the_latest(small: Small) -> None:
    small.join("E1", "production")
    small.assign("production", "m@1.0")
    small.assign("staging", "m@3.0")
    small.assign("production", "m@1.0")
    assert small.desired("E1") == ["m@1.0"]


def test_joining_a_group_is_no_assignment(small: Small) -> None:
    small.assign("production", "m@1.0")
    small.assign("staging", "m@3.0")
    small.join("E1", "production")
    assert small.desired("E1") == ["m@3.0"]


def test_leaving_a_group_falls_back_to_the_latest_of_the_others_and_all(small: Small) -> None:
    small.join("E1", "production")
    small.assign("all", "m@1.0")
    small.assign("production", "m@2.0")
    small.assign("staging", "m@3.0")
    small.leave("E1", "staging")
    assert small.desired("E1") == ["m@2.0"]
    small.leave("E1", "production")
    assert small.desired("E1") == ["m@1.0"]
    small.unassign("all", "m")
    assert small.desired("E1") == []


def test_removing_an_assignment_falls_back_but_a_replaced_version_does_not_return(small: Small) -> None:
    small.assign("all", "m@1.0")
    small.assign("staging", "m@2.0")
    small.assign("staging", "m@3.0")
    small.unassign("staging", "m")
    assert small.desired("E1") == ["m@1.0"]


def test_deleting_a_group_falls_back(small: Small) -> None:
    small.assign("all", "m@1.0")
    small.assign("staging", "m@2.0")
    small.write(commands.delete_group(small.state, "STAGING"))
    assert small.desired("E1") == ["m@1.0"]
    assert small.state.groups() == ("all", "production")


def test_all_is_every_edge_and_later_ones_too(small: Small) -> None:
    small.assign("all", "m@2.0")
    small.edge("E3", joined=False)
    assert [small.desired(edge) for edge in ("E1", "E2", "E3")] == [["m@2.0"]] * 3


def test_the_call_answers_with_what_it_overtook(small: Small) -> None:
    small.join("E1", "production")
    small.assign("all", "m@1.0")
    small.assign("production", "m@2.0")
    made = small.assign("staging", "m@3.0")
    assert [(one.group, one.assignment.label, one.edges, one.replaced) for one in made.overtaken] == [
        ("production", "m@2.0", 1, False)  # E1 ran production's; all's had lost already
    ]
    made = small.assign("all", "m@1.0", "n@1.0")
    assert [(one.group, one.assignment.label, one.edges, one.replaced) for one in made.overtaken] == [
        ("staging", "m@3.0", 1, False),
        ("production", "m@2.0", 1, False),
    ]
    made = small.assign("all", "m@3.0")
    assert [(one.group, one.assignment.label, one.edges, one.replaced) for one in made.overtaken] == [
        ("all", "m@1.0", 2, True)
    ]
    assert small.assign("all", "m@3.0").overtaken == ()


def test_nothing_is_half_applied_when_a_model_or_version_is_unknown(small: Small) -> None:
    before = small.state.seq
    with pytest.raises(UnknownName, match=re.escape('no version "2.1" of model "m" — did you mean "2.0"?')):
        small.assign("staging", "n@1.0", "m@2.1")
    with pytest.raises(UnknownName, match=re.escape('no group "stagin" — did you mean "staging"?')) as lost:
        small.assign("stagin", "m@1.0")
    assert "edge:add_group" in (lost.value.hint or "")
    with pytest.raises(UnknownName, match='no model "k"'):
        small.assign("staging", "k@1.0")
    with pytest.raises(UnknownName, match='no model "k" in group "staging"'):
        small.unassign("staging", "k")
    assert (small.state.seq, small.desired("E1")) == (before, [])


def test_another_repository_is_noted(small: Small) -> None:
    wanted = assignments.read_models([{"repo": "hub", "name": "m", "version": "1.0"}])
    made = assignments.set_group_models(small.state, "staging", wanted)
    (assigned,) = made.events
    assert isinstance(assigned, ModelsAssigned)
    assert [(model.repo, model.name) for model in assigned.models] == [("hub", "m")]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["m"], 'model 1: expected a record like {"name": "m", "version": "1.0"}, found String "m"'),
        ([{"name": "m", "versoin": "1"}], 'model 1: "versoin" is not one of .* did you mean "version"?'),
        ([{"name": "m", "version": "1"}, {"name": "n"}], 'model 2: expected a "version" too, found "name" alone'),
        ([{"name": "m", "version": 5.3}], 'model 1: expected "version" as a string, found 5.3'),
        ([{"name": "m", "version": None}], 'model 1: expected "version" as a string, found null'),
        ([{"name": "m", "version": "1"}, {"name": "m", "version": "2"}], 'model "m" is named twice'),
    ],
)
def test_a_record_of_another_form_is_named(models: list[object], message: str) -> None:
    with pytest.raises(WrongArguments, match=message):
        assignments.read_models(models)


def test_an_edge_never_has_more_models_than_a_desired_state_holds(small: Small) -> None:
    half = MODELS_PER_EDGE_MAX // 2
    names = [f"model-{index}@1" for index in range(MODELS_PER_EDGE_MAX + 1)]
    small.publish(*names)
    small.assign("staging", *names[:half])
    small.assign("production", *names[half:])
    with pytest.raises(LimitExceeded, match='"E1" would have 257 models: expected at most 256'):
        small.join("E1", "production")
    with pytest.raises(LimitExceeded, match="an edge of group"):
        small.assign("all", *names[:half])
    small.assign("staging", *names[:10])
    with pytest.raises(LimitExceeded, match="257 models in one call"):
        assignments.read_models([{"name": name, "version": "1"} for name in names])
    assert len(small.desired("E1")) == half
