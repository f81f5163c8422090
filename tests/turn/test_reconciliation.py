"""The decisions of an edge's turn, each on plain values."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from federation.actual import (
    ALARMS_MAX,
    VERDICTS_MAX,
    Actual,
    Done,
    Fetch,
    Lasting,
    Load,
    Passing,
    Report,
    Run,
    Saved,
    Stop,
    Unload,
    Verdict,
    Verify,
    Wait,
    alarmed,
    calmed,
    dispensable,
    needed,
    removed,
    report_digest,
    report_of,
)
from federation.documents import DesiredState, LoadError
from federation.names import Digest
from federation.outcomes import RETRY_CAP_S, finished, full_jitter
from federation.reconciliation import NotRunnable, abandoned, answered, decide, dismissed, requested, restored
from tests.turn.values import EDGE, NOW, RUNTIME, desired_model, desired_state, digest, entry


def wanting(*labels: str, **changes: object) -> DesiredState:
    return desired_state(map(desired_model, labels), **changes)


def edge(**fields: object) -> Actual:
    return replace(Actual(runtime=RUNTIME, root_version=1), **fields)


def running(*labels: str, origin: str = "group") -> Actual:
    entries = [entry(label, origin) for label in labels]
    return edge(
        loaded={e.name: e for e in entries},
        installed={e.record: e.label for e in entries},
        fetched=frozenset(e.record for e in entries),
        verdicts={e.record: Verdict(e.record, RUNTIME) for e in entries},
    )


def carried_out(actual: Actual, desired: DesiredState | None, now: float = NOW) -> Actual:
    """Everything that is due, done successfully."""
    for _ in range(100):
        actions = [action for action in decide(desired, actual, now) if not isinstance(action, Wait)]
        if not actions:
            return actual
        for action in actions:
            actual = finished(actual, action, Done(), now, 0.5)
    raise AssertionError(f"no end: {actual}")


def labels(actual: Actual) -> list[str]:
    return sorted(entry.label for entry in actual.loaded.values())


class TestComparing:
    def test_a_new_model_is_fetched_then_verified_then_loaded(self) -> None:
        desired = wanting("m@1")
        actual = answered(desired, edge(), NOW)
        seen = []
        while actions := decide(desired, actual, NOW):
            seen.extend(actions)
            actual = finished(actual, actions[0], Done(), NOW, 0.5)
        assert seen == [
            Fetch("m", "1", digest("m@1")),
            Verify("m", "1", digest("m@1")),
            Load("m", "1", digest("m@1"), "group"),
        ]
        assert labels(actual) == ["m@1"]

    def test_nothing_is_done_without_an_answered_poll(self) -> None:
        assert decide(wanting("m@1"), running("old@1"), NOW) == ()

    def test_an_unwanted_model_is_unloaded_before_others_load(self) -> None:
        desired = wanting("b@1")
        actual = answered(desired, running("a@1"), NOW)
        assert decide(desired, actual, NOW) == (Unload("a"), Fetch("b", "1", digest("b@1")))

    def test_a_lower_version_is_an_ordinary_change(self) -> None:
        desired = wanting("m@1")
        actual = carried_out(answered(desired, running("m@2"), NOW), desired)
        assert labels(actual) == ["m@1"]
        assert actual.previous == {"m": digest("m@2")}

    def test_the_same_answer_twice_changes_nothing(self) -> None:
        desired = wanting("m@1", "n@1")
        once = answered(desired, running("m@1", "old@1"), NOW)
        assert answered(desired, once, NOW + 1) == once

    def test_an_expired_desired_state_changes_nothing(self) -> None:
        actual = running("m@1")
        assert answered(wanting("m@2", expires=int(NOW)), actual, NOW) == actual

    def test_goals_of_a_group_stand_still_once_expired(self) -> None:
        desired = wanting("m@2")
        actual = answered(desired, running("a@1"), NOW)
        assert decide(desired, actual, NOW + 1000) == ()
        assert decide(None, actual, NOW) == ()

    def test_a_desired_state_not_yet_valid_changes_nothing(self) -> None:
        actual = running("m@1")
        assert answered(wanting("m@2", not_before=int(NOW) + 1), actual, NOW) == actual


class TestManualLoads:
    def test_a_manual_load_takes_effect_at_once(self) -> None:
        actual = requested(running("m@1"), name="m", version="2", record=digest("m@2"), origin="manual")
        actual = carried_out(actual, wanting("m@1", expires=0))
        assert actual.loaded["m"].label == "m@2"
        assert actual.loaded["m"].origin == "manual"

    def test_it_is_replaced_at_the_next_answered_poll(self) -> None:
        desired = wanting("m@1")
        actual = requested(running("m@1"), name="m", version="2", record=digest("m@2"), origin="manual")
        actual = carried_out(actual, desired)
        actual = carried_out(answered(desired, actual, NOW), desired)
        assert actual.loaded["m"].label == "m@1"
        assert actual.loaded["m"].origin == "group"

    def test_a_manual_model_that_no_group_names_stays(self) -> None:
        desired = wanting("m@1")
        actual = requested(running("m@1"), name="own", version="1", record=digest("own@1"), origin="manual")
        actual = carried_out(actual, desired)
        assert labels(carried_out(answered(desired, actual, NOW), desired)) == ["m@1", "own@1"]

    def test_an_unfinished_manual_load_of_an_unnamed_model_goes_on(self) -> None:
        desired = wanting("m@1")
        actual = requested(running("m@1"), name="own", version="1", record=digest("own@1"), origin="manual")
        assert answered(desired, actual, NOW).goals == actual.goals

    def test_it_survives_a_restart(self) -> None:
        actual = running("m@1", origin="manual")
        again = restored(actual.saved(), installed=actual.installed, runtime=RUNTIME, root_version=1)
        assert again.loaded == {}
        assert decide(None, again, NOW) == (Load("m", "1", digest("m@1"), "manual", int(NOW) - 50),)
        assert carried_out(again, None).loaded == actual.loaded

    def test_what_is_known_to_be_bad_is_refused_with_its_reason(self) -> None:
        actual = edge(verdicts={digest("m@2"): Verdict(digest("m@2"), RUNTIME, "failed_vectors", "vector 1 differs")})
        with pytest.raises(NotRunnable, match="vector 1 differs"):
            requested(actual, name="m", version="2", record=digest("m@2"), origin="manual")

    def test_a_request_that_failed_leaves_nothing(self) -> None:
        before = running("m@1")
        actual = requested(before, name="m", version="2", record=digest("m@2"), origin="manual")
        action = Fetch("m", "2", digest("m@2"))
        actual = finished(actual, action, Passing("fetch_failed", "gone"), NOW, 0.5)
        assert actual.errors
        assert abandoned(actual, name="m", version="2", record=digest("m@2")) == before

    def test_a_request_that_failed_for_good_leaves_only_the_verdict(self) -> None:
        before = running("m@1")
        actual = requested(before, name="m", version="2", record=digest("m@2"), origin="manual")
        actual = finished(actual, Verify("m", "2", digest("m@2")), Lasting("failed_vectors", "no"), NOW, 0.5)
        actual = abandoned(actual, name="m", version="2", record=digest("m@2"))
        assert replace(actual, verdicts=before.verdicts) == before
        assert actual.verdicts[digest("m@2")].error == "failed_vectors"

    def test_a_failed_request_takes_nothing_from_a_group(self) -> None:
        actual = answered(wanting("m@2"), running("m@1"), NOW)
        assert abandoned(actual, name="m", version="2", record=digest("m@2")) == actual

    def test_a_model_unloaded_by_hand_returns_at_the_next_answered_poll(self) -> None:
        desired = wanting("m@1")
        actual = carried_out(dismissed(running("m@1"), "m"), desired)
        assert actual.loaded == {}
        assert labels(carried_out(answered(desired, actual, NOW), desired)) == ["m@1"]


class TestRestoring:
    def test_the_old_version_is_back_before_its_successor_is_fetched(self) -> None:
        desired = wanting("m@2")
        killed = answered(desired, running("m@1"), NOW).saved()
        actual = restored(killed, installed={digest("m@1"): "m@1"}, runtime=RUNTIME, root_version=1)
        assert decide(desired, actual, NOW) == (Load("m", "1", digest("m@1"), "group", int(NOW) - 50),)
        assert labels(carried_out(actual, desired)) == ["m@2"]

    def test_a_kill_while_restoring_loses_nothing(self) -> None:
        saved = running("a@1", "b@1").saved()
        once = restored(saved, installed={}, runtime=RUNTIME, root_version=1)
        assert once.saved() == saved

    def test_another_runtime_asks_for_a_new_trial(self) -> None:
        actual = running("m@1")
        again = restored(actual.saved(), installed=actual.installed, runtime="runtime 2", root_version=1)
        assert decide(None, again, NOW) == (Verify("m", "1", digest("m@1")),)

    def test_what_no_longer_runs_is_reported_and_given_up(self) -> None:
        actual = running("m@1")
        again = restored(actual.saved(), installed=actual.installed, runtime="runtime 2", root_version=1)
        again = finished(again, Verify("m", "1", digest("m@1")), Lasting("bad_vectors", "no"), NOW, 0.5)
        assert decide(None, again, NOW) == ()
        assert again.errors["m@1"].error == "bad_vectors"

    def lost(self) -> Actual:
        """A development release that was loaded, after a boot with settings that no longer accept such."""
        saved = running("m@dev", origin="development").saved()
        actual = restored(saved, installed={digest("m@dev"): "m@dev"}, runtime=RUNTIME, root_version=1)
        (action,) = decide(None, actual, NOW)
        return finished(actual, action, Lasting("development_refused", "not accepted", trust=True), NOW, 0.5)

    def test_a_manual_load_that_cannot_be_restored_is_shown(self) -> None:
        actual = self.lost()
        assert (actual.loaded, actual.restoring) == ({}, {})
        assert decide(None, actual, NOW) == ()
        for desired in (wanting(), wanting("n@1.0")):
            assert answered(desired, actual, NOW).errors["m@dev"].error == "development_refused"
        assert digest("m@dev") in needed(None, actual)

    def test_until_it_is_unloaded(self) -> None:
        actual = dismissed(self.lost(), "m")
        assert (actual.errors, actual.lost, decide(None, actual, NOW)) == ({}, {}, ())

    def test_or_replaced(self) -> None:
        desired = wanting("m@2.0")
        actual = answered(desired, self.lost(), NOW)
        assert list(actual.errors) == ["m@dev"]
        actual = carried_out(actual, desired)
        assert (actual.errors, actual.lost) == ({}, {})

    def test_or_restored_at_a_later_boot(self) -> None:
        saved = msgspec.json.decode(msgspec.json.encode(self.lost().saved()), type=Saved)
        actual = restored(saved, installed={digest("m@dev"): "m@dev"}, runtime=RUNTIME, root_version=1)
        (action,) = decide(None, actual, NOW)
        assert action == Load("m", "dev", digest("m@dev"), "development", int(NOW) - 50)
        actual = finished(actual, action, Done(), NOW, 0.5)
        assert (list(actual.loaded), actual.errors, actual.lost) == (["m"], {}, {})

    def test_but_bad_content_is_not_tried_at_each_boot(self) -> None:
        actual = running("m@1.0", origin="manual")
        actual = replace(actual, loaded={}, restoring={"m": Run("m", "1.0", digest("m@1.0"), "manual")}, verdicts={})
        (action,) = decide(None, actual, NOW)
        saved = finished(actual, action, Lasting("vectors", "differ"), NOW, 0.5).saved()
        actual = restored(saved, installed=actual.installed, runtime=RUNTIME, root_version=1)
        assert (actual.restoring, list(actual.errors)) == ({}, ["m@1.0"])
        actual = restored(saved, installed=actual.installed, runtime="runtime 2", root_version=1)
        assert list(actual.restoring) == ["m"]

    def test_an_answer_meanwhile_ends_what_is_not_wanted(self) -> None:
        actual = running("m@1", "own@1")
        again = restored(actual.saved(), installed=actual.installed, runtime=RUNTIME, root_version=1)
        assert set(answered(wanting("own@1"), again, NOW).restoring) == {"own"}

    def test_damaged_files_are_fetched_again(self) -> None:
        actual = running("m@1")
        again = restored(actual.saved(), installed=actual.installed, runtime=RUNTIME, root_version=1)
        load = decide(None, again, NOW)[0]
        again = finished(again, load, Passing("hash", "flipped", damaged=True), NOW, 0.0)
        assert decide(None, again, NOW) == (Fetch("m", "1", digest("m@1")),)


class TestFailures:
    def test_a_passing_failure_is_tried_again_later(self) -> None:
        desired = wanting("m@1")
        actual = answered(desired, edge(), NOW)
        actual = finished(actual, Fetch("m", "1", digest("m@1")), Passing("disk_full", "no room"), NOW, 0.5)
        assert decide(desired, actual, NOW) == (Wait(NOW + 1.0),)
        assert decide(desired, actual, NOW + 1.0) == (Fetch("m", "1", digest("m@1")),)

    def test_a_content_failure_is_not_tried_again(self) -> None:
        desired = wanting("m@2")
        actual = answered(desired, running("m@1"), NOW)
        actual = finished(actual, Verify("m", "2", digest("m@2")), Lasting("failed_vectors", "differs"), NOW, 0.5)
        actual = answered(desired, actual, NOW + 60)
        assert decide(desired, actual, NOW + 60) == ()
        assert labels(actual) == ["m@1"]
        assert actual.errors["m@2"] == LoadError("m@2", "failed_vectors", "differs", int(NOW))

    def test_it_is_tried_under_another_runtime(self) -> None:
        desired = wanting("m@2")
        actual = answered(desired, running("m@1"), NOW)
        actual = finished(actual, Verify("m", "2", digest("m@2")), Lasting("failed_vectors", "differs"), NOW, 0.5)
        assert answered(desired, replace(actual, runtime="runtime 2"), NOW).goals

    def test_a_refused_signature_is_tried_under_another_root_record(self) -> None:
        desired = wanting("m@2")
        actual = answered(desired, running("m@1"), NOW)
        refusal = Lasting("unknown_key", "nobody", trust=True)
        actual = finished(actual, Fetch("m", "2", digest("m@2")), refusal, NOW, 0.5)
        assert not answered(desired, actual, NOW).goals
        assert answered(desired, replace(actual, root_version=2), NOW).goals

    def test_an_error_is_gone_once_the_model_loads(self) -> None:
        desired = wanting("m@1")
        actual = answered(desired, edge(), NOW)
        actual = finished(actual, Fetch("m", "1", digest("m@1")), Passing("disk_full", "no room"), NOW, 0.5)
        assert list(actual.errors) == ["m@1"]
        assert carried_out(actual, desired, NOW + 2).errors == {}

    def test_an_error_is_gone_once_the_model_is_not_desired(self) -> None:
        actual = answered(wanting("m@2"), running("m@1"), NOW)
        actual = finished(actual, Verify("m", "2", digest("m@2")), Lasting("failed_vectors", "differs"), NOW, 0.5)
        assert answered(wanting("m@1"), actual, NOW).errors == {}

    def test_an_error_keeps_the_time_of_its_first_occurrence(self) -> None:
        desired = wanting("m@1")
        actual = answered(desired, edge(), NOW)
        for moment in (NOW, NOW + 10, NOW + 20):
            actual = finished(actual, Fetch("m", "1", digest("m@1")), Passing("gone", "?"), moment, 0.5)
        assert actual.errors["m@1"].since == int(NOW)

    def test_an_outcome_of_a_replaced_goal_leaves_the_new_one(self) -> None:
        actual = answered(wanting("m@2"), running("m@1"), NOW)
        actual = answered(wanting("m@3"), actual, NOW)
        after = finished(actual, Fetch("m", "2", digest("m@2")), Passing("gone", "?"), NOW, 0.5)
        assert after == actual

    def test_a_retry_set_by_a_wrong_clock_is_due(self) -> None:
        goal = Run("m", "1", digest("m@1"), "manual", attempts=1, retry_at=NOW + 86_400)
        assert decide(None, edge(goals={"m": goal}), NOW) == (Fetch("m", "1", digest("m@1")),)

    @given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
    def test_the_jitter_is_full_and_capped(self, attempts: int, draw: float) -> None:
        assert 0 <= full_jitter(attempts, draw) < RETRY_CAP_S
        assert full_jitter(attempts, draw) == pytest.approx(draw * min(RETRY_CAP_S, 2.0 ** min(attempts, 20)))


class TestReporting:
    def report(self, actual: Actual, desired: DesiredState | None = None) -> Digest:
        return report_digest(report_of(desired, actual, edge=EDGE, mode="INTERACTIVE", properties={}))

    def test_a_report_is_sent_when_its_digest_changed(self) -> None:
        actual = running("m@1")
        told = self.report(actual)
        assert decide(None, actual, NOW, report=told) == (Report(told),)
        actual = finished(actual, Report(told), Done(), NOW, 0.5)
        assert decide(None, actual, NOW + 1, report=self.report(actual)) == ()

    def test_a_failing_report_backs_off(self) -> None:
        actual = finished(running("m@1"), Report(digest("r")), Passing("gone", "?"), NOW, 0.5)
        assert decide(None, actual, NOW, report=digest("r")) == (Wait(NOW + 1.0),)

    def test_a_fetch_does_not_hold_a_report_up(self) -> None:
        desired = wanting("m@1")
        actual = answered(desired, edge(), NOW)
        assert Report(digest("r")) in decide(desired, actual, NOW, report=digest("r"))
        actual = finished(actual, Fetch("m", "1", digest("m@1")), Done(), NOW, 0.5)
        assert Report(digest("r")) not in decide(desired, actual, NOW, report=digest("r"))

    def test_the_time_of_a_report_is_not_part_of_its_digest(self) -> None:
        report = report_of(wanting(), running("m@1"), edge=EDGE, mode="ONLINE", properties={})
        assert report_digest(report) == report_digest(replace(report, reported=5))

    def test_alarms_are_bounded_and_end_with_a_newer_state(self) -> None:
        actual = edge()
        for number in range(ALARMS_MAX + 5):
            actual = alarmed(actual, f"replay: generation {number}")
        assert len(actual.alarms) == ALARMS_MAX
        assert alarmed(actual, actual.alarms[0]) == actual
        assert calmed(actual).alarms == ()


class TestKeeping:
    def test_the_release_before_stays_on_disk(self) -> None:
        desired = wanting("m@2")
        actual = carried_out(answered(desired, running("m@1"), NOW), desired)
        assert dispensable(desired, actual) == frozenset()
        desired = wanting("m@3")
        actual = carried_out(answered(desired, actual, NOW), desired)
        assert dispensable(desired, actual) == {digest("m@1")}
        assert dispensable(desired, removed(actual, digest("m@1"))) == frozenset()

    def test_what_the_edge_did_not_fetch_is_never_dispensable(self) -> None:
        actual = edge(installed={digest("own@1"): "own@1"})
        assert dispensable(None, actual) == frozenset()

    def test_a_fetch_that_was_never_recorded_is_still_the_edges_to_remove(self) -> None:
        killed = answered(wanting("m@1"), edge(), NOW).saved()
        again = restored(killed, installed={digest("m@1"): "m@1"}, runtime=RUNTIME, root_version=1)
        assert dispensable(wanting(), answered(wanting(), again, NOW)) == {digest("m@1")}

    def test_a_fetch_that_came_to_nothing_is_forgotten(self) -> None:
        actual = answered(wanting("m@1"), edge(), NOW)
        assert actual.fetched == {digest("m@1")}
        assert answered(wanting(), actual, NOW).fetched == frozenset()

    def test_all_that_is_under_way_is_needed(self) -> None:
        actual = edge(
            goals={"a": Run("a", "1", digest("a"), "group"), "b": Stop("b", "group")},
            restoring={"c": Run("c", "1", digest("c"), "manual")},
            previous={"d": digest("d")},
        )
        assert needed(wanting("e@1"), actual) == {digest("a"), digest("c"), digest("d"), digest("e@1")}

    def test_verdicts_are_bounded(self) -> None:
        actual = edge(verdicts={digest(str(n)): Verdict(digest(str(n)), RUNTIME) for n in range(VERDICTS_MAX)})
        actual = finished(actual, Verify("m", "1", digest("new")), Done(), NOW, 0.5)
        assert len(actual.verdicts) == VERDICTS_MAX
        assert digest("0") not in actual.verdicts
        assert digest("new") in actual.verdicts


NAMES = ("a", "b", "c")
VERSIONS = ("1", "2")


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, ...]]:
    steps = st.one_of(
        st.tuples(st.just("answer"), st.sets(st.sampled_from(NAMES)).map(sorted).map(tuple), st.sampled_from(VERSIONS)),
        st.tuples(st.just("hand"), st.sampled_from(NAMES), st.sampled_from(VERSIONS)),
        st.tuples(st.just("act"), st.sampled_from(("done", "passing", "lasting", "damaged"))),
        st.tuples(st.just("kill")),
    )
    return draw(st.lists(steps, max_size=25))


OUTCOMES = {
    "done": Done(),
    "passing": Passing("p", "p"),
    "lasting": Lasting("l", "l"),
    "damaged": Passing("d", "d", damaged=True),
}


@given(histories())
def test_any_history_ends_where_the_last_answer_says(history: list[tuple[str, ...]]) -> None:
    actual = edge()
    desired = None
    now = NOW
    for step in history:
        match step:
            case ("answer", names, version):
                desired = wanting(*(f"{name}@{version}" for name in names), expires=int(NOW) + 10**6)
                actual = answered(desired, actual, now)
            case ("hand", name, version):
                try:
                    actual = requested(
                        actual, name=name, version=version, record=digest(f"{name}@{version}"), origin="manual"
                    )
                except NotRunnable:
                    pass
            case ("act", how):
                actions = decide(desired, actual, now)
                if actions and not isinstance(actions[0], Unload):
                    actual = finished(actual, actions[0], OUTCOMES[how], now, 0.9)
            case ("kill",):
                on_disk = msgspec.json.decode(msgspec.json.encode(actual.saved()), type=Saved)
                assert on_disk == actual.saved()
                actual = restored(on_disk, installed=actual.installed, runtime=RUNTIME, root_version=1)
        now += 1
    if desired is None:
        return
    now += 1000
    actual = carried_out(answered(desired, actual, now), desired, now)
    actual = carried_out(answered(desired, actual, now), desired, now)
    for model in desired.models:
        bad = actual.verdicts.get(model.record)
        if bad is not None and bad.error is not None:
            assert model.label in actual.errors
        else:
            assert actual.loaded[model.name].record == model.record
    wanted = {model.name for model in desired.models}
    assert all(entry.origin == "manual" for name, entry in actual.loaded.items() if name not in wanted)
    assert actual.goals == {}
