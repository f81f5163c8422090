"""Requests load what is installed on an edge whose owner lets them: for this process alone, and as trust allows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from peers.cli import main
from tests.wire.living import Living, living, publisher_of_thermo

pytestmark = pytest.mark.timeout(120)

BOILING = 'models:infer("thermo", [100])'


async def boils(federation: Living) -> bool:
    answer = await federation.value(BOILING, home="e1")
    return float(answer["fahrenheit"].ravel()[0]) == pytest.approx(212.0)


async def test_a_request_loads_what_is_installed_and_nothing_lasts_of_it(tmp_path: Path) -> None:
    async with living(tmp_path) as federation:
        await federation.add_edge("e1", load_on_demand=True)
        await publisher_of_thermo(federation)
        await federation.value('models:import("thermo", "1.0")', home="e1")
        await federation.value('models:unload("thermo")', home="e1")
        assert await federation.value("models:loaded()", home="e1") == []

        assert await boils(federation)
        assert await federation.value('models:info("thermo")["origin"]', home="e1") == "demand"
        await federation.value("edge:poll()", home="e1")
        state = await federation.value('edge:actual_state("e1")')
        assert state["models:loaded"] == [], "nobody asked for it, so it is not reported"

        await federation.value('models:unload("thermo")', home="e1")
        assert await federation.value("models:loaded()", home="e1") == []
        assert await boils(federation)
        await federation.stop("e1")
        await federation.start_edge("e1", load_on_demand=True)
        assert await federation.value("models:loaded()", home="e1") == []
        assert await boils(federation)

        root = str(federation.home("ns-root").path)
        revoke = ["keys", "revoke", "ada", "--running", "stop", "--yes", "--root-home", root]
        assert await asyncio.to_thread(main, [*revoke, "--home", str(federation.admin.path)]) == 0
        await federation.until("//peer: e1\nmodels:loaded()", [])
        refused = await federation.ask(BOILING, home="e1")
        assert refused.errors[0].code == "revoked_key"


async def test_without_the_setting_a_request_loads_nothing(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await publisher_of_thermo(federation)
        await federation.value('models:import("thermo", "1.0")', home="e1")
        await federation.value('models:unload("thermo")', home="e1")
        refused = await federation.ask(BOILING, home="e1")
        assert refused.errors[0].code == "model_not_loaded"
