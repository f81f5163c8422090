"""What nobody loaded is brought into memory by the first request for it, where the owner lets requests do so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine import errors
from engine.demand import CONTENT_FAILURE_S, FAILURES_KEPT_MAX, LOADS_MAX, PASSING_FAILURE_S, Demand
from engine.engine import Engine
from engine.servables import Servable
from federation.documents import Needs
from federation.revocation import revoke
from federation.verification import VerifiedRelease, verify
from peers.demanded import DemandedReleases
from query.errors import Problem
from tests.models.making import packed, release, scaling
from tests.models.putting import accepted, put
from tests.pipelines.defining import BOB, root_of


class Shelf:
    """What is installed, and how often it was looked for. ``open`` holds every search while it is not set."""

    def __init__(self, *releases: VerifiedRelease) -> None:
        self.releases = {found.record.name: found for found in releases}
        self.searches: list[tuple[str, str | None]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def find(self, name: str, version: str | None) -> VerifiedRelease | None:
        self.searches.append((name, version))
        await self.open.wait()
        found = self.releases.get(name)
        return found if found is not None and version in (None, found.record.version) else None


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine()
    yield made
    made.close()


def know(engine: Engine, candidate: VerifiedRelease) -> VerifiedRelease:
    """So that no load needs a trial."""
    verdict = accepted(candidate, engine)
    engine._trials._accepted[verdict.record, verdict.runtime] = verdict
    return candidate


async def test_without_leave_a_request_loads_nothing(engine: Engine) -> None:
    with pytest.raises(errors.ModelNotLoaded, match='no model "scaling" is loaded here'):
        await engine.wanted("scaling")


async def test_the_first_request_loads_and_the_next_finds(engine: Engine) -> None:
    shelf = Shelf(know(engine, release(scaling())))
    engine.load_on_demand(shelf.find)
    assert (await engine.infer("scaling", [1, 2, 3, 4]))["y"].tolist() == [[2, 4, 6, 8]]
    servable = await engine.wanted("scaling", "1.0")
    assert (servable.origin, shelf.searches) == ("demand", [("scaling", None)])
    with pytest.raises(errors.ModelNotLoaded, match=r"scaling@2\.0 is not loaded here, scaling@1\.0 is"):
        await engine.wanted("scaling", "2.0")


async def test_what_is_not_installed_is_told_as_not_loaded(engine: Engine) -> None:
    await put(engine, scaling())
    shelf = Shelf()
    engine.load_on_demand(shelf.find)
    with pytest.raises(errors.ModelNotLoaded, match='did you mean "scaling"'):
        await engine.wanted("scalin")
    with pytest.raises(errors.ModelNotLoaded):
        await engine.wanted("scalin")
    assert len(shelf.searches) == 2, "it may be installed by now"


async def test_many_requests_wait_for_one_load(engine: Engine) -> None:
    shelf = Shelf(know(engine, release(scaling())))
    engine.load_on_demand(shelf.find)
    shelf.open.clear()
    requests = [asyncio.create_task(engine.wanted("scaling")) for _ in range(20)]
    await asyncio.sleep(0)
    requests[0].cancel()
    await asyncio.gather(requests[0], return_exceptions=True)
    shelf.open.set()
    found = await asyncio.gather(*requests[1:])
    assert {id(one) for one in found} == {id(engine.find("scaling"))}
    assert len(shelf.searches) == 1


async def test_what_it_needs_is_loaded_first(engine: Engine) -> None:
    base = know(engine, release(scaling(), name="base"))
    built = know(engine, release(scaling(3.0), name="built", needs=Needs(releases={"base": ">=1.0"})))
    engine.load_on_demand(Shelf(base, built).find)
    await engine.wanted("built")
    assert [(one.name, one.origin) for one in engine.loaded()] == [("base", "demand"), ("built", "demand")]


async def test_a_need_that_is_not_installed_is_told(engine: Engine) -> None:
    engine.load_on_demand(Shelf(release(scaling(), name="built", needs=Needs(releases={"base": ">=1.0"}))).find)
    with pytest.raises(errors.NeedsNotMet, match=r"built@1\.0 needs base>=1\.0: no base is loaded here"):
        await engine.wanted("built")


class Loads:
    """A stand for the engine: fails as it is told to."""

    def __init__(self) -> None:
        self.problem: Problem | None = None
        self.loads = 0
        self.now = 0.0

    async def load(self, release: VerifiedRelease) -> Servable:
        self.loads += 1
        assert self.problem is not None
        raise self.problem

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("problem", "kept_s"),
    [(errors.FailedVectors("no"), CONTENT_FAILURE_S), (errors.OverMemory("full"), PASSING_FAILURE_S)],
)
async def test_a_failure_is_told_again_without_another_try_until_it_may_have_passed(
    problem: Problem, kept_s: float
) -> None:
    loads = Loads()
    loads.problem = problem
    demand = Demand(Shelf(release(scaling())).find, loads.load, clock=loads.clock)
    for moment in (0.0, kept_s - 0.1):
        loads.now = moment
        with pytest.raises(type(problem), match=problem.message):
            await demand.loaded("scaling", None)
    assert loads.loads == 1
    loads.now = kept_s + 0.1
    with pytest.raises(type(problem)):
        await demand.loaded("scaling", None)
    assert loads.loads == 2


async def test_only_so_many_failures_are_remembered() -> None:
    loads = Loads()
    loads.problem = errors.OverMemory("full")

    async def find(name: str, version: str | None) -> VerifiedRelease | None:
        return anything

    anything = release(scaling())
    demand = Demand(find, loads.load, clock=loads.clock)
    for number in range(FAILURES_KEPT_MAX + 1):
        with pytest.raises(errors.OverMemory):
            await demand.loaded(f"model{number}", None)
    assert len(demand._failed) == FAILURES_KEPT_MAX


async def test_a_long_load_is_waited_for_only_so_long_and_goes_on(engine: Engine) -> None:
    shelf = Shelf(know(engine, release(scaling())))
    shelf.open.clear()
    demand = Demand(shelf.find, lambda found: engine.load(found, origin="demand"), wait_s=0.01)
    with pytest.raises(errors.ModelLoading, match="scaling is being loaded for the first time"):
        await demand.loaded("scaling", None)
    shelf.open.set()
    (task,) = demand._loads.values()
    await task
    assert engine.find("scaling").origin == "demand"


async def test_only_so_many_loads_at_a_time() -> None:
    shelf = Shelf()
    shelf.open.clear()
    demand = Demand(shelf.find, Loads().load)
    waiting = [asyncio.create_task(demand.loaded(f"model{number}", None)) for number in range(LOADS_MAX)]
    await asyncio.sleep(0)
    with pytest.raises(errors.EngineBusy, match=f"expected at most {LOADS_MAX} models"):
        await demand.loaded("one-more", None)
    demand.close()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended)


@pytest.mark.parametrize("later", [True, False])
async def test_what_must_stop_does_whatever_else_was_asked_for(engine: Engine, later: bool) -> None:
    """Two versions of one name by two publishers: the one that came first is loaded, and its publisher is revoked."""
    root = root_of()
    first, second = (
        verify(made.signed, root=root, manifest=made.manifest, files=made.files)
        for made in (packed(scaling(), publisher=BOB), packed(scaling(3.0), version="2.0"))
    )
    installed = {one.record.version: know(engine, one) for one in (first, second)}
    stopped = revoke(root, [BOB.keyid], running="stop", now=1_800_000_000)
    now = [root]

    async def find(name: str, version: str | None) -> VerifiedRelease | None:
        return installed[version or "1.0"]

    demanded = DemandedReleases(engine, find, root=lambda: now[0])
    assert await demanded.found("scaling", "2.0") is second
    loading = asyncio.ensure_future(engine.wanted("scaling", "1.0"))
    while not engine.index():  # noqa: ASYNC110 — until it has begun
        await asyncio.sleep(0)
    await demanded.found("scaling", "2.0")
    if later:
        await loading
        assert [one.label for one in engine.loaded()] == ["scaling@1.0"]
        demanded.obey(stopped)
    else:
        now[0] = stopped
        await loading
        await asyncio.sleep(0)
    assert engine.loaded() == ()
