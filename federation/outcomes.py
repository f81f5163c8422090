"""What an edge is after an action of its turn ended: the other half of :mod:`federation.reconciliation`.

Owns back-off, verdicts and errors. Rules: an outcome for a goal that was replaced meanwhile changes what is known
(files, verdicts, memory), not the new goal; what may pass is put off with full jitter, a verdict on content ends a try.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

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
    Stop,
    Unload,
    Verdict,
    Verify,
    Wait,
)
from federation.documents import LoadedEntry, LoadError
from federation.load_order import noted
from federation.names import Digest

RETRY_BASE_S: Final = 1.0
RETRY_CAP_S: Final = 300.0

_K = TypeVar("_K")
_V = TypeVar("_V")
_G = TypeVar("_G", Run, Goal)


def finished(actual: Actual, action: Action, outcome: Outcome, now: float, draw: float) -> Actual:
    """The state after an action. ``draw`` in [0, 1) jitters the next try.

    An outcome for a goal that was replaced meanwhile changes what is known (files, verdicts, memory), not the new goal.
    """
    return noted(_finished(actual, action, outcome, now, draw), now)


def _finished(actual: Actual, action: Action, outcome: Outcome, now: float, draw: float) -> Actual:
    match action, outcome:
        case Wait(), _:
            return actual
        case Report(digest=digest), Done():
            return replace(actual, reported=digest, report_attempts=0, report_at=0.0)
        case Report(), _:
            attempts = actual.report_attempts + 1
            return replace(actual, report_attempts=attempts, report_at=now + full_jitter(attempts, draw))
        case Unload(name=name, again=again), Done():
            goal = actual.goals.get(name)
            goals = actual.goals if isinstance(goal, Run) else without(actual.goals, name)
            if isinstance(goal, Stop) and goal.then is not None:
                goals = goals | {name: goal.then}
            gone = replace(
                actual,
                goals=goals,
                loaded=without(actual.loaded, name),
                restoring=without(actual.restoring, name),  # what could not be restored is not to be here either
                previous=without(actual.previous, name),
            )
            return _to_return(gone, actual.loaded.get(name)) if again else gone
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
                restoring=without(actual.restoring, name),
                goals=without(actual.goals, name) if met else actual.goals,
                errors=without(forgiven(actual, name), entry.label),
                previous=previous,
                lost=without(actual.lost, name),
            )


def _to_return(actual: Actual, entry: LoadedEntry | None) -> Actual:
    """What made room is restored like what was loaded when the edge stopped, unless a goal takes its place."""
    if entry is None or entry.name in actual.goals:
        return actual
    run = Run(entry.name, entry.version, entry.record, entry.origin, since=entry.since)
    return replace(actual, restoring=actual.restoring | {entry.name: run})


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
    return replace(actual, installed=without(actual.installed, record)) if why.damaged else actual


def _condemned(actual: Actual, record: Digest, why: Lasting) -> Actual:
    root_version = actual.root_version if why.trust else None
    verdict = Verdict(record, actual.runtime, why.error, why.message[:MESSAGE_LENGTH_MAX], root_version)
    return replace(actual, verdicts=_bounded(actual.verdicts, record, verdict, VERDICTS_MAX))


def full_jitter(attempts: int, draw: float, *, base_s: float = RETRY_BASE_S, cap_s: float = RETRY_CAP_S) -> float:
    """Seconds before try ``attempts`` + 1: a draw from nothing to a bound that doubles up to a cap.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ , "Full Jitter".
    """
    return draw * min(cap_s, base_s * 2.0 ** min(attempts, 32))


def forgiven(actual: Actual, name: str) -> dict[str, LoadError]:
    """The errors without that of what was lost under a name."""
    lost = actual.lost.get(name)
    return actual.errors if lost is None else without(actual.errors, lost.label)


# --- values ---------------------------------------------------------------------------------------------------------


def _fresh(run: Run) -> Run:
    return replace(run, attempts=0, retry_at=0.0)


def _mapped(goals: dict[str, _G], name: str, record: Digest, change: Callable[[Run], _G]) -> dict[str, _G]:
    """With the run of this record, if it is there, changed."""
    goal = goals.get(name)
    if isinstance(goal, Run) and goal.record == record:
        return goals | {name: change(goal)}
    return goals


def without(mapping: dict[_K, _V], key: _K) -> dict[_K, _V]:
    """The same mapping where ``key`` is not in it."""
    return {k: v for k, v in mapping.items() if k != key} if key in mapping else mapping


def _bounded(mapping: dict[_K, _V], key: _K, value: _V, size_max: int) -> dict[_K, _V]:
    """With ``key`` set as the newest; the oldest are forgotten beyond ``size_max``."""
    fresh = {k: v for k, v in mapping.items() if k != key} | {key: value}
    for oldest in list(fresh)[: max(0, len(fresh) - size_max)]:
        del fresh[oldest]
    return fresh
