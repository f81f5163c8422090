"""Edges that announce themselves: who is known where, and real multicast confined to 127.0.0.1."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from uuid import uuid4

import pytest

from peers.discovery import announced
from peers.neighbours import NEIGHBOURS_MAX, Neighbours
from peers.setting_texts import BadSetting
from peers.settings import DIRECT_PEERS_MAX, ClientSettings, EdgeSettings, direct_addresses, resolve_settings
from query.errors import Problem
from tests.wire.living import living

LOOPBACK = "127.0.0.1"

pytestmark = pytest.mark.timeout(60)


def test_the_last_announcement_of_a_name_counts_until_it_is_taken_back() -> None:
    known = Neighbours("fed", interface=None)
    known.add("s1", "Press", ("10.0.0.1:1",))
    assert (known.addresses("PRESS"), known.names) == (("10.0.0.1:1",), ("press",))
    known.add("s2", "press", ("10.0.0.2:1",))
    assert known.addresses("press") == ("10.0.0.2:1",)
    known.remove("s1")
    assert known.addresses("press") == ("10.0.0.2:1",)
    known.remove("s2")
    known.remove("s3")
    assert (known.addresses("press"), known.names) == ((), ())
    known.add("s1", "press", ())
    assert known.names == ()


def test_announcements_do_not_pile_up() -> None:
    known = Neighbours("fed", interface=None)
    for number in range(3 * NEIGHBOURS_MAX):
        known.add(f"s{number}", f"e{number}", ("10.0.0.1:1",))
    assert len(known.names) == NEIGHBOURS_MAX
    known.add("again", "e0", ("10.0.0.2:1",))
    assert known.addresses("e0") == ("10.0.0.2:1",)


async def test_edges_of_the_federation_are_heard_and_no_others() -> None:
    federation = f"fed-{uuid4()}"
    known = Neighbours(federation, interface=LOOPBACK)
    looking = asyncio.create_task(known.look())

    def announcing(
        name: str, port: int, *, of: str = federation, role: str = "edge"
    ) -> AbstractAsyncContextManager[None]:
        return announced(
            federation=of, name=name, uuid=str(uuid4()), port=port, addresses=[], interface=LOOPBACK, role=role
        )

    try:
        async with asyncio.timeout(30):
            async with (
                announcing("other", 1, of=f"fed-{uuid4()}"),
                announcing("ns", 2, role="nameserver"),
                announcing("no name", 3),
                announcing("press", 35022),
            ):
                while not known.names:  # noqa: ASYNC110 — of the network, not of ours
                    await asyncio.sleep(0.02)
                assert (known.names, known.addresses("press")) == (("press",), ("127.0.0.1:35022",))
            while known.names:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def test_an_interface_that_is_not_there_is_no_error() -> None:
    await asyncio.wait_for(Neighbours("fed", interface="192.0.2.1").look(), 10)


async def test_what_is_heard_is_asked_directly(tmp_path: Path) -> None:
    heard = {"zeroconf": True, "zeroconf_interface": LOOPBACK}
    async with living(tmp_path) as federation:
        await federation.add_edge("one", direct_discover=True, **heard)
        await federation.add_edge("two", direct_host="127.0.0.1", direct_port=0, **heard)
        async with asyncio.timeout(30), federation.connection("one") as one:
            while True:
                answer = await one.query("//peer: two\nthis_peer()")
                if answer.ledgers[0].outcomes[0].way == "direct":
                    break
                await asyncio.sleep(0.05)
        assert [row.value for row in answer] == ["TWO"]


def test_addresses_stand_in_the_settings_by_name() -> None:
    told = resolve_settings(EdgeSettings, file='direct_peers = ["press=10.0.0.1:1", "Press=10.0.0.2:1", "a=b:3"]')
    assert direct_addresses(told.direct_peers) == {"press": ("10.0.0.1:1", "10.0.0.2:1"), "a": ("b:3",)}
    assert resolve_settings(ClientSettings, environment={"PEERAGE_DIRECT_PEERS": "a=b:3,c=d:4"}).direct_peers == (
        "a=b:3",
        "c=d:4",
    )
    assert (told.direct_host, told.direct_discover) == (None, False)


@pytest.mark.parametrize(
    ("peers", "message"),
    [
        (("10.0.0.1:1",), 'direct_peers has "10.0.0.1:1": expected NAME=HOST:PORT'),
        (("press=10.0.0.1",), 'direct_peers is "10.0.0.1": expected host:port'),
        (("press=10.0.0.1:0",), "expected host:port"),
        (("all=10.0.0.1:1",), "all"),
        (tuple(f"e{n}=h:1" for n in range(DIRECT_PEERS_MAX + 1)), f"expected at most {DIRECT_PEERS_MAX}"),
    ],
)
def test_other_words_for_an_address_are_refused(peers: tuple[str, ...], message: str) -> None:
    with pytest.raises(Problem, match=message.replace(".", r"\.")):
        direct_addresses(peers)
    with pytest.raises(BadSetting):
        resolve_settings(EdgeSettings, flags={"direct_peers": peers})
