"""What comes with an assignment because it is needed: which release, for how long, and what may not take it away."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation import assignments, commands, release_commands
from federation.decisions import decisions, unmet
from federation.documents import MODELS_PER_EDGE_MAX
from federation.events import ReleaseDeleted, ReleaseDeprecated
from federation.explanation import explain
from federation.needs import BadNeeds, NeedsUnmet, StillNeeded
from federation.reports import Contact
from federation.revocation import revoke
from federation.roots import endorse, sign_root
from federation.store import FederationStore
from query.errors import LimitExceeded, Problem
from tests.membership.small import PUBLISHER, ROOT, Small, identity, key, release_document


@pytest.fixture
def small() -> Small:
    small = Small()
    small.publish("features@1.0", "features@1.2", "features@1.3", "plain@1")
    small.publish_needing("a@1.0", features=">=1.2")
    small.publish_needing("old@1.0", features="<1.2")
    small.edge("E1", "staging")
    small.edge("E2", "production")
    return small


def refused(small: Small, group: str, *labels: str) -> str:
    seq = small.state.seq
    with pytest.raises(Problem) as problem:
        small.assign(group, *labels)
    assert small.state.seq == seq
    assert isinstance(problem.value, NeedsUnmet | StillNeeded)
    return problem.value.message


def test_what_is_needed_comes_along_pinned_and_goes_with_who_needs_it(small: Small) -> None:
    made = small.assign("staging", "a@1.0")
    assert [pin.label for pin in made.needed] == ["features@1.3"]
    assert small.desired("E1") == ["a@1.0", "features@1.3"]
    assert small.desired("E2") == []
    small.publish("features@1.4")
    assert small.desired("E1") == ["a@1.0", "features@1.3"]
    small.unassign("staging", "a")
    assert small.desired("E1") == []


def test_a_desired_state_names_the_records_that_each_model_needs(small: Small) -> None:
    small.assign("staging", "a@1.0")
    a, features = small.director.desired(identity("E1"), now=small.now).models
    assert a.needs == (features.record,)
    assert features.needs == ()
    assert features.record == small.release("features@1.3").digest
    assert (features.group, features.assignment) == (a.group, a.assignment)


def test_what_is_needed_is_named_for_the_edge_that_has_another_version(small: Small) -> None:
    small.assign("staging", "a@1.0")
    small.assign("all", "features@1.2")
    a, features = small.director.desired(identity("E1"), now=small.now).models
    assert features.version == "1.2"
    assert a.needs == (small.release("features@1.2").digest,)
    assert small.desired("E2") == ["features@1.2"]


def test_the_pins_are_kept_over_a_restart(tmp_path: Any) -> None:
    small = Small(tmp_path / "state.db")
    small.publish("features@1.2")
    small.publish_needing("a@1.0", features=">=1.2")
    small.edge("E1")
    small.assign("all", "a@1.0")
    before = small.director.desired(identity("E1"), now=small.now)
    small.store.close()
    small.store = FederationStore.open(tmp_path / "state.db")
    again = Small.__new__(Small)
    again.store = small.store
    assert again.state.find_group("all").assignments["a"].needs[0].label == "features@1.2"
    assert decisions(again.state, identity("E1"))[1].winner.record == before.models[1].record
    small.store.close()


def test_a_version_that_edges_are_assigned_already_is_kept_when_it_does(small: Small) -> None:
    small.assign("all", "features@1.2")
    assert [pin.label for pin in small.assign("staging", "a@1.0").needed] == ["features@1.2"]
    assert small.desired("E1") == ["a@1.0", "features@1.2"]


def test_a_version_that_does_not_do_is_overtaken_and_comes_back(small: Small) -> None:
    small.assign("all", "features@1.0")
    made = small.assign("staging", "a@1.0")
    assert [(one.group, one.assignment.label, one.edges, one.replaced) for one in made.overtaken] == [
        ("all", "features@1.0", 1, False)
    ]
    assert small.desired("E1") == ["a@1.0", "features@1.3"]
    assert small.desired("E2") == ["features@1.0"]
    small.unassign("staging", "a")
    assert small.desired("E1") == ["features@1.0"]


def test_deprecated_deleted_and_distrusted_releases_are_not_chosen(small: Small) -> None:
    small.write((ReleaseDeprecated("features", "1.3", "slow"),))
    assert [pin.label for pin in small.assign("staging", "a@1.0").needed] == ["features@1.2"]
    small.write((ReleaseDeleted("features", "1.2", small.release("features@1.2").record.manifest),))
    assert [pin.label for pin in small.assign("production", "a@1.0").needed] == ["features@1.3"]
    assert PUBLISHER.keyid in small.state.root.publishers


def test_a_release_whose_key_was_revoked_is_not_chosen(small: Small) -> None:
    other = key("other")
    endorsed = endorse(small.state.root, publisher="bob", key=other.public, now=small.now)
    small.write(commands.set_root(small.state, sign_root(endorsed, ROOT)))
    document = release_document("features@9.0", content=b"9", signer=other)
    small.write(release_commands.publish_release(small.state, document))
    assert [pin.label for pin in small.assign("staging", "a@1.0").needed] == ["features@9.0"]
    revoked = revoke(small.state.root, [other.keyid], running="keep", now=small.now)
    small.write(commands.set_root(small.state, sign_root(revoked, ROOT)))
    assert [pin.label for pin in small.assign("production", "a@1.0").needed] == ["features@1.3"]


def test_needs_that_nobody_could_meet_are_not_published(small: Small) -> None:
    for needs in ({"features": "newest"}, {"b": ">=1"}):
        with pytest.raises(BadNeeds):
            release_commands.publish_release(small.state, release_document("b@1", needs=needs))


def test_what_is_assigned_together_belongs_together(small: Small) -> None:
    made = small.assign("staging", "a@1.0", "features@1.2")
    assert made.needed == ()
    assert small.desired("E1") == ["a@1.0", "features@1.2"]
    assert refused(small, "staging", "a@1.0", "features@1.0") == "a@1.0 needs features>=1.2: features@1.0 is asked for"


def test_needs_that_cannot_be_met_are_refused_with_the_chain(small: Small) -> None:
    small.publish_needing("top@1", middle=">=2")
    assert refused(small, "staging", "top@1") == "top@1 needs middle>=2: there is no middle"
    small.publish_needing("middle@2.1", features="<1")
    assert refused(small, "staging", "top@1") == (
        "middle@2.1 needs features<1, wanted by top@1 (middle>=2): there are features@1.0, features@1.2, features@1.3"
    )
    small.publish("features@0.9")
    assert [pin.label for pin in small.assign("staging", "top@1").needed] == ["features@0.9", "middle@2.1"]


def test_two_models_of_an_edge_that_need_different_versions_are_refused_with_both(small: Small) -> None:
    small.assign("all", "old@1.0")
    assert small.desired("E1") == ["features@1.0", "old@1.0"]
    assert refused(small, "staging", "a@1.0") == (
        'a@1.0 needs features>=1.2, and old@1.0 (group "all") needs features<1.2:'
        " there are features@1.0, features@1.2, features@1.3"
    )


def test_a_version_is_chosen_that_all_models_of_the_edge_agree_on(small: Small) -> None:
    small.publish_needing("b@1", features="<1.3")
    small.assign("all", "b@1")
    small.assign("staging", "a@1.0")
    assert small.desired("E1") == ["a@1.0", "b@1", "features@1.2"]


def test_another_version_of_what_is_needed_must_do(small: Small) -> None:
    small.assign("staging", "a@1.0")
    small.assign("all", "features@1.2")
    told = 'a@1.0 (group "staging") needs features>=1.2: there would be features@1.0 (group "all")'
    assert refused(small, "all", "features@1.0") == told
    small.assign("production", "features@1.0")
    assert small.desired("E2") == ["features@1.0"]


def test_a_downgrade_of_both_in_one_call_is_ordinary(small: Small) -> None:
    small.publish_needing("a@0.9", features="<1.2")
    small.assign("staging", "a@1.0")
    small.assign("staging", "a@0.9")
    assert small.desired("E1") == ["a@0.9", "features@1.0"]


def test_joining_leaving_and_ending_are_refused_where_they_would_break_a_model(small: Small) -> None:
    small.publish_needing("a@2.0", features=">=1.3")
    small.assign("production", "old@1.0")
    small.assign("staging", "a@2.0")
    with pytest.raises(StillNeeded, match=re.escape('old@1.0 (group "production") needs features<1.2')):
        small.join("E1", "production")
    small.publish("old@2.0")
    small.assign("staging", "old@2.0")
    small.join("E1", "production")
    assert small.desired("E1") == ["a@2.0", "features@1.3", "old@2.0"]
    for change in (lambda: small.unassign("staging", "old"),):
        with pytest.raises(StillNeeded, match=re.escape("there would be features@1.3 (needed by a@2.0")):
            change()
    small.leave("E1", "staging")
    assert small.desired("E1") == ["features@1.0", "old@1.0"]
    small.leave("E1", "production")
    assert small.desired("E1") == []


def test_a_group_without_edges_must_make_sense_alone(small: Small) -> None:
    small.edge("E9", "lab")
    small.leave("E9", "lab")
    small.assign("lab", "a@1.0")
    assert refused(small, "lab", "features@1.0").startswith('a@1.0 (group "lab") needs features>=1.2')


def test_an_edge_that_is_registered_later_has_what_all_needs(small: Small) -> None:
    small.assign("all", "a@1.0")
    small.assign("staging", "features@1.2")
    small.assign("production", "features@1.2")
    assert refused(small, "all", "features@1.0").startswith('a@1.0 (group "all") needs features>=1.2')
    small.edge("E9")
    assert small.desired("E9") == ["a@1.0", "features@1.3"]


def test_deleting_a_group_falls_back_only_to_what_fits(small: Small) -> None:
    small.assign("all", "old@1.0")
    small.publish("old@2.0")
    small.assign("staging", "old@2.0")
    small.edge("E3", "lab", "staging")
    small.assign("lab", "a@1.0")
    assert small.desired("E3") == ["a@1.0", "features@1.3", "old@2.0"]
    with pytest.raises(StillNeeded, match=re.escape('old@1.0 (group "all") needs features<1.2')):
        commands.delete_group(small.state, "staging")
    with pytest.raises(StillNeeded):
        small.leave("E3", "staging")
    small.write(commands.delete_group(small.state, "lab"))
    small.write(commands.delete_group(small.state, "staging"))
    assert small.desired("E3") == ["features@1.0", "old@1.0"]


def test_what_is_needed_counts_among_the_models_of_an_edge(small: Small) -> None:
    many = [f"m{number}@1" for number in range(MODELS_PER_EDGE_MAX - 2)]
    small.publish(*many)
    small.assign("staging", *many)
    small.assign("all", "a@1.0")
    with pytest.raises(LimitExceeded):
        small.assign("production", "plain@1"), small.assign("staging", "plain@1")
    with pytest.raises(LimitExceeded):
        small.join("E2", "staging")


def test_explain_tells_why_a_model_is_there_that_nobody_assigned(small: Small) -> None:
    small.assign("all", "features@1.0")
    small.assign("staging", "a@1.0")
    found = explain(small.state, identity("E1"), None, actual=None, contact=Contact(), now=small.now)
    a, features = (explanation.record() for explanation in found)
    assert a["needs"] == ["features@1.3"]
    assert (a["winner"]["source"], features["needs"]) == ("group", [])
    assert (features["winner"]["source"], features["winner"]["needed_by"]) == ("need", "a@1.0")
    assert features["winner"]["group"] == "staging"
    assert [(loser["source"], loser["version"]) for loser in features["losers"]] == [("group", "1.0")]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(("assign", "assign", "assign", "unassign", "join", "leave", "delete")),
        st.sampled_from(("g0", "g1", "all")),
        st.sampled_from(("a", "b", "c", "d")),
        st.sampled_from(("1", "2")),
        st.sampled_from(("E0", "E1")),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(ACTIONS)
def test_whatever_people_do_no_edge_is_left_without_what_it_needs(actions: list[tuple[str, ...]]) -> None:
    small = Small()
    small.publish("d@1", "d@2")
    for label, needs in {
        "c@1": {"d": "<2"},
        "c@2": {"d": ">=1"},
        "b@1": {"c": ">=1"},
        "b@2": {"c": ">=2", "d": ">=2"},
        "a@1": {"b": "<2"},
        "a@2": {"b": ">=1", "d": ">=1"},
    }.items():
        small.publish_needing(label, **needs)
    for edge in ("E0", "E1"):
        small.edge(edge, "g0", "g1")
    for action, group, name, version, edge in actions:
        try:
            match action:
                case "assign":
                    small.assign(group, f"{name}@{version}")
                case "unassign":
                    small.unassign(group, name)
                case "join":
                    small.join(edge, group)
                case "leave":
                    small.leave(edge, group)
                case _:
                    small.write(commands.delete_group(small.state, group))
        except Problem:
            pass
        for uuid in (identity("E0"), identity("E1")):
            made = decisions(small.state, uuid)
            assert list(unmet(small.state, made)) == []
            present = {one.record for one in small.director.desired(uuid, now=small.now).models}
            assert all(set(one.needs) <= present for one in small.director.desired(uuid, now=small.now).models)


def test_an_unknown_model_among_others_assigns_nothing(small: Small) -> None:
    with pytest.raises(Problem, match='no model "nothing"'):
        assignments.set_group_models(
            small.state, "staging", [assignments.WantedModel("a", "1.0"), assignments.WantedModel("nothing", "1")]
        )
