"""What an edge does next: every decision of its turn, none of its work.

Owns the comparison of desired with actual state and the life of an unfinished action. Refuses to do anything itself:
the shell performs an :data:`Action` and feeds its outcome back through :func:`federation.outcomes.finished`.

    saved on disk → restored() → decide() … finished() …         before any network; nothing is compared
    answered poll → answered() → decide() … finished() …         200 and 304 alike
    a person      → requested() or dismissed() → decide() …      recorded first, then done

Rules:

- Only :func:`answered` compares. Between answered polls only unfinished actions (goals) go on, so a manual load takes
  effect at once, survives restarts and is replaced at the next answered poll when a group says otherwise.
- One goal a model name; a newer goal replaces an older one. What was loaded when the edge stopped is restored first and
  apart from goals, so that an old version answers again before its successor is fetched.
- A desired state that is expired or not yet valid changes nothing, and goals that came from groups stand still with it.
- A verdict on content is remembered by record digest and runtime version (one on signatures by root version too) and
  not tried again until one of these changes. What may pass is tried again with full jitter, doubling to a cap.
- An error is shown from its first occurrence until that model loads or is no longer desired. A manual load that cannot
  be restored is shown until it is unloaded or replaced; the next boot tries it again.
- Of releases that need each other none is in memory without what it needs (:mod:`federation.load_order`).
- Kept on disk: what is desired, loaded, restoring or a goal, and for each model name the release that answered before
  the present one. Other releases *that the edge fetched* may go (:func:`federation.actual.dispensable`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec.structs import replace

from federation.actual import (
    Action,
    Actual,
    Fetch,
    Goal,
    Load,
    Report,
    Run,
    Saved,
    Stop,
    Verify,
    Wait,
    known_verdict,
)
from federation.documents import DesiredModel, DesiredState, LoadedEntry, LoadError
from federation.events import PinnedRelease
from federation.load_order import check_dismissal, check_request, departures, noted, waits
from federation.names import Digest
from federation.outcomes import RETRY_CAP_S, forgiven, without
from query.errors import PeerProblem


class NotRunnable(PeerProblem):
    """A release that was found wanting before: its content does not change, so it is not tried again."""

    code = "not_runnable"


# --- from disk ------------------------------------------------------------------------------------------------------


def restored(saved: Saved, *, installed: Mapping[Digest, str], runtime: str, root_version: int) -> Actual:
    """The state at boot: nothing in memory, what was loaded to be loaded again, unfinished actions due at once.

    Of what was lost, only a refused signature may have become good: a device's settings are not in its state.
    """
    again = {
        name: entry
        for name, entry in saved.lost.items()
        if (verdict := saved.verdicts.get(entry.record)) is None
        or verdict.root_version is not None
        or verdict.runtime != runtime
    }
    return Actual(
        runtime=runtime,
        root_version=root_version,
        restoring={
            name: Run(name, entry.version, entry.record, entry.origin, since=entry.since)
            for name, entry in (again | saved.loaded).items()
        },
        lost=saved.lost,
        goals={
            name: replace(goal, attempts=0, retry_at=0.0) if isinstance(goal, Run) else goal
            for name, goal in saved.goals.items()
        },
        verdicts=saved.verdicts,
        errors=saved.errors,
        previous=saved.previous,
        installed=dict(installed),
        fetched=saved.fetched,
        needs=saved.needs,
        carried=saved.carried,
        alarms=saved.alarms,
        reported=saved.reported,
    )


# --- what changes goals ---------------------------------------------------------------------------------------------


def in_force(desired: DesiredState | None, now: float) -> bool:
    """Whether a desired state may change anything at ``now``, in federation time."""
    return desired is not None and desired.not_before <= now < desired.expires


def answered(desired: DesiredState, actual: Actual, now: float) -> Actual:
    """Compare, after an answered poll, with the desired state in store. Sets goals; clears errors without a cause."""
    if not in_force(desired, now):
        return actual
    goals: dict[str, Goal] = {}
    errors: dict[str, LoadError] = {}
    wanted = {model.name: model for model in desired.models}
    for name, model in wanted.items():
        if _holds(actual, name, model.record):
            continue
        verdict = known_verdict(actual, model.record)
        if verdict is not None and verdict.error is not None:
            fresh = LoadError(model.label, verdict.error, verdict.message, int(now))
            errors[model.label] = actual.errors.get(model.label, fresh)
            continue
        goal = actual.goals.get(name)
        if isinstance(goal, Run) and goal.record == model.record:
            goals[name] = replace(goal, origin="group", needs=_needs(model, desired))
        else:
            goals[name] = Run(name, model.version, model.record, "group", needs=_needs(model, desired))
        if model.label in actual.errors:
            errors[model.label] = actual.errors[model.label]
    for name, goal in actual.goals.items():
        if name not in wanted and goal.origin != "group":
            goals[name] = replace(goal, then=None) if isinstance(goal, Stop) else goal
            if isinstance(goal, Run) and goal.label in actual.errors:
                errors[goal.label] = actual.errors[goal.label]
    for name, entry in actual.loaded.items():
        if name not in wanted and entry.origin == "group" and name not in goals:
            goals[name] = Stop(name, "group")
    restoring = {name: run for name, run in actual.restoring.items() if name in wanted or run.origin != "group"}
    for label in (*(run.label for run in restoring.values()), *(entry.label for entry in actual.lost.values())):
        if label in actual.errors:
            errors[label] = actual.errors[label]
    coming = {goal.record for goal in goals.values() if isinstance(goal, Run)} - actual.installed.keys()
    fetched = frozenset(record for record in actual.fetched if record in actual.installed) | coming
    return noted(replace(actual, goals=goals, errors=errors, restoring=restoring, fetched=fetched), now)


def _needs(model: DesiredModel, desired: DesiredState) -> tuple[PinnedRelease, ...]:
    """The releases that a desired model needs, by name."""
    return tuple(
        PinnedRelease(one.name, one.version, one.record) for one in desired.models if one.record in model.needs
    )


def requested(
    actual: Actual, *, name: str, version: str, record: Digest, origin: Literal["manual", "development"]
) -> Actual:
    """A person asks for a release. Raises :class:`NotRunnable` for one whose content is known to be bad, and the
    refusals of :func:`federation.load_order.check_request`.

    A refused signature is looked at again: that is cheap, and the device's settings may have changed.
    """
    run = Run(name, version, record, origin)
    check_request(actual, run)
    verdict = known_verdict(actual, record)
    verdicts = actual.verdicts
    if verdict is not None and verdict.error is not None:
        if verdict.root_version is None:
            raise NotRunnable(f"{name}@{version} cannot run here: {verdict.message} ({verdict.error})")
        verdicts = without(verdicts, record)
    return replace(actual, verdicts=verdicts, goals=actual.goals | {name: run})


def dismissed(actual: Actual, name: str) -> Actual:
    """A person wants a model out of memory; also ends what was under way for it. Raises
    :class:`~federation.needs.StillNeeded` for one that another needs.
    """
    check_dismissal(actual, name)
    present = name in actual.loaded
    goals: dict[str, Goal] = without(actual.goals, name)
    if present:
        goals = goals | {name: Stop(name, "manual")}
    restoring, errors = without(actual.restoring, name), forgiven(actual, name)
    return replace(actual, goals=goals, restoring=restoring, errors=errors, lost=without(actual.lost, name))


def abandoned(actual: Actual, *, name: str, version: str, record: Digest) -> Actual:
    """A request whose asker was told that it failed: nothing of it stays to be done or shown."""
    goal = actual.goals.get(name)
    goals = actual.goals
    if isinstance(goal, Run) and goal.record == record:
        if goal.origin == "group":
            return actual
        goals = without(goals, name)
    lost = actual.lost.get(name)
    shown = lost is not None and lost.record == record  # as what was there before
    errors = actual.errors if shown else without(actual.errors, f"{name}@{version}")
    return replace(actual, goals=goals, errors=errors)


# --- deciding -------------------------------------------------------------------------------------------------------


def decide(
    desired: DesiredState | None, actual: Actual, now: float, *, report: Digest | None = None
) -> tuple[Action, ...]:
    """The next step of everything unfinished; unloading first, then restoring, then the rest; ``Wait`` last.

    ``report`` is the digest of what there is to report, None where nothing is reported. All actions but ``Wait`` are
    due now and independent of each other: at most one a model name.
    """
    stepping: list[Fetch | Verify | Load] = []
    later: list[float] = []
    busy: set[str] = set()
    goals = {name: goal for name, goal in actual.goals.items() if goal.origin != "group" or in_force(desired, now)}
    runs = (*actual.restoring.values(), *(goal for goal in goals.values() if isinstance(goal, Run)))
    for run in runs:
        if run.name in busy:
            continue
        if not _due(run.retry_at, now):
            later.append(run.retry_at)
            continue
        step = _step(actual, run)
        if not (isinstance(step, Load) and waits(actual, run)):
            stepping.append(step)
            busy.add(run.name)
    leave = departures(actual, goals, [step for step in stepping if isinstance(step, Load)])
    out = {action.name for action in leave.unloads}
    actions: list[Action] = [
        *leave.unloads,
        *(
            step
            for step in stepping
            if step.name not in out
            and not (isinstance(step, Load) and (step.name in leave.held or _counts_on(actual, step, leave.leaving)))
        ),
    ]
    if report is not None and report != actual.reported and all(isinstance(action, Fetch) for action in actions):
        if _due(actual.report_at, now):
            actions.append(Report(report))
        else:
            later.append(actual.report_at)
    if later:
        actions.append(Wait(min(later)))
    return tuple(actions)


def _counts_on(actual: Actual, load: Load, leaving: frozenset[str]) -> bool:
    return not leaving.isdisjoint(actual.needs.get(load.record, {}))


def _due(retry_at: float, now: float) -> bool:
    """Whether it is time; a time further away than any back-off was set by a clock that has since been corrected."""
    return not now < retry_at <= now + RETRY_CAP_S


def _step(actual: Actual, run: Run) -> Fetch | Verify | Load:
    if run.record not in actual.installed:
        return Fetch(run.name, run.version, run.record)
    if known_verdict(actual, run.record) is None:
        return Verify(run.name, run.version, run.record)
    return Load(run.name, run.version, run.record, run.origin, run.since)


def _holds(actual: Actual, name: str, record: Digest) -> bool:
    """Whether the record is what answers under the name, or what is being restored there."""
    entry: LoadedEntry | Run | None = actual.loaded.get(name) or actual.restoring.get(name)
    return entry is not None and entry.record == record
