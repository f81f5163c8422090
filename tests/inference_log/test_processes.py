"""A real edge's log: killed while programs ask it, started again, taken off every network."""

from __future__ import annotations

import json
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from peers.homes import Home
from tests.pipelines.test_functions import write_model
from tests.turn.processes import Federation

pytestmark = pytest.mark.timeout(300)


class Asking:
    """Programs that ask the edge's pipeline; every row says which one it was."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self.sent = 0

    def ask(self, requests: int) -> None:
        run = json.loads((self._federation.folder / "E1" / "run.json").read_text())
        for _ in range(requests):
            rows = [{"x": [self.sent + at, 0, 0, 0]} for at in range(2)]
            body = json.dumps(rows).encode()
            with urllib.request.urlopen(f"http://{run['application']}/infer", body, timeout=20) as answer:
                assert answer.status == 200
            self.sent += 2

    def logged(self) -> list[Any]:
        return self._federation.ask("E1", 'logs:local({"columns": ["in", "row"], "order": "oldest", "limit": 10000})')


def test_a_log_outlives_kills_and_networks(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    try:
        federation.found()
        write_model(Home(tmp_path / "ada"), "double", 2.0)
        federation.publish("double", "1.0")
        for text in (
            'pipeline:create("price")',
            'pipeline:add_model_step("price", "double", "1.0")',
            'pipeline:deploy("price", {"group": "all"})',
        ):
            federation.ask("ada", text)
        federation.start("E1")
        federation.converged(lambda state: "price@" in " ".join(state["models:loaded"]))
        asking = Asking(federation)
        asking.ask(50)
        known = asking.logged()  # which waits until they are written
        asking.ask(5)  # of these a kill may take those of the last moments
        federation.process("E1").send_signal(signal.SIGKILL)
        federation.killed("E1")
        federation.start("E1")
        after = asking.logged()
        values = [row["in"]["x"][0] for row in after]
        assert after[: len(known)] == known
        assert values == sorted(set(values))
        assert set(values) <= set(range(asking.sent))
        identities = [(row["row"]["edge"], row["row"]["epoch"], row["row"]["sequence"]) for row in asking.logged()]
        assert len(set(identities)) == len(identities) >= 100
        assert {gap["reason"] for gap in federation.ask("E1", "logs:gaps()")} <= {"cut_off"}

        federation.stop("E1")
        federation.stop("ns")
        federation.command("mode", "--home", "E1", "AUTONOMOUS")
        before = asking.sent
        federation.start("E1")
        asking.ask(10)
        alone = asking.logged()
        assert [row["in"]["x"][0] for row in alone[-20:]] == list(range(before, asking.sent))
        assert len(alone) == len(identities) + 20
    finally:
        federation.close()
