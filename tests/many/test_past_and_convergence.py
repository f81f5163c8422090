"""``as of`` and ``edge:converged`` in a living federation, asked by its admin and from an edge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from federation.past import BeforeLog, NotYet
from query.errors import BadStatement, Problem, SyntaxProblem
from query.frames import ProgressFrame
from tests.wire.living import Living, living

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

EVERYWHERE = ("ns-admin", "ns", "one")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    folder: Path = tmp_path_factory.mktemp("past")
    async with living(folder, "one") as made:
        yield made


@pytest.mark.parametrize("home", EVERYWHERE)
async def test_what_was_is_told_from_everywhere(federation: Living, home: str) -> None:
    name = f"added-{home}"
    async with federation.connection(home) as peer, federation.connection() as admin:
        before = await admin.value("//peer: nameserver\nnow()")
        known = await admin.value("edge:list()")
        await admin.query(f'edge:register("{name}"); edge:add_group("{name}", "late")')
        told = await peer.value("edge:list() as of :before", params={"before": before})
        assert told == known
        assert await peer.value("edge:list()") == [*known, name.upper()]
        rows = await peer.query(
            "select t, count(edge:list() as of t) from t in [:before, null]", params={"before": before}
        )
        assert [row.values[1] for row in rows] == [len(known), 0]


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("edge:list() as of |2020-01-01T00:00:00Z|", BeforeLog, "is before the log of changes begins"),
        ("edge:list() as of |2200-01-01T00:00:00Z|", NotYet, "as of |2200-01-01T00:00:00Z| has not come"),
        ("edge:status() as of |2020-01-01T00:00:00Z|", BadStatement, "edge:status() cannot be asked about the past"),
        ('edge:properties("one") as of |2020-01-01T00:00:00Z|', BadStatement, "cannot be asked about the past"),
        ('edge:list() as of "2020-01-01"', SyntaxProblem, "expected a time such as |2026-01-31T12:00:00Z|"),
    ],
)
async def test_mistakes(federation: Living, text: str, kind: type[Problem], message: str) -> None:
    for home in ("ns-admin", "one"):
        answer = await federation.ask(text, home=home)
        with pytest.raises(kind) as caught:
            answer.checked()
        assert message in caught.value.message
        assert caught.value.span is not None


async def test_a_status_of_the_past(federation: Living) -> None:
    await federation.until('edge:status("one").converged', True)
    moment = await federation.value("//peer: nameserver\nnow()")
    await federation.value('edge:set_mode("one", "ONLINE")')
    await federation.until('edge:status("one").edge_mode', "ONLINE")
    asked = '[edge:status("one"), edge:status("one") as of :t]'
    now, then = await federation.value(asked, params={"t": moment})
    assert (now["mode"], now["edge_mode"], now["converged"]) == ("ONLINE", "ONLINE", True)
    assert (then["mode"], then["edge_mode"], then["converged"]) == ("INTERACTIVE", "INTERACTIVE", True)
    assert then["connected"] is None
    config = await federation.value('edge:get_config("one") as of :t', params={"t": moment})
    assert config["mode"] == "INTERACTIVE"
    assert await federation.value('edge:set_mode("one", "INTERACTIVE")')
    await federation.until('edge:status("one").edge_mode', "INTERACTIVE")


@pytest.mark.parametrize("home", EVERYWHERE)
async def test_waiting_for_convergence_shows_its_progress(federation: Living, home: str) -> None:
    await federation.until('edge:converged("one").converged', 1)
    progress: list[tuple[str, int, int | None]] = []
    async with federation.connection() as admin, federation.connection(home) as peer:
        await admin.value('edge:set_poll_interval("one", :s)', params={"s": f"{EVERYWHERE.index(home) + 1}s"})
        async for frame in peer.frames('edge:converged("one", 30)'):
            if isinstance(frame, ProgressFrame):
                progress.append((frame.label, frame.done, frame.total))
        found = await peer.value('edge:converged("all")')
    assert progress[-1] == ("converged: one", 1, 1)
    assert found["converged"] == 1
    assert {(why["state"], why["reason"]) for why in found["why"]} <= {("waiting", "never_joined")}
