"""Discovery over real multicast, confined to 127.0.0.1."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from peers.discovery import ADDRESSES_PER_SERVICE_MAX, announceable, announced, announced_addresses, find_nameservers

LOOPBACK = "127.0.0.1"


async def test_what_is_announced_is_found_and_other_federations_are_not() -> None:
    mine, other = f"fed-{uuid4()}", f"fed-{uuid4()}"
    async with (
        announced(
            federation=other, name="other", uuid=str(uuid4()), port=2, addresses=["127.0.0.1"], interface=LOOPBACK
        ),
        announced(
            federation=mine,
            name="ns",
            uuid=str(uuid4()),
            port=35021,
            addresses=["box", "127.0.0.1"],
            interface=LOOPBACK,
        ),
    ):
        assert await find_nameservers(mine, interface=LOOPBACK, timeout_s=20) == ("127.0.0.1:35021",)


async def test_nothing_is_found_where_nobody_announces() -> None:
    assert await find_nameservers(f"fed-{uuid4()}", interface=LOOPBACK, timeout_s=0.2) == ()


@pytest.mark.parametrize("interface", ["not-an-address", "192.0.2.1"])
async def test_an_interface_that_is_not_there_is_no_error(interface: str) -> None:
    assert await find_nameservers("fed", interface=interface, timeout_s=0.2) == ()
    async with announced(federation="f", name="n", uuid=str(uuid4()), port=1, addresses=[], interface=interface):
        pass


def announcement(hosts: list[str], *, port: int | None = 9, **properties: str) -> Any:
    said = {name.encode(): value.encode() for name, value in properties.items()}
    return SimpleNamespace(properties=said, port=port, parsed_scoped_addresses=lambda: hosts)


def test_only_a_nameserver_of_the_federation_counts() -> None:
    good = {"federation": "f", "role": "nameserver"}
    assert announced_addresses(announcement(["192.0.2.1", "fe80::1%lo"], **good), "f") == (
        "192.0.2.1:9",
        "[fe80::1%lo]:9",
    )
    assert announced_addresses(announcement(["192.0.2.1"], **good), "g") == ()
    assert announced_addresses(announcement(["192.0.2.1"], federation="f", role="edge"), "f") == ()
    assert announced_addresses(announcement(["192.0.2.1"]), "f") == ()
    assert announced_addresses(announcement(["192.0.2.1"], port=None, **good), "f") == ()


def test_addresses_are_bounded() -> None:
    hosts = [f"192.0.2.{number}" for number in range(50)]
    found = announced_addresses(announcement(hosts, federation="f", role="nameserver"), "f")
    assert len(found) == ADDRESSES_PER_SERVICE_MAX


def test_what_other_devices_can_dial_is_announced() -> None:
    assert announceable(["box", "10.0.0.7", "127.0.0.1"]) == ["10.0.0.7"]
    own = announceable(["box", "127.0.0.1"])  # a nameserver that listens everywhere, under a name that is no address
    assert own == announceable(["0.0.0.0"])
    assert own
    assert own == ["127.0.0.1"] or not any(address.startswith("127.") for address in own)
    assert announceable(["box"]) == []
    assert len(announceable([f"10.0.0.{n}" for n in range(1, 100)])) == ADDRESSES_PER_SERVICE_MAX
