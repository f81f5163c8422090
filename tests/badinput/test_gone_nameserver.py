"""A nameserver that is gone: edges go on, people are told at once and clearly, and what was asked meanwhile is not half
done when it is back.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from query.ledger import State
from tests.wire.living import living, publisher_of_thermo

SOON_S = 3.0  # for all refusals together
LOADED = 'edge:actual_state("e1")["models:loaded"]'

pytestmark = pytest.mark.timeout(120)

ASKED = [
    ('edge:add_group("e1", "other")', None, "nameserver_unreachable", State.UNREACHABLE),
    ("//peer: e1\n1", None, "nameserver_unreachable", State.UNREACHABLE),
    ("//peer: all\n1", "e1", "nameserver_unreachable", State.UNREACHABLE),
    ("edge:poll()", "e1", "nameserver_unreachable", State.ERROR),
    ('models:import("thermo", "2.0")', "e1", "nameserver_unreachable", State.ERROR),
    ('models:publish("thermo", "2.0")', "ada", "nameserver_unreachable", State.ERROR),
]


async def test_edges_go_on_and_people_are_told_at_once(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        await publisher_of_thermo(federation)
        await federation.value('models:create_release("thermo", "2.0")', home="ada")
        await federation.value('edge:add_group("e1", "field")')
        await federation.value('edge:set_group_models("field", [{"name": "thermo", "version": "1.0"}])')
        await federation.until(LOADED, ["thermo@1.0"])
        for client in (federation.admin, federation.home("ada")):  # or each would look around on every network first
            client.settings_toml.write_text("zeroconf = false\n")
        where = federation.peers["ns"].record.federation
        assert where is not None
        await federation.stop("ns")

        began = time.monotonic()
        for text, home, code, state in ASKED:
            answer = await federation.ask(text, home=home)
            (problem,), (outcome,) = answer.errors, answer.ledgers[0].outcomes
            assert (problem.code, problem.message) == (code, f"cannot reach {where}: Connection refused"), text
            assert outcome.state is state, text
        assert time.monotonic() - began < SOON_S

        answered = await federation.value('models:infer("thermo", [100.0])', home="e1")
        assert answered["fahrenheit"].tolist() == [212.0]
        contact = await federation.value("edge:contact()", home="e1")
        assert (contact["state"], contact["error"]) == ("unreachable", "nameserver_unreachable")

        await federation.start_nameserver(federation_port=int(where.rpartition(":")[2]))
        await federation.value("edge:poll()", home="e1")
        assert await federation.value('edge:groups("e1")') == ["field"]
        assert await federation.value("//peer: nameserver\nmodels:installed()") == ["thermo@1.0"]
        assert await federation.value("models:installed()", home="e1") == ["thermo@1.0"]
        await federation.value('models:publish("thermo", "2.0")', home="ada")
        await federation.value('edge:set_group_models("field", [{"name": "thermo", "version": "2.0"}])')
        await federation.until(LOADED, ["thermo@2.0"])
