"""Who is refused is seen in the log and in the health figures, however often it calls."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from federation.errors import NoCertificate, RemovedPeer
from federation.tls import client_context
from peers.federation_client import FederationClient
from peers.local_parts import opened_client
from peers.refusals import AGAIN_S, CALLERS_MAX, Refusals
from tests.wire.living import living

pytestmark = pytest.mark.timeout(60)


def note(refusals: Refusals, *, uuid: str | None = "u-1", address: str = "192.0.2.7:40000", now: float = 0.0) -> None:
    problem = RemovedPeer('"E1" was removed') if uuid else NoCertificate("expected a certificate")
    refusals.note(problem, name="E1" if uuid else None, uuid=uuid, address=address, path="/v1/whoami", now=now)


def refused(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str | None, str]]:
    """Code, name and address of each line."""
    lines = [record for record in caplog.records if record.message == "refused"]
    return [(record.__dict__["code"], record.__dict__.get("peer_name"), record.__dict__["address"]) for record in lines]


def test_each_caller_and_class_is_told_of_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for now in (0.0, 1.0, AGAIN_S - 1, AGAIN_S):
        note(refusals, now=now)
        note(refusals, uuid=None, now=now)
    note(refusals, uuid=None, address="192.0.2.7:40001", now=AGAIN_S)  # another port of the same host
    both = [("removed", "E1", "192.0.2.7:40000"), ("no_certificate", None, "192.0.2.7:40000")]
    assert refused(caplog) == both + both
    assert refusals.count == 9


def test_what_strangers_can_make_grow_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for number in range(CALLERS_MAX + 10):
        note(refusals, uuid=None, address=f"host-{number}:1")
    assert len(refused(caplog)) == CALLERS_MAX
    assert refusals.count == CALLERS_MAX + 10
    note(refusals, uuid=None, address="later:1", now=AGAIN_S)
    assert len(refused(caplog)) == CALLERS_MAX + 1


async def test_a_removed_edge_and_a_stranger_are_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with living(tmp_path, "E1") as federation:
        await federation.stop("E1")
        await federation.value('edge:remove("E1")')
        caplog.clear()
        removed = opened_client(federation.home("E1"), None, clock=lambda: 1_800_000_000.0)
        record = federation.peers["ns"].record
        stranger = FederationClient((record.federation or "",), client_context(federation.admin.ca_crt))
        async with removed, stranger:
            for _ in range(3):
                with pytest.raises(RemovedPeer):
                    await removed.root(1)
            with pytest.raises(NoCertificate):
                await stranger.root(1)
        assert [line[:2] for line in refused(caplog)] == [("removed", "E1"), ("no_certificate", None)]
        (line, _) = (line for line in caplog.records if line.message == "refused")
        assert line.__dict__["uuid"] == federation.home("E1").membership().uuid
        assert line.__dict__["path"] == "/v1/root/1"
        async with aiohttp.ClientSession() as session:
            health = await (await session.get(f"http://{record.application}/v1/health")).json()
        assert health["refused"] == 4
