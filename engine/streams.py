"""The streams that are open on stateful models, and what each carries from its last call to its next.

Owns the table of streams: who may go on, what becomes of those that nobody went on with. A stream is named by a key of
the caller's choice within a scope, which is the model's name, or the place of a model in a pipeline.

Rules:
- A call that fails leaves its stream where it was, as does one of a pipeline that fails at a later step. The calls of
  a stream come one after another: one that comes while another runs is refused (:class:`StreamBusy`), since nobody
  could say which is the earlier.
- At most ``streams_max`` streams and ``memory_bytes`` of states are kept; over them the streams that were used least
  recently are dropped, as is one that nobody used for ``idle_s``. A state belongs to one release: under another one its
  stream begins anew.
- A dropped stream is never gone on with in silence. Who asks to go on (``start=False``) is refused with the reason
  (:class:`StreamUnknown`); who leaves it open (``start=None``) begins anew and reads the reason in ``restarted``. The
  reasons of the latest ``REASONS_MAX`` are remembered.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from engine.errors import InputProblem, StreamBusy, StreamUnknown
from engine.stateful import NOTHING, State, StatefulSession
from federation.names import Digest
from query.errors import LimitExceeded

if TYPE_CHECKING:
    from engine.signature import Array

KEY_LENGTH_MAX: Final = 256
REASONS_MAX: Final = 4096
STREAMS_MAX: Final = 1024
MEMORY_BYTES: Final = 64 * 1024 * 1024
IDLE_S: Final = 600.0

Key = tuple[str, str]


@dataclass(slots=True, kw_only=True)
class StreamCall:
    """One call on a stream; the last two fields are filled in by the run.

    ``start``: begin it (True), go on with it (False), or whichever it is (None). ``end``: forget it after this call.
    ``scope``: empty for the model itself. ``position``: rows of the stream up to and with this call's. ``restarted``:
    why a stream that was open before began anew.
    """

    key: str
    start: bool | None = None
    end: bool = False
    scope: str = ""
    position: int = 0
    restarted: str = ""


@dataclass(frozen=True, slots=True)
class OpenStream:
    """A stream as it is shown."""

    scope: str
    key: str
    record: Digest
    position: int
    idle_s: float
    state_bytes: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a stream stood before a call; ``position`` 0: nowhere."""

    record: Digest | None = None
    state: State = field(default_factory=dict)
    state_bytes: int = 0
    position: int = 0


@dataclass(slots=True)
class _Entry:
    record: Digest
    state: State = field(default_factory=dict)
    state_bytes: int = 0
    position: int = 0
    used: float = 0.0
    busy: bool = False


class Streams:
    """Thread-safe."""

    def __init__(
        self,
        *,
        streams_max: int = STREAMS_MAX,
        memory_bytes: int = MEMORY_BYTES,
        idle_s: float = IDLE_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._streams_max = streams_max
        self._memory_bytes = memory_bytes
        self._idle_s = idle_s
        self._clock = clock
        self._lock = threading.Lock()
        self._open: OrderedDict[Key, _Entry] = OrderedDict()  # used least recently first
        self._reasons: OrderedDict[Key, str] = OrderedDict()
        self._bytes = 0

    def run(
        self, session: StatefulSession, feed: dict[str, Array], call: StreamCall, *, record: Digest, options: Any = None
    ) -> list[Array]:
        """The next outputs of a stream. ``record`` is the release that runs.

        Raises :class:`StreamUnknown`, :class:`StreamBusy`, ``InputProblem`` for a key that is none, ``LimitExceeded``
        for a state that no room is left for, and what the run raises.
        """
        key = _checked(call)
        entry = self._taken(key, call, record)
        try:
            outputs, state = session.advance(feed, entry.state, options)
            state_bytes = sum(array.nbytes for array in state.values())
            if state_bytes > self._memory_bytes:
                raise LimitExceeded(
                    f'stream "{call.key}": expected a state of at most {self._memory_bytes} bytes, found {state_bytes}'
                )
        except BaseException:
            with self._lock:
                entry.busy = False
                if not entry.position:
                    self._removed(key)
            raise
        rows = session.rows(feed)
        with self._lock:
            self._kept(key, entry, state, state_bytes)
            entry.position += rows
            call.position = entry.position
            if call.end:
                self._removed(key)
            self._make_room()
        return outputs

    def standing(self, call: StreamCall) -> Standing:
        """Where the stream of a call stands, for :meth:`put_back`."""
        with self._lock:
            entry = self._open.get((call.scope, call.key))
            if entry is None or not entry.position:
                return Standing()
            return Standing(entry.record, entry.state, entry.state_bytes, entry.position)

    def put_back(self, call: StreamCall, before: Standing) -> None:
        """Undo a call that went well, since what it was part of failed; unless the stream went on or away meanwhile."""
        key = (call.scope, call.key)
        with self._lock:
            entry = self._open.get(key)
            if not call.position or (entry is None and not call.end):
                return
            if entry is not None:
                if entry.busy or entry.position != call.position:
                    return
                self._removed(key)
            if before.record is not None:
                self._open[key] = put = _Entry(before.record, position=before.position)
                self._kept(key, put, before.state, before.state_bytes)
                self._make_room()

    def shown(self, scope: str) -> tuple[OpenStream, ...]:
        """The open streams of a scope and of what is inside it, used least recently first."""
        now = self._clock()
        with self._lock:
            self._drop_idle(now)
            return tuple(
                OpenStream(key[0], key[1], entry.record, entry.position, now - entry.used, entry.state_bytes)
                for key, entry in self._open.items()
                if _inside(key[0], scope) and entry.position
            )

    def end(self, scope: str, key: str) -> bool:
        """Forgets a stream, unless a call is running on it. Whether there was one."""
        with self._lock:
            entry = self._open.get((scope, key))
            if entry is None:
                return False
            if entry.busy:
                raise StreamBusy(f'a call is running on stream "{key}" of {scope}')
            self._removed((scope, key))
            return True

    def forget(self, scope: str) -> None:
        """Drops the streams of what is no longer in memory."""
        with self._lock:
            for key in [key for key, entry in self._open.items() if _inside(key[0], scope) and not entry.busy]:
                self._drop(key, "its model was unloaded")

    @property
    def memory_bytes(self) -> int:
        """Of all states."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._open)

    def _taken(self, key: Key, call: StreamCall, record: Digest) -> _Entry:
        """The entry of a stream, marked busy; a new one where the call begins it."""
        with self._lock:
            now = self._clock()
            self._drop_idle(now)
            entry = self._open.get(key)
            if entry is not None and entry.busy:
                raise StreamBusy(
                    f'a call is running on stream "{call.key}" of {key[0]}',
                    hint="send the next one when it is answered",
                )
            if entry is not None and not call.start and entry.record != record:
                self._drop(key, "its model was replaced by another version")
                entry = None
            if entry is None and not call.start:
                reason = self._reasons.get(key, "")
                if call.start is False:
                    raise StreamUnknown(
                        f'stream "{call.key}" of {key[0]} is not open: {reason or "it never began, or was ended"}',
                        hint="begin it anew",
                    )
                call.restarted = reason
            if entry is None or call.start:
                if entry is not None:
                    self._removed(key)
                entry = self._open[key] = _Entry(record)
            entry.busy = True
            entry.used = now
            self._open.move_to_end(key)
            self._reasons.pop(key, None)
            return entry

    def _kept(self, key: Key, entry: _Entry, state: State, state_bytes: int) -> None:
        self._bytes += state_bytes - entry.state_bytes
        entry.state, entry.state_bytes = state, state_bytes
        entry.busy = False
        entry.used = self._clock()

    def _make_room(self) -> None:
        while len(self._open) > self._streams_max or self._bytes > self._memory_bytes:
            oldest = next((key for key, entry in self._open.items() if not entry.busy), None)
            if oldest is None:
                return
            limit = (
                f"{self._streams_max} streams"
                if len(self._open) > self._streams_max
                else f"{self._memory_bytes} bytes of states"
            )
            self._drop(oldest, f"it was dropped for others that were used later, as at most {limit} are kept")

    def _drop_idle(self, now: float) -> None:
        for key, entry in list(self._open.items()):
            if entry.used + self._idle_s > now:
                return
            if not entry.busy:
                self._drop(key, f"nobody used it for {self._idle_s:g} s")

    def _drop(self, key: Key, reason: str) -> None:
        self._removed(key)
        self._reasons[key] = reason
        while len(self._reasons) > REASONS_MAX:
            self._reasons.popitem(last=False)

    def _removed(self, key: Key) -> None:
        entry = self._open.pop(key)
        self._bytes -= entry.state_bytes
        entry.state = NOTHING


def _checked(call: StreamCall) -> Key:
    if not 0 < len(call.key) <= KEY_LENGTH_MAX:
        raise InputProblem(f"expected a stream's key of 1 to {KEY_LENGTH_MAX} characters, found {len(call.key)}")
    return call.scope, call.key


def _inside(scope: str, outer: str) -> bool:
    return scope == outer or scope.startswith(f"{outer}/")
