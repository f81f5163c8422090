"""What the doctor says of what it has seen: facts written out, and the finding of each in full."""

from __future__ import annotations

import errno
from datetime import UTC, datetime
from typing import Any

import pytest

from federation.integrity import Finding as HomeFinding
from federation.integrity import SetMode
from peers.doctor import judging_device as here
from peers.doctor import judging_network as beyond
from peers.doctor.facts import (
    CertificateFacts,
    DesiredFacts,
    Dialled,
    DiskFacts,
    EdgesFacts,
    HomeFacts,
    MemoryFacts,
    MulticastFacts,
    NameserverFacts,
    OpsetFacts,
    PortFacts,
    ProcessFacts,
    UplinkFacts,
    VersionFacts,
)
from peers.doctor.findings import Checked, Finding, sums
from query.errors import ErrorRecord

DAY_S = 86_400.0
NOW = 1_800_000_000.0
AT = "ns.example:35021"
GIB = 1 << 30


def told(findings: Any) -> list[tuple[str, str, str]]:
    return [(finding.level, finding.code, finding.message) for finding in findings]


def disk(**other: Any) -> DiskFacts:
    usual: dict[str, Any] = {
        "path": "/h",
        "free_bytes": 50 * GIB,
        "total_bytes": 100 * GIB,
        "inodes_free": 10**6,
        "inodes": 10**7,
        "read_only": False,
        "writable": True,
    }
    return DiskFacts(**{**usual, **other})


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        (disk(), []),
        (disk(free_bytes=GIB // 2), [("doubtful", "disk_low", "512 MiB of 100 GiB are free under /h")]),
        (
            disk(free_bytes=1000, total_bytes=GIB),
            [("wrong", "disk_full", "1000 bytes of 1 GiB are free under /h: expected 64 MiB")],
        ),
        (disk(read_only=True), [("wrong", "disk_read_only", "/h lies on a file system that is mounted read-only")]),
        (disk(writable=False), [("wrong", "home_not_writable", "this user may not write in /h")]),
        (disk(inodes_free=0), [("wrong", "no_inodes", "0 of 10000000 files more can be made under /h")]),
        (disk(inodes_free=9), [("doubtful", "no_inodes", "9 of 10000000 files more can be made under /h")]),
        (disk(inodes=0, inodes_free=0), []),  # a file system that counts none
    ],
)
def test_disk(facts: DiskFacts, wanted: list[Any]) -> None:
    assert told(here.judge_disk(facts)) == wanted


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        (MemoryFacts(8 * GIB, 4 * GIB, None, 2 * GIB), []),
        (
            MemoryFacts(2 * GIB, GIB, None, 2 * GIB),
            [
                (
                    "doubtful",
                    "memory_bytes_max_too_high",
                    "memory_bytes_max allows models 2 GiB, and this device has 2 GiB",
                )
            ],
        ),
        (
            MemoryFacts(64 * GIB, 4 * GIB, GIB, 2 * GIB),
            [
                (
                    "doubtful",
                    "memory_bytes_max_too_high",
                    "memory_bytes_max allows models 2 GiB, and the control group of this process allows 1 GiB",
                )
            ],
        ),
        (
            MemoryFacts(8 * GIB, 100 << 20, None, GIB, swap_free_bytes=GIB),
            [
                (
                    "doubtful",
                    "memory_low",
                    "100 MiB of memory are available, and 1 GiB of swap: expected 256 MiB for a model's trial",
                )
            ],
        ),
    ],
)
def test_memory(facts: MemoryFacts, wanted: list[Any]) -> None:
    assert told(here.judge_memory(facts)) == wanted


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        (CertificateFacts(NOW - DAY_S, NOW + 20 * DAY_S, NOW), []),
        (
            CertificateFacts(NOW - DAY_S, NOW + DAY_S, NOW),
            [
                (
                    "doubtful",
                    "certificate_ending",
                    "this peer's certificate ends in 1.0 days, at 2027-01-16 08:00 UTC, and was not renewed",
                )
            ],
        ),
        (
            CertificateFacts(NOW - 40 * DAY_S, NOW - DAY_S, NOW),
            [("wrong", "certificate_expired", "this peer's certificate ended at 2027-01-14 08:00 UTC")],
        ),
        (CertificateFacts(NOW - DAY_S, NOW + 20 * DAY_S, NOW + 30 * DAY_S, federation_offset_s=-30 * DAY_S), []),
        (
            CertificateFacts(NOW + DAY_S, NOW + 20 * DAY_S, NOW),
            [
                (
                    "wrong",
                    "certificate_not_yet_valid",
                    "this peer's certificate begins at 2027-01-16 08:00 UTC, and this device's clock says "
                    "2027-01-15 08:00 UTC",
                )
            ],
        ),
    ],
)
def test_certificate(facts: CertificateFacts, wanted: list[Any]) -> None:
    assert told(here.judge_certificate(facts)) == wanted


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        (PortFacts("application_port", "127.0.0.1", 8080), []),
        (PortFacts("application_port", "127.0.0.1", 8080, errno.EADDRINUSE, held_by_us=True), []),
        (
            PortFacts("application_port", "127.0.0.1", 8080, errno.EADDRINUSE, holder="nginx, process 7"),
            [("wrong", "port_taken", "application_port: 127.0.0.1:8080 is taken by nginx, process 7")],
        ),
        (
            PortFacts("federation_port", "0.0.0.0", 35021, errno.EADDRINUSE),
            [("wrong", "port_taken", "federation_port: 0.0.0.0:35021 is taken by another process")],
        ),
        (
            PortFacts("application_port", "192.0.2.1", 8080, errno.EADDRNOTAVAIL),
            [("wrong", "wrong_interface", "application_host: 192.0.2.1 is no address of this device")],
        ),
        (
            PortFacts("application_port", "127.0.0.1", 80, errno.EACCES),
            [("wrong", "port_forbidden", "application_port: this user may not listen on 127.0.0.1:80")],
        ),
        (
            PortFacts("application_port", "127.0.0.1", 80, errno.EMFILE),
            [
                (
                    "wrong",
                    "port_unusable",
                    "application_port: 127.0.0.1:80 cannot be listened on: Too many open files",
                )
            ],
        ),
    ],
)
def test_ports(facts: PortFacts, wanted: list[Any]) -> None:
    assert told(here.judge_port(facts)) == wanted


def test_home() -> None:
    broken = HomeFinding("loose_mode", "/h/identity.key", "mode 600", "mode 644", SetMode("/h/identity.key", 0o600))
    found = list(here.judge_home(HomeFacts("/h", autonomous=True, found=(broken,))))
    assert told(found) == [
        ("wrong", "loose_mode", "/h/identity.key: expected mode 600, found mode 644"),
        (
            "note",
            "autonomous",
            "this edge is AUTONOMOUS: it dials nobody, so nothing beyond this device was looked at",
        ),
    ]
    assert found[0].advice == "peerage fsck --home /h --repair would set its mode to 600"
    unread = HomeFacts("/h", problem=ErrorRecord("not_joined", "/h does not exist", hint="join"))
    assert list(here.judge_home(unread)) == [Finding("wrong", "not_joined", "/h does not exist", "join")]
    unset = HomeFacts("/h", settings_problem=ErrorRecord("bad_setting", 'no setting "x"'))
    assert told(here.judge_home(unset)) == [("wrong", "bad_setting", 'no setting "x"')]


def test_process() -> None:
    assert list(here.judge_process(ProcessFacts("client", "/h"))) == []
    assert list(here.judge_process(ProcessFacts("edge", "/h", pid=7, version="1", installed="1"))) == []
    (stopped,) = here.judge_process(ProcessFacts("edge", "/h"))
    assert (stopped.code, stopped.advice) == ("peer_stopped", "start it: peerage edge --home /h")
    assert told(here.judge_process(ProcessFacts("edge", "/h", pid=7, problem=ErrorRecord("x", "no answer")))) == [
        ("wrong", "peer_not_answering", "process 7 holds /h and does not answer: no answer")
    ]
    assert told(here.judge_process(ProcessFacts("edge", "/h", pid=7, version="1", installed="2"))) == [
        ("doubtful", "restart_needed", "process 7 runs peerage 1, and 2 is installed")
    ]


def test_opsets() -> None:
    supported = {"ai.onnx": 26}
    models = {"old@1.0": {"ai.onnx": 17}, "new@1.0": {"ai.onnx": 30}, "other@1.0": {"ai.onnx.ml": 99}}
    found = list(here.judge_opsets(OpsetFacts("onnxruntime 1.31", supported, models)))
    assert told(found) == [
        ("wrong", "opset_unsupported", "new@1.0 needs ai.onnx 30: onnxruntime 1.31 knows up to ai.onnx 26")
    ]
    many = OpsetFacts(None, {}, {}, tuple(f"m@{n} does not load" for n in range(8)))
    assert told(here.judge_opsets(many))[-1] == ("wrong", "opset_unsupported", "and 3 edges and models more")


# --- the network ----------------------------------------------------------------------------------------------------

OURS, THEIRS = "CN=peerage mine", "CN=peerage other"
DONE = Dialled(AT, "done", name="e1", ahead_s=0.1)


def network(*dialled: Dialled, **other: Any) -> NameserverFacts:
    return NameserverFacts(dialled, authority=OURS, **other)


@pytest.mark.parametrize(
    ("dialled", "code", "message"),
    [
        (
            Dialled(AT, "resolve", said="Name or service not known"),
            "nameserver_unresolved",
            "ns.example is no host that this device knows: Name or service not known",
        ),
        (
            Dialled(AT, "connect", errno=errno.ECONNREFUSED),
            "nameserver_refused",
            "nothing listens at ns.example:35021: connection refused",
        ),
        (
            Dialled(AT, "connect", took_s=4.0),
            "nameserver_silent",
            "ns.example:35021 does not answer in 4 s: a firewall drops it, or the machine is off",
        ),
        (
            Dialled(AT, "connect", errno=errno.ENETUNREACH),
            "no_route",
            "there is no way from here to ns.example:35021: Network is unreachable",
        ),
        (
            Dialled(AT, "connect", errno=errno.EMFILE, said="Too many open files"),
            "nameserver_unreachable",
            "cannot reach ns.example:35021: Too many open files",
        ),
        (
            Dialled(AT, "handshake", said="WRONG_VERSION_NUMBER"),
            "not_tls",
            "ns.example:35021 does not speak TLS",
        ),
        (
            Dialled(AT, "handshake", said="TLSV1_ALERT_PROTOCOL_VERSION"),
            "not_tls",
            "ns.example:35021 breaks off the TLS handshake: TLSV1_ALERT_PROTOCOL_VERSION",
        ),
        (
            Dialled(AT, "handshake", said="self-signed", presented=(THEIRS, "CN=x")),
            "wrong_federation",
            "ns.example:35021 is the nameserver of another federation, other: expected mine",
        ),
        (
            Dialled(AT, "handshake", said="bad signature", presented=(OURS, "CN=x")),
            "wrong_ca",
            "ns.example:35021 names this federation, and its certificate is not of this home's authority: "
            "bad signature",
        ),
        (
            Dialled(AT, "handshake", said="self-signed", presented=("CN=Corp", "CN=x")),
            "wrong_ca",
            "ns.example:35021 is no nameserver of this federation: self-signed",
        ),
        (
            Dialled(AT, "handshake", said="certificate has expired", presented=(OURS, "CN=x"), ahead_s=9e6),
            "certificate_time",
            "ns.example:35021: certificate has expired by this device's clock",
        ),
        (
            Dialled(AT, "ask", refusal=ErrorRecord("removed", '"e1" was removed', hint="join again")),
            "removed",
            'ns.example:35021 refuses: "e1" was removed',
        ),
        (
            Dialled(AT, "ask", said="status 502"),
            "bad_answer",
            "ns.example:35021 does not answer as a nameserver: status 502",
        ),
    ],
)
def test_an_address_that_does_not_answer(dialled: Dialled, code: str, message: str) -> None:
    (finding,) = beyond.judge_nameserver(network(dialled))
    assert (finding.level, finding.code, finding.message) == ("wrong", code, message)
    assert finding.advice


def test_one_address_that_answers_is_enough() -> None:
    off = Dialled("10.0.0.9:35021", "connect", errno=errno.ECONNREFUSED)
    assert list(beyond.judge_nameserver(network(DONE))) == []
    assert told(beyond.judge_nameserver(network(off, DONE))) == [
        ("note", "nameserver_refused", "nothing listens at 10.0.0.9:35021: connection refused")
    ]
    assert told(beyond.judge_nameserver(network(off, DONE, configured="10.0.0.9:35021"))) == [
        (
            "wrong",
            "wrong_nameserver",
            "the setting nameserver says 10.0.0.9:35021: nothing listens at 10.0.0.9:35021: connection refused; "
            "the nameserver answers at ns.example:35021",
        )
    ]
    (tried,) = beyond.judge_nameserver(network(off, DONE, tried="10.0.0.9:35021"))
    assert (tried.level, tried.code, tried.advice) == (
        "wrong",
        "nameserver_refused",
        "set it nowhere: the nameserver answers at ns.example:35021",
    )
    stranger = Dialled("10.0.0.8:1", "handshake", said="self-signed", presented=(OURS, "CN=x"))
    assert [
        (finding.level, finding.code)
        for finding in beyond.judge_nameserver(network(off, stranger, announced=("10.0.0.8:1",)))
    ] == [("wrong", "nameserver_refused"), ("note", "wrong_ca")]
    moved = beyond.judge_nameserver(network(off, DONE, announced=(AT,)))
    assert [finding.code for finding in moved] == ["nameserver_refused", "nameserver_moved"]
    assert told(beyond.judge_nameserver(network())) == [
        ("wrong", "no_address", "no address of the nameserver is known")
    ]


def test_a_proxy_in_between() -> None:
    opened = Dialled(AT, "handshake", said="x", presented=("CN=Corp Proxy CA", "CN=ns.example"))
    assert told(beyond.judge_proxies(network(opened))) == [
        (
            "wrong",
            "tls_intercepted",
            "ns.example:35021 shows a certificate for CN=ns.example, issued by CN=Corp Proxy CA: something opens the "
            "connection in between, or another server listens there",
        )
    ]
    silent = Dialled(AT, "connect", took_s=4.0)
    proxies = {"HTTPS_PROXY": "http://proxy.corp:3128"}
    assert told(beyond.judge_proxies(network(silent, proxies=proxies))) == [
        (
            "doubtful",
            "proxy_not_used",
            "HTTPS_PROXY=http://proxy.corp:3128 is set, and peers dial directly, never through a proxy",
        )
    ]
    assert list(beyond.judge_proxies(network(DONE, proxies=proxies))) == []
    other = Dialled(AT, "handshake", said="x", presented=(THEIRS, "CN=x"))
    assert list(beyond.judge_proxies(network(other))) == []


@pytest.mark.parametrize(
    ("dialled", "wanted"),
    [
        (Dialled(AT, "done", ahead_s=4.0), []),
        (Dialled(AT, "done", ahead_s=-6.0, uncertain_s=2.0), []),
        (Dialled(AT, "connect"), []),
        (
            Dialled(AT, "done", ahead_s=-90.0),
            [
                (
                    "doubtful",
                    "clock_skew",
                    "this device's clock is 90 s behind the nameserver's: peers go by the nameserver's, but logs and "
                    "other programs go by this one",
                )
            ],
        ),
        (
            Dialled(AT, "handshake", ahead_s=40 * DAY_S),
            [
                (
                    "wrong",
                    "clock_skew",
                    "this device's clock is 40.0 days ahead of the nameserver's: certificates no longer hold by it",
                )
            ],
        ),
    ],
)
def test_clock(dialled: Dialled, wanted: list[Any]) -> None:
    assert told(beyond.judge_clock(network(dialled))) == wanted


def test_uplink() -> None:
    assert list(beyond.judge_uplink(UplinkFacts("ONLINE", running=True, connected=False))) == []
    assert list(beyond.judge_uplink(UplinkFacts("INTERACTIVE", running=True, connected=True))) == []
    assert list(beyond.judge_uplink(UplinkFacts("INTERACTIVE", running=True, connected=False, polls="refused"))) == []
    assert told(beyond.judge_uplink(UplinkFacts("INTERACTIVE", running=True, connected=False, polls="answered"))) == [
        ("wrong", "uplink_blocked", "requests reach the nameserver, and the uplink does not stay open")
    ]


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        (MulticastFacts(wanted=False, interface=None), []),
        (MulticastFacts(wanted=True, interface=None, echoed=True, heard=(AT,)), []),
        (MulticastFacts(wanted=True, interface=None, echoed=None, said="port 5353 cannot be shared"), []),
        (MulticastFacts(wanted=True, interface=None, echoed=True, reachable=True), []),
        (MulticastFacts(wanted=True, interface=None, echoed=True, own=True), []),
        (
            MulticastFacts(wanted=True, interface="192.0.2.1", interface_is_own=False),
            [("wrong", "wrong_interface", "zeroconf_interface: 192.0.2.1 is no address of this device")],
        ),
        (
            MulticastFacts(wanted=True, interface=None, echoed=False, said="on lo: Operation not permitted"),
            [
                (
                    "wrong",
                    "multicast_blocked",
                    "a multicast packet of this device does not come back to it (on lo: Operation not permitted): "
                    "peers cannot find each other by themselves",
                )
            ],
        ),
        (
            MulticastFacts(wanted=True, interface=None, echoed=False, reachable=True),
            [
                (
                    "doubtful",
                    "multicast_blocked",
                    "a multicast packet of this device does not come back to it: peers cannot find each other by "
                    "themselves",
                )
            ],
        ),
        (
            MulticastFacts(wanted=True, interface=None, echoed=True, announces=True),
            [("doubtful", "not_announced", "multicast works, and the nameserver that runs here is not heard")],
        ),
        (
            MulticastFacts(wanted=True, interface=None, echoed=True),
            [
                (
                    "doubtful",
                    "nobody_announced",
                    "no nameserver of this federation announces itself on this network",
                )
            ],
        ),
    ],
)
def test_multicast(facts: MulticastFacts, wanted: list[Any]) -> None:
    assert told(beyond.judge_multicast(facts)) == wanted


def test_versions() -> None:
    assert list(beyond.judge_versions(VersionFacts("1.0", "1.0", {"E1": "1.0"}))) == []
    assert told(beyond.judge_versions(VersionFacts("1.0", "2.0", {"E1": "2.0", "E2": "1.0", "E3": "0.9"}))) == [
        ("doubtful", "version_mismatch", "peerage 1.0 is installed here, and the nameserver runs 2.0"),
        ("doubtful", "version_mismatch", "the nameserver runs 2.0, and 2 of 3 edges do not: E2 1.0, E3 0.9"),
    ]


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        (DesiredFacts(NOW, True, generation=3, expires=NOW + 1, contact="answered", nameserver_generation=3), []),
        (
            DesiredFacts(NOW, True, generation=3, nameserver_generation=5),
            [("doubtful", "stale_desired_state", "this edge holds generation 3, and the nameserver is at 5")],
        ),
        (
            DesiredFacts(NOW, True, generation=3, expires=NOW - 1, nameserver_generation=5),
            [
                (
                    "wrong",
                    "stale_desired_state",
                    "the desired state of this edge ended at 2027-01-15 07:59 UTC: what runs goes on, and nothing "
                    "changes",
                )
            ],
        ),
        (DesiredFacts(NOW, False), [("doubtful", "no_desired_state", "this edge was never told what to run")]),
        (
            DesiredFacts(
                NOW, True, contact="refused", contact_since=NOW, contact_message='"e1" was removed', generation=1
            ),
            [
                (
                    "wrong",
                    "polls_failing",
                    'polls of this edge are refused since 2027-01-15 08:00 UTC: "e1" was removed',
                )
            ],
        ),
        (
            DesiredFacts(
                NOW, True, errors=(("m@2.0", "failed_vectors", "vector 1"), ("n@1.0", "unsupported_opset", "30"))
            ),
            [
                ("wrong", "model_not_loaded", "m@2.0 does not load: vector 1"),
                ("wrong", "opset_unsupported", "n@1.0 does not load: 30"),
            ],
        ),
    ],
)
def test_desired_state(facts: DesiredFacts, wanted: list[Any]) -> None:
    assert told(beyond.judge_desired(facts)) == wanted


def status(name: str, **other: Any) -> dict[str, Any]:
    at = datetime.fromtimestamp(NOW - 10.0, UTC)
    usual = {"id": name, "joined": at, "connected": True, "next_poll": at, "converged": True, "lag": 0.0, "errors": 0}
    return {**usual, "alarms": [], "edge_mode": "INTERACTIVE", **other}


def test_edges_of_a_federation() -> None:
    long_ago = datetime.fromtimestamp(NOW - 1000.0, UTC)
    statuses = (
        status("FINE"),
        status("SILENT", connected=False, next_poll=long_ago),
        status("CARRIED", connected=False, next_poll=long_ago, edge_mode="AUTONOMOUS"),
        status("NEW", joined=None, converged=False, lag=1e6),
        status("BEHIND", converged=False, lag=400.0),
        status("BUSY", converged=False, lag=2.0),
        status("FAILING", errors=1),
        status("ALARM", alarms=["fork"]),
    )
    assert told(beyond.judge_edges(EdgesFacts(NOW, statuses))) == [
        ("wrong", "edges_alarmed", "1 of 7 edges raised an alarm: ALARM"),
        ("wrong", "edges_silent", "1 of 7 edges did not poll when expected: SILENT"),
        ("wrong", "edges_failing", "1 of 7 edges could not load a model: FAILING"),
        ("doubtful", "stale_desired_state", "1 of 7 edges did not become what they should be within 5 min: BEHIND"),
        ("note", "edges_not_joined", "1 of 8 edges never joined: NEW"),
    ]
    many = tuple(status(f"E{number}", errors=1) for number in range(9))
    assert told(beyond.judge_edges(EdgesFacts(NOW, many))) == [
        ("wrong", "edges_failing", "9 of 9 edges could not load a model: E0, E1, E2, E3, E4 and 4 more")
    ]


def test_the_sums_and_the_worst_of_a_check() -> None:
    note, wrong = Finding("note", "a", "x"), Finding("wrong", "b", "y", "do")
    done = [Checked("one", (note, wrong)), Checked("two", seen="fine"), Checked("three", seen="why", skipped=True)]
    assert [checked.level for checked in done] == ["wrong", "ok", "skipped"]
    assert sums(done) == {"wrong": 1, "doubtful": 0, "note": 1, "ok": 1, "skipped": 1}
    assert done[0].records()[1] == {"check": "one", "level": "wrong", "code": "b", "message": "y", "advice": "do"}
    assert done[1].records() == [{"check": "two", "level": "ok", "seen": "fine"}]
