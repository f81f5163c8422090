"""Releases that need others, in a whole federation: made, published, assigned, loaded in order, called, taken away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadFunctions
from federation.needs import BadNeeds, NeedsUnmet, StillNeeded
from query.errors import Problem
from tests.wire.living import Living, living, publish, publisher_in

pytestmark = pytest.mark.timeout(180)

FEATURES = {
    "1.0": "create function scaled(Real x) -> Real as x * 2;",
    "1.2": "create function scaled(Real x) -> Real as x * 10; create function shifted(Real x) -> Real as x + 1;",
    "1.3": "create function scaled(Real x) -> Real as x * 100; create function shifted(Real x) -> Real as x + 1;",
}
SCORE = "create function score(Real x) -> Real as shifted(scaled(x));"


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Living]:
    async with living(tmp_path, "E1") as made:
        await publisher_in(made)
        yield made


def write(federation: Living, name: str, script: str, needs: str = "") -> None:
    folder = federation.home("ada").models / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "f.pql").write_text(script)
    (folder / "model.toml").write_text(f'name = "{name}"\nkind = "functions"\nfunctions = ["f.pql"]\n{needs}\n')


async def release(federation: Living, name: str, version: str, script: str, needs: str = "") -> None:
    write(federation, name, script, needs)
    await publish(federation, name, version)


async def features(federation: Living, *versions: str) -> None:
    for version in versions:
        await release(federation, "features", version, FEATURES[version])


async def assign(federation: Living, *labels: str, group: str = "all") -> Any:
    models = [dict(zip(("name", "version"), label.split("@"), strict=True)) for label in labels]
    text = "edge:set_group_models(:group, :models)"
    return await federation.value(text, params={"group": group, "models": models})


async def refused(federation: Living, text: str, home: str | None = None) -> Problem:
    answer = await federation.ask(text, home=home)
    assert answer.rows == []
    (problem,) = answer.errors
    return problem


LOADED = "//peer: E1\nmodels:loaded()"


async def test_a_model_is_loaded_after_what_it_needs_and_calls_its_functions(federation: Living) -> None:
    await features(federation, "1.0", "1.2")
    await release(federation, "scorer", "1.0", SCORE, 'needs = {features = ">=1.2"}')
    assert [pin["version"] for pin in await federation.value('models:needs("scorer", "1.0")')] == ["1.2"]
    assigned = await assign(federation, "scorer@1.0")
    assert (assigned["assigned"], assigned["needed"]) == (["scorer@1.0"], ["features@1.2"])
    await federation.until(LOADED, ["features@1.2", "scorer@1.0"])
    assert await federation.value("//peer: E1\nscore(4.0)") == 41

    explained = (await federation.ask('edge:explain("E1")')).rows
    by_model = {row.value["model"]: row.value for row in explained}
    assert by_model["features"]["winner"]["needed_by"] == "scorer@1.0"
    assert by_model["scorer"]["needs"] == ["features@1.2"]

    await features(federation, "1.3")
    assert await federation.value(LOADED) == ["features@1.2", "scorer@1.0"]
    await assign(federation, "features@1.3")
    await federation.until("//peer: E1\nscore(4.0)", 401)
    problem = await refused(federation, 'edge:set_group_models("all", [{"name": "features", "version": "1.0"}])')
    assert isinstance(problem, StillNeeded)
    assert problem.message == (
        'scorer@1.0 (group "all") needs features>=1.2: there would be features@1.0 (group "all")'
    )
    for version in ("1.2", "1.3"):  # one is pinned, one assigned
        problem = await refused(federation, f'//peer: nameserver\nmodels:delete("features", "{version}")')
        assert problem.code == "release_held"

    await federation.stop("E1")
    await federation.start_edge("E1")
    assert await federation.value(LOADED) == ["features@1.3", "scorer@1.0"]
    assert await federation.value("//peer: E1\nscore(4.0)") == 401

    await federation.value('edge:remove_group_models("all", ["features"])')
    await federation.until("//peer: E1\nscore(4.0)", 41)
    await federation.value('edge:remove_group_models("all", ["scorer"])')
    await federation.until(LOADED, [])


async def test_what_cannot_be_met_is_refused_with_the_chain(federation: Living) -> None:
    write(federation, "scorer", SCORE, 'needs = {features = ">=1.2"}')
    problem = await refused(federation, 'models:create_release("scorer", "1.0")', "ada")
    assert isinstance(problem, NeedsUnmet)
    assert problem.message.endswith("needs features>=1.2: there is no features on this peer")
    assert problem.hint is not None
    assert 'models:import("features", ' in problem.hint
    for needs, kind in (('{features = "new"}', BadNeeds), ('{scorer = ">=1"}', BadNeeds)):
        write(federation, "scorer", SCORE, f"needs = {needs}")
        assert isinstance(await refused(federation, 'models:create_release("scorer", "1.0")', "ada"), kind)

    await features(federation, "1.0", "1.2")
    write(federation, "scorer", "create function score(Real x) -> Real as scald(x);", 'needs = {features = ">=1"}')
    problem = await refused(federation, 'models:create_release("scorer", "1.0")', "ada")
    assert isinstance(problem, BadFunctions)
    assert problem.message == 'in score: no function "scald" — did you mean "scaled"?'

    await release(federation, "scorer", "1.0", SCORE, 'needs = {features = ">=1.2"}')
    await release(
        federation, "old", "1.0", "create function o() -> Real as scaled(1.0);", 'needs = {features = "<1.2"}'
    )
    await assign(federation, "old@1.0")
    await federation.until(LOADED, ["features@1.0", "old@1.0"])
    problem = await refused(federation, 'edge:set_group_models("all", [{"name": "scorer", "version": "1.0"}])')
    assert isinstance(problem, NeedsUnmet)
    assert problem.message == (
        'scorer@1.0 needs features>=1.2, and old@1.0 (group "all") needs features<1.2:'
        " there are features@1.0, features@1.2"
    )
    assert await federation.value(LOADED) == ["features@1.0", "old@1.0"]


async def test_releases_may_be_published_in_any_order_and_are_judged_when_assigned(federation: Living) -> None:
    plain = "create function top() -> Real as 1.0;"
    await release(federation, "b", "1.0", plain.replace("top", "b1"))
    await release(federation, "a", "1.0", plain.replace("top", "a1"), 'needs = {b = ">=1"}')
    await release(federation, "b", "2.0", plain.replace("top", "b2"), 'needs = {a = ">=1"}')
    problem = await refused(federation, 'edge:set_group_models("all", [{"name": "b", "version": "2.0"}])')
    assert problem.message == "b@2.0 needs a@1.0 needs b@2.0: a circle cannot be loaded"
    assert (await assign(federation, "a@1.0"))["needed"] == ["b@1.0"]
    await federation.until(LOADED, ["b@1.0", "a@1.0"])


async def test_both_versions_change_together_in_one_call(federation: Living) -> None:
    await features(federation, "1.0", "1.2")
    await release(
        federation, "scorer", "1.0", "create function score() -> Real as scaled(1.0);", 'needs = {features = "<1.2"}'
    )
    await release(
        federation, "scorer", "2.0", "create function score() -> Real as shifted(1.0);", 'needs = {features = ">=1.2"}'
    )
    await assign(federation, "scorer@2.0")
    await federation.until("//peer: E1\nscore()", 2)
    await assign(federation, "scorer@1.0")
    await federation.until(LOADED, ["features@1.0", "scorer@1.0"])
    assert await federation.value("//peer: E1\nscore()") == 2
    errors = await federation.value('edge:actual_state("E1")')
    assert errors["last_load_errors"] == []


async def test_by_hand_what_is_needed_is_brought_first(federation: Living) -> None:
    await features(federation, "1.0", "1.2")
    await release(federation, "scorer", "1.0", SCORE, 'needs = {features = ">=1.2"}')
    on_edge = "//peer: E1\n"
    assert (await federation.value(f'{on_edge}models:import("scorer", "1.0")'))["loaded"] is True
    assert await federation.value(LOADED) == ["features@1.2", "scorer@1.0"]
    assert await federation.value(f"{on_edge}score(4.0)") == 41
    problem = await refused(federation, f'{on_edge}models:unload("features")')
    assert isinstance(problem, StillNeeded)
    assert problem.message == "scorer@1.0 needs features>=1.2, so it stays"
    problem = await refused(federation, f'{on_edge}models:import("features", "1.0")')
    assert isinstance(problem, StillNeeded)
    assert problem.message == "scorer@1.0 needs features>=1.2, so features@1.0 cannot take its place"
    for name in ("scorer", "features"):
        assert await federation.value(f'{on_edge}models:unload("{name}")') is True
    assert await federation.value(f'{on_edge}models:load("scorer", "1.0")') == "scorer@1.0"
    assert await federation.value(LOADED) == ["features@1.2", "scorer@1.0"]

    async with federation.connection("ada") as home:
        assert await home.value('models:load("scorer", "1.0")') == "scorer@1.0"
        assert await home.value("score(4.0)") == 41
        (problem,) = (await home.query('models:unload("features")')).errors
        assert isinstance(problem, StillNeeded)
