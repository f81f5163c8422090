"""Where a peer dials: what it knows first, then what it finds, and what it keeps of that."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec
import pytest

from peers.addresses import LOOK_AGAIN_S, Addresses
from peers.discovery import announced
from peers.federation_client import Unreachable
from tests.wire.living import living, publisher_in

LOOKED_MAX = 8  # times that a device under load gets to hear an announcement; each look waits for it itself


async def tried(addresses: Addresses) -> list[str]:
    return [address async for address in addresses.to_try()]


async def test_the_one_that_worked_is_first() -> None:
    addresses = Addresses(["a:1", "b:1", "a:1"])
    assert await tried(addresses) == ["a:1", "b:1"]
    addresses.worked("b:1")
    assert await tried(addresses) == ["b:1", "a:1"]


async def test_looking_follows_what_is_known_and_waits_before_it_is_repeated() -> None:
    looked = 0
    now = 0.0

    async def look() -> list[str]:
        nonlocal looked
        looked += 1
        return ["b:1", "c:1"]

    addresses = Addresses(["a:1", "b:1"], look=look, clock=lambda: now)
    first = aiter(addresses.to_try())
    assert (await anext(first), looked) == ("a:1", 0)
    assert await tried(addresses) == ["a:1", "b:1", "c:1"]
    assert await tried(addresses) == ["a:1", "b:1"]
    now = LOOK_AGAIN_S
    assert await tried(addresses) == ["a:1", "b:1", "c:1"]
    assert looked == 2


def test_what_worked_is_remembered_once() -> None:
    remembered: list[str] = []
    addresses = Addresses(["a:1"], remember=remembered.append)
    addresses.put_first(["b:1", "c:1"])
    for address in ("a:1", "b:1", "b:1"):
        addresses.worked(address)
    assert remembered == ["a:1", "b:1"]
    assert addresses.known == ("b:1", "a:1", "c:1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_client_finds_a_nameserver_that_moved_and_keeps_where(tmp_path: Path) -> None:
    async with living(tmp_path) as federation:
        membership = federation.admin.membership()
        moved = federation.peers["ns"].record.federation or ""
        federation.admin.write_membership(msgspec.structs.replace(membership, addresses=(f"127.0.0.1:{free_port()}",)))
        async with announced(
            federation=membership.federation,
            name="ns",
            uuid=federation.home("ns").membership().uuid,
            port=int(moved.rpartition(":")[2]),
            addresses=["127.0.0.1"],
            interface="127.0.0.1",
        ):
            for _ in range(LOOKED_MAX):
                answer = await federation.ask("//peer: nameserver\nthis_peer()")
                if answer.complete:
                    break
            assert [row.value for row in answer.checked()] == ["NAMESERVER"]
        assert federation.admin.membership().addresses[0] == moved
        assert await federation.value("//peer: nameserver\nthis_peer()") == "NAMESERVER"


async def test_who_publishes_finds_a_nameserver_that_moved(tmp_path: Path) -> None:
    async with living(tmp_path) as federation:
        ada = await publisher_in(federation, "ada")
        await federation.value('models:create("thermometer")', home="ada")
        await federation.value('models:create_release("thermometer", "1.0")', home="ada")
        moved = federation.peers["ns"].record.federation or ""
        wrong = f"127.0.0.1:{free_port()}"
        ada.write_membership(msgspec.structs.replace(ada.membership(), addresses=(wrong,)))
        async with announced(
            federation=ada.membership().federation,
            name="ns",
            uuid=federation.home("ns").membership().uuid,
            port=int(moved.rpartition(":")[2]),
            addresses=["127.0.0.1"],
            interface="127.0.0.1",
        ):
            for _ in range(LOOKED_MAX):
                answer = await federation.ask('models:publish("thermometer", "1.0")', home="ada")
                if answer.complete:
                    break
        assert answer.checked().rows[0].value["model"] == "thermometer@1.0"
        assert ada.membership().addresses[0] == moved


async def test_a_client_that_finds_nothing_is_told_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with living(tmp_path) as federation:
        home = federation.admin
        right = federation.peers["ns"].record.federation or ""
        wrong = f"127.0.0.1:{free_port()}"
        home.write_membership(msgspec.structs.replace(home.membership(), addresses=(wrong,)))
        monkeypatch.setenv("PEERAGE_ZEROCONF", "false")
        answer = await federation.ask("//peer: nameserver\nthis_peer()")
        (problem,) = answer.errors
        assert isinstance(problem, Unreachable)
        assert "PEERAGE_NAMESERVER=HOST:PORT" in (problem.hint or "")

        monkeypatch.setenv("PEERAGE_NAMESERVER", right)
        assert await federation.value("//peer: nameserver\nthis_peer()") == "NAMESERVER"
        assert home.membership().addresses == (right, wrong)
