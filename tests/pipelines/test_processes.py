"""A pipeline's whole way through real processes: killed while it swaps, saved, and carried on a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from peers.examining import examine
from peers.homes import Home
from tests.pipelines.test_functions import ROWS, write_model
from tests.turn.processes import Federation

pytestmark = pytest.mark.timeout(300)


def running(federation: Federation, version: str) -> None:
    """Wait until the edge runs this version of the pipeline, and the nameserver says so."""
    federation.converged(lambda state: state["models:loaded"] == [f"price@{version}"])
    (told,) = federation.ask("ada", 'pipeline:status("price")')
    assert (told["status"], told["edges"][0]["version"]) == ("Running", version)


def answer(federation: Federation) -> list[float]:
    (outputs,) = federation.ask("E1", f'models:infer("price", {ROWS})')
    return list(outputs["y"].tolist()[0])


def deployed(federation: Federation, options: str = '{"group": "lab"}') -> str:
    (told,) = federation.ask("ada", f'pipeline:deploy("price", {options})')
    return str(told["version"])


def test_a_pipeline_goes_its_way(tmp_path: Path) -> None:
    federation = Federation(tmp_path)
    try:
        federation.found()
        for name, factor in (("double", 2.0), ("triple", 3.0)):
            write_model(Home(tmp_path / "ada"), name, factor)
            federation.publish(name, "1.0")
        federation.ask("ns", 'edge:add_group("E1", "lab")')
        text = 'pipeline:create("price"); pipeline:add_model_step("price", "double", "1.0")'
        federation.command("query", "--home", "ada", text)
        first = deployed(federation)
        federation.start("E1")
        running(federation, first)
        assert answer(federation) == [2, 4, 6, 8]

        # Swapped in place, and the edge dies once the new one answers.
        federation.ask("ada", 'pipeline:replace_model_step("price", 1, "triple", "1.0")')
        federation.stop("E1")
        federation.start("E1", fail_at="load.recorded:2")  # the first is what it ran before
        second = deployed(federation)
        federation.killed("E1")
        federation.start("E1")
        running(federation, second)
        assert answer(federation) == [3, 6, 9, 12]

        # Back to the first, saved, carried on a file, and taken away.
        assert deployed(federation, f'{{"group": "lab", "version": "{first}"}}') == first
        running(federation, first)
        assert answer(federation) == [2, 4, 6, 8]
        federation.command("backup", "--home", "ns", "saved")
        assert "whole" in federation.command("backup", "--verify", "saved")
        federation.command("export", "--edge", "E1", "--home", "ns-admin", "E1.tar")
        carried_by_file(federation, first)
        federation.ask("ada", 'pipeline:undeploy("price", {"group": "lab"})')
        federation.converged(lambda state: state["models:loaded"] == [])
        federation.stop("E1")
        federation.stop("ns")
        for name in ("ns", "E1", "ada"):
            assert examine(Home(tmp_path / name)).findings == []
    finally:
        federation.close()


def carried_by_file(federation: Federation, version: str) -> None:
    """The edge leaves the network, loses the pipeline, and has it again from a file."""
    federation.ask("E1", 'edge:mode("AUTONOMOUS")')
    federation.ask("E1", 'pipeline:undeploy("price")')
    assert federation.actual()["models:loaded"] == []
    federation.command("import", "--home", "E1", "E1.tar")
    for _ in range(100):
        (told,) = federation.ask("E1", 'pipeline:status("price")')
        if told["status"] == "Running":
            break
    assert told["edges"][0]["version"] == version
    assert answer(federation) == [2, 4, 6, 8]
    federation.ask("E1", 'edge:mode("INTERACTIVE")')
    federation.listens()
