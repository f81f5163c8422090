"""What the functions about releases need of the peer they run on: ports and settings; how results name a release."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from federation.assignments import WantedModel
from federation.documents import ReleaseRecord, TensorSpec
from federation.layout_index import InstalledRelease
from federation.names import Digest
from federation.verification import VerifiedRelease
from peers.fetching import Source
from query.declarations import Call, Progress
from query.errors import PeerProblem, Problem


class NoNameserver(PeerProblem):
    """A function that talks to the nameserver, on a peer that has no way to one."""

    code = "no_nameserver"


class Description(Protocol):
    """What a graph says of itself."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def opset(self) -> Mapping[str, int]: ...


class Verdict(Protocol):
    def problem(self) -> Problem | None: ...


class Trials(Protocol):
    """The engine, as far as making a release needs it; graphs are read and run in a child under limits."""

    async def describe(self, graph: bytes) -> Description: ...

    async def trial(self, release: VerifiedRelease, *, beside: Sequence[VerifiedRelease] | None = None) -> Verdict: ...

    async def check(self, release: VerifiedRelease, *, beside: Sequence[VerifiedRelease] | None = None) -> object:
        """Raises for files that no trial is needed to refuse, such as functions that name what does not exist, in the
        language and in the releases ``beside`` it, which it needs.
        """


class Present(Protocol):
    """A model in memory."""

    @property
    def record(self) -> ReleaseRecord: ...

    @property
    def record_digest(self) -> Digest: ...


class Memory(Protocol):
    """What this peer runs."""

    async def load_release(self, release: VerifiedRelease, *, origin: Literal["manual", "development"]) -> object: ...

    async def unload(self, name: str) -> None: ...

    def present(self) -> Sequence[Present]:
        """What is in memory."""
        ...


class Statements(Protocol):
    """Statements at other peers, under this home's identity. One value, or the problem, of each target."""

    async def run(
        self, targets: Sequence[str], text: str, params: Mapping[str, Any], *, call: Call
    ) -> Mapping[str, Any]: ...


class Repository(Protocol):
    """The federation's repository, for a peer that pushes to it."""

    async def push(self, release: InstalledRelease, *, progress: Progress) -> None: ...

    @property
    def addresses(self) -> tuple[str, ...]: ...


class Registering(Protocol):
    """The federation's own list of releases, on the nameserver."""

    async def bring(self, models: Sequence[WantedModel], *, call: Call) -> None:
        """Import releases of other repositories, with what they need: all of it, or raise and nothing has changed."""


async def nothing_newer() -> None:
    """For a peer that has the newest root record anyway, or learns of it in another way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSite:
    """Where the functions run. ``source`` and ``repository`` are None on the nameserver, which has all itself.

    ``loads_imports``: an import is loaded too, as on an edge. ``follow_root`` takes up newer root records, which the
    nameserver has. ``register`` is the nameserver's.
    """

    accept_development: bool
    loads_imports: bool
    source: Source | None = None
    repository: Repository | None = None
    follow_root: Callable[[], Awaitable[None]] = nothing_newer
    before_signing: Callable[[], Awaitable[None]] = nothing_newer
    register: Registering | None = None


def identified(release: InstalledRelease) -> dict[str, Any]:
    """A release as results name it: ``digest`` is of its signed record, ``manifest`` of what a registry knows it by."""
    return {"model": release.label, "digest": release.record_digest, "manifest": release.manifest}
