"""TLS between real sockets: who gets through the handshake, who is seen without a certificate, who is refused, and
where that shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from federation.admission import Purpose, admit
from federation.certificate_reading import PeerCertificate
from federation.certificates import issue, make_authority
from federation.errors import CertificateExpired, NoCertificate
from federation.keys import PrivateKey, write_key
from federation.names import PeerId
from federation.tls import BROKEN_OFF, NAMESERVER_HOSTNAME, client_context, reason_of, server_context
from peers.tls_site import HANDSHAKES_MAX, STRANGERS_MAX, TlsSite
from tests.trust.material import AUTHORITY, DAY, EDGE, FEDERATION, NAMESERVER, STRANGER, Roster, key, member

NOW = time.time()  # OpenSSL's own clock decides at the client
EDGE_KEY = key(100)
NAMESERVER_ID = PeerId("99999999-9999-4999-8999-999999999999")
CA = make_authority(FEDERATION, AUTHORITY, now=NOW)
FOREIGN_CA = make_authority("fed-2", STRANGER, now=NOW)
ROSTER = Roster((member(),))


def certificate(own: PrivateKey = EDGE_KEY, **fields: Any) -> str:
    given: dict[str, Any] = {
        "ca_pem": CA,
        "ca_key": AUTHORITY,
        "subject_key": own.public,
        "federation": FEDERATION,
        "kind": "edge",
        "uuid": EDGE,
        "now": NOW,
        **fields,
    }
    return issue(**given)


def nameservers(**fields: Any) -> str:
    return certificate(NAMESERVER, kind="nameserver", uuid=NAMESERVER_ID, ips=["127.0.0.1"], **fields)


FOREIGN = certificate(ca_pem=FOREIGN_CA, ca_key=STRANGER)
EXPIRED = certificate(now=NOW - 40 * DAY)


def edges(cert: str | None = None) -> ssl.SSLContext:
    return client_context(CA, cert or certificate(), EDGE_KEY.pem)


@dataclass
class Refusals:
    """What a server was told of handshakes that failed: (address, reason) each."""

    told: list[tuple[str, str]] = field(default_factory=list)
    some: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self, error: Exception, address: str) -> None:
        self._add(address, reason_of(error))

    def reason(self, reason: str) -> None:
        self._add("", reason)

    def _add(self, address: str, reason: str) -> None:
        self.told.append((address, reason))
        self.some.set()

    async def first(self) -> tuple[str, str]:
        async with asyncio.timeout(10):
            await self.some.wait()
        return self.told[0]


# --- asyncio alone --------------------------------------------------------------------------------------------------

Shown = asyncio.Queue[dict[str, Any]]


@contextlib.asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncIterator[tuple[int, Shown]]:
    """A server that puts aside the certificate that each client showed, and answers one line."""
    shown: Shown = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown.put_nowait(writer.get_extra_info("peercert"))
        with contextlib.suppress(ConnectionError):
            writer.write(await reader.readline())
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], shown


async def exchange(port: int, context: ssl.SSLContext, hostname: str = NAMESERVER_HOSTNAME) -> dict[str, Any]:
    """One line there and back; what the client has seen of TLS."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=hostname)
        try:
            writer.write(b"hello\n")
            answer = await reader.readline()
            if answer != b"hello\n":
                raise ConnectionResetError("no answer")
            return {"tls": writer.get_extra_info("ssl_object").version(), **writer.get_extra_info("peercert")}
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def server(*, on_refused: Callable[[str], None] | None = None, cert: str | None = None) -> ssl.SSLContext:
    return server_context(cert or nameservers(), NAMESERVER.pem, CA, on_refused=on_refused)


async def test_both_ends_prove_their_keys_over_tls_1_3() -> None:
    async with listening(server()) as (port, shown):
        seen = await exchange(port, edges())
        proven = PeerCertificate.from_peercert(await shown.get())
    assert seen["tls"] == "TLSv1.3"
    assert PeerCertificate.from_peercert(seen).kind == "nameserver"
    assert admit(proven, ROSTER, now=NOW) == member()
    assert proven == PeerCertificate(FEDERATION, "edge", EDGE, int(NOW - 2 * DAY), int(NOW + 30 * DAY))


async def test_absence_of_a_certificate_is_left_to_admission() -> None:
    async with listening(server()) as (port, shown):
        await exchange(port, client_context(CA))
        assert not await shown.get()
    with pytest.raises(NoCertificate):
        admit(None, ROSTER, now=NOW)


async def test_an_expired_certificate_is_seen_and_refused_by_admission() -> None:
    async with listening(server()) as (port, shown):
        await exchange(port, edges(EXPIRED))
        proven = PeerCertificate.from_peercert(await shown.get())
    assert proven.not_after < NOW
    with pytest.raises(CertificateExpired):
        admit(proven, ROSTER, now=NOW)
    assert admit(proven, ROSTER, now=NOW, purpose=Purpose.RENEW) == member()


@pytest.mark.parametrize("skew", [-DAY, DAY])
async def test_a_clock_a_day_off_is_survived_on_both_sides(skew: float) -> None:
    """The issuer's clock is off by ``skew`` from OpenSSL's here; certificates are back-dated 48 h."""
    ours = server(cert=nameservers(now=NOW + skew))
    async with listening(ours) as (port, shown):
        await exchange(port, edges(certificate(now=NOW + skew)))
        proven = PeerCertificate.from_peercert(await shown.get())
    assert admit(proven, ROSTER, now=NOW) == member()


async def test_a_client_of_another_authority_fails_the_handshake_on_both_sides() -> None:
    refusals = Refusals()
    async with listening(server(on_refused=refusals.reason)) as (port, shown):
        with pytest.raises(OSError):
            await exchange(port, edges(FOREIGN))
        assert await refusals.first() == ("", "CERTIFICATE_VERIFY_FAILED")
        assert shown.empty()


def dial(port: int, context: ssl.SSLContext) -> None:
    """A client that is not asyncio's: it sends the alert that says why it leaves."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=NAMESERVER_HOSTNAME),
    ):
        pass


async def test_a_server_of_another_authority_fails_the_handshake_on_both_sides() -> None:
    refusals = Refusals()
    async with listening(server(on_refused=refusals.reason)) as (port, _):
        with pytest.raises(ssl.SSLCertVerificationError):
            await exchange(port, client_context(FOREIGN_CA))
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(dial, port, client_context(FOREIGN_CA))
        assert await refusals.first() == ("", "TLSV1_ALERT_UNKNOWN_CA")


async def test_an_edge_is_no_nameserver() -> None:
    """Its certificate is of the same authority, but has no name to dial."""
    async with listening(server_context(certificate(), EDGE_KEY.pem, CA)) as (port, _):
        with pytest.raises(ssl.SSLCertVerificationError, match=r"nameserver\.peerage\.internal"):
            await exchange(port, edges())


async def test_configured_names_are_for_other_tools() -> None:
    async with listening(server()) as (port, _):
        assert (await exchange(port, edges(), "127.0.0.1"))["tls"] == "TLSv1.3"
        with pytest.raises(ssl.SSLCertVerificationError):
            await exchange(port, edges(), "other.example")


async def test_older_tls_is_refused() -> None:
    refusals = Refusals()
    old = client_context(CA)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with listening(server(on_refused=refusals.reason)) as (port, _):
        with pytest.raises(OSError):
            await exchange(port, old)
        assert await refusals.first() == ("", "UNSUPPORTED_PROTOCOL")


async def test_a_key_that_is_not_the_certificates_makes_no_context() -> None:
    with pytest.raises(ssl.SSLError):
        client_context(CA, certificate(), STRANGER.pem)


async def test_contexts_are_made_from_files_and_from_texts(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("ca.crt", "identity.crt", "identity.key")}
    paths["ca.crt"].write_text(CA)
    paths["identity.crt"].write_text(nameservers())
    write_key(paths["identity.key"], NAMESERVER)
    ours = server_context(paths["identity.crt"], paths["identity.key"], paths["ca.crt"])
    async with listening(ours) as (port, _):
        await exchange(port, client_context(paths["ca.crt"], certificate(), EDGE_KEY.pem))
    assert stat.S_IMODE(paths["identity.key"].stat().st_mode) == 0o600


# --- behind aiohttp -------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    refusals: Refusals,
    *,
    handshakes_max: int = HANDSHAKES_MAX,
    strangers_max: int = STRANGERS_MAX,
) -> AsyncIterator[TlsSite]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    site = TlsSite(
        runner,
        server(),
        host="127.0.0.1",
        port=0,
        on_refused=refusals,
        handshakes_max=handshakes_max,
        strangers_max=strangers_max,
    )
    await site.start()
    try:
        yield site
    finally:
        await runner.cleanup()


async def whoami(request: web.Request) -> web.Response:
    assert request.transport is not None
    shown = request.transport.get_extra_info("peercert")
    known = PeerCertificate.from_peercert(shown).uuid if shown else "nobody"
    body = await request.read()
    return web.json_response({"uuid": known, "size": len(body), "peer": request.remote})


async def ask(site: TlsSite, context: ssl.SSLContext, body: bytes = b"") -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.post(f"https://127.0.0.1:{site.port}/", data=body, server_hostname=NAMESERVER_HOSTNAME) as response,
    ):
        answer: dict[str, Any] = await response.json()
        return answer


async def test_aiohttp_serves_members_and_strangers_alike() -> None:
    refusals = Refusals()
    async with serving(whoami, refusals) as site:
        assert await ask(site, edges()) == {"uuid": EDGE, "size": 0, "peer": "127.0.0.1"}
        assert (await ask(site, client_context(CA)))["uuid"] == "nobody"
        assert (await ask(site, edges(EXPIRED)))["uuid"] == EDGE
        assert (await ask(site, edges(), bytes(900_000)))["size"] == 900_000
    assert not refusals.told


async def test_many_requests_share_a_connection_and_many_connections_a_site() -> None:
    async with (
        serving(whoami, Refusals()) as site,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=edges(), limit=10)) as session,
    ):

        async def one(size: int) -> int:
            async with session.post(
                f"https://127.0.0.1:{site.port}/", data=bytes(size), server_hostname=NAMESERVER_HOSTNAME
            ) as response:
                return int((await response.json())["size"])

        assert await asyncio.gather(*map(one, range(100))) == list(range(100))


async def test_a_refused_handshake_is_told_with_its_reason_and_address() -> None:
    refusals = Refusals()
    async with serving(whoami, refusals) as site:
        with pytest.raises(aiohttp.ClientError):
            await ask(site, edges(FOREIGN))
        address, reason = await refusals.first()
        assert reason == "CERTIFICATE_VERIFY_FAILED"
        host, _, port = address.rpartition(":")
        assert host == "127.0.0.1"
        assert port.isdecimal()
        assert port != str(site.port)
        assert (await ask(site, edges()))["uuid"] == EDGE
    assert len(refusals.told) == 1


async def test_a_client_that_distrusts_the_server_is_told_of() -> None:
    """asyncio's client leaves without an alert, others say why: both are seen, with their addresses."""
    refusals = Refusals()
    async with serving(whoami, refusals) as site:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(site, client_context(FOREIGN_CA))
        address, reason = await refusals.first()
        assert address.startswith("127.0.0.1:")
        assert reason == BROKEN_OFF
        assert "may belong to another federation" in reason
        refusals.some.clear()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(dial, site.port, client_context(FOREIGN_CA))
        await refusals.first()
        address, reason = refusals.told[1]
        assert address.startswith("127.0.0.1:")
        assert reason == "TLSV1_ALERT_UNKNOWN_CA"


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b""])
async def test_who_does_not_speak_tls_is_told_of(said: bytes) -> None:
    refusals = Refusals()
    async with serving(whoami, refusals) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(said)
        writer.write_eof()
        address, reason = await refusals.first()
        assert address == "{}:{}".format(*writer.get_extra_info("sockname"))
        assert reason in {"HTTP_REQUEST", BROKEN_OFF, "UNEXPECTED_EOF_WHILE_READING"}
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        assert (await ask(site, edges()))["uuid"] == EDGE


async def test_what_follows_right_behind_the_handshake_is_kept() -> None:
    """A client may put its request into the packet that ends its handshake; nobody reads before aiohttp is there."""
    async with serving(whoami, Refusals()) as site:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = edges().wrap_bio(incoming, outgoing, server_hostname=NAMESERVER_HOSTNAME)
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                writer.write(outgoing.read())
                incoming.write(await reader.read(65536))
        tls.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n12345")
        writer.write(outgoing.read())
        answer = b""
        async with asyncio.timeout(10):
            while b"}" not in answer:
                incoming.write(await reader.read(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    while piece := tls.read(65536):
                        answer += piece
        writer.close()
        await writer.wait_closed()
    assert b'"size": 5' in answer
    assert EDGE.encode() in answer


async def test_a_site_drops_handshakes_under_way_when_it_stops() -> None:
    async with serving(whoami, Refusals()) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        await ask(site, edges())
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_handshakes_under_way_are_bounded() -> None:
    refusals = Refusals()
    async with serving(whoami, refusals, handshakes_max=2) as site:
        assert (await ask(site, edges()))["uuid"] == EDGE
        silent = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(3)]
        address, reason = await refusals.first()
        assert reason == "TOO_MANY_HANDSHAKES"
        assert address == "{}:{}".format(*silent[2][1].get_extra_info("sockname"))
        with pytest.raises((aiohttp.ClientError, OSError)):
            await ask(site, edges())
        for _, writer in silent:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_connections_without_a_certificate_are_bounded() -> None:
    refusals = Refusals()
    async with serving(whoami, refusals, strangers_max=2) as site:
        stranger = client_context(CA)
        held = [await connected(site, stranger) for _ in range(2)]
        _, dropped = await connected(site, stranger)
        address, reason = await refusals.first()
        assert reason == "TOO_MANY_STRANGERS"
        assert address == "{}:{}".format(*dropped.get_extra_info("sockname"))
        assert (await ask(site, edges()))["uuid"] == EDGE  # who shows one is not held up
        for writer in (*(writer for _, writer in held), dropped):
            writer.transport.abort()


async def connected(site: TlsSite, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", site.port, ssl=context, server_hostname=NAMESERVER_HOSTNAME)


async def test_a_taken_port_is_an_error() -> None:
    async with serving(whoami, Refusals()) as site:
        runner = web.AppRunner(web.Application())
        await runner.setup()
        second = TlsSite(runner, server(), host="127.0.0.1", port=site.port, on_refused=Refusals())
        with pytest.raises(OSError, match="in use"):
            await second.start()
        await runner.cleanup()
