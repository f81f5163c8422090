"""``peerage doctor`` as it is typed, at faults that take another process, another clock or another network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shell.running import PEERAGE, Federation, environment, federation

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A nameserver and the edge E1, which has polled."""
    with federation(tmp_path_factory.mktemp("doctor")) as made:
        joined = made.member("E1")
        assert joined.status == 0, joined.err
        made.start("E1", "edge")
        polled = made.peerage("poll", "--home", "E1")
        assert polled.status == 0, polled.err
        yield made


def doctor(
    living: Federation, home: str, *words: str, below: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*below, *PEERAGE, "doctor", "--home", home, *words],
        cwd=living.folder,
        env={**environment(), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def findings(done: subprocess.CompletedProcess[str], *, but: tuple[str, ...] = ("disk", "memory")) -> dict[str, str]:
    """Check → level and code, of what was found with ``--json``."""
    records = [json.loads(line) for line in done.stdout.splitlines()][:-1]
    return {
        one["check"]: f"{one['level']} {one['code']}" for one in records if "code" in one and one["check"] not in but
    }


def test_what_is_shown_and_the_status(living: Federation) -> None:
    done = doctor(living, "E1")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0] == f"ok       home           edge E1 of {living_name(living)}, in {living.folder}/E1"
    assert lines[1].startswith("ok       process        process ")
    shown = [line[9:23].strip() for line in lines[:-1]]
    assert shown == [
        *("home", "process", "ports", "certificate", "disk", "memory", "nameserver", "proxy", "clock", "uplink"),
        *("multicast", "versions", "desired state"),
    ]
    key = (living.folder / "E1" / "identity.key").read_text().splitlines()[1]
    token = (living.folder / "E1" / "token").read_text().strip()
    assert not {key, token} & set(done.stdout.split())
    as_json = doctor(living, "E1", "--json")
    assert key not in as_json.stdout
    assert token not in as_json.stdout
    sums = json.loads(as_json.stdout.splitlines()[-1])
    assert (as_json.returncode, sums["wrong"]) == (0, 0)


def living_name(living: Federation) -> str:
    name: str = json.loads((living.folder / "E1" / "membership.json").read_text())["federation"]
    return name


def test_a_folder_that_is_no_home(living: Federation) -> None:
    done = doctor(living, "nowhere", "--limit", "5s")
    assert done.returncode == 1
    assert done.stdout.splitlines()[:2] == [
        f"WRONG    home           {living.folder}/nowhere does not exist: expected a peer's home (not_joined)",
        '                        → name one with --home or PEERAGE_HOME, or join: "peerage join --home DIR FILE"',
    ]
    assert done.stdout.splitlines()[-1].startswith("1 wrong")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--limit", "soon"), 'error(usage): --limit: "soon" is not a duration'),
        (("--nameserver", "ns"), 'error(bad_setting): --nameserver is "ns": expected host:port'),
    ],
)
def test_words_that_make_no_sense(living: Federation, words: tuple[str, ...], said: str) -> None:
    done = doctor(living, "E1", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_a_peer_that_hangs(living: Federation) -> None:
    process = living.running["E1"]
    process.send_signal(signal.SIGSTOP)
    try:
        done = doctor(living, "E1", "--json", PEERAGE_ZEROCONF="false")
    finally:
        process.send_signal(signal.SIGCONT)
    found = findings(done)
    assert done.returncode == 1
    assert found["process"] == "wrong peer_not_answering"
    assert "nameserver" not in found


@pytest.mark.skipif(
    shutil.which("faketime") is None and os.environ.get("CI") != "true", reason="faketime is not installed"
)
@pytest.mark.parametrize(
    ("by", "level", "words"),
    [
        ("+1h", "doubtful", "60.0 min ahead of the nameserver's"),
        ("-3d", "wrong", "3.0 days behind the nameserver's"),
        ("+40d", "wrong", "40.0 days ahead of the nameserver's"),
    ],
)
def test_a_clock_that_is_off(living: Federation, by: str, level: str, words: str) -> None:
    done = doctor(living, "ns-admin", "--json", below=("faketime", "-f", by), PEERAGE_ZEROCONF="false")
    found = findings(done)
    assert found.pop("clock") == f"{level} clock_skew"
    assert words in done.stdout
    assert found == ({} if level == "doubtful" else {"nameserver": "wrong certificate_time"})
    assert done.returncode == (1 if level == "wrong" else 0)


def test_versions_that_differ(living: Federation, tmp_path: Path) -> None:
    """Another version is installed than runs, here and at the nameserver."""
    installed = tmp_path / "peerage-99.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: peerage\nVersion: 99.0\n")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = doctor(living, "E1", "--json", PYTHONPATH=path, PEERAGE_ZEROCONF="false")
    assert findings(done) == {"process": "doubtful restart_needed", "versions": "doubtful version_mismatch"}
    assert "peerage 99.0 is installed here, and the nameserver runs " in done.stdout
    assert done.returncode == 0


# --- networks of their own ------------------------------------------------------------------------------------------


def cut_off(*rules: str) -> tuple[str, ...]:
    """Below a network namespace of its own, with the loopback up and these rules of iptables."""
    tried = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    if tried.returncode != 0 or shutil.which("iptables") is None or shutil.which("ip") is None:
        pytest.skip("no network namespace may be made here")
    script = " && ".join(["ip link set lo up", *(f"iptables {rule}" for rule in rules), 'exec "$@"'])
    return ("unshare", "-n", "sh", "-c", script, "sh")


def test_multicast_that_is_blocked(living: Federation) -> None:
    below = cut_off("-A INPUT -p udp --dport 5353 -j DROP")
    done = doctor(living, "E1", "--json", below=below)
    found = findings(done)
    assert found["multicast"] == "wrong multicast_blocked"
    assert "nothing came back on 127.0.0.1 within 1.5 s" in done.stdout
    assert found["nameserver"] == "wrong nameserver_refused"  # in that network nobody listens
    open_one = findings(doctor(living, "E1", "--json", below=cut_off()))
    assert open_one["multicast"] == "doubtful nobody_announced"
    forbidden = doctor(living, "E1", "--json", below=cut_off("-A OUTPUT -p udp --dport 5353 -j DROP"))
    assert findings(forbidden)["multicast"] == "wrong multicast_blocked"
    assert "on 127.0.0.1: Operation not permitted" in forbidden.stdout


def test_a_nameserver_behind_a_firewall_and_a_network_that_is_down(living: Federation) -> None:
    silent = doctor(living, "E1", "--json", below=cut_off("-A OUTPUT -p tcp -j DROP"), PEERAGE_ZEROCONF="false")
    assert findings(silent)["nameserver"] == "wrong nameserver_silent"
    down = doctor(
        living, "E1", "--json", below=cut_off(), PEERAGE_ZEROCONF="false", PEERAGE_NAMESERVER="192.0.2.1:35021"
    )
    assert "there is no way from here to 192.0.2.1:35021: Network is unreachable" in down.stdout


@pytest.mark.skipif(
    shutil.which("faketime") is None and os.environ.get("CI") != "true", reason="faketime is not installed"
)
def test_a_certificate_that_ended_where_nobody_tells_the_time(living: Federation) -> None:
    below = (*cut_off(), "faketime", "-f", "+40d")
    found = findings(doctor(living, "E1", "--json", below=below, PEERAGE_ZEROCONF="false"))
    assert found["certificate"] == "wrong certificate_expired"
    assert found["nameserver"] == "wrong nameserver_refused"
    assert "clock" not in found


def test_a_name_server_that_hangs(living: Federation, tmp_path: Path) -> None:
    """Names are asked of a machine that never answers: the check ends all the same, and so does the program."""
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.2\noptions timeout:30 attempts:5\n")
    below = cut_off("-A OUTPUT -p udp --dport 53 -j ACCEPT", "-A INPUT -p udp --dport 53 -j DROP")
    script = f'mount --bind {resolver} /etc/resolv.conf && exec "$@"'
    mounted = ("unshare", "-m", "sh", "-c", script, "sh")
    done = doctor(
        living,
        "E1",
        "--json",
        below=(*mounted, *below),
        PEERAGE_ZEROCONF="false",
        PEERAGE_NAMESERVER="ns.example:35021",
    )
    assert "ns.example is no host that this device knows: no answer within 4 s" in done.stdout
