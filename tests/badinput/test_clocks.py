"""A clock that is a day off, in either direction, at an edge or a person's computer: what held holds,
because peers go by the time that the nameserver tells.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest

from peers.cli import main
from peers.client import AsyncConnection
from peers.client_peer import open_client
from peers.local_parts import opened_client
from peers.settings import ClientSettings
from tests.wire.living import living, publisher_of_thermo

DAY_S = 24 * 3600.0
LOADED = 'edge:actual_state("e1")["models:loaded"]'

pytestmark = pytest.mark.timeout(120)
either_way = pytest.mark.parametrize("by_s", [DAY_S, -DAY_S], ids=["ahead", "behind"])


def shifted(by_s: float) -> float:
    return time.time() + by_s


@either_way
async def test_an_edge_joins_loads_answers_and_starts_alone(tmp_path: Path, by_s: float) -> None:
    async with living(tmp_path, "e1", clocks={"e1": partial(shifted, by_s)}) as federation:
        await publisher_of_thermo(federation)
        await federation.value('edge:add_group("e1", "field")')
        await federation.value('edge:set_group_models("field", [{"name": "thermo", "version": "1.0"}])')
        await federation.until(LOADED, ["thermo@1.0"])
        # Whether a signed statement is of now is judged by the edge's own idea of the time.
        assert await federation.value("//peer: e1\nmodels:loaded()") == ["thermo@1.0"]
        assert await federation.value('//peer: nameserver\nedge:groups("e1")', home="e1") == ["field"]
        seen = await federation.value("now()", home="e1")
        assert abs(seen.timestamp() - time.time()) < 60.0
        await federation.stop("e1")
        await federation.stop("ns")
        await federation.start_edge("e1")
        assert await federation.value("models:loaded()", home="e1") == ["thermo@1.0"]


@either_way
@pytest.mark.parametrize("whose", ["e1", "ns"])
async def test_everything_works_and_the_skew_is_named(tmp_path: Path, whose: str, by_s: float) -> None:
    """Join, poll, statement, publish, assign, renew and revoke, with one clock off by a day."""
    async with living(tmp_path, "e1", clocks={whose: partial(shifted, by_s)}) as federation:
        await publisher_of_thermo(federation)
        await federation.value('edge:add_group("e1", "field")')
        await federation.value('edge:set_group_models("field", [{"name": "thermo", "version": "1.0"}])')
        await federation.until("//peer: e1\nmodels:loaded()", ["thermo@1.0"])

        seconds, words = (await federation.value('edge:contact()["clock"]', home="e1")).split(" s ")
        assert abs(int(seconds) - DAY_S) < 60.0
        ahead = (by_s > 0) == (whose == "e1")
        assert words == f"{'ahead of' if ahead else 'behind'} the nameserver's clock"

        own = partial(shifted, by_s) if whose == "e1" else time.time
        client = opened_client(federation.home("e1"), None, clock=own)
        async with client:
            renewed = await client.renew()
        told = time.time() + (by_s if whose == "ns" else 0.0)
        assert abs(renewed.not_after - told - 30 * DAY_S) < 3600.0

        arguments = ["keys", "revoke", "ada", "--running", "stop", "--yes"]
        homes = ["--home", str(federation.admin), "--root-home", str(federation.home("ns-root"))]
        assert await asyncio.to_thread(main, [*arguments, *homes]) == 0
        await federation.until("//peer: e1\nmodels:loaded()", [])
        await federation.until('edge:actual_state("e1")["last_load_errors"][1]["error"]', "revoked_key")


@either_way
async def test_an_edge_whose_clock_goes_wrong_after_it_joined(tmp_path: Path, by_s: float) -> None:
    async with living(tmp_path, "e1") as federation:
        await federation.until('edge:listening("e1")', wanted=True)
        await federation.stop("e1")
        federation.clocks["e1"] = partial(shifted, by_s)
        await federation.start_edge("e1")
        await federation.until("//peer: e1\nthis_peer()", "E1")
        assert (await federation.value("//peer: e1\nedge:poll()"))["models"] == []
        assert await federation.value('edge:contact()["state"]', home="e1") == "answered"
        assert await federation.value('edge:contact()["clock"]', home="e1") is not None


@either_way
async def test_a_persons_first_statement_is_taken(tmp_path: Path, by_s: float) -> None:
    async with living(tmp_path, "e1") as federation:
        await federation.until('edge:listening("e1")', wanted=True)
        for text, wanted in (("//peer: e1\nthis_peer()", "E1"), ('edge:add_group("e1", "field")', True)):
            opening = partial(open_client, federation.admin, ClientSettings(), clock=partial(shifted, by_s))
            async with AsyncConnection(opening) as admin:
                assert await admin.value(text) == wanted
