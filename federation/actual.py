"""An edge as it is, what it can do next, and how that can end: the values of the edge's turn.

Owns their form in memory and on disk (:class:`Saved`, JSON), and what follows from them alone: the report, and which
releases are still needed. Decides nothing; see :mod:`federation.reconciliation`.

Rules: values are never written to, also the mappings in them; every change makes a new one. All mappings are bounded
by ``MODELS_PER_EDGE_MAX`` names and the constants here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from federation.documents import ActualState, DesiredState, ExceededLimit, LoadedEntry, LoadError, Mode
from federation.events import PinnedRelease
from federation.names import Digest, PeerId, digest_of

VERDICTS_MAX: Final = 1024
ERRORS_MAX: Final = 512
ALARMS_MAX: Final = 16
MESSAGE_LENGTH_MAX: Final = 500

Origin = Literal["group", "manual", "development"]


class Run(Struct, frozen=True, tag="run", omit_defaults=True):
    """An unfinished way into memory: fetch, verify, load, as far as it has not come yet.

    ``needs``: the very releases that must be in memory first, where a group said so.
    """

    name: str
    version: str
    record: Digest
    origin: Origin
    attempts: int = 0
    retry_at: float = 0.0
    since: int = 0  # when it was loaded, for a goal that restores
    needs: tuple[PinnedRelease, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class Stop(Struct, frozen=True, tag="stop", omit_defaults=True):
    """An unfinished way out of memory. ``then``: what a group wants in its place, once it is gone."""

    name: str
    origin: Origin
    then: Run | None = None


Goal: TypeAlias = Run | Stop


class Verdict(Struct, frozen=True, omit_defaults=True):
    """What verifying and trying a release found. ``error`` is None for one that may run.

    ``root_version`` is set when the verdict is about signatures, which another root record may change.
    ``trial`` is the engine's own word on it, JSON, kept for loading without another trial.
    """

    record: Digest
    runtime: str
    error: str | None = None
    message: str = ""
    root_version: int | None = None
    trial: str | None = None


class Saved(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What of :class:`Actual` is on disk. ``loaded`` holds what was in memory and what was still being restored."""

    loaded: dict[str, LoadedEntry] = {}
    goals: dict[str, Goal] = {}
    verdicts: dict[Digest, Verdict] = {}
    errors: dict[str, LoadError] = {}
    previous: dict[str, Digest] = {}
    lost: dict[str, LoadedEntry] = {}
    fetched: frozenset[Digest] = frozenset()
    carried: frozenset[Digest] = frozenset()
    needs: dict[Digest, dict[str, str]] = {}
    alarms: tuple[str, ...] = ()
    reported: Digest | None = None


class Actual(Struct, frozen=True, kw_only=True):
    """An edge as it is. A value: every change makes a new one, and no mapping in it is ever written to.

    ``restoring``: what was loaded when the edge stopped and is not in memory again. ``installed``: releases whose
    files are all on disk, record digest → label. ``lost``: manual loads that could not be restored, until each is
    unloaded, replaced, or restored at a later boot. ``fetched``: those that the edge itself brought here, noted before
    it begins to, so that a kill in between leaves nothing that nobody prunes. ``carried``: what the last imported file
    held, kept as long as no other file takes its place. ``needs``: of releases that need
    others, the conditions by name.
    """

    runtime: str
    root_version: int
    loaded: dict[str, LoadedEntry] = {}
    restoring: dict[str, Run] = {}
    goals: dict[str, Goal] = {}
    verdicts: dict[Digest, Verdict] = {}
    errors: dict[str, LoadError] = {}
    previous: dict[str, Digest] = {}
    lost: dict[str, LoadedEntry] = {}
    installed: dict[Digest, str] = {}
    fetched: frozenset[Digest] = frozenset()
    carried: frozenset[Digest] = frozenset()
    needs: dict[Digest, dict[str, str]] = {}
    alarms: tuple[str, ...] = ()
    reported: Digest | None = None
    report_attempts: int = 0
    report_at: float = 0.0

    def saved(self) -> Saved:
        waiting = {
            name: LoadedEntry(run.name, run.version, run.record, run.origin, run.since)
            for name, run in self.restoring.items()
        }
        return Saved(
            loaded=waiting | self.loaded,
            goals=self.goals,
            verdicts=self.verdicts,
            errors=self.errors,
            previous=self.previous,
            lost=self.lost,
            fetched=self.fetched,
            carried=self.carried,
            needs=self.needs,
            alarms=self.alarms,
            reported=self.reported,
        )


# --- actions and outcomes -------------------------------------------------------------------------------------------


class Fetch(Struct, frozen=True):
    """Bring the files of a release to disk."""

    name: str
    version: str
    record: Digest

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class Verify(Struct, frozen=True):
    """Check signature and content, and try the release apart from this process."""

    name: str
    version: str
    record: Digest

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class Load(Struct, frozen=True):
    """Put a release that has a good verdict into memory, in place of what answers under its name."""

    name: str
    version: str
    record: Digest
    origin: Origin
    since: int = 0  # when it was loaded first, for one that is restored

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class Unload(Struct, frozen=True):
    """Take a model out of memory. ``again``: it makes room, and is to be loaded again when what it needs is there."""

    name: str
    again: bool = False


class Report(Struct, frozen=True):
    """Tell the nameserver; ``digest`` is :func:`report_digest` of what to tell."""

    digest: Digest


class Wait(Struct, frozen=True):
    """Nothing to do before ``until``, unless something happens."""

    until: float


Action: TypeAlias = Fetch | Verify | Load | Unload | Report | Wait


class Done(Struct, frozen=True):
    """It worked. ``trial`` is the engine's word after a :class:`Verify`."""

    trial: str | None = None


class Passing(Struct, frozen=True):
    """It failed for a reason that may pass. ``damaged``: what lies on disk is not what was fetched."""

    error: str
    message: str
    damaged: bool = False


class Lasting(Struct, frozen=True):
    """The content failed: another try would end the same. ``trust``: only under the present root record."""

    error: str
    message: str
    trust: bool = False


Outcome: TypeAlias = Done | Passing | Lasting


def known_verdict(actual: Actual, record: Digest) -> Verdict | None:
    """The remembered verdict while it holds: same runtime, and same root record where it is about signatures."""
    verdict = actual.verdicts.get(record)
    if verdict is None or verdict.runtime != actual.runtime:
        return None
    if verdict.root_version is not None and verdict.root_version != actual.root_version:
        return None
    return verdict


# --- what is told and kept ------------------------------------------------------------------------------------------


def report_of(
    desired: DesiredState | None,
    actual: Actual,
    *,
    edge: PeerId,
    mode: Mode,
    properties: Mapping[str, str | int | float | bool],
    exceeded: Iterable[ExceededLimit] = (),
) -> ActualState:
    """What the edge reports, without the time: equal states make equal reports."""
    return ActualState(
        edge=edge,
        epoch=desired.epoch if desired else 0,
        generation=desired.generation if desired else 0,
        mode=mode,
        loaded=tuple(actual.loaded[name] for name in sorted(actual.loaded)),
        errors=tuple(actual.errors[label] for label in sorted(actual.errors)),
        installed=tuple(sorted(actual.installed.values())),
        alarms=actual.alarms,
        properties=dict(properties),
        exceeded=tuple(exceeded),
    )


def report_digest(report: ActualState) -> Digest:
    """Identifies what a report says, whenever it is said."""
    return digest_of(msgspec.json.encode(replace(report, reported=0)))


def used(desired: DesiredState | None, actual: Actual) -> frozenset[Digest]:
    """Records of the releases that are in memory, on their way there, or should be."""
    runs = (goal for goal in actual.goals.values() if isinstance(goal, Run))
    return frozenset(
        [
            *(model.record for model in (desired.models if desired else ())),
            *(entry.record for entry in actual.loaded.values()),
            *(run.record for run in actual.restoring.values()),
            *(run.record for run in runs),
            *(entry.record for entry in actual.lost.values()),
        ]
    )


def needed(desired: DesiredState | None, actual: Actual) -> frozenset[Digest]:
    """Records of the releases to keep on disk."""
    return used(desired, actual) | frozenset(actual.previous.values()) | frozenset(actual.carried)


def brought(actual: Actual, records: frozenset[Digest]) -> Actual:
    """A file brought these releases: they stay until another file takes its place. Those that were here before are
    whose they were.
    """
    return replace(actual, carried=records, fetched=actual.fetched | (records - actual.installed.keys()))


def dispensable(desired: DesiredState | None, actual: Actual) -> frozenset[Digest]:
    """Releases that the edge fetched and needs no more. What a person made or imported here is never among them."""
    return (actual.fetched & actual.installed.keys()) - needed(desired, actual)


def removed(actual: Actual, record: Digest) -> Actual:
    """A dispensable release is gone from disk."""
    installed = {digest: label for digest, label in actual.installed.items() if digest != record}
    return replace(actual, installed=installed, fetched=actual.fetched - {record})


def alarmed(actual: Actual, alarm: str) -> Actual:
    """Note a desired state that was refused: shown until a newer one is accepted; the latest ``ALARMS_MAX``."""
    if alarm in actual.alarms:
        return actual
    return replace(actual, alarms=(*actual.alarms, alarm[:MESSAGE_LENGTH_MAX])[-ALARMS_MAX:])


def calmed(actual: Actual) -> Actual:
    """A newer desired state was accepted."""
    return replace(actual, alarms=()) if actual.alarms else actual
