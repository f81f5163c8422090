"""What the network says: the nameserver's addresses dialled one by one, who answers there, proxies, multicast.

Dialling goes in stages, so that it can be told which one fails: the name is resolved, a connection is opened, TLS
proves the other side, and it is asked who we are. Where TLS does not prove it, the certificate that was shown is read,
unproven, to say whose it is. No uplink is opened and no statement run.

Rules: every stage has a limit; a name is resolved on a thread that nobody waits for at the end; at most
``ADDRESSES_MAX`` addresses are dialled, and all at once.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import secrets
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from federation.tls import NO_CHECK_TIME
from peers.doctor.facts import Dialled
from peers.doctor.threads import in_thread
from peers.federation_client import SERVER_HOSTNAME, FederationClient
from query.errors import Problem

ADDRESSES_MAX: Final = 8
STAGE_S_MAX: Final = 4.0
PROXY_VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
GROUP: Final = "224.0.0.251"
MDNS_PORT: Final = 5353
ECHO_S_MAX: Final = 1.5
INTERFACES_MAX: Final = 16
_TIME_CODES: Final = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, _HAS_EXPIRED

Context = Callable[[], ssl.SSLContext]


class _Who(msgspec.Struct):
    """Of ``/v1/whoami``, what is needed here."""

    name: str
    time: float


async def dial_all(addresses: Iterable[str], context: Context) -> tuple[Dialled, ...]:
    """Each address, in the order given. ``context``: makes the TLS context of the home."""
    distinct = list(dict.fromkeys(addresses))[:ADDRESSES_MAX]
    return tuple(await asyncio.gather(*(dial(address, context) for address in distinct)))


async def dial(address: str, context: Context) -> Dialled:
    began = time.monotonic()
    host, _, port = address.rpartition(":")

    def failed(stage: Any, error: BaseException | None, **more: Any) -> Dialled:
        took_s = time.monotonic() - began
        return Dialled(address, stage, errno=_number(error), said=_said(error), took_s=took_s, **more)

    try:
        async with asyncio.timeout(STAGE_S_MAX):
            at = await _resolved(host.strip("[]"), int(port))
    except (OSError, TimeoutError, UnicodeError, ValueError) as error:
        return failed("resolve", error)
    began = time.monotonic()
    try:
        async with asyncio.timeout(STAGE_S_MAX):
            connected = await _connected(at, int(port))
    except (OSError, TimeoutError) as error:
        return failed("connect", error)
    dialled = f"[{at}]:{port}" if ":" in at else f"{at}:{port}"
    try:
        async with asyncio.timeout(STAGE_S_MAX):
            await _shake_hands(connected, context())
    except ssl.SSLCertVerificationError as error:
        presented = await presented_at(at, int(port))
        if error.verify_code not in _TIME_CODES:
            return failed("handshake", error, presented=presented)
        timeless = context()
        timeless.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
        asked = await _ask(address, dialled, timeless)
        return failed("handshake", error, presented=presented, ahead_s=asked.ahead_s, uncertain_s=asked.uncertain_s)
    except (OSError, TimeoutError) as error:
        return failed("handshake", error, presented=await presented_at(at, int(port)))
    return await _ask(address, dialled, context())


async def _ask(address: str, dialled: str, context: ssl.SSLContext) -> Dialled:
    """Who we are to what listens there, and what time it has."""
    began = time.time()
    async with FederationClient((dialled,), context) as client:
        try:
            async with asyncio.timeout(STAGE_S_MAX), client.request("GET", "/v1/whoami") as response:
                who = msgspec.json.decode(await response.content.read(65_536), type=_Who)
        except TimeoutError as error:
            return Dialled(address, "ask", said=_said(error))
        except msgspec.MsgspecError as error:
            return Dialled(address, "ask", said=f"not what a nameserver says: {error}")
        except Problem as problem:
            ahead_s = -client.clock_offset_s if client.last_contact is not None else None
            refused = problem.record() if client.last_contact is not None and problem.code != "bad_answer" else None
            return Dialled(address, "ask", said=problem.message, refusal=refused, ahead_s=ahead_s, uncertain_s=2.0)
    took_s = time.time() - began
    return Dialled(
        address, "done", took_s=took_s, name=who.name, ahead_s=began + took_s / 2 - who.time, uncertain_s=took_s / 2
    )


async def _resolved(host: str, port: int) -> str:
    with suppress(ValueError):
        return str(ipaddress.ip_address(host))
    found = await in_thread(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    return str(found[0][4][0])


async def _connected(host: str, port: int) -> socket.socket:
    connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (host, port))
    except BaseException:
        connection.close()
        raise
    return connection


async def _shake_hands(connected: socket.socket, context: ssl.SSLContext) -> None:
    try:
        _, writer = await asyncio.open_connection(
            sock=connected, ssl=context, server_hostname=SERVER_HOSTNAME, ssl_handshake_timeout=STAGE_S_MAX
        )
    except BaseException:
        connected.close()
        raise
    writer.transport.abort()


async def presented_at(host: str, port: int) -> tuple[str, str] | None:
    """Issuer and subject of the certificate that is shown there, unproven; None where no TLS is spoken."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(STAGE_S_MAX):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=SERVER_HOSTNAME)
    except (OSError, TimeoutError):
        return None
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return names_in(shown) if shown else None


def names_in(certificate: bytes) -> tuple[str, str] | None:
    """Issuer and subject of any X.509 certificate, in DER."""
    from cryptography import x509

    try:
        read = x509.load_der_x509_certificate(certificate)
        return read.issuer.rfc4514_string()[:200], read.subject.rfc4514_string()[:200]
    except ValueError:
        return None


def authority_name(pem: str) -> str:
    """How the authority of a home names itself; empty where that cannot be read."""
    try:
        names = names_in(ssl.PEM_cert_to_DER_cert(pem.strip()))
    except ValueError:
        return ""
    return names[1] if names is not None else ""


def proxies_in(environment: Mapping[str, str]) -> dict[str, str]:
    """The proxies that the environment names, without the names and passwords of who may use them."""
    found = {name: environment[name] for name in PROXY_VARIABLES if environment.get(name)}
    return {name: _without_password(value) for name, value in found.items()}


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    except ValueError:
        return "…"
    return f"{parts.scheme}://{host}" if parts.scheme else host


# --- multicast ------------------------------------------------------------------------------------------------------


async def echoed(interface: str | None) -> tuple[bool | None, str]:
    """Whether a multicast packet comes back on the interface, or on any; and what stood against it.

    None: it could not be tried.
    """
    addresses = [interface] if interface else await in_thread(own_addresses)
    if not addresses:
        return False, "this device has no address on any network"
    tried = await asyncio.gather(*(_echo(address) for address in addresses[:INTERFACES_MAX]))
    if any(came for came, _ in tried):
        return True, ""
    came, said = tried[0]
    return came, said


def own_addresses() -> list[str]:
    """The IPv4 addresses of this device, those of the loopback left out where there are others."""
    import ifaddr

    every = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)]
    beyond = [one for one in every if not one.startswith("127.")]
    return beyond or every


async def _echo(address: str) -> tuple[bool | None, str]:
    loop = asyncio.get_running_loop()
    question = _question(secrets.token_hex(8))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hearing,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as saying,
    ):
        try:
            own = socket.inet_aton(address)
            for option in (socket.SO_REUSEADDR, getattr(socket, "SO_REUSEPORT", None)):
                if option is not None:
                    hearing.setsockopt(socket.SOL_SOCKET, option, 1)
            hearing.bind(("", MDNS_PORT))
        except OSError as error:
            return None, f"port {MDNS_PORT} cannot be shared: {error.strerror}"
        try:
            hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + own)
            hearing.setblocking(False)
            saying.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, own)
            saying.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            saying.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            saying.sendto(question, (GROUP, MDNS_PORT))
            async with asyncio.timeout(ECHO_S_MAX):
                while await loop.sock_recv(hearing, 9000) != question:
                    pass
        except TimeoutError:
            return False, f"nothing came back on {address} within {ECHO_S_MAX:g} s"
        except OSError as error:
            return False, f"on {address}: {os.strerror(error.errno) if error.errno else error}"
    return True, ""


def _question(unique: str) -> bytes:
    """A question of multicast DNS that nobody answers."""
    labels = (unique, "_peerage-doctor", "_tcp", "local")
    name = b"".join(bytes([len(label)]) + label.encode("ascii") for label in labels) + b"\0"
    return struct.pack("!6H", 0, 0, 1, 0, 0, 0) + name + struct.pack("!2H", 12, 1)


# --- what went wrong ------------------------------------------------------------------------------------------------


def _number(error: BaseException | None) -> int | None:
    number = getattr(error, "errno", None)
    return number if isinstance(number, int) and number > 0 else None


def _said(error: BaseException | None) -> str:
    match error:
        case None:
            return ""
        case ssl.SSLCertVerificationError():
            return str(error.verify_message)
        case ssl.SSLError():
            return str(error.reason or error)
        case TimeoutError():
            return f"no answer within {STAGE_S_MAX:g} s"
        case ConnectionResetError():
            return "connection reset"
        case OSError() if error.errno and error.errno > 0 and error.errno in errno.errorcode:
            return os.strerror(error.errno)
        case OSError():
            return str(error.strerror or error)
        case _:
            return str(error)
