"""A release beside those that it needs: the engine loads it only then, and its functions may call theirs."""

from __future__ import annotations

import pytest

from engine import errors
from engine.engine import Engine
from federation.documents import Needs
from federation.needs import StillNeeded
from federation.verification import VerifiedRelease
from peers.catalogues import check_functions
from peers.memory import PlainMemory
from tests.models.making import release

FEATURES = "create function scaled(Real x) -> Real as x * 2;"
SCORE = "create function score(Real x) -> Real as scaled(x) + 1;"


def features(version: str = "1.2", script: str = FEATURES) -> VerifiedRelease:
    return release(None, name="features", version=version, script=script)


def scorer(script: str = SCORE, condition: str = ">=1.2") -> VerifiedRelease:
    return release(None, name="scorer", script=script, needs=Needs(releases={"features": condition}))


@pytest.fixture
def engine() -> Engine:
    return Engine(check_functions=check_functions)


async def test_a_release_is_loaded_only_beside_what_it_needs(engine: Engine) -> None:
    for present, message in ((None, "no features is loaded here"), (features("1.0"), "there is features@1.0")):
        if present is not None:
            await engine.load(present, origin="manual")
        with pytest.raises(errors.NeedsNotMet, match=f"scorer@1.0 needs features>=1.2: {message}"):
            await engine.load(scorer(), origin="manual")
    await engine.load(features(), origin="manual")
    model = await engine.load(scorer(), origin="manual")
    assert [one.name for one in model.contents.functions] == ["score"]


async def test_a_trial_asks_nothing_of_memory(engine: Engine) -> None:
    assert (await engine.trial(scorer())).accepted


async def test_functions_are_checked_beside_the_needed_releases(engine: Engine) -> None:
    assert (await engine.trial(scorer(), beside=[features()])).accepted
    await engine.check(scorer(), beside=[features()])
    wrong = scorer(SCORE.replace("scaled(", "scald("))
    verdict = await engine.trial(wrong, beside=[features()])
    assert verdict.error is not None
    assert (verdict.error.code, verdict.error.message) == (
        "bad_functions",
        'in score: no function "scald" — did you mean "scaled"?',
    )


async def test_functions_that_do_not_fit_what_is_in_memory_may_fit_another_version(engine: Engine) -> None:
    await engine.load(features("1.2", FEATURES.replace("scaled", "resized")), origin="manual")
    with pytest.raises(errors.NeedsNotMet, match=r"scorer@1.0 does not fit features@1.2: in score: no function"):
        await engine.load(scorer(), origin="manual")
    await engine.load(features("1.3"), origin="manual")
    await engine.load(scorer(), origin="manual")


async def test_without_needs_the_functions_of_others_are_not_there(engine: Engine) -> None:
    await engine.load(features(), origin="manual")
    with pytest.raises(errors.BadFunctions, match='no function "scaled"'):
        await engine.load(release(None, name="alone", script=SCORE), origin="manual")


async def test_a_peer_without_groups_keeps_what_is_needed_too(engine: Engine) -> None:
    memory = PlainMemory(engine)
    await memory.load_release(features(), origin="manual")
    await memory.load_release(scorer(), origin="manual")
    with pytest.raises(StillNeeded, match=r"scorer@1.0 needs features>=1.2, so it stays"):
        await memory.unload("features")
    with pytest.raises(StillNeeded, match=r"scorer@1.0 needs features>=1.2, so features@1.0 cannot take its place"):
        await memory.load_release(features("1.0"), origin="manual")
    await memory.load_release(features("1.9"), origin="manual")
    await memory.unload("scorer")
    await memory.unload("features")
    assert memory.present() == ()
