"""Stopping a command that runs: the answer ends with its ledger, here and on every peer."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.shell.running import PEERAGE, Ended, Federation, environment, federation

pytestmark = pytest.mark.timeout(180)

ENDLESS = "select a * b from Integer a, Integer b where a in iota(1, 100000) and b in iota(1, 100000)"
ASKED_MAX = 60  # times that the nameserver is asked for what runs there; each takes a command's time


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with federation(tmp_path_factory.mktemp("federation")) as made:
        assert made.member("E1").status == 0
        made.start("E1", "edge")
        assert made.peerage("query", "--home", "ns-admin", "--peer", "E1", "this_peer()").status == 0
        yield made


@contextmanager
def silent(shared: Federation, name: str) -> Iterator[None]:
    """A peer that is there and answers nothing."""
    shared.running[name].send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        shared.running[name].send_signal(signal.SIGCONT)


def interrupted(
    shared: Federation, *arguments: str, by: signal.Signals, once: Callable[[subprocess.Popen[str]], None]
) -> Ended:
    process = subprocess.Popen(
        [*PEERAGE, "query", *arguments],
        cwd=shared.folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        once(process)
        process.send_signal(by)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    return Ended(process.returncode, out, err)


def running_there(shared: Federation, text: str) -> bool:
    asked = shared.peerage("query", "--home", "ns", "select q.text from q in query:list()")
    assert asked.status == 0, asked.err
    return text in asked.out


def first_row(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith("1"):
        assert line


def first_row_frame(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert any(json.loads(line)["frame"] == "row" for line in process.stdout)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("home", ["ns-admin", "ns", "E1"])
def test_a_statement_that_runs_at_the_home(shared: Federation, home: str, by: signal.Signals) -> None:
    ended = interrupted(shared, "--home", home, ENDLESS, by=by, once=first_row)
    name = {"ns-admin": "ADMIN", "ns": "NAMESERVER", "E1": "E1"}[home]
    assert ended.err.splitlines() == [
        "error(cancelled): the query was cancelled",
        f"1 peer: 1 cancelled — {name}: cancelled",
        "interrupted",
    ]
    assert ended.status == 1


def test_json_ends_with_the_ledger(shared: Federation) -> None:
    ended = interrupted(shared, "--json", "--home", "ns-admin", ENDLESS, by=signal.SIGINT, once=first_row_frame)
    last = json.loads(ended.out.splitlines()[-1])
    assert last["frame"] == "end"
    assert [outcome["state"] for outcome in last["ledger"]["outcomes"]] == ["cancelled"]
    assert (ended.status, ended.err) == (1, "interrupted\n")


@pytest.mark.parametrize(("home", "peer", "target"), [("ns-admin", "all", "E1"), ("ns", "E1", "E1")])
def test_a_statement_that_another_peer_does_not_answer(shared: Federation, home: str, peer: str, target: str) -> None:
    text = f'this_peer() + "{home}"'

    def asked(process: subprocess.Popen[str]) -> None:
        assert any(running_there(shared, text.replace('"', "")[:11]) for _ in range(ASKED_MAX))

    with silent(shared, "E1"):
        ended = interrupted(shared, "--home", home, "--peer", peer, text, by=signal.SIGINT, once=asked)
        assert ended.err.splitlines() == [
            "error(cancelled): the query was cancelled",
            f"1 peer: 1 cancelled — {target}: cancelled",
            "interrupted",
        ]
        assert ended.status == 1
        assert any(not running_there(shared, text[:11]) for _ in range(ASKED_MAX))  # it ended there too
