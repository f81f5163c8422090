"""Real processes: a statement that waits collects an edge that was away, whoever is killed meanwhile, and runs once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.turn.processes import Federation

pytestmark = pytest.mark.timeout(240)

ANSWER_S_MAX = 90.0
COMMAND = (sys.executable, "-m", "peers.cli", "query", "--home", "ns-admin", "--json")


class Asking:
    """A ``peerage query`` that runs beside the test."""

    def __init__(self, federation: Federation, text: str) -> None:
        self._process = subprocess.Popen(
            [*COMMAND, text],
            cwd=federation.folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("PEERAGE_")}
            | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.frames: list[dict[str, Any]] = []

    def id(self) -> str:
        """Of the statement, once the nameserver keeps it."""
        return str(self._until(lambda frame: frame["frame"] == "progress" and frame.get("query"))["query"])

    def row(self) -> Any:
        """The next row's first value."""
        return self._until(lambda frame: frame["frame"] == "row")["values"][0]

    def ended(self) -> dict[str, str]:
        """The states of the ledger, and no row more than once."""
        end = self._until(lambda frame: frame["frame"] == "end")
        self._process.communicate(timeout=ANSWER_S_MAX)
        return {one["peer"]: one["state"] for one in end["ledger"]["outcomes"]}

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _until(self, wanted: Any) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            frame: dict[str, Any] = json.loads(line)
            self.frames.append(frame)
            if wanted(frame):
                return frame
        _, told = self._process.communicate()
        raise AssertionError(f"the answer ended without it: {self.frames} {told}")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    made = Federation(tmp_path_factory.mktemp("waiting"))
    try:
        made.start("ns")
        made.command("register", "E1", "--home", "ns-admin", "--out", "E1.bundle")
        made.command("join", "--home", "E1", "E1.bundle")
        yield made
    finally:
        made.close()


def test_an_edge_that_was_away_is_collected_whoever_is_killed(federation: Federation) -> None:
    """The nameserver is killed while the statement waits, the edge comes after it; whoever asked sees one answer."""
    asked = Asking(federation, "//peer: E1, nameserver\n//wait: 5m\nthis_peer()")
    try:
        query = asked.id()
        assert asked.row() == "NAMESERVER"
        federation.process("ns").kill()
        federation.stop("ns")
        federation.start("ns")
        federation.start("E1")
        assert asked.row() == "E1"
        assert asked.ended() == {"E1": "rows", "NAMESERVER": "rows"}
    finally:
        asked.close()
    assert [frame["values"] for frame in asked.frames if frame["frame"] == "row"] == [["NAMESERVER"], ["E1"]]
    told = {record["peer"]: record["rows"] for record in federation.ask("ns", f'query:results("{query}")')}
    assert told == {"E1": ["E1"], "NAMESERVER": ["NAMESERVER"]}


def test_ctrl_c_cancels_it_for_the_edges_that_are_away(federation: Federation) -> None:
    federation.stop("E1")
    asked = Asking(federation, "//peer: E1\n//wait: 5m\nthis_peer()")
    try:
        query = asked.id()
        asked.interrupt()
        assert asked.ended() == {"E1": "cancelled"}
    finally:
        asked.close()
    assert [record["state"] for record in federation.ask("ns", "query:list()") if record["id"] == query] == [
        "cancelled"
    ]
    federation.start("E1")


@pytest.mark.parametrize(
    ("label", "state", "made"),
    [
        ("waits.noted", "error", False),
        ("waits.run", "error", True),
        ("waits.answer_kept", "rows", True),
    ],
)
def test_an_edge_that_is_killed_runs_it_once(federation: Federation, label: str, state: str, made: bool) -> None:
    name = label.rpartition(".")[2].replace("_", "-")
    federation.stop("E1")
    asked = Asking(federation, f'//peer: E1\n//wait: 5m\nmodels:create("{name}")')
    try:
        asked.id()
        federation.start("E1", fail_at=label)
        federation.killed("E1")
        federation.start("E1")
        assert asked.ended() == {"E1": state}
    finally:
        asked.close()
    told = [frame["error"]["code"] for frame in asked.frames if frame["frame"] == "error"]
    assert told == ([] if state == "rows" else ["interrupted"])
    assert (federation.folder / "E1" / "models" / name).exists() is made


@pytest.mark.parametrize("label", ["waits.kept", "waits.settled"])
def test_a_nameserver_that_is_killed_asks_once(federation: Federation, label: str) -> None:
    name = label.rpartition(".")[2]
    federation.stop("E1")
    federation.stop("ns")
    federation.start("ns", fail_at=label)
    asked = Asking(federation, f'//peer: E1\n//wait: 5m\nmodels:create("{name}")')
    try:
        if label == "waits.settled":
            asked.id()
            federation.start("E1")
        federation.killed("ns")
        federation.start("ns")
        if label == "waits.kept":
            federation.start("E1")
        assert asked.ended() == {"E1": "rows"}
    finally:
        asked.close()
    assert (federation.folder / "E1" / "models" / name).exists()
