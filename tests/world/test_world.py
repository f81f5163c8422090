"""Fifty runs of the world hold, and bugs that are planted in its cores are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as changed
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from federation.actual import Actual, Lasting, Load, Passing, Run, Saved, Verify
from federation.documents import DesiredState, RootRecord, TrustedKey
from federation.outcomes import finished
from federation.reconciliation import answered, decide, restored
from federation.verification import verify, verify_desired, verify_record
from tests.world.cores import PRODUCTION, Cores
from tests.world.disk import Disk
from tests.world.world import ROGUE, Violated, World

SEEDS = range(50)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_world_holds(seed: int) -> None:
    World(seed).run()


def test_a_seed_is_a_run() -> None:
    told: list[list[str]] = [[], []]
    for lines in told:
        World(3, trace=lines.append).run()
    assert told[0] == told[1]
    assert any("crashes" in line for line in told[0])


# --- planted bugs ---------------------------------------------------------------------------------------------------


def believes_any_generation(document: Any, *, cursor: Any, **rest: Any) -> DesiredState | None:
    return verify_desired(document, cursor=None, **rest)


def believes_any_edge(document: Any, *, edge: Any, **rest: Any) -> DesiredState | None:
    return verify_desired(document, edge=msgspec.json.decode(document.payload)["edge"], **rest)


def with_a_rogue(root: RootRecord) -> RootRecord:
    return replace(root, publishers=root.publishers | {ROGUE.keyid: TrustedKey(ROGUE.public, "rogue")})


def verifies_a_rogue(document: Any, *, root: RootRecord, **rest: Any) -> Any:
    return verify(document, root=with_a_rogue(root), **rest)


def fetches_for_a_rogue(document: Any, root: RootRecord) -> Any:
    return verify_record(document, with_a_rogue(root))


def skips_the_trial(*state: Any, **rest: Any) -> Any:
    actions = decide(*state, **rest)
    return tuple(
        Load(action.name, action.version, action.record, "group") if isinstance(action, Verify) else action
        for action in actions
    )


def forgets_verdicts(actual: Actual, action: Any, outcome: Any, *when: float) -> Actual:
    passing = Passing(outcome.error, outcome.message) if isinstance(outcome, Lasting) else outcome
    return finished(actual, action, passing, *when)


def forgets_what_was_loaded(saved: Saved, **rest: Any) -> Actual:
    return replace(restored(saved, **rest), restoring={})


def obeys_the_expired(desired: DesiredState, actual: Actual, now: float) -> Actual:
    return answered(replace(desired, expires=2**40), actual, now)


def acts_by_the_expired(desired: DesiredState | None, *rest: Any, **more: Any) -> Any:
    return decide(replace(desired, expires=2**40) if desired else None, *rest, **more)


def keeps_manual_loads(desired: DesiredState, actual: Actual, now: float) -> Actual:
    by_hand = {name for name, entry in actual.loaded.items() if entry.origin != "group"}
    after = answered(desired, actual, now)
    return replace(after, goals={name: goal for name, goal in after.goals.items() if name not in by_hand})


def never_unloads(desired: DesiredState, actual: Actual, now: float) -> Actual:
    after = answered(desired, actual, now)
    return replace(after, goals={name: goal for name, goal in after.goals.items() if hasattr(goal, "record")})


def syncs_in_between(disk: Disk, crash_point: Callable[[str], None], **values: Any) -> None:
    for name, value in values.items():
        disk.write(**{name: value})
        disk.sync()
        crash_point("between")


def never_syncs(disk: Disk, crash_point: Callable[[str], None], **values: Any) -> None:
    disk.write(**values)
    crash_point("written, not synced")


def without_needs(actual: Actual) -> Actual:
    goals = {name: replace(goal, needs=()) if isinstance(goal, Run) else goal for name, goal in actual.goals.items()}
    return replace(actual, needs={}, goals=goals)


def ignores_needs(desired: DesiredState | None, actual: Actual, *rest: Any, **more: Any) -> Any:
    return decide(desired, without_needs(actual), *rest, **more)


def forgets_needs_at_a_start(saved: Saved, **rest: Any) -> Actual:
    return without_needs(restored(saved, **rest))


BUGS = {
    "takes a lower generation": (Cores(verify_desired=believes_any_generation), "went back from"),
    "takes another edge's state": (Cores(verify_desired=believes_any_edge), "never signed for it"),
    "runs what no endorsed publisher signed": (
        Cores(verify=verifies_a_rogue, verify_record=fetches_for_a_rogue),
        "no endorsed publisher",
    ),
    "acts by an expired desired state": (
        Cores(answered=obeys_the_expired, decide=acts_by_the_expired),
        "by an expired desired state",
    ),
    "loads without a trial": (Cores(decide=skips_the_trial), "fails its own test vectors"),
    "forgets verdicts": (Cores(finished=forgets_verdicts), "was found bad"),
    "starts with nothing in memory": (Cores(restored=forgets_what_was_loaded), "which it had loaded"),
    "never lets a group replace a manual load": (Cores(answered=keeps_manual_loads), "after the last fault"),
    "loads without what is needed": (Cores(decide=ignores_needs), "is active and needs"),
    "forgets at a start what is needed": (Cores(restored=forgets_needs_at_a_start), "is active and needs"),
    "never unloads": (Cores(answered=never_unloads), "nobody wants"),
    "commits state and records apart": (Cores(commit=syncs_in_between), "without the records"),
    "acknowledges before the disk has it": (Cores(commit=never_syncs), "an acknowledged"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    cores, complaint = BUGS[bug]
    assert changed(cores) != PRODUCTION
    found = []
    for seed in SEEDS:
        try:
            World(seed, cores=cores).run()
        except Violated as violation:
            found.append(str(violation))
            if complaint in found[-1]:
                assert f"python -m tests.world --seed {seed}" in found[-1]
                return
    pytest.fail(f"not found in {len(SEEDS)} seeds; instead: {sorted(set(found))[:5]}")
