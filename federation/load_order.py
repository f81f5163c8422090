"""The order in which releases come into an edge's memory and leave it, where they need each other.

Pure, a part of :mod:`federation.reconciliation`. What a release needs are conditions on models by name, known from its
record (``Actual.needs``); a goal that came from a group also names the very releases (``Run.needs``). Rules:

- Nothing is in memory whose needs are not: a release is loaded after everything that it needs, and unloaded before.
- A new version of what is needed is swapped in under those that need it while it meets their conditions. Where it does
  not, they make room first, when what replaces them is ready and all will fit together; whoever has no replacement of
  its own is loaded again afterwards. Where it would not fit, the present versions stay and the new one says why.
- What nobody wants any more stays while something needs it. What a person or a revoked key takes out takes those that
  need it along; they wait until it is back.
- A goal that cannot be reached because of a need shows ``needs_unmet`` with the chain, one that would break another
  ``still_needed``; both go as soon as that changes, without waiting for a retry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from federation.actual import MESSAGE_LENGTH_MAX, Actual, Goal, Load, Run, Stop, Unload, known_verdict, needed
from federation.documents import DesiredState, LoadedEntry, LoadError, ReleaseRecord, SignedDocument, decode
from federation.names import digest_of
from federation.needs import DEPTH_MAX, NeedsUnmet, StillNeeded, satisfies

UNMET: Final = NeedsUnmet.code
BREAKING: Final = StillNeeded.code


class Departures(Struct, frozen=True):
    """Who leaves memory now, and who has to wait: ``leaving`` are names that are not to be counted on, ``held`` those
    of loads that would break others.
    """

    unloads: tuple[Unload, ...] = ()
    leaving: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()


# --- what is known of needs ------------------------------------------------------------------------------------------


def learned(actual: Actual, documents: Iterable[SignedDocument], desired: DesiredState | None) -> Actual:
    """With the needs of these releases; forgets those of releases that are of no interest any more."""
    known = dict(actual.needs)
    for document in documents:
        try:
            releases = decode(document.payload, ReleaseRecord).needs.releases
        except msgspec.MsgspecError:
            continue  # verifying it will say so
        if releases:
            known[digest_of(document.payload)] = releases
    if not known:
        return actual
    kept = needed(desired, actual) | {digest_of(document.payload) for document in documents}
    return replace(actual, needs={record: known[record] for record in known if record in kept})


def missing(actual: Actual, run: Run) -> Iterator[tuple[str, str]]:
    """The needs of a goal that memory does not meet now: name, and condition or ``@version``."""
    present = {entry.record for entry in actual.loaded.values()}
    told = set()
    for pin in run.needs:
        if pin.record not in present:
            told.add(pin.name)
            yield pin.name, f"@{pin.version}"
    for name, condition in actual.needs.get(run.record, {}).items():
        entry = actual.loaded.get(name)
        if name not in told and (entry is None or not satisfies(entry.version, condition)):
            yield name, condition


def dependents(actual: Actual, name: str) -> Iterator[tuple[LoadedEntry | Run, str]]:
    """What needs the model, with its condition: in memory, to be there again, or asked for by a person."""
    asked = (goal for goal in actual.goals.values() if isinstance(goal, Run) and goal.origin != "group")
    present: tuple[LoadedEntry | Run, ...] = (*actual.loaded.values(), *actual.restoring.values(), *asked)
    for entry in present:
        condition = actual.needs.get(entry.record, {}).get(name)
        if condition is not None:
            yield entry, condition


def check_request(actual: Actual, run: Run) -> None:
    """That a person's load can be done now: what it needs is in memory, and nobody needs what it replaces.

    Raises :class:`NeedsUnmet`, :class:`StillNeeded`.
    """
    for name, condition in missing(actual, run):
        entry = actual.loaded.get(name)
        there = f"there is {entry.label}" if entry else f"no {name} is loaded here"
        raise NeedsUnmet(
            f"{run.label} needs {name}{condition}: {there}", hint=f"load a fitting version of {name} first"
        )
    for other, condition in dependents(actual, run.name):
        if other.name != run.name and not satisfies(run.version, condition):
            raise StillNeeded(
                f"{other.label} needs {run.name}{condition}, so {run.label} cannot take its place",
                hint=f'models:unload("{other.name}") first',
            )


def check_dismissal(actual: Actual, name: str) -> None:
    """That nobody needs a model which a person takes out of memory. Raises :class:`StillNeeded`."""
    for entry, condition in dependents(actual, name):
        if entry.name != name and not isinstance(actual.goals.get(entry.name), Stop):
            raise StillNeeded(
                f"{entry.label} needs {name}{condition}, so it stays", hint=f'models:unload("{entry.name}") first'
            )


# --- who leaves ------------------------------------------------------------------------------------------------------


def departures(actual: Actual, goals: Mapping[str, Goal], loads: Iterable[Load]) -> Departures:
    """Who leaves memory now. ``goals`` are those that may be worked on, ``loads`` those that are due and have what they
    need.
    """
    unloads: dict[str, Unload] = {}
    if not actual.needs:
        return Departures(tuple(Unload(name) for name, goal in goals.items() if isinstance(goal, Stop)))
    leaving: set[str] = set()
    held: set[str] = set()
    for name, goal in goals.items():
        if not isinstance(goal, Stop):
            continue
        waiting = [entry for entry, _ in dependents(actual, name) if entry.name != name]
        if goal.origin == "group" and waiting:
            continue
        leaving.add(name)
        making_room = _closure(actual, {entry.name for entry in waiting} & actual.loaded.keys())
        leaving |= making_room
        unloads |= _outermost(actual, goals, making_room)
        if not making_room:
            unloads[name] = Unload(name)
    for load in loads:
        broken = _broken(actual, load.name, load.version)
        if not broken:
            continue
        held.add(load.name)
        making_room = _closure(actual, broken)
        if _blocked(actual, goals, load, making_room) is None:
            leaving |= making_room
            unloads |= _outermost(actual, goals, making_room)
    return Departures(tuple(unloads.values()), frozenset(leaving), frozenset(held))


def waits(actual: Actual, run: Run) -> bool:
    """Whether a load must wait for what it needs."""
    return (bool(run.needs) or run.record in actual.needs) and any(missing(actual, run))


def _broken(actual: Actual, name: str, version: str) -> set[str]:
    """Who in memory could not stay when this version is loaded."""
    return {
        entry.name
        for entry in actual.loaded.values()
        for condition in (actual.needs.get(entry.record, {}).get(name),)
        if condition is not None and not satisfies(version, condition)
    }


def _closure(actual: Actual, names: set[str]) -> set[str]:
    """These models with everything in memory that needs them, directly or through others."""
    found = set(names)
    grown = bool(found)
    while grown:
        more = {
            entry.name
            for entry in actual.loaded.values()
            if entry.name not in found and not found.isdisjoint(actual.needs.get(entry.record, {}))
        }
        found |= more
        grown = bool(more)
    return found


def _outermost(actual: Actual, goals: Mapping[str, Goal], names: set[str]) -> dict[str, Unload]:
    """Those of the models that no other needs. One without a goal of its own is to come back."""
    inner = {needed for name in names for needed in actual.needs.get(actual.loaded[name].record, {})}
    return {name: Unload(name, again=name not in goals) for name in sorted(names - inner)}


def _blocked(actual: Actual, goals: Mapping[str, Goal], load: Load, making_room: set[str]) -> str | None:
    """Why these models cannot make room for a load; an empty text when they only are not ready yet."""
    planned: dict[str, str | None] = {name: entry.version for name, entry in actual.loaded.items()}
    planned |= {name: goal.version if isinstance(goal, Run) else None for name, goal in goals.items()}
    planned[load.name] = load.version
    waiting = False
    for name in sorted(making_room):
        goal = goals.get(name)
        if isinstance(goal, Stop):
            continue
        entry = actual.loaded[name] if goal is None else goal
        for need, condition in actual.needs.get(entry.record, {}).items():
            version = planned.get(need)
            if version is None or not satisfies(version, condition):
                return f"{entry.label}, which is loaded, needs {need}{condition}"
        if isinstance(goal, Run):
            waiting = waiting or not _ready(actual, goal)
    return "" if waiting else None


def _ready(actual: Actual, run: Run) -> bool:
    """Whether a goal is fetched and verified, so that only loading is left."""
    return run.record in actual.installed and known_verdict(actual, run.record) is not None


# --- what is shown ---------------------------------------------------------------------------------------------------


def noted(actual: Actual, now: float) -> Actual:
    """With the errors of goals that cannot be reached for a need, or for what needs them; without past ones."""
    shown = {label for label, error in actual.errors.items() if error.error in (UNMET, BREAKING)}
    goals = tuple(goal for goal in actual.goals.values() if isinstance(goal, Run))
    if not actual.needs and not shown and not any(goal.needs for goal in goals):
        return actual
    runs = (*actual.restoring.values(), *goals)
    others = {label: error for label, error in actual.errors.items() if label not in shown}
    errors = dict(others)
    for _ in range(DEPTH_MAX):
        before = dict(errors)
        for run in runs:
            found = _unmet(actual, run, runs, errors) or _breaking(actual, run)
            if found is None or (run.label in others and not _ready(actual, run)):
                continue  # its own way is not done yet
            code, message = found
            known = actual.errors.get(run.label)
            since = known.since if known is not None and known.error == code else int(now)
            errors[run.label] = LoadError(run.label, code, message[:MESSAGE_LENGTH_MAX], since)
        if errors == before:
            break
    return actual if errors == actual.errors else replace(actual, errors=errors)


def hindered(actual: Actual, goal: Goal) -> NeedsUnmet | StillNeeded | None:
    """The error of a goal that is kept from being reached."""
    error = actual.errors.get(goal.label) if isinstance(goal, Run) else None
    if error is None or error.error not in (UNMET, BREAKING):
        return None
    return NeedsUnmet(error.message) if error.error == UNMET else StillNeeded(error.message)


def _unmet(actual: Actual, run: Run, runs: tuple[Run, ...], errors: Mapping[str, LoadError]) -> tuple[str, str] | None:
    """Why what a goal needs does not come; None while it may."""
    for name, condition in missing(actual, run):
        pin = next((one for one in run.needs if one.name == name), None)
        label = pin.label if pin is not None else None
        coming = [
            one
            for one in runs
            if one.name == name and (one.label == label if label else satisfies(one.version, condition))
        ]
        if coming and not any(one.label in errors for one in coming):
            continue
        asked = actual.needs.get(run.record, {}).get(name, condition)
        told = f"{run.label} needs {name}{asked}"
        labels = (*((label,) if label else ()), *(one.label for one in coming))
        failed = next((errors[one] for one in labels if one in errors), None)
        present = actual.loaded.get(name)
        if failed is not None and failed.error == UNMET:
            return UNMET, f"{told}: {failed.message}"
        if failed is not None:
            return UNMET, f"{told}: {failed.model} does not run: {failed.message} ({failed.error})"
        return UNMET, f"{told}: " + (f"there is {present.label}" if present else f"{label or name} is not there")
    return None


def _breaking(actual: Actual, run: Run) -> tuple[str, str] | None:
    """Why a goal that has all it needs would break what stays; None when it would not."""
    broken = _broken(actual, run.name, run.version)
    if not broken:
        return None
    load = Load(run.name, run.version, run.record, run.origin)
    why = _blocked(actual, actual.goals, load, _closure(actual, broken))
    return (BREAKING, f"{run.label} waits: {why}") if why else None
