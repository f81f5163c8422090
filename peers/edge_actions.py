"""How an edge does what was decided: fetch, verify, load, unload, each ending in one outcome.

Owns the way from an action to the parts that do it, and the split of what can go wrong: a refusal of the content
(:class:`~federation.errors.Untrusted`, :class:`~engine.errors.ContentProblem`) lasts, everything else may pass.
Decides nothing and remembers nothing.

Rules: every load goes through ``verify()`` under the root record of that moment, whatever was remembered before; a
release must be the one whose name and version were asked for; hashing happens off the loop.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import msgspec

from engine.errors import ContentProblem
from federation.actual import Done, Fetch, Lasting, Load, Origin, Outcome, Passing, Unload, Verify
from federation.documents import ReleaseRecord, SignedDocument
from federation.errors import (
    BadSignature,
    DevelopmentRefused,
    KeyRevoked,
    MixedParts,
    TooFewSignatures,
    UnknownKey,
    Untrusted,
    WrongHash,
    WrongSize,
)
from federation.manifests import BadManifest
from federation.names import Digest, digest_of
from federation.verification import VerifiedRelease, verify, verify_record
from peers.edge_polling import Trust
from peers.failpoints import reach
from query.errors import InternalProblem, Problem, WorldProblem

log = logging.getLogger("peerage.agent")

Act: TypeAlias = Fetch | Verify | Load | Unload


class ReleaseMissing(WorldProblem):
    """The files of a release are not, or no longer, on this disk."""

    code = "release_missing"


class ReleaseTooLarge(Untrusted):
    """A signed record that asks for more than this program takes."""

    code = "release_too_large"


@dataclass(frozen=True, slots=True)
class StoredRelease:
    """A release as it lies on disk, unverified."""

    document: SignedDocument
    manifest: bytes
    files: Mapping[str, bytes]


class Releases(Protocol):
    """The releases on this peer's disk, by the digest of their record."""

    def installed(self) -> Mapping[Digest, str]:
        """Record digest → ``name@version`` of every release whose files are all there."""
        ...

    async def fetch(self, document: SignedDocument, record: ReleaseRecord) -> None:
        """Bring every file to disk, resuming what is partly there; durable on return."""
        ...

    def read(self, record: Digest) -> StoredRelease:
        """Raises :class:`ReleaseMissing`. Runs on a thread."""
        ...

    def remove(self, record: Digest) -> None:
        """Forget a release, and the files that no other one needs. Runs on a thread."""
        ...


class Engine(Protocol):
    """The memory of this peer (:class:`engine.engine.Engine`), with verdicts in their wire form."""

    @property
    def runtime_version(self) -> str: ...

    async def trial(self, release: VerifiedRelease) -> msgspec.Raw:
        """Try the release in a child. Raises ``ContentProblem`` or ``PassingProblem``."""
        ...

    async def load(self, release: VerifiedRelease, *, origin: Origin, trial: msgspec.Raw | None) -> None: ...

    async def unload(self, name: str) -> None:
        """Have it out of memory; nothing to do where it is not there."""
        ...


@dataclass(frozen=True, slots=True)
class Ending:
    """How an action ended; ``problem`` is the error in its own class, for whoever asked."""

    outcome: Outcome
    problem: Problem | None = None


class Actions:
    """Performs one action at a time for each caller; safe to use from several tasks."""

    def __init__(
        self,
        releases: Releases,
        engine: Engine,
        trust: Trust,
        *,
        record: Callable[[Digest], SignedDocument | None],
        development_key: bytes | None,
        running: Callable[[], Container[Digest]] = frozenset,
    ) -> None:
        """``record`` finds the signed record of a release that was named by a poll's answer; ``running`` gives the
        records of what this peer runs, or ran when it stopped.
        """
        self._releases = releases
        self._engine = engine
        self._trust = trust
        self._record = record
        self._development_key = development_key
        self._running = running

    async def perform(self, action: Act, *, trial: str | None = None) -> Ending:
        """Do it. Never raises but to be cancelled."""
        try:
            return Ending(Done(await self._performed(action, trial)))
        except Problem as problem:
            return Ending(outcome_of(problem), problem)
        except MemoryError:
            full = WorldProblem("not enough memory")
            return Ending(Passing("over_memory", full.message), full)
        except OSError as error:
            failed = WorldProblem(f"the disk failed: {error}")  # with the file's name, where the system told it
            code = "disk_full" if error.errno == errno.ENOSPC else "disk_failed"
            return Ending(Passing(code, failed.message), failed)
        except Exception as error:  # supervised: one model's failure of ours must not stop the others
            log.exception("action_failed", extra={"action": type(action).__name__.lower(), "model": action.name})
            return Ending(Passing("internal", str(error)), InternalProblem(f"{type(error).__name__}: {error}"))

    async def _performed(self, action: Act, trial: str | None) -> str | None:
        match action:
            case Fetch(record=digest):
                reach("fetch.begun")
                document, record = self._named(digest, action.label)
                await self._releases.fetch(document, record)
                reach("fetch.done")
                return None
            case Verify(record=digest):
                found = await self._engine.trial(await asyncio.to_thread(self._verified, digest, action.label))
                reach("verify.done")
                return bytes(found).decode()
            case Load(record=digest, origin=origin):
                release = await asyncio.to_thread(self._verified, digest, action.label)
                await self._engine.load(release, origin=origin, trial=_raw(trial))
                reach("load.swapped")
                return None
            case Unload(name=name):
                await self._engine.unload(name)
                reach("unload.done")
                return None

    def _named(self, digest: Digest, label: str) -> tuple[SignedDocument, ReleaseRecord]:
        document = self._record(digest)
        if document is None:
            raise ReleaseMissing(
                f"the record of {label} is not on this peer", hint="it comes with the next answered poll"
            )
        try:
            record = verify_record(document, self._trust.root, development_key=self._development_key)
        except WrongSize as problem:
            raise ReleaseTooLarge(problem.message) from problem
        _expect(record.label, label)
        return document, record

    def _verified(self, digest: Digest, label: str) -> VerifiedRelease:
        stored = self._releases.read(digest)
        if digest_of(stored.document.payload) != digest:
            raise WrongHash(f"the record of {label} on disk is not the one that was asked for")
        release = verify(
            stored.document,
            root=self._trust.root,
            manifest=stored.manifest,
            files=stored.files,
            development_key=self._development_key,
            running=self._running(),
        )
        _expect(release.label, label)
        return release


def _raw(trial: str | None) -> msgspec.Raw | None:
    return None if trial is None else msgspec.Raw(trial.encode())


def _expect(found: str, expected: str) -> None:
    if found != expected:
        raise MixedParts(f"expected the record of {expected}, found that of {found}")


def outcome_of(problem: Problem) -> Passing | Lasting:
    """Whether trying again can end otherwise."""
    match problem:
        case WrongHash() | WrongSize() | ReleaseMissing():
            return Passing(problem.code, problem.message, damaged=True)
        case BadSignature() | UnknownKey() | KeyRevoked() | TooFewSignatures() | DevelopmentRefused():
            return Lasting(problem.code, problem.message, trust=True)
        case Untrusted() | ContentProblem() | BadManifest():
            return Lasting(problem.code, problem.message)
        case _:
            return Passing(problem.code, problem.message)
