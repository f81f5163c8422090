"""One poll of an edge: ask, verify what came back, follow the root record when it moved on.

Owns the order of checks on an answer and nothing that lasts: what was accepted is returned, what was refused is raised
in the class of its refusal. Refuses an answer whose parts do not belong together.

Rules: nothing of an answer is used before the director's signature holds under the newest root record that the answer
names; at most ``ROOTS_PER_POLL_MAX`` root records are followed in one poll. A signature by a director key that is not
known here is no error before the root record was followed: the director's key may have been replaced meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from federation.documents import DesiredState, PollAnswer, RootRecord, SignedDocument, decode
from federation.errors import MixedParts, UnknownKey
from federation.names import Digest, PeerId, digest_of
from federation.roots import advance
from federation.verification import Cursor, verify_desired
from peers.failpoints import reach
from query.errors import UnknownName, WorldProblem

ROOTS_PER_POLL_MAX: Final = 64


class BadPollAnswer(WorldProblem):
    """What was answered is no answer to a poll."""

    code = "bad_poll_answer"


class Reply(Protocol):
    """What came back: ``body`` is the bytes of a ``PollAnswer`` on 200, None on 304."""

    @property
    def status(self) -> int: ...

    @property
    def etag(self) -> str: ...

    @property
    def body(self) -> bytes | None: ...

    @property
    def poll_after_s(self) -> float | None: ...


class Nameserver(Protocol):
    """The calls of an edge's turn (:class:`peers.federation_client.FederationClient`)."""

    async def poll(self, uuid: PeerId, *, etag: str | None, status: str) -> Reply: ...

    async def report(self, uuid: PeerId, body: bytes) -> None: ...

    async def root(self, version: int) -> SignedDocument: ...


class Trust(Protocol):
    """The root record in force on this peer. ``extend`` makes its successor durable, then holds it in force."""

    @property
    def root(self) -> RootRecord: ...

    def extend(self, document: SignedDocument, record: RootRecord) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """An answered poll. ``desired`` and ``records`` are set when there is something new to keep."""

    desired: tuple[SignedDocument, DesiredState] | None
    records: tuple[SignedDocument, ...]
    poll_after_s: float | None


def etag_of(cursor: Cursor) -> str:
    return f'"{cursor.epoch}.{cursor.generation}.{cursor.window}"'


class RootFollower:
    """Takes over newer root records, one caller at a time."""

    def __init__(self, nameserver: Nameserver, trust: Trust) -> None:
        self._nameserver = nameserver
        self._trust = trust
        self._following = asyncio.Lock()

    async def follow(self, *, versions_max: int = ROOTS_PER_POLL_MAX) -> bool:
        """As far as there are any; whether the root record is another one than when this was called."""
        before = self._trust.root.version
        async with self._following:
            while self._trust.root.version < before + versions_max:
                known = self._trust.root.version
                try:
                    document = await self._nameserver.root(known + 1)
                except UnknownName:
                    break
                if self._trust.root.version != known:
                    continue  # a file has brought it meanwhile
                record = advance(self._trust.root, document)
                reach("root.verified")
                self._trust.extend(document, record)
                reach("root.committed")
        return self._trust.root.version > before


class Poller:
    """Polls for one edge."""

    def __init__(
        self, nameserver: Nameserver, trust: Trust, *, federation: str, edge: PeerId, roots: RootFollower | None = None
    ) -> None:
        self._nameserver = nameserver
        self._trust = trust
        self._federation = federation
        self._edge = edge
        self._roots = roots or RootFollower(nameserver, trust)

    async def ask(self, cursor: Cursor | None, *, status: str, now: Callable[[], float]) -> Answer:
        """Raises what the nameserver refused, a :class:`~federation.errors.Untrusted`, or a world problem.

        ``now`` is asked after the answer has come, which may have told the time.
        """
        version = self._trust.root.version
        try:
            return await self._asked(cursor, status=status, now=now)
        except UnknownKey:
            if self._trust.root.version == version:
                raise
        # The root record moved on while the answer was on its way: another one is signed with the key of now.
        return await self._asked(cursor, status=status, now=now)

    async def _asked(self, cursor: Cursor | None, *, status: str, now: Callable[[], float]) -> Answer:
        reply = await self._nameserver.poll(self._edge, etag=etag_of(cursor) if cursor else None, status=status)
        if reply.body is None:
            if cursor is None or (reply.etag and reply.etag != etag_of(cursor)):
                raise BadPollAnswer(
                    f"nothing new, it says, under {reply.etag[:80] or 'no ETag'}; expected what is there"
                )
            return Answer(None, (), reply.poll_after_s)
        try:
            answer = decode(reply.body, PollAnswer)
        except msgspec.MsgspecError as error:
            raise BadPollAnswer(f"expected an answer to a poll, found {reply.body[:80]!r}: {error}") from error
        desired = await self._verified(answer.desired, cursor, now)
        if desired is None:
            return Answer(None, (), reply.poll_after_s)
        return Answer((answer.desired, desired), named(desired, answer.releases), reply.poll_after_s)

    async def _verified(
        self, document: SignedDocument, cursor: Cursor | None, now: Callable[[], float]
    ) -> DesiredState | None:
        def check() -> DesiredState | None:
            return verify_desired(
                document, root=self._trust.root, federation=self._federation, edge=self._edge, cursor=cursor, now=now()
            )

        try:
            state = check()
        except UnknownKey:
            # The director's key may be newer than this edge's root record.
            if not await self._roots.follow():
                raise
            state = check()
        if state is not None and state.root_version > self._trust.root.version:
            behind = state.root_version - self._trust.root.version
            await self._roots.follow(versions_max=min(behind, ROOTS_PER_POLL_MAX))
            state = check()
        return state


def named(desired: DesiredState, records: tuple[SignedDocument, ...]) -> tuple[SignedDocument, ...]:
    """The release records that a desired state names, one for each model. Raises :class:`MixedParts`."""
    by_digest: dict[Digest, SignedDocument] = {digest_of(document.payload): document for document in records}
    missing = [model.label for model in desired.models if model.record not in by_digest]
    if missing:
        raise MixedParts(f"the desired state {desired.etag} names {missing[0]}, whose record did not come with it")
    return tuple({model.record: by_digest[model.record] for model in desired.models}.values())
