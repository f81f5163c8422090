"""A whole federation in one event loop, over real sockets: every way in, roles, envelopes, modes, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from federation.documents import JoinRequest
from federation.tls import client_context
from peers.client import Answer, PartialAnswer
from peers.development_functions import NotDeployed
from peers.federation_client import FederationClient, UntrustedNameserver
from peers.homes import Home
from peers.joining import join
from query.errors import Forbidden, Problem, UnknownName
from query.frames import EndFrame, decode_frame
from query.ledger import State
from tests.wire.living import Living, living, publish, publisher_in

pytestmark = pytest.mark.timeout(120)

STATEMENTS = """
//peer: nameserver
edge:add_group("MY-EDGE-1", "staging-area-edges");
//peer: nameserver
edge:groups('MY-EDGE-1');
/* a block between */
//peer: nameserver
edge:set_group_models("staging-area-edges",
[{"repo": "default",
"name": "my-sa-model",
"version": "5.3"}]);
// nameserver
edge:get_config("edge_name");
-- a line between
edge:actual_state("EDGE_NAME");
//peer: nameserver
edge:remove_group("MY-EDGE-1", "staging-area-edges");
//peer: nameserver
models:installed();
"""


@pytest.fixture
async def federation(tmp_path: Path) -> AsyncIterator[Living]:
    async with living(tmp_path, "My-Edge-1", "edge_name") as made:
        yield made


async def published(federation: Living, name: str, version: str) -> None:
    """A release made from the template of ``models:create``."""
    home = federation.home("ada")
    if not home.joined:
        await publisher_in(federation)
        await federation.value(f'models:create("{name}")', home="ada")
    await publish(federation, name, version)


def check_reference(answer: Answer) -> None:
    assert answer.errors == []
    joined, groups, assigned, config, actual, left, installed = (row.value for row in answer.rows)
    assert joined is True
    assert groups == ["staging-area-edges"]
    assert assigned["assigned"] == ["my-sa-model@5.3"]
    assert config["models"] == []
    assert actual == {"models:loaded": [], "last_load_errors": [], "edge_mode": "INTERACTIVE"}
    assert left is True
    assert installed == ["my-sa-model@5.3"]


async def posted(connector: aiohttp.BaseConnector, url: str, body: dict[str, Any], **options: Any) -> Answer:
    answer = Answer()
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(url, json=body, **options) as response,
    ):
        assert response.status == 200, await response.text()
        async for line in response.content:
            answer.add(decode_frame(line))
    return answer


async def test_the_reference_statements_run_on_every_way_in(federation: Living) -> None:
    await published(federation, "my-sa-model", "5.3")
    check_reference(await federation.ask(STATEMENTS))  # a client's home: a peer in this process
    ns = federation.peers["ns"].record
    assert ns.socket is not None
    body = {"text": STATEMENTS}
    check_reference(await posted(aiohttp.UnixConnector(ns.socket), "http://localhost/v1/query", body))
    bearer = {"Authorization": f"Bearer {federation.home('ns').token()}"}
    near = f"http://{ns.application}/v1/query"
    check_reference(await posted(aiohttp.TCPConnector(), near, body, headers=bearer))
    admin = federation.admin
    context = client_context(admin.ca_crt, admin.identity_crt, admin.identity_key)
    check_reference(
        await posted(
            aiohttp.TCPConnector(ssl=context),
            f"https://{ns.federation}/v1/query",
            body,
            server_hostname="nameserver.peerage.internal",
        )
    )


async def test_an_edge_is_refused_changes_elsewhere_with_a_hint(federation: Living) -> None:
    answer = await federation.ask('edge:add_group("my-edge-1", "g")', home="My-Edge-1")
    (problem,) = answer.errors
    assert isinstance(problem, Forbidden)
    assert "--home" in (problem.hint or "")
    assert answer.ledgers[0].outcomes[0].state is State.REFUSED
    assert (await federation.ask('edge:groups("my-edge-1")', home="My-Edge-1")).rows[0].value == []


async def test_a_callers_role_travels_and_no_peer_lends_its_own(federation: Living) -> None:
    own = "//peer: My-Edge-1\nedge:poll()"
    assert (await federation.value(own))["models"] == []  # admin: signed by the caller, vouched by the director
    from_nameserver = await federation.ask(own, home="ns")  # admin there, but a viewer on other peers
    assert [type(problem) for problem in from_nameserver.errors] == [Forbidden]
    bundle = await federation.value('peer:register("guest", {"role": "viewer"})')
    await join(federation.home("guest"), bundle)
    as_guest = await federation.ask(own, home="guest")
    assert [type(problem) for problem in as_guest.errors] == [Forbidden]
    assert await federation.value("//peer: my-edge-1\nthis_peer()", home="guest") == "MY-EDGE-1"
    unsigned = await posted(
        aiohttp.TCPConnector(
            ssl=client_context(federation.admin.ca_crt, federation.admin.identity_crt, federation.admin.identity_key)
        ),
        f"https://{federation.peers['ns'].record.federation}/v1/query",
        {"text": own},
        server_hostname="nameserver.peerage.internal",
    )
    assert [type(problem) for problem in unsigned.errors] == [Forbidden]  # without an envelope: as who carries it


async def test_several_peers_answer_with_their_names_and_a_full_ledger(federation: Living) -> None:
    answer = await federation.ask("//peer: all\nselect v from v in [1, 2]")
    assert sorted((row.peer, row.value) for row in answer.rows) == [
        ("EDGE_NAME", 1),
        ("EDGE_NAME", 2),
        ("MY-EDGE-1", 1),
        ("MY-EDGE-1", 2),
    ]
    assert answer.complete
    await federation.value('edge:set_mode("edge_name", "ONLINE")')
    await federation.until('edge:actual_state("edge_name")["edge_mode"]', "ONLINE")
    await federation.until('edge:listening("edge_name")', wanted=False)
    partial = await federation.ask("//peer: all\n1")
    states = {outcome.peer: outcome for outcome in partial.ledgers[0].outcomes}
    assert states["MY-EDGE-1"].state is State.ROWS
    assert states["EDGE_NAME"].state is State.REFUSED
    assert (states["EDGE_NAME"].detail or "").startswith("online, next poll in")
    with pytest.raises(PartialAnswer, match="EDGE_NAME: refused"):
        partial.checked()
    await federation.value('edge:set_mode("edge_name", "INTERACTIVE")')
    await federation.until('edge:listening("edge_name")', wanted=True)
    await federation.stop("edge_name")
    gone = await federation.ask("//peer: edge_name\n1")
    (outcome,) = gone.ledgers[0].outcomes
    assert outcome.state is State.UNREACHABLE
    assert outcome.detail is not None
    assert outcome.detail.startswith("20")  # when it was seen last


async def test_targets_timeouts_and_unknown_peers(federation: Living) -> None:
    assert await federation.value("this_peer()", peer="edge_name") == "EDGE_NAME"
    answer = await federation.ask("//peer: edge_nam\n1")
    assert answer.errors[0].message == 'no peer "edge_nam" — did you mean "edge_name"?'
    empty = await federation.ask("//peer: group nobody\n1")
    assert isinstance(empty.errors[0], UnknownName)
    slow = "//timeout: 0.2s\n//peer: all\ncount(select a from a in range(1, 3000), b in range(1, 3000) where a = b)"
    late = await federation.ask(slow)
    assert {outcome.state for outcome in late.ledgers[0].outcomes} == {State.TIMEOUT}


async def test_silence_says_what_is_known(federation: Living) -> None:
    await federation.until('edge:contact()["state"]', "answered", home="My-Edge-1")
    await federation.stop("ns")
    async with federation.connection("My-Edge-1") as edge:
        listed = await edge.query("edge:list()")
        other = await edge.query("//peer: edge_name\n1")
    (known,), (unknown,) = listed.ledgers[0].outcomes, other.ledgers[0].outcomes
    assert (known.state, (known.detail or "")[:2]) == (State.UNREACHABLE, "20")  # when it answered last
    assert (unknown.state, unknown.detail) == (
        State.UNREACHABLE,
        "the nameserver is unreachable, and only it knows",
    )
    assert await federation.value("models:loaded()", home="My-Edge-1") == []


async def test_explain_says_who_would_answer_and_runs_nothing(federation: Living) -> None:
    answer = await federation.ask("//peer: all\nexplain edge:poll()")
    stages = {row.values[0]: row.values[1] for row in answer.checked()}
    assert stages["route"] == "all, because the //peer: directive says so"
    assert stages["targets"] == "2: MY-EDGE-1, EDGE_NAME"
    wrong = await federation.ask('1 + 1;\n  edge:groups("nobody-knows")')
    assert wrong.errors[0].span is not None
    assert (wrong.errors[0].span.line, wrong.errors[0].span.column) == (2, 3)


async def test_a_query_is_cancelled_by_its_id_wherever_it_runs(federation: Living) -> None:
    endless = "//peer: all\ncount(select a from a in range(1, 30000), b in range(1, 30000) where a = b)"
    running = asyncio.create_task(federation.ask(endless, home="ns"))
    await federation.until("count(query:list())", 2, home="ns")  # this one and the endless one
    listed = await federation.ask("query:list()", home="ns")
    (query,) = (row.value["id"] for row in listed if "30000" in row.value["text"])
    assert await federation.value(f'query:cancel("{query}")', home="ns") is True
    answer = await running
    assert {outcome.state for outcome in answer.ledgers[0].outcomes} == {State.CANCELLED}
    for edge in ("My-Edge-1", "edge_name"):
        await federation.until("count(query:list())", 1, home=edge)


async def test_deploy_assign_downgrade_and_manual_load(federation: Living) -> None:
    await published(federation, "thermo", "1.0")
    await published(federation, "thermo", "2.0")
    await federation.value('edge:add_group("my-edge-1", "field")')
    loaded = 'edge:actual_state("my-edge-1")["models:loaded"]'
    for version in ("1.0", "2.0", "1.0"):
        await federation.value(f'edge:set_group_models("field", [{{"name": "thermo", "version": "{version}"}}])')
        await federation.until(loaded, [f"thermo@{version}"])
    await federation.value('edge:set_poll_interval("my-edge-1", "600s")')
    await federation.value("//peer: my-edge-1\nedge:poll()")
    await federation.value('//peer: my-edge-1\nmodels:import("thermo", "2.0")')
    assert await federation.value("//peer: my-edge-1\nmodels:loaded()") == ["thermo@2.0"]
    await federation.value("//peer: my-edge-1\nedge:poll()")
    await federation.until("//peer: my-edge-1\nmodels:loaded()", ["thermo@1.0"])
    wrong = await federation.ask('edge:set_group_models("field", [{"name": "thermo", "version": "9.9"}])')
    assert wrong.errors[0].message == 'no version "9.9" of model "thermo" — did you mean "2.0"?'
    other = await federation.ask(
        'edge:set_group_models("field", [{"repo": "hub", "name": "thermo", "version": "1.0"}])'
    )
    assert other.errors[0].message == 'no repository "hub"'


async def test_a_home_follows_the_root_records(federation: Living) -> None:
    await published(federation, "thermo", "1.0")
    ada = federation.home("ada")
    assert len(ada.roots()) == 1  # it joined before its key was endorsed
    assert (await federation.value('models:info("thermo", "1.0")', home="ada"))["signer"] == "ada"
    assert len(ada.roots()) == 2
    imported = await federation.value('models:import("thermo", "1.0")')
    assert imported["model"] == "thermo@1.0"
    assert len(federation.admin.roots()) == 2


async def test_development_work_is_tried_where_a_device_accepts_it(federation: Living) -> None:
    await publisher_in(federation)
    await federation.value('models:create("draft")', home="ada")
    with pytest.raises(NotDeployed, match=r"no edge loaded draft@dev\+.*: MY-EDGE-1: .*\(development_refused\)"):
        await federation.value('models:deploy("my-edge-1", "draft")', home="ada")
    await federation.stop("edge_name")
    await federation.start_edge("edge_name", accept_development=True)
    await federation.until('edge:listening("edge_name")', wanted=True)
    taken = await federation.value('models:deploy(["edge_name", "my-edge-1"], "draft")', home="ada")
    assert taken["MY-EDGE-1"]["error"] == "development_refused"
    assert taken["EDGE_NAME"].startswith("draft@dev+")
    await federation.until('edge:actual_state("edge_name")["models:loaded"]', [taken["EDGE_NAME"]])
    await federation.stop("edge_name")
    await federation.start_edge("edge_name", accept_development=True)
    assert await federation.value("models:loaded()", home="edge_name") == [taken["EDGE_NAME"]]
    await federation.stop("edge_name")
    await federation.start_edge("edge_name")  # which accepts none
    shown = 'select [e["model"], e["error"]] from e in edge:actual_state("edge_name")["last_load_errors"]'
    await federation.until(shown, [taken["EDGE_NAME"], "development_refused"])
    assert await federation.value("models:loaded()", home="edge_name") == []
    assert await federation.value('models:unload("draft")', home="edge_name") is True
    await federation.until('count(edge:actual_state("edge_name")["last_load_errors"])', 0)


async def test_what_joining_refuses_and_how_it_is_named(federation: Living, tmp_path: Path) -> None:
    bundle = await federation.value('edge:register("late")')
    await join(federation.home("late"), bundle)
    with pytest.raises(Problem) as reused:
        await join(Home(tmp_path / "twin"), bundle)
    assert reused.value.code == "token_reused"
    removed = federation.home("late")
    await federation.value('edge:remove("late")')
    context = client_context(removed.ca_crt, removed.identity_crt, removed.identity_key)
    async with FederationClient(removed.membership().addresses, context) as client:
        with pytest.raises(Problem) as gone:
            await client.root(1)
        with pytest.raises(Problem) as renewing:
            await client.renew()
        with pytest.raises(Problem) as linking:
            async with client.uplink():
                pass
    assert {gone.value.code, renewing.value.code, linking.value.code} == {"removed"}


async def test_a_foreign_authority_is_named_by_the_edge_and_counted_by_the_nameserver(
    federation: Living, tmp_path: Path
) -> None:
    async with living(tmp_path / "other") as other:
        foreign = other.admin
        context = client_context(foreign.ca_crt, foreign.identity_crt, foreign.identity_key)
        async with FederationClient((federation.peers["ns"].record.federation or "",), context) as client:
            with pytest.raises(UntrustedNameserver):
                await client.root(1)
    async with aiohttp.ClientSession() as session:
        url = f"http://{federation.peers['ns'].record.application}/v1/health"
        async with asyncio.timeout(10):
            while (await (await session.get(url)).json())["tls_refused"] < 1:  # noqa: ASYNC110 — a health figure
                await asyncio.sleep(0.05)


async def test_bad_requests_are_told_by_status_and_class(federation: Living) -> None:
    ns = federation.peers["ns"].record
    token = {"Authorization": f"Bearer {federation.home('ns').token()}"}
    async with aiohttp.ClientSession(f"http://{ns.application}") as session:
        for body, headers, status, code in (
            (b'{"text": "1"}', {}, 403, "forbidden"),
            (b'{"text": "1"}', {**token, "Host": "evil.example"}, 403, "forbidden"),
            (b'{"text": "1"}', {**token, "Origin": "https://evil.example"}, 403, "forbidden"),
            (b'{"text": ', token, 400, "user"),
            (b'{"text": "1", "unknown": 2}', token, 400, "user"),
            (b'{"text": "1", "timeout": -1}', token, 400, "user"),
        ):
            async with session.post("/v1/query", data=body, headers=headers) as response:
                told = await response.json()
                assert (response.status, told["error"]["code"]) == (status, code), body
        async with session.get("/v1/nothing") as response:
            assert response.status == 404
    context = client_context(federation.admin.ca_crt)
    async with FederationClient((ns.federation or "",), context) as stranger:
        with pytest.raises(Problem) as refused:
            await stranger.root(1)
        assert refused.value.code == "no_certificate"
        with pytest.raises(Problem) as garbage:
            await stranger.join(JoinRequest(name="x", token="t", key=b"short", proof=b""))
        assert garbage.value.code != "internal"


async def test_an_answer_begins_before_it_ends(federation: Living) -> None:
    ns = federation.peers["ns"].record
    assert ns.socket is not None
    body = {"text": "select a from a in range(1, 100000)"}
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(ns.socket)) as session,
        session.post("http://localhost/v1/query", json=body) as response,
    ):
        first = decode_frame(await response.content.readline())
        assert msgspec.to_builtins(first)["frame"] == "schema"
        assert not isinstance(first, EndFrame)
    await federation.until("count(query:list())", 1, home="ns")  # leaving cancelled it
