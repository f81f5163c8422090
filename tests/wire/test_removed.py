"""``removed`` wins over everything: one table of every entrance, for a peer that has all that opened them before."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from federation.bundles import join_request
from federation.documents import encode
from federation.envelopes import seal
from federation.errors import RemovedPeer
from federation.keys import PrivateKey, read_key
from federation.revocation import offer_claim
from federation.tls import NAMESERVER_HOSTNAME, client_context
from peers.homes import Home, write_whole
from peers.joining import join
from peers.local_parts import opened_client
from peers.requests import StatementRequest, encode_request
from query.errors import Problem
from tests.wire.living import Living, living, publisher_in, publisher_of_thermo

pytestmark = pytest.mark.timeout(120)

ENTRANCES = [
    ("GET", "/v1/edges/{uuid}/desired"),
    ("PUT", "/v1/edges/{uuid}/report"),
    ("GET", "/v1/root/1"),
    ("GET", "/v1/whoami"),
    ("GET", "/v1/uplink"),
    ("POST", "/v1/renew"),
    ("POST", "/v1/query"),
    ("GET", "/v1/nothing-of-ours"),
    ("GET", "/v2/"),
    ("GET", "/v2/models/thermo/tags/list"),
    ("GET", "/v2/models/thermo/manifests/1.0"),
    ("POST", "/v2/models/thermo/blobs/uploads/"),
    ("PUT", "/v2/models/thermo/manifests/9.9"),
    ("DELETE", "/v2/models/thermo/manifests/1.0"),
]


async def refused(federation: Living, home: Home, method: str, path: str) -> tuple[int, bool]:
    """The status of a request with a removed member's certificate and envelope, and whether it says ``removed``."""
    membership = home.membership()
    context = client_context(home.ca_crt, home.identity_crt, home.identity_key)
    body = encode_request(StatementRequest(text="1 + 1"))
    envelope = seal(
        body,
        key=read_key(home.identity_key),
        federation=membership.federation,
        caller=membership.uuid,
        now=asyncio.get_running_loop().time(),
        lifetime_s=60.0,
    )
    address = federation.peers["ns"].record.federation
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method,
            f"https://{address}{path.format(uuid=membership.uuid)}",
            ssl=context,
            server_hostname=NAMESERVER_HOSTNAME,
            data=body if method != "GET" else None,
            headers={"Peerage-Envelope": encode(envelope).decode()},
        ) as answer,
    ):
        text = await answer.text()
        return answer.status, "removed" in text


async def test_no_entrance_is_left_to_who_was_removed(tmp_path: Path) -> None:
    async with living(tmp_path, "e1") as federation:
        ada = await publisher_in(federation)
        await federation.value('models:create("thermo")', home="ada")
        for version in ("1.0", "2.0"):
            await federation.value(f'models:create_release("thermo", "{version}")', home="ada")
        await federation.value('models:publish("thermo", "1.0")', home="ada")
        await federation.until('edge:listening("e1")', wanted=True)
        pending = await federation.value('edge:register("late")')
        used = await federation.value('edge:register("e2")')
        await join(federation.home("e2"), used)
        e1 = federation.home("e1")
        async with opened_client(e1, None, clock=asyncio.get_running_loop().time) as client:
            renewed = await client.renew()
        write_whole(e1.identity_crt, renewed.certificate.encode())  # as fresh as can be

        for name, function in (("e1", "edge"), ("e2", "edge"), ("late", "edge"), ("ada", "peer")):
            await federation.value(f'{function}:remove("{name}")')

        for home in (e1, ada):
            for method, path in ENTRANCES:
                assert await refused(federation, home, method, path) == (403, True), (home, method, path)
        for bundle in (pending, used):
            with pytest.raises(Problem) as refusal:
                await join(federation.home("twin"), bundle)
            assert refusal.value.code == "removed"
        answer = await federation.ask('models:publish("thermo", "2.0")', home="ada")
        assert "removed" in str(answer.errors[0])
        key = PrivateKey(bytes([9]) * 32)
        membership = ada.membership()
        proof = key.sign_bytes(offer_claim(membership.federation, membership.uuid, key.public)).hex()
        answer = await federation.ask(
            "//peer: nameserver\nkeys:offer_publisher(:key, :proof)",
            home="ada",
            params={"key": key.public.hex(), "proof": proof},
        )
        assert [error.code for error in answer.errors] == ["removed"]
        await federation.until('edge:contact()["error"]', "removed", home="e1")


async def test_who_was_removed_publishes_nothing_by_another_hand(tmp_path: Path) -> None:
    """An operator brings a release that the removed publisher signed; what was published before stays good."""
    async with living(tmp_path, "e1") as federation:
        ada = await publisher_of_thermo(federation)
        bob = await publisher_in(federation, "bob")
        await federation.value('peer:remove("ada")')
        own = bob.publisher_key.read_bytes()
        bob.publisher_key.write_bytes(ada.publisher_key.read_bytes())  # the key was lent
        await federation.value('models:create("thermo")', home="bob")
        await federation.value('models:create_release("thermo", "2.0")', home="bob")
        answer = await federation.ask('models:publish("thermo", "2.0")', home="bob")
        assert 'publisher "ada", who signed thermo@2.0, was removed' in str(answer.errors[0])
        bob.publisher_key.write_bytes(own)
        await federation.value('edge:add_group("e1", "field")')
        await federation.value('edge:set_group_models("field", [{"name": "thermo", "version": "1.0"}])')
        await federation.until("//peer: e1\nmodels:loaded()", ["thermo@1.0"])


def test_a_token_of_who_was_removed_is_worth_nothing() -> None:
    """Pure: by the class, whatever else would be wrong with the request."""
    from federation.bundles import check_join, token_hash
    from tests.trust.material import NOW, key, member

    owner = member(key=None, joined=None, removed=True, token_hash=token_hash("t"), token_expires=NOW + 1)
    for now in (NOW, NOW + 10):
        with pytest.raises(RemovedPeer):
            check_join(join_request(name="edge-1", token="t", key=key(3)), owner, now=now)
