"""Fifty real edges, five killed while they answer: the answer is that of the others, and who is lost is named."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from peers.client import Answer, AsyncConnection, connect_async
from peers.homes import Home
from peers.joining import join
from query.frames import EndFrame, ProgressFrame
from tests.many.crowd import START_S_MAX, Crowd
from tests.turn.processes import Federation

pytestmark = pytest.mark.timeout(180)

EDGES = tuple(f"e{number:02}" for number in range(50))
DOOMED = ("e03", "e14", "e15", "e36", "e49")
LIVING = tuple(name for name in EDGES if name not in DOOMED)
WARMTH = {name: float(number) for number, name in enumerate(EDGES, 1)}
SLOW = "count(select a from a in range(1, 30000), b in range(1, 30000) where a = b)"


@pytest.fixture
def nameserver(tmp_path: Path) -> Iterator[Federation]:
    federation = Federation(tmp_path)
    try:
        federation.start("ns")
        yield federation
    finally:
        federation.close()


async def test_an_average_of_fifty_while_five_are_killed(nameserver: Federation) -> None:
    folder = nameserver.folder
    async with connect_async(folder / "ns-admin") as admin:
        bundles = await admin.values(";".join(f'edge:register("{name}")' for name in EDGES))
        for name, bundle in zip(EDGES, bundles, strict=True):
            await join(Home(folder / name), bundle)
        with Crowd(folder, f"127.0.0.1:{nameserver.port}", EDGES) as crowd:
            await all_listen(admin)
            script = (
                f"//peer: {name}\ncreate function temperature() -> Number as {value}"
                + (f" + {SLOW}" * (name in DOOMED))
                for name, value in WARMTH.items()
            )
            assert (await admin.query(";\n".join(script))).complete
            answer = await asked_while_killed(folder, crowd)
    expected = sum(WARMTH[name] for name in LIVING) / len(LIVING)
    assert [row.values for row in answer.rows] == [(expected, len(LIVING), WARMTH["e00"], WARMTH["e48"])]
    (ledger,) = answer.ledgers
    assert [outcome.peer for outcome in ledger.outcomes] == [name.upper() for name in EDGES]
    assert {outcome.peer for outcome in ledger.outcomes if outcome.state.value == "rows"} == {n.upper() for n in LIVING}
    lost = {outcome.peer: outcome.state.value for outcome in ledger.outcomes if outcome.state.value != "rows"}
    assert lost == {name.upper(): "unreachable" for name in DOOMED}
    assert sum(ledger.counts.values()) == len(EDGES)


async def all_listen(admin: AsyncConnection) -> None:
    async with asyncio.timeout(START_S_MAX):
        while True:
            listening = await admin.value("edge:listening()")
            if len(listening) == len(EDGES):
                return
            await asyncio.sleep(0.1)  # real processes: bounded above


async def asked_while_killed(folder: Path, crowd: Crowd) -> Answer:
    """The answer of all; the doomed are killed when all others have answered and they are still at it."""
    aggregates = ", ".join(f"{name}(temperature())" for name in ("avg", "count", "min", "max"))
    text = f"//peer: all\n//timeout: 60s\nselect {aggregates}"
    answer = Answer()
    killed = False
    async with connect_async(folder / "ns-admin") as asking, aclosing(asking.frames(text)) as frames:  # type: ignore[type-var]
        async for frame in frames:
            if isinstance(frame, ProgressFrame) and frame.done == len(LIVING):
                for name in DOOMED:
                    crowd.kill(name)
                killed = True
            assert killed or not isinstance(frame, EndFrame), answer.errors
            answer.add(frame)
    return answer
