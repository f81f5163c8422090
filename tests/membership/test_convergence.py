"""Whether edges run what they should: their standing, and waiting for it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from federation import commands
from federation.convergence_functions import WHY_MAX, ConvergenceFunctions
from federation.documents import LoadError
from federation.names import PeerId
from peers.error_classes import load_error_class
from query.errors import Problem, UnknownName, WrongArguments
from tests.membership.small import NOW, Small

Told = list[tuple[str, int, int | None, str]]


class Contacts:
    """Everybody is connected."""

    def last_seen(self, uuid: PeerId) -> float | None:
        return NOW

    def connected(self, uuid: PeerId) -> bool:
        return True

    def next_poll_at(self, uuid: PeerId) -> float | None:
        return None


class Asking:
    def __init__(self, small: Small) -> None:
        self.small = small
        self.functions = ConvergenceFunctions(small.store, small.director, Contacts())
        self.told: Told = []

    async def ask(self, name: str, seconds: float = 0.0) -> dict[str, Any]:
        def progress(label: str, done: int, total: int | None, unit: str) -> None:
            self.told.append((label, done, total, unit))

        call = replace(self.small.call(), progress=progress)
        return await self.functions.converged(call, name, seconds)


@pytest.fixture
def small() -> Small:
    Problem.load_unknown_with(load_error_class)
    small = Small()
    small.publish("m@1.0", "m@2.0", "n@1.0")
    for name in ("E1", "E2", "E3"):
        small.edge(name, "staging")
    small.assign("staging", "m@1.0")
    return small


def failed(label: str, code: str) -> tuple[LoadError, ...]:
    return (LoadError(label, code, "it says why", int(NOW)),)


async def test_how_a_group_stands(small: Small) -> None:
    small.report("E1", "m@1.0")
    small.report("E2", generation=1)
    asking = Asking(small)
    found = await asking.ask("staging")
    why = found.pop("why")
    assert found == {"edges": 3, "converged": 1, "waiting": 2, "failed": 0}
    assert [(one["edge"], one["state"], one["model"], one["reason"]) for one in why] == [
        ("E2", "waiting", None, "not_polled"),
        ("E3", "waiting", None, "no_report"),
    ]
    assert why[0]["message"].startswith("E2 knows generation 1, the latest is ")
    assert asking.told == [("converged: staging", 1, 3, "edges")]


@pytest.mark.parametrize(
    ("code", "state"),
    [
        ("failed_vectors", "failed"),
        ("bad_signature", "failed"),
        ("over_memory", "waiting"),
        ("unreachable", "waiting"),
        ("wrong_hash", "waiting"),
        ("a_code_of_a_newer_peer", "waiting"),
    ],
)
async def test_an_edge_that_holds_it_against_the_release_has_failed(small: Small, code: str, state: str) -> None:
    small.report("E1", errors=failed("m@1.0", code))
    found = await Asking(small).ask("E1")
    assert found["failed"] == (state == "failed")
    assert [(one["state"], one["model"], one["reason"], one["message"]) for one in found["why"]] == [
        (state, "m", code, "it says why")
    ]


async def test_an_error_of_another_release_is_no_failure(small: Small) -> None:
    small.report("E1", "m@1.0", errors=failed("m@2.0", "failed_vectors"))
    assert (await Asking(small).ask("E1"))["converged"] == 1


async def test_it_waits_until_the_last_has_reported(small: Small) -> None:
    asking = Asking(small)
    waiting = asyncio.create_task(asking.ask("staging", 60))
    for number, name in enumerate(("E1", "E2", "E3"), 1):
        await until(lambda number=number: len(asking.told) == number)
        small.report(name, "m@1.0")
    assert (await waiting)["converged"] == 3
    assert [done for _, done, _, _ in asking.told] == [0, 1, 2, 3]


async def test_a_change_meanwhile_counts(small: Small) -> None:
    for name in ("E1", "E2"):
        small.report(name, "m@1.0")
    asking = Asking(small)
    waiting = asyncio.create_task(asking.ask("staging", 60))
    await until(lambda: len(asking.told) == 1)
    small.assign("staging", "m@2.0")
    await until(lambda: len(asking.told) == 2)
    for name in ("E1", "E2", "E3"):
        small.report(name, "m@2.0")
    assert (await waiting)["converged"] == 3
    assert [done for _, done, _, _ in asking.told] == [2, 0, 3]


async def test_it_does_not_wait_for_what_cannot_come(small: Small) -> None:
    small.report("E1", "m@1.0")
    small.report("E2", errors=failed("m@1.0", "failed_vectors"))
    small.report("E3", mode="AUTONOMOUS", generation=1)
    small.edge("E4", "staging", joined=False)
    asking = Asking(small)
    waiting = asyncio.create_task(asking.ask("staging", 3600))
    await until(lambda: bool(asking.told))
    small.report("E1", "m@1.0", generation=small.generation("E1"))
    found = await waiting
    assert {one["edge"]: (one["state"], one["reason"]) for one in found["why"]} == {
        "E2": ("failed", "failed_vectors"),
        "E3": ("waiting", "autonomous"),
        "E4": ("waiting", "never_joined"),
    }


async def test_an_edge_that_is_removed_is_not_waited_for(small: Small) -> None:
    small.report("E1", "m@1.0")
    small.report("E2", "m@1.0")
    asking = Asking(small)
    waiting = asyncio.create_task(asking.ask("staging", 3600))
    await until(lambda: bool(asking.told))
    small.write(commands.remove(small.state, "E3"))
    found = await waiting
    assert (found["edges"], found["converged"]) == (3, 2)
    assert [(one["edge"], one["reason"]) for one in found["why"]] == [("E3", "removed")]


async def test_time_over(small: Small) -> None:
    found = await Asking(small).ask("staging", 0.01)
    assert (found["waiting"], found["why"][0]["edge"]) == (3, "E1")


async def test_why_is_bounded() -> None:
    small = Small()
    for number in range(WHY_MAX + 5):
        small.edge(f"e{number}", "many", joined=False)
    found = await Asking(small).ask("many")
    assert (found["waiting"], len(found["why"])) == (WHY_MAX + 5, WHY_MAX)


async def test_nothing_is_watched_afterwards(small: Small) -> None:
    await Asking(small).ask("staging", 0.01)
    assert small.store._listeners == []
    assert small.store.reports._listeners == []


@pytest.mark.parametrize(
    ("name", "seconds", "kind", "message"),
    [
        ("stagin", 0, UnknownName, 'no edge or group "stagin" — did you mean "staging"?'),
        ("staging", -1, WrongArguments, "edge:converged: expected 0 to 86400 seconds, found Integer -1"),
        ("staging", float("nan"), WrongArguments, "edge:converged: expected 0 to 86400 seconds, found Real NaN"),
        ("staging", 10**400, WrongArguments, "edge:converged: expected 0 to 86400 seconds, found Integer"),
    ],
)
async def test_bad_arguments(small: Small, name: str, seconds: float, kind: type[Problem], message: str) -> None:
    with pytest.raises(kind) as caught:
        await Asking(small).ask(name, seconds)
    assert caught.value.message == message


async def until(happened: Any) -> None:
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110 — nothing tells a test of a call's progress
            await asyncio.sleep(0)
