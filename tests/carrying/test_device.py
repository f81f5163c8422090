"""A device as a person has it: real processes and commands, its sockets watched, killed in the middle of an import."""

from __future__ import annotations

import http.client
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from peers.failpoints import POINTS, VARIABLE
from tests.shell.running import ANY, PEERAGE, Federation, environment, federation

pytestmark = pytest.mark.timeout(240)

LOOKS_MAX = 60
DIGITS = Path(__file__).parents[2] / "examples" / "digits"
KILLS = (*(label for label in POINTS if label.startswith("import.")), "poll.verified", "poll.committed")

# Writes down every address that the process binds, connects or sends to, and every name that it looks up.
WATCHED = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"):
        with open(sys.argv_watch, "a") as file:
            file.write(f"{event} {arguments[1:] if event != 'socket.getaddrinfo' else arguments!r}\\n")
sys.argv_watch = sys.argv.pop(1)
sys.addaudithook(watch)
from peers.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A federation with the models ``m`` 1.0 and 2.0, of which ``all`` has the second, and the edge E1 registered."""
    with federation(tmp_path_factory.mktemp("site")) as made:
        made.member("ada", "--role", "operator", "--publisher")
        done(made, "keys", "endorse", "ada", "--root-home", "ns-root", "--home", "ns-admin")
        folder = made.folder / "ada" / "models" / "m"
        folder.mkdir(parents=True)
        (folder / "model.toml").write_text('name = "m"\nkind = "functions"\nfunctions = ["f.pql"]\n')
        (folder / "f.pql").write_text("create function m_answer() -> Number as 42;\n")
        for version in ("1.0", "2.0"):
            text = f'models:create_release("m", "{version}"); models:publish("m", "{version}")'
            done(made, "query", "--home", "ada", text)
            done(made, "query", "--home", "ns-admin", assignment(version))
        done(made, "register", "E1", "--home", "ns-admin", "--out", "e1.bundle")
        done(made, "export", "--edge", "E1", "--groups", "--home", "ns-admin", "e1.tar")
        yield made


def assignment(version: str) -> str:
    return f'edge:set_group_models("all", [{{"name": "m", "version": "{version}"}}])'


def done(site: Federation, *arguments: str | Path) -> str:
    ended = site.peerage(*arguments)
    assert ended.status == 0, f"{arguments}: {ended.out}{ended.err}"
    return ended.out


def fingerprint(site: Federation) -> str:
    shown = site.peerage("keys", "show", "--home", "ns-admin", "--json")
    return str(shown.facts["fingerprint"])


def asked(site: Federation, home: str, text: str) -> list[Any]:
    """The frames that a statement is answered with, as JSON tells them."""
    ended = site.peerage("query", "--home", home, "--json", text)
    assert ended.status == 0, ended.err
    return [json.loads(line) for line in ended.out.splitlines()]


def values(frames: list[Any]) -> list[Any]:
    return [frame["values"][0] for frame in frames if frame["frame"] == "row"]


def started(site: Federation, name: str, *arguments: str, watch: Path | None = None, fail_at: str = "") -> psutil.Popen:
    """An AUTONOMOUS device in a home of that name; it is ready when this returns, or gone."""
    command = [sys.executable, "-c", WATCHED, str(watch)] if watch else list(PEERAGE)
    with (site.folder / f"{name}.log").open("a") as log:
        process = psutil.Popen(
            [*command, "edge", "--home", name, *ANY, "--json", "--mode", "AUTONOMOUS", *arguments],
            cwd=site.folder,
            env=environment() | ({VARIABLE: fail_at} if fail_at else {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    site.running[name] = process
    line = process.stdout.readline()
    assert line or fail_at, site.log(name)
    return process


def loaded(site: Federation, home: str, *labels: str) -> None:
    """Asked until they are in memory; each question takes a process, so that the device has the time in between."""
    seen = ""
    for _ in range(LOOKS_MAX):
        seen = site.peerage("query", "--home", home, "models:loaded()").out.strip()
        if seen == str(list(labels)):
            return
    raise AssertionError(f"{home} has {seen}, expected {labels}:\n{site.log(home)}")


def check_sockets(process: psutil.Popen) -> None:
    """Listeners on this device alone, and what they accepted from it: no connection of its own, no datagrams."""
    sockets = process.net_connections(kind="inet")
    listeners = {socket.laddr for socket in sockets if socket.status == psutil.CONN_LISTEN}
    for socket in sockets:
        assert socket.type.name == "SOCK_STREAM", socket
        assert socket.laddr in listeners, socket
        assert socket.laddr.ip in ("127.0.0.1", "::1"), socket
        assert not socket.raddr or socket.raddr.ip in ("127.0.0.1", "::1"), socket


def test_a_device_opens_nothing_from_its_start_to_its_end(site: Federation, tmp_path: Path) -> None:
    watch = tmp_path / "sockets"
    process = started(site, "quiet", "--name", "BOX", "--zeroconf", watch=watch)
    check_sockets(process)
    (tmp_path / "cut.tar").write_bytes((site.folder / "e1.tar").read_bytes()[:-2000])
    cut = site.peerage("import", str(tmp_path / "cut.tar"), "--home", "quiet", "--fingerprint", fingerprint(site))
    assert "archive_truncated" in cut.err
    assert "belongs to no federation" in site.peerage("query", "--home", "quiet", 'edge:import("/x")').err
    taken = site.peerage("import", "e1.tar", "--home", "quiet", "--fingerprint", fingerprint(site))
    assert taken.status == 0, taken.err
    assert "this device is edge E1" in taken.out
    check_sockets(process)
    loaded(site, "quiet", "m@2.0")
    assert values(asked(site, "quiet", "m_answer()")) == [42]
    for text in ('models:import("m", "9.9")', "edge:poll()", "//peer: nameserver\nedge:list()", "//peer: all\nnow()"):
        refused = site.peerage("query", "--home", "quiet", text)
        assert refused.status != 0
        assert "autonomous" in refused.err, refused.err
        check_sockets(process)
    assert site.peerage("mode", "ONLINE", "--home", "quiet").status == 1
    done(site, "export", "--report", "--home", "quiet", "quiet.report")
    check_sockets(process)
    assert site.stop("quiet") == 0
    seen = watch.read_text().splitlines()
    assert any(line.startswith("socket.bind") for line in seen)  # it does watch
    outward = [line for line in seen if not _stays_here(line)]
    assert outward == []


def test_programs_on_a_device_infer_over_loopback_and_its_socket(site: Federation) -> None:
    process = started(site, "busy", "--accept-development")
    shutil.copytree(DIGITS / "2.0", site.folder / "busy" / "models" / "digits")
    done(site, "query", "--home", "busy", 'models:load("digits")')
    held_out = json.loads((DIGITS / "held-out.json").read_text())[:30]
    images, labels = [row["image"] for row in held_out], [row["label"] for row in held_out]
    (over_socket,) = values(asked(site, "busy", f"right({images}, {labels})"))
    told = json.loads((site.folder / "busy" / "run.json").read_text())
    host, _, port = told["application"].rpartition(":")
    token = (site.folder / "busy" / "token").read_text().strip()
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    body = json.dumps({"text": "right(:images, :labels)", "params": {"images": images, "labels": labels}})
    connection.request("POST", "/v1/query", body, {"Authorization": f"Bearer {token}"})
    frames = [json.loads(line) for line in connection.getresponse().read().splitlines()]
    connection.close()
    (over_loopback,) = values(frames)
    assert over_loopback == over_socket > 0.9
    check_sockets(process)
    assert site.stop("busy") == 0


def _stays_here(line: str) -> bool:
    return "127.0.0.1" in line or "::1" in line or "peer.sock" in line or "AF_UNIX" in line


@pytest.mark.parametrize("label", KILLS)
def test_a_device_killed_in_an_import_has_the_old_or_the_new(site: Federation, label: str) -> None:
    home = f"killed-{label.replace('.', '-')}"
    process = started(site, home, fail_at=label)
    taking = ("import", "e1.tar", "--home", home, "--fingerprint", fingerprint(site))
    assert site.peerage(*taking).status == 1
    assert process.wait(timeout=20) == -signal.SIGKILL
    site.running.pop(home).stdout.close()
    started(site, home)
    # As it is now it runs all of the new state, or nothing of it; and the same file completes it.
    seen = site.peerage("query", "--home", home, "edge:actual_state()").out
    assert 'last_load_errors":[]' in seen
    again = site.peerage(*taking)
    assert again.status == 0, again.err
    loaded(site, home, "m@2.0")
    assert site.stop(home) == 0


def test_a_stopped_device_takes_a_file_and_acts_on_it_at_its_start(site: Federation) -> None:
    assert site.peerage("import", "e1.tar", "--home", "stopped").status == 1
    assert site.peerage("mode", "AUTARKIC", "--home", "stopped").status == 2
    done(site, "mode", "AUTONOMOUS", "--home", "stopped")
    refused = site.peerage("import", "e1.tar", "--home", "stopped")
    assert (refused.status, "nobody is there to type it" in refused.err) == (2, True)
    taken = site.peerage("import", "e1.tar", "--home", "stopped", "--fingerprint", fingerprint(site), "--json")
    assert taken.status == 0, taken.err
    assert taken.facts["models"] == ["m@2.0"]
    assert taken.facts["running"] is False
    report = done(site, "export", "--report", "--home", "stopped", "-")
    assert json.loads(report)["payloadType"] == "application/vnd.peerage.carried-report.v1+json"
    started(site, "stopped")
    loaded(site, "stopped", "m@2.0")
    # To go back needs no further file.
    done(site, "query", "--home", "stopped", 'models:load("m", "1.0")')
    loaded(site, "stopped", "m@1.0")
    assert site.stop("stopped") == 0
    assert done(site, "mode", "--home", "stopped").startswith("AUTONOMOUS since ")


def test_a_report_goes_back_and_is_shown(site: Federation) -> None:
    started(site, "reporting")
    done(site, "import", "e1.tar", "--home", "reporting", "--fingerprint", fingerprint(site))
    loaded(site, "reporting", "m@2.0")
    done(site, "export", "--report", "--home", "reporting", "e1.report")
    unknown = site.peerage("import", "e1.report", "--home", "ns-admin")
    assert (unknown.status, "unknown_key" in unknown.err) == (1, True)
    (key,) = [key["id"] for key in site.peerage("keys", "show", "--home", "reporting", "--json").facts["keys"]]
    taken = site.peerage("import", "e1.report", "--home", "ns-admin", "--key", key, "--json")
    assert taken.status == 0, taken.err
    assert taken.facts["models:loaded"] == ["m@2.0"]
    assert "nothing new" in done(site, "import", "e1.report", "--home", "ns", "--key", key)
    assert "'imported'" in done(site, "query", "--home", "ns-admin", 'edge:history("E1")')
    wrong = site.peerage("import", "e1.tar", "--home", "ns-admin")
    assert (wrong.status, "is no report of an edge" in wrong.err) == (2, True)
    raw = bytearray((site.folder / "e1.report").read_bytes())
    raw[len(raw) // 2] ^= 1
    (site.folder / "bad.report").write_bytes(raw)
    assert site.peerage("import", "bad.report", "--home", "ns-admin", "--key", key).status == 1
    assert site.stop("reporting") == 0


def test_an_export_is_whole_or_not_there(site: Federation, tmp_path: Path) -> None:
    assert (site.folder / "e1.tar").stat().st_mode & 0o777 == 0o600
    by_nameserver = done(site, "export", "--edge", "E1", "--groups", "--home", "ns", tmp_path / "ns.tar")
    assert "m@2.0" in by_nameserver
    assert (tmp_path / "ns.tar").read_bytes() == (site.folder / "e1.tar").read_bytes()
    piped = subprocess.run(
        [*PEERAGE, "export", "--edge", "E1", "--groups", "--home", "ns-admin", "-"],
        cwd=site.folder,
        env=environment(),
        capture_output=True,
        check=True,
    )
    assert piped.stdout == (site.folder / "e1.tar").read_bytes()
    assert site.peerage("export", "--edge", "E9", "--home", "ns-admin", tmp_path / "e9.tar").status == 1
    assert site.peerage("export", "--edge", "E1", "--home", "ns-admin", tmp_path / "no" / "e1.tar").status == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ns.tar"]


@pytest.mark.skipif(shutil.which("skopeo") is None and not os.environ.get("CI"), reason="skopeo is not here")
def test_registry_tools_read_an_export(site: Federation, tmp_path: Path) -> None:
    source = f"oci-archive:{site.folder / 'e1.tar'}:models/m:1.0"
    shown = subprocess.run(["skopeo", "inspect", "--raw", source], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    subprocess.run(["skopeo", "copy", "--quiet", source, f"oci:{tmp_path / 'out'}:m"], check=True, timeout=60)
    assert (tmp_path / "out" / "index.json").exists()


def test_the_mode_of_a_device_is_kept_over_restarts_and_left_by_joining(site: Federation) -> None:
    process = started(site, "box", "--name", "BOX")
    assert done(site, "mode", "--home", "box").startswith("AUTONOMOUS since ")
    assert site.stop("box") == 0
    assert process.returncode == 0
    taken = site.peerage("edge", "--home", "box", "--application-host", "0.0.0.0", "--application-port", "0")
    assert (taken.status, "application_host" in taken.err) == (2, True)
    done(site, "join", "--home", "box", "e1.bundle")
    assert not (site.folder / "box" / "mode.json").exists()
    site.start("box", "edge")
    assert "mode" in done(site, "query", "--home", "box", "edge:mode()")
    done(site, "mode", "AUTONOMOUS", "--home", "box")
    check_sockets(psutil.Process(site.running["box"].pid))
    done(site, "mode", "INTERACTIVE", "--home", "box")
    assert site.stop("box") == 0


def test_a_person_types_the_fingerprint_and_is_never_shown_it(site: Federation) -> None:
    done(site, "mode", "AUTONOMOUS", "--home", "typed")
    known = fingerprint(site)
    for typed, status in (("0" * 64, 1), (known, 0)):
        ours, theirs = pty.openpty()
        try:
            process = subprocess.Popen(
                [*PEERAGE, "import", "e1.tar", "--home", "typed"],
                cwd=site.folder,
                env=environment(),
                stdin=theirs,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            os.write(ours, typed.encode() + b"\n")
            said, _ = process.communicate(timeout=60)
        finally:
            os.close(ours)
            os.close(theirs)
        assert process.returncode == status, said
        assert "the file says that it is for edge E1 of federation" in said
        assert "fingerprint: " in said
        assert known[:9] not in said
        assert known.replace(" ", "")[:9] not in said
    assert "this device is edge E1" in said
