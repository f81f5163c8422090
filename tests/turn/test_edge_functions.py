"""What an edge tells of itself in the language."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from federation.errors import RemovedPeer
from peers.device_functions import DeviceFunctions
from peers.edge_functions import OwnEdgeFunctions
from query.declarations import Call, Caller, Role, declarations
from query.errors import WrongHome
from tests.turn.bench import Bench

CALL = Call(Caller("ada", Role.OPERATOR), datetime(2026, 1, 1, tzinfo=UTC), "E1")


async def test_an_edge_tells_what_it_has_and_how_its_polls_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.nameserver.assign(bench.published("m", "1.0"))
    async with bench.running() as agent:
        own = OwnEdgeFunctions(agent)
        await bench.loaded("m@1.0")
        assert own.actual_state(CALL) == {
            "models:loaded": ["m@1.0"],
            "last_load_errors": [],
            "edge_mode": "INTERACTIVE",
        }
        bench.clock.advance(0.5)
        told = await own.poll(CALL)
        assert told == {"generation": bench.nameserver.store.state.generation(agent.identity.uuid), "models": ["m@1.0"]}
        assert own.contact(CALL)["state"] == "answered"
        assert own.contact(CALL)["error"] is None
        bench.nameserver.problem = RemovedPeer('"E1" was removed')
        bench.clock.advance(0.5)
        with pytest.raises(RemovedPeer):
            await own.poll(CALL)
        contact = own.contact(CALL)
        assert (contact["state"], contact["error"], contact["message"]) == ("refused", "removed", '"E1" was removed')
        assert contact["next_poll_at"] > contact["since"]


async def test_a_peer_that_is_no_edge_says_so() -> None:
    own = OwnEdgeFunctions(None)
    with pytest.raises(
        WrongHome, match=r"edge:actual_state\(\) speaks of the edge that runs it, and E1 is not an edge"
    ):
        own.actual_state(CALL)
    with pytest.raises(WrongHome, match=r"edge:poll\(\)"):
        await own.poll(CALL)


def test_polling_needs_an_operator() -> None:
    roles = {declared.name: declared.role for declared in declarations(OwnEdgeFunctions)}
    assert roles == {"edge:actual_state": Role.VIEWER, "edge:contact": Role.VIEWER, "edge:poll": Role.OPERATOR}


def test_the_mode_is_ruled_by_an_admin_on_the_device() -> None:
    changing = {declared.name for declared in declarations(DeviceFunctions) if declared.role is Role.ADMIN}
    assert changing == {"edge:mode", "edge:import", "edge:attach", "edge:make_report"}


async def test_a_peer_that_is_no_edge_has_no_mode() -> None:
    functions = DeviceFunctions(None, uuid="")
    with pytest.raises(WrongHome, match=r"edge:mode\(\) speaks of the edge that runs it, and E1 is not an edge"):
        functions.mode(CALL)
    with pytest.raises(WrongHome, match=r"edge:import\(file\)"):
        await functions.import_file(CALL, "/x")
