"""In which order releases that need each other come and go, on plain values."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from federation.actual import (
    Actual,
    Done,
    Fetch,
    Lasting,
    Load,
    Passing,
    Run,
    Saved,
    Stop,
    Unload,
    Verdict,
    Verify,
    Wait,
)
from federation.documents import DesiredState
from federation.load_order import missing
from federation.needs import NeedsUnmet, StillNeeded, satisfies
from federation.outcomes import finished
from federation.reconciliation import answered, decide, dismissed, requested, restored
from tests.turn.values import NOW, RUNTIME, desired_model, desired_state, digest, entry

NEEDS = {
    "a@1": {"b": ">=1"},
    "a@2": {"b": ">=2"},
    "a@3": {"b": "<2"},
    "top@1": {"a": ">=1"},
    "both@1": {"a": ">=1", "b": ">=1"},
}
KNOWN = {digest(label): needs for label, needs in NEEDS.items()}


def wanting(*labels: str) -> DesiredState:
    chosen = {label.partition("@")[0]: label for label in labels}
    return desired_state(
        (desired_model(label, needs=[chosen[need] for need in sorted(NEEDS.get(label, {}))]) for label in labels),
        expires=int(NOW) + 100_000,
    )


def edge(*loaded: str, origin: str = "group", **fields: object) -> Actual:
    entries = [entry(label, origin) for label in loaded]
    actual = Actual(
        runtime=RUNTIME,
        root_version=1,
        needs=KNOWN,
        loaded={e.name: e for e in entries},
        installed={e.record: e.label for e in entries},
        verdicts={e.record: Verdict(e.record, RUNTIME) for e in entries},
    )
    return replace(actual, **fields)


def holds(actual: Actual) -> bool:
    """Nothing is in memory whose needs are not."""
    return all(
        name in actual.loaded and satisfies(actual.loaded[name].version, condition)
        for e in actual.loaded.values()
        for name, condition in NEEDS.get(e.label, {}).items()
    )


def carried_out(actual: Actual, desired: DesiredState | None, *, failing: frozenset[str] = frozenset()) -> list[str]:
    """What changes memory, one action at a time, until nothing is due; the end is kept in ``last``."""
    seen = []
    for _ in range(200):
        assert holds(actual)
        actions = [action for action in decide(desired, actual, NOW) if not isinstance(action, Wait)]
        if not actions:
            carried_out.last = actual  # type: ignore[attr-defined]
            return seen
        action = actions[0]
        outcome = Done()
        match action:
            case Verify() if action.label in failing:
                outcome = Lasting("failed_vectors", "otherwise")
            case Load():
                seen.append(f"load {action.label}")
            case Unload():
                seen.append(f"unload {action.name}")
        actual = finished(actual, action, outcome, NOW, 0.5)
    raise AssertionError(f"no end: {seen}")


def last() -> Actual:
    actual: Actual = carried_out.last  # type: ignore[attr-defined]
    return actual


def memory() -> list[str]:
    return sorted(one.label for one in last().loaded.values())


def errors() -> dict[str, str]:
    return {label: f"{error.error}: {error.message}" for label, error in last().errors.items()}


def test_all_is_fetched_and_verified_freely_and_loaded_in_order() -> None:
    desired = wanting("top@1", "a@1", "b@1")
    actual = answered(desired, edge(), NOW)
    assert {type(action) for action in decide(desired, actual, NOW)} == {Fetch}
    assert len(decide(desired, actual, NOW)) == 3
    assert carried_out(actual, desired) == ["load b@1", "load a@1", "load top@1"]


def test_what_needs_others_is_unloaded_first() -> None:
    desired = wanting()
    actual = answered(desired, edge("b@1", "a@1", "top@1"), NOW)
    assert carried_out(actual, desired) == ["unload top", "unload a", "unload b"]


def test_after_a_start_everything_comes_back_in_the_same_order() -> None:
    before = edge("top@1", "a@1", "b@1")
    saved = msgspec.json.decode(msgspec.json.encode(before.saved()), type=Saved)
    actual = restored(saved, installed=before.installed, runtime=RUNTIME, root_version=1)
    assert carried_out(actual, None) == ["load b@1", "load a@1", "load top@1"]


def test_an_update_of_what_is_needed_keeps_who_needs_it() -> None:
    desired = wanting("a@1", "b@2")
    assert carried_out(answered(desired, edge("b@1", "a@1"), NOW), desired) == ["load b@2"]


def test_an_update_of_both_waits_for_what_is_needed() -> None:
    desired = wanting("a@2", "b@2")
    assert carried_out(answered(desired, edge("b@1", "a@1"), NOW), desired) == ["load b@2", "load a@2"]


def test_versions_that_only_go_together_make_room_for_each_other_when_all_is_ready() -> None:
    desired = wanting("a@2", "b@2")
    actual = answered(desired, edge("b@1", "a@3"), NOW)
    assert carried_out(actual, desired) == ["unload a", "load b@2", "load a@2"]
    desired = wanting("a@3", "b@1")
    actual = answered(desired, edge("b@2", "a@2"), NOW)
    assert carried_out(actual, desired) == ["unload a", "load b@1", "load a@3"]


def test_whoever_needs_what_makes_room_comes_back_by_itself() -> None:
    desired = wanting("a@2", "b@2", "top@1")
    actual = answered(desired, edge("b@1", "a@3", "top@1"), NOW)
    assert carried_out(actual, desired) == ["unload top", "unload a", "load b@2", "load a@2", "load top@1"]
    assert memory() == ["a@2", "b@2", "top@1"]
    assert last().loaded["top"].since == int(NOW) - 50


def test_a_replacement_that_fails_keeps_both_old_versions_and_says_so() -> None:
    desired = wanting("a@2", "b@2")
    actual = answered(desired, edge("b@1", "a@3"), NOW)
    assert carried_out(actual, desired, failing=frozenset({"a@2"})) == []
    assert memory() == ["a@3", "b@1"]
    assert errors() == {
        "a@2": "failed_vectors: otherwise",
        "b@2": "still_needed: b@2 waits: a@3, which is loaded, needs b<2",
    }
    again = answered(wanting("b@2"), last(), NOW)
    assert carried_out(again, wanting("b@2")) == ["unload a", "load b@2"]
    assert errors() == {}


def test_a_need_that_fails_is_told_with_the_chain_and_retried_when_that_changes() -> None:
    desired = wanting("top@1", "a@1", "b@1")
    actual = answered(desired, edge(), NOW)
    assert carried_out(actual, desired, failing=frozenset({"b@1"})) == []
    assert errors() == {
        "b@1": "failed_vectors: otherwise",
        "a@1": "needs_unmet: a@1 needs b>=1: b@1 does not run: otherwise (failed_vectors)",
        "top@1": "needs_unmet: top@1 needs a>=1: a@1 needs b>=1: b@1 does not run: otherwise (failed_vectors)",
    }
    since = last().errors["top@1"].since
    later = answered(desired, last(), NOW + 60)
    assert later.errors["top@1"].since == since
    mended = wanting("top@1", "a@1", "b@2")
    assert carried_out(answered(mended, last(), NOW), mended) == ["load b@2", "load a@1", "load top@1"]
    assert errors() == {}


def test_a_need_that_is_only_late_is_told_while_it_fails() -> None:
    desired = wanting("a@1", "b@1")
    actual = answered(desired, edge(), NOW)
    fetch = Fetch("b", "1", digest("b@1"))
    actual = finished(actual, fetch, Passing("no_connection", "not now"), NOW, 0.5)
    assert actual.errors["a@1"].message == "a@1 needs b>=1: b@1 does not run: not now (no_connection)"
    actual = finished(actual, fetch, Done(), NOW, 0.5)
    assert carried_out(actual, desired) == ["load b@1", "load a@1"]


def test_what_a_need_waits_for_is_told_instead_of_an_error_that_is_over() -> None:
    desired = wanting("a@1", "b@1")
    actual = answered(desired, edge(), NOW)
    actual = finished(actual, Fetch("a", "1", digest("a@1")), Passing("no_connection", "not now"), NOW, 0.5)
    actual = finished(actual, Fetch("a", "1", digest("a@1")), Done(), NOW, 0.5)
    carried_out(actual, desired, failing=frozenset({"b@1"}))
    assert errors()["a@1"].startswith("needs_unmet: a@1 needs b>=1: b@1 does not run")


def test_a_desired_state_without_what_its_models_need_loads_nothing_of_it() -> None:
    desired = wanting("b@1")
    broken = replace(desired, models=(desired_model("a@2", needs=["b@2"]), *desired.models))
    assert carried_out(answered(broken, edge(), NOW), broken) == ["load b@1"]
    assert errors() == {"a@2": "needs_unmet: a@2 needs b>=2: there is b@1"}


def test_what_no_group_wants_stays_while_a_model_that_was_loaded_by_hand_needs_it() -> None:
    actual = edge("b@1", loaded={"b": entry("b@1"), "a": entry("a@1", "manual")})
    desired = wanting()
    actual = answered(desired, actual, NOW)
    assert actual.goals == {"b": Stop("b", "group")}
    assert carried_out(actual, desired) == []
    assert carried_out(dismissed(last(), "a"), desired) == ["unload a", "unload b"]


def test_a_group_does_not_take_from_a_manual_model_what_it_needs_and_says_so() -> None:
    hand = edge("b@2", "a@2", loaded={"b": entry("b@2"), "a": entry("a@2", "manual")})
    desired = wanting("b@1")
    assert carried_out(answered(desired, hand, NOW), desired) == []
    assert errors() == {"b@1": "still_needed: b@1 waits: a@2, which is loaded, needs b>=2"}
    assert carried_out(dismissed(last(), "a"), desired) == ["unload a", "load b@1"]


def test_a_person_is_refused_with_the_chain() -> None:
    def ask(actual: Actual, label: str) -> Actual:
        name, version = label.split("@")
        return requested(actual, name=name, version=version, record=digest(label), origin="manual")

    with pytest.raises(NeedsUnmet, match="a@2 needs b>=2: no b is loaded here"):
        ask(edge(), "a@2")
    with pytest.raises(NeedsUnmet, match="a@2 needs b>=2: there is b@1"):
        ask(edge("b@1"), "a@2")
    with pytest.raises(StillNeeded, match="a@2 needs b>=2, so b@1 cannot take its place"):
        ask(edge("b@2", "a@2"), "b@1")
    with pytest.raises(StillNeeded, match="a@1 needs b>=1, so it stays"):
        dismissed(edge("b@1", "a@1"), "b")
    assert isinstance(ask(edge("b@2"), "a@2").goals["a"], Run)


def test_what_must_stop_takes_those_along_that_need_it_and_they_wait() -> None:
    """As when the key that signed it was revoked."""
    actual = edge("b@1", "a@1", "top@1", goals={"b": Stop("b", "manual")})
    assert carried_out(actual, None) == ["unload top", "unload a", "unload b"]
    assert sorted(last().restoring) == ["a", "top"]
    assert last().errors == {} or set(last().errors) == {"a@1", "top@1"}
    desired = wanting("top@1", "a@1", "b@2")
    assert carried_out(answered(desired, last(), NOW), desired) == ["load b@2", "load a@1", "load top@1"]


LABELS = ("a@1", "a@2", "a@3", "b@1", "b@2", "c@1", "top@1", "both@1")


def consistent(labels: tuple[str, ...]) -> bool:
    chosen = dict(label.split("@") for label in labels)
    return len(chosen) == len(labels) and all(
        name in chosen and satisfies(chosen[name], condition)
        for label in labels
        for name, condition in NEEDS.get(label, {}).items()
    )


SETS = st.lists(st.sampled_from(LABELS), max_size=4, unique=True).map(tuple).filter(consistent)


@settings(max_examples=200, deadline=None)
@given(SETS, st.lists(SETS, min_size=1, max_size=4), st.randoms(use_true_random=False), st.booleans())
def test_from_any_state_to_any_other_memory_holds_at_every_step(
    first: tuple[str, ...], then: list[tuple[str, ...]], random: object, restart: bool
) -> None:
    actual = edge(*first)
    for labels in then:
        desired = wanting(*labels)
        actual = answered(desired, actual, NOW)
        for step in range(300):
            actions = [action for action in decide(desired, actual, NOW) if not isinstance(action, Wait)]
            if not actions:
                break
            action = random.choice(actions)  # type: ignore[attr-defined]
            actual = finished(actual, action, Done(), NOW, 0.5)
            assert holds(actual), action
            if restart and step in (2, 5, 11, 17):
                actual = restored(actual.saved(), installed=actual.installed, runtime=RUNTIME, root_version=1)
                actual = answered(desired, actual, NOW)
        assert sorted(one.label for one in actual.loaded.values()) == sorted(labels)
        assert actual.goals == {}
        assert actual.restoring == {}
        assert actual.errors == {}
        assert not any(any(missing(actual, Run(e.name, e.version, e.record, "group"))) for e in actual.loaded.values())
