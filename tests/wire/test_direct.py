"""Asking another peer directly, in a living federation: the way, who is let in, and what when it is not there."""

from __future__ import annotations

import asyncio
import io
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from federation.certificate_reading import PeerCertificate, read_pem
from federation.documents import encode
from federation.envelopes import CLOCK_SKEW_S, seal
from federation.errors import EnvelopeExpired, NonceReused
from federation.introductions import INTRODUCTION_LIFETIME_S
from federation.keys import read_key
from federation.tls import client_context, neighbour_context, server_context
from peers.cli import main
from peers.client import Answer
from peers.client_peer import open_client
from peers.direct_face import DIRECT_BYTES_MAX, STATEMENTS_PER_PEER_MAX, DirectStatement
from peers.edge_parts import HomeCertificate
from peers.homes import Home
from peers.introductions import FILE, Introductions
from peers.joining import join
from peers.local_parts import opened_client
from peers.requests import StatementRequest, encode_request
from peers.settings import ClientSettings
from query.errors import Problem
from query.frames import Column, EndFrame, ErrorFrame, RowFrame, SchemaFrame, encode_frame
from query.ledger import Ledger, Outcome, State
from tests.wire.living import Living, living

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

HERE = "//peer: two\nthis_peer()"
WHOLE = (
    SchemaFrame(0, (Column("this_peer", "String"),)),
    RowFrame(0, ("TWO",)),
    EndFrame(0, Ledger((Outcome("TWO", State.ROWS, rows=1),)), 1, 0.1),
)
LONG = "//peer: two\nselect a from a in range(1, 4000), b in range(1, 4000) where a + b < 0"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    """``two`` and ``three`` can be asked directly; ``one`` and the client ``bob`` know where ``two`` is."""
    async with living(Path(tmp_path_factory.mktemp("direct"))) as made:
        for name in ("two", "three"):
            await made.add_edge(name, direct_host="127.0.0.1", direct_port=0)
        await made.add_edge("one", direct_peers=(f"two={await face(made, 'two')}",))
        bundle = await made.value('peer:register("bob", {"role": "operator"})')
        await join(made.home("bob"), bundle)
        yield made


async def face(federation: Living, name: str) -> str:
    """Where an edge can be asked directly, once it can."""
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while True:
            at = await direct(session, federation, name)
            if at is not None:
                return at
            await asyncio.sleep(0.02)


async def direct(session: aiohttp.ClientSession, federation: Living, name: str) -> str | None:
    async with session.get(f"http://{federation.peers[name].record.application}/v1/health") as response:
        at: str | None = (await response.json())["direct"]
        return at


def only(answer: Answer) -> Outcome:
    ((outcome,),) = (ledger.outcomes for ledger in answer.ledgers)
    return outcome


@asynccontextmanager
async def asking(federation: Living, home: str, *peers: str) -> AsyncIterator[Any]:
    """A client's home that knows where some peers are; gives how to ask a text."""
    client = await open_client(federation.home(home), ClientSettings(zeroconf=False, direct_peers=peers))

    async def ask(text: str) -> Answer:
        answer = Answer()
        async for frame in client.frames(text, params={}, peer=None, timeout_s=None):
            answer.add(frame)
        return answer

    try:
        yield ask
    finally:
        await client.close()


async def test_who_knows_the_way_asks_directly_and_the_ledger_says_so(federation: Living) -> None:
    answer = await federation.ask(HERE, home="one")
    assert [row.value for row in answer] == ["TWO"]
    assert answer.complete
    assert (only(answer).peer, only(answer).state, only(answer).rows, only(answer).way) == (
        "TWO",
        State.ROWS,
        1,
        "direct",
    )
    roundabout = await federation.ask("//peer: three\nthis_peer()", home="one")
    assert (only(roundabout).state, only(roundabout).way) == (State.ROWS, "")


async def test_a_value_of_another_peer_is_kept_and_errors_stand_where_they_were_written(federation: Living) -> None:
    kept = await federation.ask("//peer: two\nset :v = this_peer(); :v", home="one")
    assert [row.value for row in kept] == ["TWO"]
    wrong = await federation.ask("1 + 1;\n//peer: two\nnowhere(1)", home="one")
    (problem,) = wrong.errors
    assert problem.span is not None
    assert (problem.span.line, problem.peer, wrong.ledgers[1].outcomes[0].way) == (3, "TWO", "direct")


async def test_explain_tells_the_way(federation: Living) -> None:
    await federation.ask(HERE, home="one")
    at = await face(federation, "two")
    rows = [row.values for row in await federation.ask("//peer: two\nexplain this_peer()", home="one")]
    assert ("way", f"TWO directly, at {at}") in rows
    rows = [row.values for row in await federation.ask("//peer: three\nexplain this_peer()", home="one")]
    assert ("targets", "1: THREE") in rows
    assert "way" not in [stage for stage, _ in rows]


@pytest.mark.parametrize("text", ["//peer: two, three\nthis_peer()", "//peer: all\nthis_peer()"])
async def test_what_is_for_several_goes_by_the_nameserver(federation: Living, text: str) -> None:
    answer = await federation.ask(text, home="one")
    assert {"TWO", "THREE"} <= {row.peer for row in answer}
    assert {outcome.way for outcome in answer.ledgers[0].outcomes} == {""}


async def test_a_role_is_not_lent_and_not_lost(federation: Living) -> None:
    refused = await federation.ask('//peer: two\nmodels:unload("m")', home="one")
    assert (only(refused).state, only(refused).detail, only(refused).way) == (State.REFUSED, "forbidden", "direct")
    async with asking(federation, "ns-admin", f"two={await face(federation, 'two')}") as ask:
        made = await ask("//peer: two\ncreate function directly() -> Integer as 7")
        assert (only(made).state, only(made).way) == (State.EMPTY, "direct")
        assert [row.value for row in await ask("//peer: two\ndirectly()")] == [7]


async def test_another_peer_at_the_address_is_told_nothing(federation: Living) -> None:
    """The name is of one peer and the key of another: it is asked by the nameserver then."""
    async with asking(federation, "bob", f"two={await face(federation, 'three')}") as ask:
        answer = await ask(HERE)
    assert [row.value for row in answer] == ["TWO"]
    assert only(answer).way == ""


async def test_nobody_at_the_address_is_asked_by_the_nameserver(federation: Living) -> None:
    async with asking(federation, "bob", "two=127.0.0.1:1", "nobody=127.0.0.1:1") as ask:
        answer = await ask(HERE)
        assert [row.value for row in answer] == ["TWO"]
        assert only(answer).way == ""
        assert [problem.code for problem in (await ask("//peer: nobody\n1 + 1")).errors] == ["unknown_name"]


async def test_what_is_too_long_goes_by_the_nameserver(federation: Living) -> None:
    async with federation.connection("one") as one:
        long = "x" * (DIRECT_BYTES_MAX // 4 * 3 // 3)
        params = dict.fromkeys(("a", "b", "c", "d"), long)
        answer = await one.query("//peer: two\n:a = :b", params=params)
    assert [row.value for row in answer] == [True]
    assert only(answer).way == ""


async def test_cancelling_stops_it_there(federation: Living) -> None:
    async with federation.connection("one") as one:
        running = asyncio.create_task(one.query(LONG))
        await federation.until("count(select q from q in query:list())", 2, home="two")
        await one.cancel()
        answer = await running
    assert (only(answer).state, [problem.code for problem in answer.errors]) == (State.CANCELLED, ["cancelled"])
    await federation.until("count(select q from q in query:list())", 1, home="two")


async def test_time_and_budget_hold_there(federation: Living) -> None:
    late = await federation.ask(f"//timeout: 200ms\n{LONG}", home="one")
    assert (only(late).state, only(late).way, only(late).elapsed_ms >= 200) == (State.TIMEOUT, "direct", True)
    over = await federation.ask(f"//budget: 100ms\n{LONG}", home="one")
    assert (only(over).detail, only(over).way) == ("over_budget_time", "direct")


# --- who is let in ----------------------------------------------------------------------------------------------------


class Speaking:
    """Speaks with the face of an edge as one home, word by word."""

    def __init__(self, federation: Living, home: Home) -> None:
        self._federation = federation
        self.home = home
        self.membership = home.membership()

    async def statement(
        self, *, on_behalf: Home | None = None, text: str = "1 + 1", params: dict[str, Any] | None = None, **fields: Any
    ) -> DirectStatement:
        """A statement of this home, or of another one whose keys it should not have."""
        home = on_behalf or self.home
        membership = home.membership()
        client = opened_client(home, None, clock=time.time)

        async def follow() -> None:
            return None

        introductions = Introductions(
            home.path,
            federation=membership.federation,
            uuid=membership.uuid,
            client=client,
            root=lambda: self._federation_root(home),
            follow_root=follow,
        )
        try:
            introduced = await introductions.obtain("two")
        finally:
            await client.close()
        body = encode_request(StatementRequest(text=text, params=params or {}))
        envelope = seal(
            body,
            key=read_key(home.identity_key),
            federation=membership.federation,
            caller=membership.uuid,
            now=time.time(),
            lifetime_s=30.0,
        )
        usual = {"body": body, "time_left_s": 5.0, "envelope": envelope, "credential": introduced.introduction.own}
        return DirectStatement(**{**usual, **fields})

    def _federation_root(self, home: Home) -> Any:
        from peers.edge_parts import trusted_root

        return trusted_root(home)

    def context(self, *, certificate: bool = True) -> ssl.SSLContext:
        home = self.home
        made = client_context(home.ca_crt, *((home.identity_crt, home.identity_key) if certificate else ()))
        made.check_hostname = False
        return made

    async def post(self, body: bytes, *, certificate: bool = True, path: str = "/v1/direct") -> tuple[int, bytes]:
        at = await face(self._federation, "two")
        connector = aiohttp.TCPConnector(ssl=self.context(certificate=certificate), force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"https://{at}{path}", data=io.BytesIO(body)) as response,
        ):
            return response.status, await response.read()


async def test_a_statement_runs_once(federation: Living) -> None:
    bob = Speaking(federation, federation.home("bob"))
    asked = encode(await bob.statement())
    status, frames = await bob.post(asked)
    assert (status, b'"values":[2]' in frames) == (200, True)
    status, frames = await bob.post(asked)
    assert (status, b'"refused","detail":"nonce_reused"' in frames) == (200, True)


async def test_what_one_peer_was_given_to_run_is_of_no_use_to_it(federation: Living) -> None:
    """An edge that was asked by an admin has that one's envelope and credential, and a certificate of its own."""
    edge = Speaking(federation, federation.home("three"))
    stolen = await edge.statement(on_behalf=federation.admin, text="create function stolen() -> Integer as 1")
    status, answer = await edge.post(encode(stolen))
    assert (status, b'"wrong_key"' in answer) == (403, True)


async def test_a_foreign_word_is_refused_and_another_body_too(federation: Living) -> None:
    bob = Speaking(federation, federation.home("bob"))
    right = await bob.statement()
    other = await bob.statement(text="2 + 2")
    status, frames = await bob.post(encode(DirectStatement(other.body, 5.0, right.envelope, right.credential)))
    assert (status, b'"refused","detail":"wrong_body"' in frames) == (200, True)
    status, frames = await bob.post(encode(DirectStatement(right.body, 5.0, right.envelope, right.envelope)))
    assert (status, b'"wrong_document"' in frames) == (403, True)


async def test_without_a_certificate_nothing_is_taken(federation: Living) -> None:
    bob = Speaking(federation, federation.home("bob"))
    status, answer = await bob.post(encode(await bob.statement()), certificate=False)
    assert (status, b'"no_certificate"' in answer) == (403, True)
    status, answer = await bob.post(b"", certificate=False, path="/v1/query")
    assert (status, b'"no_certificate"' in answer) == (403, True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"body":"","time_left_s":1}', 400),
        (b"{" * 100_000, 400),
        (b"x" * (DIRECT_BYTES_MAX + 1), 413),
    ],
)
async def test_what_is_no_statement_is_refused(federation: Living, body: bytes, status: int) -> None:
    assert (await Speaking(federation, federation.home("bob")).post(body))[0] == status


async def test_the_time_left_is_bounded_and_other_paths_are_none(federation: Living) -> None:
    bob = Speaking(federation, federation.home("bob"))
    for time_left_s in (0.0, -1.0, 1e9):
        assert (await bob.post(encode(await bob.statement(time_left_s=time_left_s))))[0] == 400
    assert (await bob.post(b"", path="/v1/query"))[0] == 404


async def test_who_does_not_read_gives_its_place_up(federation: Living) -> None:
    bob = Speaking(federation, federation.home("bob"))
    many = "select :s from n in range(1, 100000)"
    body = encode(await bob.statement(text=many, params={"s": "x" * 100_000}, time_left_s=0.5))
    host, _, port = (await face(federation, "two")).rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=bob.context(), limit=1024)
    writer.write(b"POST /v1/direct HTTP/1.1\r\nHost: two\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    await federation.until("count(select q from q in query:list())", 1, home="two")
    async with asyncio.timeout(20):
        assert not (await tail(reader)).endswith(b"0\r\n\r\n")  # cut off in the middle
    writer.transport.abort()


async def tail(reader: asyncio.StreamReader) -> bytes:
    """The last bytes of what comes until the connection ends."""
    found = b""
    with suppress(ConnectionResetError):
        while chunk := await reader.read(1 << 20):
            found = (found + chunk)[-64:]
    return found


async def test_the_face_shows_the_newest_certificate(federation: Living) -> None:
    home = federation.home("two")
    before = read_pem(home.text(home.identity_crt))
    assert await shown_by(federation, "two") == before
    client = opened_client(home, None, clock=time.time)
    try:
        await HomeCertificate(home, client, key=read_key(home.identity_key).public).renew()
    finally:
        await client.close()
    renewed = read_pem(home.text(home.identity_crt))
    assert await shown_by(federation, "two") == renewed
    assert only(await federation.ask(HERE, home="one")).way == "direct"


async def shown_by(federation: Living, name: str) -> PeerCertificate:
    """The certificate that an edge shows to who asks it directly."""
    host, _, port = (await face(federation, name)).rpartition(":")
    context = Speaking(federation, federation.home("bob")).context()
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return read_pem(ssl.DER_cert_to_PEM_cert(der))


async def test_one_member_has_a_bounded_number_of_statements_there(federation: Living) -> None:
    bob = Speaking(federation, federation.home("bob"))
    long = [encode(await bob.statement(text=LONG.partition("\n")[2])) for _ in range(STATEMENTS_PER_PEER_MAX)]
    running = [asyncio.create_task(bob.post(one)) for one in long]
    await federation.until("count(select q from q in query:list())", STATEMENTS_PER_PEER_MAX + 1, home="two")
    status, answer = await bob.post(encode(await bob.statement()))
    assert (status, b'"too_busy"' in answer) == (429, True)
    assert only(await federation.ask(HERE, home="one")).way == "direct"  # another member is not kept out
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await federation.until("count(select q from q in query:list())", 1, home="two")


@asynccontextmanager
async def standing_in(federation: Living, name: str, take: Any, sites: list[Any] | None = None) -> AsyncIterator[str]:
    """Something with the certificate of an edge, and with a mind of its own; gives its address."""
    application = web.Application(client_max_size=DIRECT_BYTES_MAX)
    application.router.add_post("/v1/direct", take)
    runner = web.AppRunner(application)
    await runner.setup()
    home = federation.home(name)
    context = server_context(home.identity_crt, home.identity_key, home.ca_crt)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    at = f"127.0.0.1:{runner.addresses[0][1]}"
    if sites is not None:
        sites.append(site)
    try:
        yield at
    finally:
        await runner.cleanup()


async def test_an_answer_that_is_lost_is_not_asked_for_again(federation: Living) -> None:
    """What took the statement may have run it: nobody asks the nameserver for the same once more."""
    taken: list[bytes] = []

    async def take(request: web.Request) -> web.StreamResponse:
        taken.append(await request.read())
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with standing_in(federation, "two", take) as at, asking(federation, "bob", f"two={at}") as ask:
        answer = await ask(HERE)
    assert len(taken) == 1
    assert ([problem.code for problem in answer.errors], only(answer).state) == (["answer_lost"], State.UNREACHABLE)
    assert only(answer).way == "direct"


@pytest.mark.parametrize("ran", [False, True])
async def test_a_kept_connection_that_is_gone_is_made_anew(federation: Living, ran: bool) -> None:
    """The same bytes are brought again: what had run refuses their number, and then nobody knows its answer."""
    taken: list[bytes] = []
    refused = (
        SchemaFrame(0, ()),
        ErrorFrame(0, NonceReused("this statement was run here before").record(peer="TWO")),
        EndFrame(0, Ledger((Outcome("TWO", State.REFUSED, "nonce_reused"),)), 0, 0.1),
    )

    async def take(request: web.Request) -> web.StreamResponse:
        taken.append(await request.read())
        if len(taken) == 2:
            assert request.transport is not None
            request.transport.abort()
        frames = refused if ran and len(taken) == 3 else WHOLE
        return web.Response(body=b"".join(encode_frame(frame) + b"\n" for frame in frames))

    async with standing_in(federation, "two", take) as at, asking(federation, "bob", f"two={at}") as ask:
        assert only(await ask(HERE)).way == "direct"
        answer = await ask(HERE)
    assert len(taken) == 3
    assert taken[1] == taken[2] != taken[0]
    assert [problem.code for problem in answer.errors] == (["answer_lost"] if ran else [])
    assert (only(answer).state, only(answer).way) == (State.UNREACHABLE if ran else State.ROWS, "direct")


@pytest.mark.parametrize("then", ["gone", "busy", "restarted"])
async def test_what_may_have_run_is_not_asked_for_again_whatever_the_second_try_meets(
    federation: Living, then: str
) -> None:
    """It was lost on a kept connection; that nothing runs at the second try says nothing of the first."""
    taken: list[bytes] = []
    since = EnvelopeExpired("the statement was signed before this peer started").record(peer="TWO")
    end = EndFrame(0, Ledger((Outcome("TWO", State.REFUSED, since.code),)), 0, 0.1)

    async def take(request: web.Request) -> web.StreamResponse:
        taken.append(await request.read())
        if len(taken) == 2:
            if then == "gone":
                await sites[0].stop()
            assert request.transport is not None
            request.transport.abort()
        elif len(taken) == 3 and then == "busy":
            return web.Response(status=429)
        frames = (SchemaFrame(0, ()), ErrorFrame(0, since), end) if len(taken) == 3 else WHOLE
        return web.Response(body=b"".join(encode_frame(frame) + b"\n" for frame in frames))

    sites: list[Any] = []
    async with (
        standing_in(federation, "two", take, sites) as at,
        asking(federation, "bob", f"two={at}") as ask,
    ):
        assert only(await ask(HERE)).way == "direct"
        answer = await ask(HERE)
    assert len(taken) == (2 if then == "gone" else 3)
    assert ([problem.code for problem in answer.errors], only(answer).state) == (["answer_lost"], State.UNREACHABLE)
    assert only(answer).way == "direct"


@pytest.mark.parametrize("tail", [b"garbage", encode_frame(RowFrame(0, ("MORE",))) + b"\n", None])
async def test_an_answer_ends_with_its_end(federation: Living, tail: bytes | None) -> None:
    """What comes behind it is nobody's, and whoever holds the connection open holds nobody up."""
    left = asyncio.Event()

    async def take(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"".join(encode_frame(frame) + b"\n" for frame in WHOLE) + (tail or b""))
        if tail is None:
            await left.wait()
        return response

    async with standing_in(federation, "two", take) as at, asking(federation, "bob", f"two={at}") as ask:
        async with asyncio.timeout(10):
            answer = await ask(HERE)
        left.set()
    assert ([row.value for row in answer], answer.errors, only(answer).rows) == (["TWO"], [], 1)


@pytest.mark.parametrize(
    "frames",
    [
        (RowFrame(0, ("TWO",)), EndFrame(0, Ledger((Outcome("TWO", State.ROWS),)), 1, 0.1)),
        (SchemaFrame(0, ()), EndFrame(0, Ledger(()), 1, 0.1)),
        (SchemaFrame(0, (Column("x", "String"),)), RowFrame(0, ({"$what": 1},))),
    ],
)
async def test_what_is_no_answer_is_an_error_of_who_gave_it(federation: Living, frames: Any) -> None:
    async def take(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.Response(body=b"".join(encode_frame(frame) + b"\n" for frame in frames))

    async with standing_in(federation, "two", take) as at, asking(federation, "bob", f"two={at}") as ask:
        answer = await ask(HERE)
    assert str(only(answer)) == "error(bad_answer)"
    assert [problem.code for problem in answer.errors] == ["bad_answer"]


async def test_a_certificate_is_checked_before_anything_is_sent(federation: Living) -> None:
    seen: list[bytes] = []

    def check(der: bytes) -> None:
        seen.append(der)
        raise ssl.SSLError(1, "somebody else")

    home = federation.home("bob")
    connector = aiohttp.TCPConnector(
        ssl=neighbour_context(home.ca_crt, home.identity_crt, home.identity_key, check=check), force_close=True
    )
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(aiohttp.ClientConnectorError, match="somebody else"):
            await session.post(f"https://{await face(federation, 'two')}/v1/direct", data=b"secret")
    assert len(seen) == 1


# --- modes, silence, removal ------------------------------------------------------------------------------------------


async def test_the_face_is_open_while_interactive_and_not_else(federation: Living) -> None:
    at = await face(federation, "three")
    host, _, port = at.rpartition(":")
    async with aiohttp.ClientSession() as session:
        await federation.value('edge:set_mode("three", "ONLINE")')
        async with asyncio.timeout(20):
            while await direct(session, federation, "three") is not None:  # noqa: ASYNC110 — of a peer, not of ours
                await asyncio.sleep(0.02)
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection(host, int(port))
    await federation.value('edge:set_mode("three", "INTERACTIVE")')
    await face(federation, "three")


async def test_an_autonomous_edge_neither_listens_nor_asks(tmp_path: Path) -> None:
    async with living(tmp_path) as federation:
        await federation.add_edge("two", direct_host="127.0.0.1", direct_port=0)
        at = await face(federation, "two")
        await federation.add_edge("one", direct_host="127.0.0.1", direct_port=0, direct_peers=(f"two={at}",))
        await federation.until('edge:listening("one")', wanted=True)
        assert only(await federation.ask(HERE, home="one")).way == "direct"
        host, _, port = (await face(federation, "one")).rpartition(":")
        await federation.value('edge:mode("AUTONOMOUS")', home="one")
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            while await direct(session, federation, "one") is not None:  # noqa: ASYNC110 — of a peer, not of ours
                await asyncio.sleep(0.02)
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await asyncio.open_connection(host, int(port))
        answer = await federation.ask(HERE, home="one")
        assert [problem.code for problem in answer.errors] == ["autonomous", "not_reached"]
        assert not answer.rows


async def test_an_envelope_is_good_once_whichever_way_it_comes(tmp_path: Path) -> None:
    """The nameserver brings a statement of bob's; then bob brings the same envelope himself."""
    async with living(tmp_path) as federation:
        await federation.add_edge("two", direct_host="127.0.0.1", direct_port=0)
        await join(federation.home("bob"), await federation.value('peer:register("bob", {"role": "viewer"})'))
        await federation.until('edge:listening("two")', wanted=True)
        bob = Speaking(federation, federation.home("bob"))
        asked = await bob.statement(text=HERE)
        client = opened_client(bob.home, None, clock=time.time)
        try:
            async with client.query(asked.body, envelope=asked.envelope) as frames:
                brought = [frame async for frame in frames]
        finally:
            await client.close()
        assert isinstance(brought[-1], EndFrame)
        assert [outcome.state for outcome in brought[-1].ledger.outcomes] == [State.ROWS]
        status, answer = await bob.post(encode(asked))
        assert (status, b'"refused","detail":"nonce_reused"' in answer) == (200, True)


async def test_a_director_with_a_new_key_introduces_anew(tmp_path: Path) -> None:
    """What the old key said is refused by who knows the new root; it is fetched anew, and who asks follows the root."""
    async with living(tmp_path) as federation:
        await federation.add_edge("two", direct_host="127.0.0.1", direct_port=0)
        at = await face(federation, "two")
        async with asking(federation, "ns-admin", f"two={at}") as ask:
            assert only(await ask(HERE)).way == "direct"
            rotate = ["keys", "rotate", "director", "--yes", "--home", str(federation.admin.path)]
            root_home = ["--root-home", str(federation.home("ns-root").path)]
            assert await asyncio.to_thread(main, [*rotate, *root_home]) == 0
            first = await ask(HERE)
            assert [row.value for row in first] == ["TWO"]
            second = await ask(HERE)
            assert ([row.value for row in second], only(second).way) == (["TWO"], "direct")


class Clock:
    """Time that a test can put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


async def test_without_the_nameserver_it_goes_on_until_the_introduction_has_ended(tmp_path: Path) -> None:
    """Of a member that was removed meanwhile nobody can tell; but its introduction ends, and with it its way."""
    clock = Clock()
    async with living(tmp_path, clocks={"two": clock}) as federation:
        await federation.add_edge("two", direct_host="127.0.0.1", direct_port=0)
        at = await face(federation, "two")
        await federation.add_edge("one", direct_peers=(f"two={at}",))
        kept = federation.home("one").path / FILE
        async with asyncio.timeout(20):
            while not kept.exists():  # fetched ahead, before anybody asks  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert kept.stat().st_mode & 0o777 == 0o600
        await federation.stop("one")
        await federation.stop("ns")
        await federation.start_edge("one", direct_peers=(f"two={at}",))  # what it holds is in its home
        answer = await federation.ask(HERE, home="one")
        assert ([row.value for row in answer], only(answer).way) == (["TWO"], "direct")
        clock.ahead_s = INTRODUCTION_LIFETIME_S + CLOCK_SKEW_S + 5.0  # the one that is asked sees that it has ended
        refused = await federation.ask(HERE, home="one")
        assert [problem.code for problem in refused.errors] == ["nameserver_unreachable", "not_reached"]
        assert (only(refused).state, only(refused).way) == (State.UNREACHABLE, "")
        clock.ahead_s = 0.0
        again = await federation.ask(HERE, home="one")  # what was refused is held no more
        assert only(again).state is State.UNREACHABLE


async def test_a_removed_member_gets_no_introduction(tmp_path: Path) -> None:
    async with living(tmp_path) as federation:
        await federation.add_edge("two", direct_host="127.0.0.1", direct_port=0)
        await join(federation.home("bob"), await federation.value('peer:register("bob", {"role": "viewer"})'))
        at = await face(federation, "two")
        async with asking(federation, "bob", f"two={at}") as ask:
            assert only(await ask(HERE)).way == "direct"
            await federation.value('peer:remove("bob")')
            assert only(await ask(HERE)).way == "direct"  # two does not know, and its word is ten minutes old at most
            (federation.home("bob").path / FILE).unlink()
        async with asking(federation, "bob", f"two={at}") as ask:
            answer = await ask(HERE)
    assert only(answer).way == ""
    assert [problem.code for problem in answer.errors] == ["removed", "not_reached"]


async def test_an_introduction_is_to_an_edge_that_there_is(federation: Living) -> None:
    client = opened_client(federation.home("bob"), None, clock=time.time)
    try:
        for name, code in (("too", "unknown_name"), ("nameserver", "wrong_role"), ("../v1/whoami", "unknown_name")):
            with pytest.raises(Problem) as caught:
                async with client.stream(f"/v1/introductions/{name.replace('/', '%2F')}"):
                    pass
            assert caught.value.code == code
    finally:
        await client.close()
