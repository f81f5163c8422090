"""One memory budget: what counts, what fits, and what makes room for what."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from engine import errors
from engine.engine import Engine, EngineSettings, Verdict
from engine.servables import Servable
from federation.documents import Needs
from tests.models.making import release, scaling
from tests.models.putting import accepted, put

FEED = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """With room for 100 kB."""
    made = Engine(EngineSettings(memory_budget_bytes=100_000))
    yield made
    made.close()


async def demanded(engine: Engine, name: str, factor: float, peak_bytes: int) -> Servable:
    candidate = release(scaling(factor), name=name)
    return await engine.load(candidate, origin="demand", verdict=accepted(candidate, engine, peak_bytes=peak_bytes))


def names(engine: Engine) -> list[str]:
    return [servable.name for servable in engine.loaded()]


async def test_the_budget_counts_every_model_and_the_one_to_be_replaced(engine: Engine) -> None:
    await put(engine, scaling(2.0), peak_bytes=60_000)
    with pytest.raises(errors.OverMemory) as caught:
        await put(engine, scaling(3.0), version="2.0", peak_bytes=60_000)
    assert caught.value.message == (
        "scaling@2.0 needs 60000 bytes of memory and 60000 are in use, of a budget of 100000"
    )
    await put(engine, scaling(4.0), name="second", peak_bytes=40_000)
    assert len(engine.loaded()) == 2


async def test_an_equal_graph_is_in_memory_once(engine: Engine) -> None:
    await put(engine, scaling(2.0), peak_bytes=90_000)
    await put(engine, scaling(2.0), name="twin", peak_bytes=90_000)
    await put(engine, scaling(2.0), version="2.0", peak_bytes=90_000)
    first, twin = engine.find_model("scaling"), engine.find_model("twin")
    assert first.session is twin.session
    assert first.counters is not twin.counters
    with pytest.raises(errors.OverMemory, match="needs 20000 bytes of memory and 90000 are in use"):
        await put(engine, scaling(3.0), name="third", peak_bytes=20_000)


async def test_a_session_goes_with_the_last_that_holds_it(engine: Engine) -> None:
    await put(engine, scaling(2.0))
    await put(engine, scaling(2.0), name="twin")
    await asyncio.sleep(0)  # this step of the loop still holds what it was woken with
    sessions = engine._builder._sessions
    assert sessions is not None
    engine.unload("scaling")
    gc.collect()
    assert len(sessions) == 1
    assert engine.call("twin", FEED)["y"].tolist() == [[2, 2, 2, 2]]
    engine.unload("twin")
    gc.collect()
    assert len(sessions) == 0


async def test_what_was_loaded_on_demand_makes_room_least_recently_used_first(engine: Engine) -> None:
    for number, name in enumerate(("first", "second", "third"), 1):
        await demanded(engine, name, number, 30_000)
    engine.call("first", FEED)  # so the second is the one that was used longest ago
    await put(engine, scaling(9.0), name="wanted", peak_bytes=40_000)
    assert names(engine) == ["first", "third", "wanted"]
    await demanded(engine, "fourth", 4.0, 60_000)
    assert names(engine) == ["wanted", "fourth"]


async def test_what_somebody_asked_for_never_makes_room(engine: Engine) -> None:
    for number, origin in enumerate(("group", "manual", "development"), 1):
        candidate = release(scaling(number), name=origin)
        what: Any = origin
        await engine.load(candidate, origin=what, verdict=accepted(candidate, engine, peak_bytes=20_000))
    await demanded(engine, "spare", 7.0, 20_000)
    with pytest.raises(errors.OverMemory, match="needs 50000 bytes of memory and 60000 are in use"):
        await demanded(engine, "large", 8.0, 50_000)
    assert names(engine) == ["group", "manual", "development", "spare"], "what would not be enough does not go either"


async def test_what_others_need_stays(engine: Engine) -> None:
    await demanded(engine, "base", 1.0, 40_000)
    await put(engine, scaling(2.0), name="built", needs=Needs(releases={"base": ">=1.0"}), peak_bytes=20_000)
    with pytest.raises(errors.OverMemory):
        await put(engine, scaling(3.0), name="more", peak_bytes=50_000)
    assert names(engine) == ["base", "built"]


async def test_what_is_being_loaded_does_not_push_out_what_it_needs(engine: Engine) -> None:
    await demanded(engine, "base", 1.0, 40_000)
    await demanded(engine, "spare", 2.0, 40_000)
    await put(engine, scaling(3.0), name="built", needs=Needs(releases={"base": ">=1.0"}), peak_bytes=60_000)
    assert names(engine) == ["base", "built"]


async def test_a_person_or_group_takes_over_what_was_loaded_on_demand_and_demand_replaces_nothing(
    engine: Engine,
) -> None:
    await demanded(engine, "scaling", 2.0, 10_000)
    await put(engine, scaling(2.0), peak_bytes=10_000)
    assert engine.find("scaling").origin == "group"
    there = await demanded(engine, "scaling", 3.0, 10_000)
    assert (there.origin, engine.call("scaling", FEED)["y"][0, 0]) == ("group", 2)


async def test_a_trial_is_refused_before_its_child_when_no_room_could_be_made() -> None:
    engine = Engine(EngineSettings(memory_budget_bytes=100_000, trial_wall_s=0.0))
    candidate = release(scaling(), needs=Needs(memory_bytes=100_001))
    verdict = await engine.trial(candidate)
    assert verdict.error is not None
    assert (verdict.error.code, verdict.passing) == ("over_memory", True)


async def test_an_accepted_release_comes_back_without_another_trial() -> None:
    engine = Engine(EngineSettings(trial_wall_s=0.0))  # a trial cannot succeed
    await put(engine, scaling())
    candidate = release(scaling())
    engine.unload("scaling")
    with pytest.raises(errors.OverTime):
        await engine.load(candidate, origin="manual")
    remembered = Engine()
    await remembered.load(candidate, origin="manual")
    verdict: Verdict = remembered._trials._accepted[candidate.record_digest, remembered.runtime_version]
    assert verdict.accepted
    remembered._trials._settings = EngineSettings(trial_wall_s=0.0)
    remembered.unload("scaling")
    await remembered.load(candidate, origin="manual")
    remembered.close()
