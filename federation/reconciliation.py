"""What an edge does next: every decision of its turn, none of its work.

Owns the comparison of desired with actual state and the life of an unfinished action. Refuses to do anything itself:
the shell performs an :data:`Action` and feeds its :data:`Outcome` back through :func:`finished`.

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
- Kept on disk: what is desired, loaded, restoring or a goal, and for each model name the release that answered before
  the present one. Other releases *that the edge fetched* may go (:func:`federation.actual.dispensable`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeVar

from msgspec.structs import replace

from federation.actual import (
    ERRORS_MAX,
    MESSAGE_LENGTH_MAX,
    VERDICTS_MAX,
    Action,
    Actual,
    Done,
    Fetch,
    Goal,
    Lasting,
    Load,
    Outcome,
    Passing,
    Report,
    Run,
    Saved,
    Stop,
    Unload,
    Verdict,
    Verify,
    Wait,
)
from federation.documents import DesiredState, LoadedEntry, LoadError
from federation.names import Digest
from query.errors import PeerProblem

RETRY_BASE_S: Final = 1.0
RETRY_CAP_S: Final = 300.0

_K = TypeVar("_K")
_V = TypeVar("_V")
_G = TypeVar("_G", Run, Goal)


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
            goals[name] = replace(goal, origin="group")
        else:
            goals[name] = Run(name, model.version, model.record, "group")
        if model.label in actual.errors:
            errors[model.label] = actual.errors[model.label]
    for name, goal in actual.goals.items():
        if name not in wanted and goal.origin != "group":
            goals[name] = goal
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
    return replace(actual, goals=goals, errors=errors, restoring=restoring, fetched=fetched)


def requested(
    actual: Actual, *, name: str, version: str, record: Digest, origin: Literal["manual", "development"]
) -> Actual:
    """A person asks for a release. Raises :class:`NotRunnable` for one whose content is known to be bad.

    A refused signature is looked at again: that is cheap, and the device's settings may have changed.
    """
    verdict = known_verdict(actual, record)
    verdicts = actual.verdicts
    if verdict is not None and verdict.error is not None:
        if verdict.root_version is None:
            raise NotRunnable(f"{name}@{version} cannot run here: {verdict.message} ({verdict.error})")
        verdicts = _without(verdicts, record)
    return replace(actual, verdicts=verdicts, goals=actual.goals | {name: Run(name, version, record, origin)})


def dismissed(actual: Actual, name: str) -> Actual:
    """A person wants a model out of memory; also ends what was under way for it."""
    present = name in actual.loaded
    goals: dict[str, Goal] = _without(actual.goals, name)
    if present:
        goals = goals | {name: Stop(name, "manual")}
    restoring, errors = _without(actual.restoring, name), _forgiven(actual, name)
    return replace(actual, goals=goals, restoring=restoring, errors=errors, lost=_without(actual.lost, name))


def abandoned(actual: Actual, *, name: str, version: str, record: Digest) -> Actual:
    """A request whose asker was told that it failed: nothing of it stays to be done or shown."""
    goal = actual.goals.get(name)
    goals = actual.goals
    if isinstance(goal, Run) and goal.record == record:
        if goal.origin == "group":
            return actual
        goals = _without(goals, name)
    lost = actual.lost.get(name)
    shown = lost is not None and lost.record == record  # as what was there before
    errors = actual.errors if shown else _without(actual.errors, f"{name}@{version}")
    return replace(actual, goals=goals, errors=errors)


# --- deciding -------------------------------------------------------------------------------------------------------


def decide(
    desired: DesiredState | None, actual: Actual, now: float, *, report: Digest | None = None
) -> tuple[Action, ...]:
    """The next step of everything unfinished; unloading first, then restoring, then the rest; ``Wait`` last.

    ``report`` is the digest of what there is to report, None where nothing is reported. All actions but ``Wait`` are
    due now and independent of each other: at most one a model name.
    """
    unloading: list[Action] = []
    stepping: list[Action] = []
    later: list[float] = []
    busy: set[str] = set()
    for name, run in actual.restoring.items():
        if _due(run.retry_at, now):
            stepping.append(_step(actual, run))
            busy.add(name)
        else:
            later.append(run.retry_at)
    for name, goal in actual.goals.items():
        if name in busy or (goal.origin == "group" and not in_force(desired, now)):
            continue
        match goal:
            case Stop():
                unloading.append(Unload(name))
            case Run(retry_at=retry_at) if not _due(retry_at, now):
                later.append(retry_at)
            case Run():
                stepping.append(_step(actual, goal))
    actions = unloading + stepping
    if report is not None and report != actual.reported and all(isinstance(action, Fetch) for action in actions):
        if _due(actual.report_at, now):
            actions.append(Report(report))
        else:
            later.append(actual.report_at)
    if later:
        actions.append(Wait(min(later)))
    return tuple(actions)


def _due(retry_at: float, now: float) -> bool:
    """Whether it is time; a time further away than any back-off was set by a clock that has since been corrected."""
    return not now < retry_at <= now + RETRY_CAP_S


def _step(actual: Actual, run: Run) -> Action:
    if run.record not in actual.installed:
        return Fetch(run.name, run.version, run.record)
    if known_verdict(actual, run.record) is None:
        return Verify(run.name, run.version, run.record)
    return Load(run.name, run.version, run.record, run.origin, run.since)


def known_verdict(actual: Actual, record: Digest) -> Verdict | None:
    """The remembered verdict while it holds: same runtime, and same root record where it is about signatures."""
    verdict = actual.verdicts.get(record)
    if verdict is None or verdict.runtime != actual.runtime:
        return None
    if verdict.root_version is not None and verdict.root_version != actual.root_version:
        return None
    return verdict


def _holds(actual: Actual, name: str, record: Digest) -> bool:
    """Whether the record is what answers under the name, or what is being restored there."""
    entry: LoadedEntry | Run | None = actual.loaded.get(name) or actual.restoring.get(name)
    return entry is not None and entry.record == record


# --- outcomes -------------------------------------------------------------------------------------------------------


def finished(actual: Actual, action: Action, outcome: Outcome, now: float, draw: float) -> Actual:
    """The state after an action. ``draw`` in [0, 1) jitters the next try.

    An outcome for a goal that was replaced meanwhile changes what is known (files, verdicts, memory), not the new goal.
    """
    match action, outcome:
        case Wait(), _:
            return actual
        case Report(digest=digest), Done():
            return replace(actual, reported=digest, report_attempts=0, report_at=0.0)
        case Report(), _:
            attempts = actual.report_attempts + 1
            return replace(actual, report_attempts=attempts, report_at=now + full_jitter(attempts, draw))
        case Unload(name=name), Done():
            goals = actual.goals if isinstance(actual.goals.get(name), Run) else _without(actual.goals, name)
            return replace(
                actual,
                goals=goals,
                loaded=_without(actual.loaded, name),
                previous=_without(actual.previous, name),
            )
        case Unload(), _:
            return actual
        case Fetch() | Verify() | Load(), Done():
            return _succeeded(actual, action, outcome, now)
        case Fetch() | Verify() | Load(), Passing():
            return _failed(_distrusting(actual, action.record, outcome), action, outcome, now, draw)
        case Fetch() | Verify() | Load(), Lasting():
            return _failed(_condemned(actual, action.record, outcome), action, outcome, now, draw)
    raise AssertionError(f"no rule for {action} with {outcome}")


def _succeeded(actual: Actual, action: Fetch | Verify | Load, done: Done, now: float) -> Actual:
    match action:
        case Fetch(name=name, record=record):
            return replace(
                actual,
                installed=actual.installed | {record: action.label},
                fetched=actual.fetched | {record},
                goals=_mapped(actual.goals, name, record, _fresh),
                restoring=_mapped(actual.restoring, name, record, _fresh),
            )
        case Verify(record=record):
            verdict = Verdict(record, actual.runtime, trial=done.trial)
            return replace(actual, verdicts=_bounded(actual.verdicts, record, verdict, VERDICTS_MAX))
        case Load(name=name, version=version, record=record, origin=origin, since=since):
            entry = LoadedEntry(name, version, record, origin, since or int(now))
            before: LoadedEntry | Run | None = actual.loaded.get(name) or actual.restoring.get(name)
            previous = actual.previous
            if before is not None and before.record != record:
                previous = previous | {name: before.record}
            goal = actual.goals.get(name)
            met = isinstance(goal, Run) and goal.record == record
            return replace(
                actual,
                loaded=actual.loaded | {name: entry},
                restoring=_without(actual.restoring, name),
                goals=_without(actual.goals, name) if met else actual.goals,
                errors=_without(_forgiven(actual, name), entry.label),
                previous=previous,
                lost=_without(actual.lost, name),
            )


def _failed(actual: Actual, action: Fetch | Verify | Load, why: Passing | Lasting, now: float, draw: float) -> Actual:
    """Put the goal off, or give it up, and show the error from when it first occurred."""
    name, record, label = action.name, action.record, action.label
    present = (actual.restoring.get(name), actual.goals.get(name))
    if not any(isinstance(run, Run) and run.record == record for run in present):
        return actual
    known = actual.errors.get(label)
    since = known.since if known is not None and known.error == why.error else int(now)
    error = LoadError(label, why.error, why.message[:MESSAGE_LENGTH_MAX], since)
    errors = _bounded(actual.errors, label, error, ERRORS_MAX)
    if isinstance(why, Lasting):
        goals = {n: g for n, g in actual.goals.items() if not (n == name and isinstance(g, Run) and g.record == record)}
        restoring = {n: run for n, run in actual.restoring.items() if not (n == name and run.record == record)}
        lost = actual.lost
        stopped = actual.restoring.get(name)
        if stopped is not None and stopped.record == record and stopped.origin != "group":
            entry = LoadedEntry(name, stopped.version, record, stopped.origin, stopped.since)
            lost = _bounded(lost, name, entry, ERRORS_MAX)
        return replace(actual, goals=goals, restoring=restoring, errors=errors, lost=lost)

    def later(run: Run) -> Run:
        attempts = run.attempts + 1
        return replace(run, attempts=attempts, retry_at=now + full_jitter(attempts, draw))

    return replace(
        actual,
        goals=_mapped(actual.goals, name, record, later),
        restoring=_mapped(actual.restoring, name, record, later),
        errors=errors,
    )


def _distrusting(actual: Actual, record: Digest, why: Passing) -> Actual:
    """Files that are damaged on disk are not installed: the next step fetches them again."""
    return replace(actual, installed=_without(actual.installed, record)) if why.damaged else actual


def _condemned(actual: Actual, record: Digest, why: Lasting) -> Actual:
    root_version = actual.root_version if why.trust else None
    verdict = Verdict(record, actual.runtime, why.error, why.message[:MESSAGE_LENGTH_MAX], root_version)
    return replace(actual, verdicts=_bounded(actual.verdicts, record, verdict, VERDICTS_MAX))


def full_jitter(attempts: int, draw: float, *, base_s: float = RETRY_BASE_S, cap_s: float = RETRY_CAP_S) -> float:
    """Seconds before try ``attempts`` + 1: a draw from nothing to a bound that doubles up to a cap.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ , "Full Jitter".
    """
    return draw * min(cap_s, base_s * 2.0 ** min(attempts, 32))


def _forgiven(actual: Actual, name: str) -> dict[str, LoadError]:
    """The errors without that of what was lost under a name."""
    lost = actual.lost.get(name)
    return actual.errors if lost is None else _without(actual.errors, lost.label)


# --- values ---------------------------------------------------------------------------------------------------------


def _fresh(run: Run) -> Run:
    return replace(run, attempts=0, retry_at=0.0)


def _mapped(goals: dict[str, _G], name: str, record: Digest, change: Callable[[Run], _G]) -> dict[str, _G]:
    """With the run of this record, if it is there, changed."""
    goal = goals.get(name)
    if isinstance(goal, Run) and goal.record == record:
        return goals | {name: change(goal)}
    return goals


def _without(mapping: dict[_K, _V], key: _K) -> dict[_K, _V]:
    return {k: v for k, v in mapping.items() if k != key} if key in mapping else mapping


def _bounded(mapping: dict[_K, _V], key: _K, value: _V, size_max: int) -> dict[_K, _V]:
    """With ``key`` set as the newest; the oldest are forgotten beyond ``size_max``."""
    fresh = {k: v for k, v in mapping.items() if k != key} | {key: value}
    for oldest in list(fresh)[: max(0, len(fresh) - size_max)]:
        del fresh[oldest]
    return fresh
