"""What an edge imports by a person's word, between two polls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.wire.living import living, publish, publisher_in

pytestmark = pytest.mark.timeout(60)


async def test_an_edge_knows_a_publisher_who_was_endorsed_since_its_last_poll(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await federation.value('edge:set_poll_interval("e1", "600s")')
        await federation.value('edge:set_mode("e1", "ONLINE")')
        await federation.until('edge:actual_state()["edge_mode"]', "ONLINE", home="e1")
        await publisher_in(federation)
        await federation.value('models:create("thermo")', home="ada")
        await publish(federation, "thermo", "1.0", home="ada")
        assert (await federation.value('models:import("thermo", "1.0")', home="e1"))["loaded"] is True
        assert await federation.value("models:loaded()", home="e1") == ["thermo@1.0"]
