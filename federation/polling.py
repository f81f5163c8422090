"""The director's side of the poll: what an edge should run, signed, and whether that is new to it.

Owns desired states: their content, window, validity, entity tags and the cache of signed answers. Refuses to know who
may ask (:mod:`federation.admission`) and how it travels. Rules:

- An answer follows from the log and the window alone: made twice, it is the same bytes, so that the cache may forget.
- ``window = ⌊(now + offset(edge)) / half the validity⌋``: while nothing changes, a state is signed again each window,
  and the offset spreads that over the edges. It is valid from 48 h before its window's start (slow clocks) for 14
  days after it, so what an edge holds is good for a week at least.
- A poll writes nothing, and a poll that finds nothing new costs the same with any number of edges.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol
from zlib import crc32

from msgspec import Struct

from federation.decisions import decisions, needs_of
from federation.documents import (
    DESIRED_TYPE,
    MODELS_PER_EDGE_MAX,
    DesiredModel,
    DesiredState,
    PollAnswer,
    SignedDocument,
    encode,
)
from federation.entries import Entry
from federation.intervals import Interval, parse_interval
from federation.keys import PrivateKey
from federation.names import PeerId
from federation.signing import sign
from federation.state import FederationState
from query.errors import InternalProblem, UnknownName

VALIDITY_S: Final = 14 * 86_400
WINDOW_S: Final = VALIDITY_S // 2
BACKDATE_S: Final = 48 * 3600
CACHE_BYTES_MAX: Final = 32 * 1024 * 1024


class PollReply(Struct, frozen=True, gc=False):
    """200 with a body, the bytes of a ``PollAnswer``, or 304 without. ``poll_after_s`` is jittered already."""

    status: int
    etag: str
    body: bytes | None
    poll_after_s: float


class Standing(Struct, frozen=True, gc=False):
    """What a poll is answered while the log and the window stand: the tag that gets a 304, and how long to wait.

    Good for ``seq``, the last change of the log, and before ``until``, the window's end.
    """

    seq: int
    until: float
    etag: str
    interval: Interval


class Stateful(Protocol):
    """Where the director finds the state: the store."""

    @property
    def state(self) -> FederationState: ...


def desired_models(state: FederationState, uuid: PeerId) -> tuple[DesiredModel, ...]:
    """What an edge should run, by name. What each needs is named as it is decided for this very edge."""
    made = decisions(state, uuid)
    records = {decision.name: decision.winner.record for decision in made}
    return tuple(
        DesiredModel(
            decision.name,
            won.version,
            won.record,
            decision.group.name,
            won.seq,
            tuple(records[name] for name in sorted(needs_of(state, won)) if name in records),
        )
        for decision in made
        for won in (decision.winner,)
    )


def window_of(uuid: PeerId, now: float) -> int:
    """The number of the window that ``now`` lies in for this edge."""
    return int((now + crc32(uuid.encode()) % WINDOW_S) // WINDOW_S)


def desired_state(state: FederationState, uuid: PeerId, *, window: int) -> DesiredState:
    """The whole desired state of a registered edge in a window. Raises :class:`UnknownName` for anything else."""
    entry = _entry(state, uuid)
    models = desired_models(state, uuid)
    if len(models) > MODELS_PER_EDGE_MAX:
        raise InternalProblem(f'edge "{entry.member.name}" has {len(models)} models: expected {MODELS_PER_EDGE_MAX}')
    begins = window * WINDOW_S - crc32(uuid.encode()) % WINDOW_S
    return DesiredState(
        federation=state.federation,
        edge=uuid,
        name=entry.member.name,
        epoch=state.epoch,
        generation=state.generation(uuid),
        window=window,
        not_before=begins - BACKDATE_S,
        expires=begins + VALIDITY_S,
        mode=entry.member.mode,
        poll_interval=state.interval(entry),
        root_version=state.root.version,
        models=models,
    )


def _entry(state: FederationState, uuid: PeerId) -> Entry:
    entry = state.entry(uuid)
    if entry is None:
        raise UnknownName(f'no edge with the identity "{uuid}"')
    return entry


class Director:
    """Answers polls. ``key`` is one of the root record's director keys, or gives the one of now: it can be replaced."""

    def __init__(
        self, key: PrivateKey | Callable[[], PrivateKey], store: Stateful, *, cache_bytes_max: int = CACHE_BYTES_MAX
    ) -> None:
        self._key: Callable[[], PrivateKey] = (lambda: key) if isinstance(key, PrivateKey) else key
        self._store = store
        self._cache_bytes_max = cache_bytes_max
        self._cached: OrderedDict[PeerId, tuple[str, bytes]] = OrderedDict()
        self._cached_bytes = 0

    @property
    def cached_bytes(self) -> int:
        """How much the signed answers that are kept take."""
        return self._cached_bytes

    def answer(self, uuid: PeerId, if_none_match: str | None, *, now: float, draw: float) -> PollReply:
        """The answer to a poll by an admitted edge. ``draw`` is uniform in [0, 1).

        304 only for the very tag of this epoch, generation and window; any other tag, or none, gets a plain 200.
        """
        state = self._store.state
        entry = state.entry(uuid)
        if entry is None:
            raise UnknownName(f'no edge with the identity "{uuid}"')
        window = int((now + crc32(uuid.encode()) % WINDOW_S) // WINDOW_S)
        etag = f'"{state.epoch}.{state.generation(uuid)}.{window}"'
        poll_after_s = parse_interval(state.interval(entry)).wait_s(draw)
        if if_none_match == etag:
            return PollReply(304, etag, None, poll_after_s)
        return PollReply(200, etag, self._signed(uuid, etag, window), poll_after_s)

    def standing(self, uuid: PeerId, *, now: float) -> Standing:
        """What every poll of a registered edge is answered until something changes; for whoever wants to remember."""
        state = self._store.state
        entry = _entry(state, uuid)
        window = window_of(uuid, now)
        return Standing(
            seq=state.seq,
            until=float((window + 1) * WINDOW_S - crc32(uuid.encode()) % WINDOW_S),
            etag=f'"{state.epoch}.{state.generation(uuid)}.{window}"',
            interval=parse_interval(state.interval(entry)),
        )

    def desired(self, uuid: PeerId, *, now: float) -> DesiredState:
        """What the next poll would be told, unsigned."""
        return desired_state(self._store.state, uuid, window=window_of(uuid, now))

    def _signed(self, uuid: PeerId, etag: str, window: int) -> bytes:
        cached = self._cached.get(uuid)
        if cached is not None:
            if cached[0] == etag:
                self._cached.move_to_end(uuid)
                return cached[1]
            self._forget(uuid)
        state = self._store.state
        desired = desired_state(state, uuid, window=window)
        signed = sign(encode(desired), DESIRED_TYPE, self._key())
        body = encode(PollAnswer(signed, tuple(_records(state, desired))))
        self._cached[uuid] = (etag, body)
        self._cached_bytes += len(body)
        while self._cached_bytes > self._cache_bytes_max and len(self._cached) > 1:
            self._forget(next(iter(self._cached)))
        return body

    def _forget(self, uuid: PeerId) -> None:
        self._cached_bytes -= len(self._cached.pop(uuid)[1])


def _records(state: FederationState, desired: DesiredState) -> list[SignedDocument]:
    found = (state.release(model.name, model.version) for model in desired.models)
    return [release.document for release in found if release is not None]
