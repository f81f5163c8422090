"""Facts of the network and of other peers → findings: nameserver, proxies, clock, uplink, multicast, versions, state.

Pure. Owns the bounds below which something is told. Rules: that one address of several does not answer is no fault as
long as another does; what a peer takes care of by itself is never called wrong.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from peers.addresses import NOT_TLS
from peers.doctor.facts import (
    DesiredFacts,
    Dialled,
    EdgesFacts,
    MulticastFacts,
    NameserverFacts,
    UplinkFacts,
    VersionFacts,
)
from peers.doctor.findings import Finding, Level
from peers.doctor.judging_device import SHOWN_MAX, moment

CLOCK_DOUBTFUL_S: Final = 5.0
CLOCK_WRONG_S: Final = 48 * 3600.0  # certificates are back-dated by as much
SILENT_S: Final = 120.0  # after the moment at which an edge was expected to poll
BEHIND_S: Final = 300.0
SET_CLOCK: Final = 'set it: "timedatectl set-ntp true", or look whether time servers can be reached'
OTHER_FEDERATION: Final = "CN=peerage "  # how authorities of federations name themselves


def judge_nameserver(facts: NameserverFacts) -> Iterator[Finding]:
    reached = facts.reached
    for one in facts.dialled:
        if one.stage == "done":
            continue
        finding = _of_dialling(one, facts)
        if one.address in facts.announced:  # by anybody: a hint and nothing more
            advice = "nothing: whoever announces itself is believed when TLS proves it"
            yield Finding("note", finding.code, f"announced on the local network: {finding.message}", advice)
        elif reached is None:
            yield finding
        elif one.address == facts.tried:
            yield replace(finding, advice=f"set it nowhere: the nameserver answers at {reached.address}")
        elif one.address == facts.configured:
            yield Finding(
                "wrong",
                "wrong_nameserver",
                f"the setting nameserver says {one.address}: {finding.message}; the nameserver answers at "
                f"{reached.address}",
                f'take the setting away, or set nameserver = "{reached.address}"',
            )
        else:
            yield Finding("note", finding.code, finding.message, f"the nameserver is reached at {reached.address}")
    if not facts.dialled:
        yield Finding(
            "wrong",
            "no_address",
            "no address of the nameserver is known",
            'say it: nameserver = "HOST:PORT" in peerage.toml, or PEERAGE_NAMESERVER=HOST:PORT',
        )
    if reached is not None and reached.address in facts.announced and reached.address != facts.dialled[0].address:
        yield Finding(
            "note",
            "nameserver_moved",
            f"the nameserver answers at {reached.address}, which the local network announces",
            "nothing: the peer finds it in the same way",
        )


def judge_proxies(facts: NameserverFacts) -> Iterator[Finding]:
    for one in facts.dialled:
        if one.stage == "handshake" and one.presented is not None and not _of_a_federation(one):
            issuer, subject = one.presented
            yield Finding(
                "wrong",
                "tls_intercepted",
                f"{one.address} shows a certificate for {subject or 'nobody'}, issued by {issuer}: something opens "
                "the connection in between, or another server listens there",
                f"have {one.address} left alone by TLS inspection: peers talk to their own federation or to nobody",
            )
    if facts.proxies and facts.reached is None:
        told = ", ".join(f"{name}={value}" for name, value in sorted(facts.proxies.items()))
        where = facts.dialled[0].address if facts.dialled else "the nameserver"
        yield Finding(
            "doubtful",
            "proxy_not_used",
            f"{told} is set, and peers dial directly, never through a proxy",
            f"have the direct way opened from this device to {where} (TCP, outgoing)",
        )


def judge_clock(facts: NameserverFacts) -> Iterator[Finding]:
    for one in facts.dialled:
        if one.ahead_s is None or abs(one.ahead_s) - one.uncertain_s < CLOCK_DOUBTFUL_S:
            continue
        far = one.stage == "handshake" or one.ahead_s <= -CLOCK_WRONG_S
        side = "ahead of" if one.ahead_s > 0 else "behind"
        goes = (
            "certificates no longer hold by it"
            if far
            else "peers go by the nameserver's, but logs and other programs go by this one"
        )
        yield Finding(
            "wrong" if far else "doubtful",
            "clock_skew",
            f"this device's clock is {_span(abs(one.ahead_s))} {side} the nameserver's: {goes}",
            SET_CLOCK + "; where the nameserver's is the wrong one, set that",
        )
        return


def _of_dialling(one: Dialled, facts: NameserverFacts) -> Finding:
    host, _, port = one.address.rpartition(":")
    match one.stage:
        case "resolve":
            return Finding(
                "wrong",
                "nameserver_unresolved",
                f"{host} is no host that this device knows: {one.said}",
                f'is it spelled rightly? "getent hosts {host}" asks the same; an address works without a name',
            )
        case "connect":
            return _of_connecting(one, host, port)
        case "handshake":
            return _of_handshake(one, facts)
        case _:
            if one.refusal is not None:
                advice = one.refusal.hint or "an admin sees the refusal in the nameserver's log"
                return Finding("wrong", one.refusal.code, f"{one.address} refuses: {one.refusal.message}", advice)
            return Finding(
                "wrong",
                "bad_answer",
                f"{one.address} does not answer as a nameserver: {one.said}",
                "what listens there, or in between? peers of one federation run versions that know each other",
            )


def _of_connecting(one: Dialled, host: str, port: str) -> Finding:
    if one.errno == errno.ECONNREFUSED:
        return Finding(
            "wrong",
            "nameserver_refused",
            f"nothing listens at {one.address}: connection refused",
            f'is the nameserver running, and on port {port}? "peerage doctor" on its machine says where it listens',
        )
    if one.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL):
        return Finding(
            "wrong",
            "no_route",
            f"there is no way from here to {one.address}: {os.strerror(one.errno)}",
            f'is the right network up? "ip route get {host}" shows which interface would be taken',
        )
    if one.errno is None or one.errno == errno.ETIMEDOUT:
        return Finding(
            "wrong",
            "nameserver_silent",
            f"{one.address} does not answer in {one.took_s:.0f} s: a firewall drops it, or the machine is off",
            f"open TCP port {port} on the nameserver's machine and on the way to it",
        )
    return Finding("wrong", "nameserver_unreachable", f"cannot reach {one.address}: {one.said}", "see the network")


def _of_handshake(one: Dialled, facts: NameserverFacts) -> Finding:
    if one.presented is None:
        speaks = one.said not in NOT_TLS
        return Finding(
            "wrong",
            "not_tls",
            f"{one.address} breaks off the TLS handshake: {one.said}"
            if speaks
            else f"{one.address} does not speak TLS",
            "another program listens there, or something in between lets no TLS 1.3 pass; the federation's port is "
            "35021 unless set otherwise, and not the application's",
        )
    issuer, _ = one.presented
    if _of_a_federation(one) and issuer != facts.authority:
        return Finding(
            "wrong",
            "wrong_federation",
            f"{one.address} is the nameserver of another federation, {issuer.removeprefix(OTHER_FEDERATION)}: "
            f"expected {facts.authority.removeprefix(OTHER_FEDERATION)}",
            "correct the address; a new bundle and a new home join the other federation",
        )
    if one.ahead_s is not None:
        return Finding("wrong", "certificate_time", f"{one.address}: {one.said} by this device's clock", SET_CLOCK)
    if _of_a_federation(one):
        return Finding(
            "wrong",
            "wrong_ca",
            f"{one.address} names this federation, and its certificate is not of this home's authority: {one.said}",
            "a federation of the same name was founded anew: register and join again, in a new home",
        )
    return Finding(
        "wrong",
        "wrong_ca",
        f"{one.address} is no nameserver of this federation: {one.said}",
        "correct the address, or see the check proxy",
    )


def _of_a_federation(one: Dialled) -> bool:
    return one.presented is not None and one.presented[0].startswith(OTHER_FEDERATION)


def judge_uplink(facts: UplinkFacts) -> Iterator[Finding]:
    if facts.mode != "INTERACTIVE" or facts.polls not in (None, "answered"):
        return  # no uplink is wanted, or nothing passes at all, which another check tells
    if facts.connected is False or facts.opened is False:
        said = f": {facts.problem.message}" if facts.problem is not None else ""
        yield Finding(
            "wrong",
            "uplink_blocked",
            f"requests reach the nameserver, and the uplink does not stay open{said}",
            "something in between ends long or upgraded connections (a proxy, a firewall's time limit): have it let "
            'them be, or do without statements to this edge: edge:set_mode(EDGE, "ONLINE")',
        )


def judge_multicast(facts: MulticastFacts) -> Iterator[Finding]:
    if not facts.wanted:
        return
    if not facts.interface_is_own:
        yield Finding(
            "wrong",
            "wrong_interface",
            f"zeroconf_interface: {facts.interface} is no address of this device",
            'set it to an address that "ip address" shows, or take the setting away',
        )
        return
    level: Level = "doubtful" if facts.reachable or facts.announces else "wrong"
    if facts.echoed is False:
        said = f" ({facts.said})" if facts.said else ""
        yield Finding(
            level,
            "multicast_blocked",
            f"a multicast packet of this device does not come back to it{said}: peers cannot find each other by "
            "themselves",
            "open UDP port 5353 to 224.0.0.251 in the firewall, or say where the nameserver is: "
            'nameserver = "HOST:PORT"; zeroconf = false ends the looking',
        )
    elif facts.echoed and facts.announces and not facts.heard:
        yield Finding(
            "doubtful",
            "not_announced",
            "multicast works, and the nameserver that runs here is not heard",
            "its log says announcement_failed; is zeroconf_interface the network of the edges?",
        )
    elif facts.echoed and not facts.heard and not facts.reachable and not facts.own:
        yield Finding(
            "doubtful",
            "nobody_announced",
            "no nameserver of this federation announces itself on this network",
            'one beyond a router is not heard: say where it is, nameserver = "HOST:PORT"',
        )


def judge_versions(facts: VersionFacts) -> Iterator[Finding]:
    if facts.nameserver is not None and facts.nameserver != facts.own:
        yield Finding(
            "doubtful",
            "version_mismatch",
            f"peerage {facts.own} is installed here, and the nameserver runs {facts.nameserver}",
            "bring both to one version, the nameserver first",
        )
    compared = facts.nameserver or facts.own
    others = sorted(f"{edge} {version}" for edge, version in facts.edges.items() if version != compared)
    if others:
        yield Finding(
            "doubtful",
            "version_mismatch",
            f"the nameserver runs {compared}, and {len(others)} of {len(facts.edges)} edges do not: {_few(others)}",
            "upgrade these edges; an older edge may not know what a newer nameserver asks of it",
        )


def judge_desired(facts: DesiredFacts) -> Iterator[Finding]:
    if facts.contact in ("unreachable", "refused", "untrusted") and facts.contact_since is not None:
        yield Finding(
            "wrong",
            "polls_failing",
            f"polls of this edge are {facts.contact} since {moment(facts.contact_since)}: {facts.contact_message}",
            "see the check nameserver",
        )
    if not facts.has_state and facts.contact in (None, "never"):
        yield Finding(
            "doubtful", "no_desired_state", "this edge was never told what to run", "let it reach its nameserver once"
        )
    if facts.expires is not None and facts.now > facts.expires:
        yield Finding(
            "wrong",
            "stale_desired_state",
            f"the desired state of this edge ended at {moment(facts.expires)}: what runs goes on, and nothing changes",
            'let it reach its nameserver, or bring it a newer one by file ("peerage export" there, "peerage import" '
            "here)",
        )
    elif facts.generation is not None and (facts.nameserver_generation or 0) > facts.generation:
        yield Finding(
            "doubtful",
            "stale_desired_state",
            f"this edge holds generation {facts.generation}, and the nameserver is at {facts.nameserver_generation}",
            'poll at once: "peerage poll"; edge:explain on the nameserver says what it waits for',
        )
    for model, code, message in facts.errors[:SHOWN_MAX]:
        named = "opset_unsupported" if code == "unsupported_opset" else "model_not_loaded"
        advice = "edge:explain on the nameserver says what to do"
        yield Finding("wrong", named, f"{model} does not load: {message}", advice)


def judge_edges(facts: EdgesFacts) -> Iterator[Finding]:
    """Of a whole federation: who is silent, behind, failing, alarmed."""
    now, statuses = facts.now, facts.statuses
    joined = [one for one in statuses if one.get("joined") is not None]
    waiting = [_name(one) for one in statuses if one.get("joined") is None]
    silent = [
        _name(one)
        for one in joined
        if not one.get("connected") and one.get("edge_mode") != "AUTONOMOUS" and _late(one, now)
    ]
    behind = [
        _name(one)
        for one in joined
        if not one.get("converged") and _name(one) not in silent and float(one.get("lag") or 0.0) > BEHIND_S
    ]
    failing = [_name(one) for one in joined if one.get("errors")]
    alarmed = [_name(one) for one in joined if one.get("alarms")]
    yield from _about(
        "wrong", "edges_alarmed", alarmed, "raised an alarm", 'edge:status("EDGE")["alarms"] says which', of=joined
    )
    yield from _about(
        "wrong",
        "edges_silent",
        silent,
        "did not poll when expected",
        '"peerage doctor" on the device says why',
        of=joined,
    )
    yield from _about(
        "wrong", "edges_failing", failing, "could not load a model", 'edge:explain("EDGE") says why', of=joined
    )
    yield from _about(
        "doubtful",
        "stale_desired_state",
        behind,
        f"did not become what they should be within {BEHIND_S / 60:.0f} min",
        'edge:explain("EDGE") says what it waits for',
        of=joined,
    )
    yield from _about(
        "note", "edges_not_joined", waiting, "never joined", "their bundles hold for 24 hours", of=list(statuses)
    )


def _about(
    level: Level, code: str, names: Sequence[str], what: str, advice: str, *, of: Sequence[Any]
) -> Iterator[Finding]:
    if names:
        told = f"{len(names)} of {len(of)} edges {what}: {_few(sorted(names))}"
        yield Finding(level, code, told, advice)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
    return ", ".join(names[:SHOWN_MAX]) + more


def _name(status: Mapping[str, Any]) -> str:
    return str(status.get("id", "?"))


def _late(status: Mapping[str, Any], now: float) -> bool:
    due = status.get("next_poll") or status.get("last_seen") or status.get("reported_at")
    return due is None or now - due.timestamp() > SILENT_S


def _span(seconds: float) -> str:
    """How long, in the unit that people would say it in."""
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
