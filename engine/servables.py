"""What the engine's table holds: a loaded model or a loaded pipeline, as whoever calls one sees it.

Owns the two ports between running things and the rest of the engine: :class:`Servable`, which answers, and
:class:`Runner`, through which a pipeline runs its models; and the entries of the index. Light to import.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

from federation.names import Digest

if TYPE_CHECKING:
    from engine.contents import Contents
    from engine.inferences import Inference
    from engine.lanes import Lane
    from engine.loaded import LoadedModel
    from engine.providers import Provider
    from engine.signature import Array, Signature
    from engine.statistics import Counters
    from engine.streams import StreamCall
    from federation.documents import ReleaseRecord
    from federation.pipelines import LogSettings

T = TypeVar("T")

Origin = Literal["group", "manual", "development", "demand"]
"""Who asked for what is loaded: a group, a person, a person with a folder, or a request that nobody had foreseen."""

IndexState = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]

Recorder: TypeAlias = "Callable[[Inference, LogSettings], None]"
"""Told of every inference of a pipeline, on the thread that made it; must be quick and raise nothing."""


class Servable(Protocol):
    """Immutable, callable from any thread, kept alive by whoever is calling it.

    ``memory``: digest of a graph → bytes, of every graph that it holds; ``memory_bytes`` is their sum.
    ``signature`` checks what a caller sends; ``counters`` count what it answered.
    """

    @property
    def record(self) -> ReleaseRecord: ...
    @property
    def record_digest(self) -> Digest: ...
    @property
    def signer(self) -> str: ...
    @property
    def origin(self) -> Origin: ...
    @property
    def since(self) -> int: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def memory(self) -> Mapping[Digest, int]: ...
    @property
    def contents(self) -> Contents: ...
    @property
    def signature(self) -> Signature: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def providers(self) -> tuple[Provider, ...]: ...

    def call(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Checks a feed and runs it on this thread; outputs by name."""
        ...

    def run(self, feed: dict[str, Array]) -> dict[str, Array]:
        """:meth:`call` for a feed that ``signature`` has checked."""
        ...

    def feed_of(self, value: Any) -> dict[str, Array]:
        """The checked feed that a value of the language stands for."""
        ...

    def runs_inline(self, feed: Mapping[str, Array]) -> bool:
        """Whether :meth:`run` on this checked feed is expected to be quick enough for the event loop."""
        ...

    def require_vectors(self) -> int:
        """Answers its own test vectors again; their number."""
        ...


class AwaitedServable(Servable, Protocol):
    """A servable that takes its own way through the pool: a pipeline."""

    async def answer(
        self, feed: dict[str, Array], *, deadline_s: float | None = None, stream: StreamCall | None = None
    ) -> dict[str, Array]:
        """:meth:`Servable.run`, waiting where a step takes long."""
        ...


class Runner(Protocol):
    """How a pipeline runs its models without holding up the event loop."""

    async def run(
        self,
        model: LoadedModel,
        feed: dict[str, Array],
        *,
        deadline_s: float | None = None,
        stream: StreamCall | None = None,
    ) -> dict[str, Array]:
        """Here when that is quick, else in the pool, batched where that pays.

        Raises what a run raises, :class:`~engine.errors.EngineBusy`, and ``OverTime`` after ``deadline_s``.
        """
        ...

    async def offload(
        self,
        work: Callable[[], T],
        *,
        counters: Counters,
        lane: Lane | None = None,
        deadline_s: float | None = None,
    ) -> T:
        """``work()`` in the pool. Raises what it raises, ``EngineBusy``, and ``OverTime`` after ``deadline_s``."""
        ...


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One release by its state. ``reason`` says why it is not ready and is empty otherwise; ``kind``: of its record."""

    name: str
    version: str
    state: IndexState
    reason: str = ""
    kind: str = ""
