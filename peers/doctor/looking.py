"""The checks: what each looks at and when it has nothing to say, all at once, each with a limit in time.

Owns their order, their names and what they share: a home is read once, the network dialled once. Rules: a check that
is not for this kind of peer is not made; one that could not be made says why; one that does not end in time is told as
such, and the others go on.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from peers.doctor import judging_device as here
from peers.doctor import judging_network as beyond
from peers.doctor import seeing_device, seeing_home, seeing_network, seeing_peers
from peers.doctor.facts import (
    DesiredFacts,
    MulticastFacts,
    OpsetFacts,
    PortFacts,
    ProcessFacts,
    VersionFacts,
)
from peers.doctor.findings import Checked, Finding
from peers.doctor.surroundings import Surroundings
from peers.doctor.threads import in_thread
from peers.settings import ClientSettings, NameserverSettings
from query.errors import Problem
from query.quantities import size_words

CHECK_S_MAX: Final = 15.0


# --- the checks -----------------------------------------------------------------------------------------------------


def _checked(name: str, findings: Iterable[Finding], seen: str) -> Checked:
    return Checked(name, tuple(findings), seen)


def _skipped(name: str, why: str) -> Checked:
    return Checked(name, seen=why, skipped=True)


async def check_home(around: Surroundings) -> Checked:
    facts = await around.facts()
    who = facts.membership
    seen = (
        f"{who.kind} {who.name} of {who.federation}, in {facts.path}"
        if who is not None
        else f"no peer, in {facts.path}"
    )
    return _checked("home", here.judge_home(facts), seen)


async def check_process(around: Surroundings) -> Checked | None:
    kind = await around.kind()
    if kind not in ("edge", "nameserver"):
        return None
    from peers.local_parts import program_version

    run = await around.running()
    facts = ProcessFacts(kind, str(around.home), installed=program_version())
    if run is not None:
        facts = replace(facts, pid=run.pid)
        try:
            facts = replace(facts, version=await around.version_here())
        except Problem as problem:
            facts = replace(facts, problem=problem.record())
    elif await in_thread(lambda: around.home.in_use):
        return _checked("process", (), "another command works in this home")
    return _checked("process", here.judge_process(facts), f"process {facts.pid}, peerage {facts.version}")


async def check_ports(around: Surroundings) -> Checked | None:
    settings, run = await around.settings(), await around.running()
    if settings is None or isinstance(settings, ClientSettings):
        return None
    if run is not None:
        told = [f"application {run.application}"] if run.application else []
        told += [f"federation {run.federation}"] if run.federation else []
        return _checked("ports", (), ", ".join(told))
    wanted = [("application_port", settings.application_host, settings.application_port)]
    if isinstance(settings, NameserverSettings):
        wanted.append(("federation_port", settings.federation_host, settings.federation_port))
    elif settings.direct_host is not None:
        wanted.append(("direct_port", settings.direct_host, settings.direct_port))
    facts: list[PortFacts] = []
    for setting, host, port in wanted:
        facts.append(await in_thread(partial(seeing_device.port_facts, setting, host, port)))
    findings = [finding for one in facts for finding in here.judge_port(one)]
    return _checked("ports", findings, ", ".join(f"{host}:{port} is free" for _, host, port in wanted))


async def check_certificate(around: Surroundings) -> Checked | None:
    home = around.home
    if not home.identity_crt.exists() or (await around.facts()).membership is None:
        return None
    offset_s = await _offset_s(around) or 0.0
    facts = await in_thread(lambda: seeing_home.certificate_facts(home, offset_s=offset_s))
    return _checked("certificate", here.judge_certificate(facts), f"valid until {here.moment(facts.not_after)}")


async def check_disk(around: Surroundings) -> Checked:
    facts = await in_thread(lambda: seeing_device.disk_facts(around.home.path))
    seen = f"{size_words(facts.free_bytes)} of {size_words(facts.total_bytes)} free"
    return _checked("disk", here.judge_disk(facts), seen)


async def check_memory(around: Surroundings) -> Checked:
    settings = await around.settings()
    most = settings.memory_bytes_max if settings is not None else 0
    facts = await in_thread(lambda: seeing_device.memory_facts(most))
    seen = f"{size_words(facts.available_bytes)} of {size_words(facts.total_bytes)} available"
    return _checked("memory", here.judge_memory(facts), seen)


async def check_nameserver(around: Surroundings) -> Checked | None:
    if not await around.may_dial():
        return None
    facts = await around.network()
    if await around.kind() == "nameserver" and not facts.dialled:
        return None  # it does not run
    reached = facts.reached
    seen = f"{reached.address} answers in {1000 * reached.took_s:.0f} ms" if reached is not None else ""
    return _checked("nameserver", beyond.judge_nameserver(facts), seen)


async def check_proxy(around: Surroundings) -> Checked | None:
    if not await around.may_dial():
        return None
    facts = await around.network()
    if not facts.dialled:
        return None
    seen = "connections reach the nameserver unopened" if facts.reached is not None else "none is set or seen"
    return _checked("proxy", beyond.judge_proxies(facts), seen)


async def check_clock(around: Surroundings) -> Checked | None:
    if not await around.may_dial() or await around.kind() == "nameserver":
        return None
    facts = await around.network()
    if facts.ahead_s is None:
        return _skipped("clock", "nobody told the time")
    return _checked("clock", beyond.judge_clock(facts), f"{abs(facts.ahead_s):.1f} s from the nameserver's")


async def _offset_s(around: Surroundings) -> float | None:
    """What federation time is ahead of this device's clock, where somebody told it."""
    ahead_s = (await around.network()).ahead_s if await around.may_dial() else None
    return None if ahead_s is None else -ahead_s


async def check_uplink(around: Surroundings) -> Checked | None:
    membership, run = (await around.facts()).membership, await around.running()
    if membership is None or membership.kind != "edge" or run is None or not await around.may_dial():
        return None
    if not await around.answers():
        return _skipped("uplink", "the nameserver is not reached")
    own = await around.ask_here("edge:contact()")
    if own is None:
        return _skipped("uplink", "the edge does not answer")
    facts = await seeing_peers.uplink_facts(around.ask, membership.name, mode="INTERACTIVE", polls=own[0]["state"])
    seen = "open" if facts.connected else f"not wanted in mode {facts.mode}"
    return _checked("uplink", beyond.judge_uplink(facts), seen)


async def check_multicast(around: Surroundings) -> Checked | None:
    settings = await around.settings()
    if settings is None or (await around.facts()).autonomous:
        return None
    if not settings.zeroconf:
        return _skipped("multicast", "zeroconf is off")
    interface = settings.zeroconf_interface
    facts = MulticastFacts(wanted=True, interface=interface)
    if interface and not await in_thread(lambda: seeing_device.is_own_address(interface)):
        return _checked("multicast", beyond.judge_multicast(replace(facts, interface_is_own=False)), "")
    came, said = await seeing_network.echoed(interface)
    heard = await around.heard() if came else ()
    run = await around.running()
    facts = replace(
        facts,
        echoed=came,
        said=said,
        heard=heard,
        reachable=await around.answers(),
        announces=run is not None and run.kind == "nameserver",
        own=await around.kind() == "nameserver",
    )
    seen = f"could not be tried: {said}" if came is None else f"heard {', '.join(heard)}" if heard else "works"
    return _checked("multicast", beyond.judge_multicast(facts), seen)


async def check_versions(around: Surroundings) -> Checked | None:
    from peers.local_parts import program_version

    own = program_version()
    if not await around.answers():
        return _skipped("versions", f"peerage {own}; the nameserver is not asked") if await around.kind() else None
    at_nameserver = await seeing_peers.version_of(around.ask)
    facts = VersionFacts(own, at_nameserver)
    if await around.kind() != "edge":
        facts = await seeing_peers.edge_versions(around.ask, own, at_nameserver)
    edges = f", {len(facts.edges)} edges reported theirs" if facts.edges else ""
    return _checked("versions", beyond.judge_versions(facts), f"peerage {own}, nameserver {at_nameserver}{edges}")


async def check_opsets(around: Surroundings) -> Checked | None:
    from engine.opsets import known_opsets

    kind = await around.kind()
    if kind == "edge":
        models = await in_thread(lambda: seeing_home.installed_opsets(around.home))
        if not models:
            return None
        runtime, supported = await in_thread(known_opsets)
        facts = OpsetFacts(runtime, supported, models)
        known = ", ".join(f"{domain} {version}" for domain, version in supported.items()) or "nothing that it tells"
        return _checked("opsets", here.judge_opsets(facts), f"{runtime or 'no runtime'} knows {known}")
    if not kind or not await around.answers():
        return None
    statuses = (await around.once("edges", lambda: seeing_peers.edges_facts(around.ask))).statuses
    failed = await seeing_peers.failing_opsets(around.ask, statuses)
    return _checked("opsets", here.judge_opsets(OpsetFacts(None, {}, {}, failed)), "no edge names one it does not know")


async def check_desired(around: Surroundings) -> Checked | None:
    membership, run = (await around.facts()).membership, await around.running()
    if membership is None:
        return None
    if membership.kind != "edge":
        return await _check_edges(around)
    if run is not None:
        own, actual = await around.ask_here("edge:contact()"), await around.ask_here("edge:actual_state()")
        if not own or not actual:
            return _skipped("desired state", "the edge does not answer")
        facts: DesiredFacts = seeing_peers.running_desired(own[0], actual[0])
    else:
        offset_s = await _offset_s(around)
        facts = await in_thread(lambda: seeing_home.desired_facts(around.home, offset_s=offset_s))
    if run is not None and await around.answers():
        rows = await around.ask(f'edge:status("{membership.name}")')
        facts = replace(facts, nameserver_generation=rows[0]["generation"] if rows else None)
    return _checked("desired state", beyond.judge_desired(facts), f"generation {facts.generation}")


async def _check_edges(around: Surroundings) -> Checked | None:
    if not await around.answers():
        return None
    facts = await around.once("edges", lambda: seeing_peers.edges_facts(around.ask))
    count = len(facts.statuses)
    return _checked("edges", beyond.judge_edges(facts), f"{count} registered")


Check = Callable[[Surroundings], Awaitable[Checked | None]]

CHECKS: Final[tuple[tuple[str, Check], ...]] = (
    ("home", check_home),
    ("process", check_process),
    ("ports", check_ports),
    ("certificate", check_certificate),
    ("disk", check_disk),
    ("memory", check_memory),
    ("nameserver", check_nameserver),
    ("proxy", check_proxy),
    ("clock", check_clock),
    ("uplink", check_uplink),
    ("multicast", check_multicast),
    ("versions", check_versions),
    ("opsets", check_opsets),
    ("desired state", check_desired),
)


async def look(
    around: Surroundings, *, check_s: float = CHECK_S_MAX, waiting: Callable[[list[str]], None] = lambda _: None
) -> AsyncIterator[Checked]:
    """Every check that applies, in their order, each as soon as those before it are done.

    ``waiting`` is told which checks are still under way, whenever that changes.
    """
    tasks = {name: asyncio.create_task(_bounded(name, check, around, check_s)) for name, check in CHECKS}

    def tell(_: object) -> None:
        waiting([name for name, task in tasks.items() if not task.done()])

    for task in tasks.values():
        task.add_done_callback(tell)
    try:
        for task in tasks.values():
            done = await task
            if done is not None:
                yield done
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        await around.close()


async def _bounded(name: str, check: Check, around: Surroundings, check_s: float) -> Checked | None:
    began = time.monotonic()
    try:
        async with asyncio.timeout(check_s):
            return await check(around)
    except TimeoutError:
        told = f"this check did not end within {time.monotonic() - began:.0f} s"
        return Checked(name, (Finding("wrong", "check_timed_out", told, "a disk, a name server or a peer hangs"),))
    except Problem as problem:
        return Checked(name, (Finding("doubtful", problem.code, problem.message, problem.hint or ""),))
    except (OSError, sqlite3.Error) as error:
        return Checked(name, (Finding("doubtful", "not_seen", f"could not be looked at: {error}"),))
