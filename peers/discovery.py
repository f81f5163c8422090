"""Finding the nameserver on the local network by zeroconf, ``_peerage._tcp.local``: a hint and nothing more.

A nameserver announces its federation, role, name and port. Whoever finds it dials it and proves it by TLS, as with
any address. Owns the announcement's form and its bounds. The only module that imports zeroconf; only a peer that
announces or looks loads it.

Rules: ``interface`` confines everything to one address (tests and demo: 127.0.0.1); what a stranger announces is
bounded and never trusted; no network and no answer are the same: nothing found.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from federation.names import checked_name
from query.errors import Problem, WorldProblem

if TYPE_CHECKING:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

SERVICE: Final = "_peerage._tcp.local."
FIND_TIMEOUT_S: Final = 3.0
RESOLVE_TIMEOUT_S: Final = 1.0
SERVICES_MAX: Final = 64  # announcements looked at in one search
ADDRESSES_PER_SERVICE_MAX: Final = 8

log = logging.getLogger("peerage.discovery")


class NoDiscovery(WorldProblem):
    """Zeroconf cannot be used on this interface."""

    code = "no_discovery"


@asynccontextmanager
async def announced(
    *,
    federation: str,
    name: str,
    uuid: str,
    port: int,
    addresses: Sequence[str],
    interface: str | None,
    role: str = "nameserver",
) -> AsyncIterator[None]:
    """Announce a nameserver, or an edge that can be asked directly, while the block runs. ``addresses`` are where it
    listens; see :func:`announceable`.

    A network that does not take the announcement is logged, not raised: discovery is a convenience.
    """
    told = [interface] if interface else announceable(addresses)
    zeroconf = registering = None
    try:
        zeroconf = _opened(interface)
        info = _announcement(federation=federation, name=name, uuid=uuid, port=port, addresses=told, role=role)
        registering = asyncio.ensure_future(await zeroconf.async_register_service(info))
        registering.add_done_callback(_note_failure)
    except (NoDiscovery, OSError) as problem:
        log.warning("announcement_failed", extra={"reason": str(problem)})
    try:
        yield
    finally:
        if registering is not None:
            registering.cancel()
        if zeroconf is not None:
            await zeroconf.async_unregister_all_services()
            await zeroconf.async_close()


def _announcement(*, federation: str, name: str, uuid: str, port: int, addresses: list[str], role: str) -> ServiceInfo:
    from zeroconf import ServiceInfo

    return ServiceInfo(
        SERVICE,
        f"{uuid}.{SERVICE}",
        port=port,
        properties={"federation": federation, "role": role, "name": name},
        parsed_addresses=addresses,
        server=f"{uuid}.local.",
    )


async def find_nameservers(
    federation: str, *, interface: str | None, timeout_s: float = FIND_TIMEOUT_S
) -> tuple[str, ...]:
    """Addresses, ``host:port``, of the first in time that calls itself nameserver of ``federation``."""
    from zeroconf.asyncio import AsyncServiceBrowser

    try:
        zeroconf = _opened(interface)
    except NoDiscovery as problem:
        log.info("discovery_failed", extra={"reason": str(problem)})
        return ()
    names: asyncio.Queue[str] = asyncio.Queue(SERVICES_MAX)

    def seen(*, name: str, **_: Any) -> None:
        if not names.full():
            names.put_nowait(name)

    browser = AsyncServiceBrowser(zeroconf.zeroconf, [SERVICE], handlers=[seen])
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(SERVICES_MAX):
                found = await _addresses_of(zeroconf, await names.get(), federation)
                if found:
                    return found
    except TimeoutError:
        pass
    finally:
        await browser.async_cancel()
        await zeroconf.async_close()
    return ()


async def _addresses_of(zeroconf: AsyncZeroconf, name: str, federation: str) -> tuple[str, ...]:
    from zeroconf.asyncio import AsyncServiceInfo

    info = AsyncServiceInfo(SERVICE, name)
    if not await info.async_request(zeroconf.zeroconf, RESOLVE_TIMEOUT_S * 1000):
        return ()
    return announced_addresses(info, federation)


@asynccontextmanager
async def opened_browser(interface: str | None, changed: Callable[..., None]) -> AsyncIterator[AsyncZeroconf]:
    """Tell ``changed`` of announcements that come and go while the block runs. Raises :class:`NoDiscovery`."""
    from zeroconf.asyncio import AsyncServiceBrowser

    zeroconf = _opened(interface)
    browser = AsyncServiceBrowser(zeroconf.zeroconf, [SERVICE], handlers=[changed])
    try:
        yield zeroconf
    finally:
        await browser.async_cancel()
        await zeroconf.async_close()


async def edge_announced(zeroconf: AsyncZeroconf, service: str, federation: str) -> tuple[str, tuple[str, ...]] | None:
    """Name and addresses in an announcement of an edge of ``federation``; None for any other."""
    from zeroconf.asyncio import AsyncServiceInfo

    info = AsyncServiceInfo(SERVICE, service)
    if not await info.async_request(zeroconf.zeroconf, RESOLVE_TIMEOUT_S * 1000):
        return None
    name = (info.properties.get(b"name") or b"").decode("ascii", "replace")
    addresses = announced_addresses(info, federation, role=b"edge")
    try:
        return (checked_name("peer", name), addresses) if addresses else None
    except Problem:
        return None


def announced_addresses(info: ServiceInfo, federation: str, *, role: bytes = b"nameserver") -> tuple[str, ...]:
    """What an announcement says, when it is of a nameserver of ``federation``, or of another ``role``."""
    said = info.properties
    if said.get(b"federation") != federation.encode() or said.get(b"role") != role or not info.port:
        return ()
    hosts = info.parsed_scoped_addresses()[:ADDRESSES_PER_SERVICE_MAX]
    return tuple(f"[{host}]:{info.port}" if ":" in host else f"{host}:{info.port}" for host in hosts)


def _opened(interface: str | None) -> AsyncZeroconf:
    """Raises :class:`NoDiscovery` where the network has no multicast, or not on that interface."""
    from zeroconf import InterfaceChoice
    from zeroconf.asyncio import AsyncZeroconf

    try:
        if interface:
            _check_own(interface)
        return AsyncZeroconf(interfaces=[interface] if interface else InterfaceChoice.All)
    except (OSError, RuntimeError, ValueError) as error:
        raise NoDiscovery(f"zeroconf cannot use {interface or 'the network'}: {error}") from error


def _check_own(interface: str) -> None:
    """Raises OSError for an address that this device does not have; zeroconf would leave a socket open."""
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((interface, 0))


def _note_failure(registering: asyncio.Future[Any]) -> None:
    if not registering.cancelled() and (error := registering.exception()) is not None:
        log.warning("announcement_failed", extra={"reason": str(error)})


def announceable(addresses: Sequence[str]) -> list[str]:
    """Which addresses mean a peer to other devices: the given ones that do, else all of this device that do, else the
    given ones. Names are none.
    """
    given = [address for address in addresses if _parsed(address) is not None]
    reachable = [address for address in given if _is_reachable(address)]
    if not reachable and given:
        import ifaddr

        own = [ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips if isinstance(ip.ip, str)]
        reachable = [address for address in own if _is_reachable(address)]
    return (reachable or given)[:ADDRESSES_PER_SERVICE_MAX]


def _is_reachable(address: str) -> bool:
    found = _parsed(address)
    return found is not None and not (found.is_loopback or found.is_unspecified)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
