"""Kill -9 of nameserver or edge at any moment of what they do: what was acknowledged is there, and all converges."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from query.errors import Problem
from tests.turn.processes import Federation

pytestmark = pytest.mark.timeout(300)

ROUNDS = int(os.environ.get("KILL_ROUNDS", "10"))
DELAY_S_MAX = 0.6  # a round's work takes about as long


class Acknowledged:
    """What a caller was told is done. What was asked when somebody died may be done or not."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.published: set[str] = set()
        self.assigned: str | None = None
        self.groups: set[str] = set()
        self.doubtful: set[str] = set()

    def publish(self, version: str) -> None:
        self.federation.publish("m", version)
        self.published.add(f"m@{version}")

    def assign(self, version: str) -> None:
        self.doubtful = {f"m@{version}", self.assigned or ""}
        self.federation.assign("m", version)
        self.assigned = f"m@{version}"
        self.doubtful = set()

    def join(self, group: str) -> None:
        self.federation.ask("ns", f'edge:add_group("E1", "{group}")')
        self.groups.add(group)

    def check(self) -> None:
        (installed,) = self.federation.ask("ns", "models:installed()")
        assert self.published <= set(installed)
        (groups,) = self.federation.ask("ns", 'edge:groups("E1")')
        assert self.groups <= set(groups)
        (models,) = self.federation.ask("ns", 'edge:group_models("all")')
        labels = {f"{model['name']}@{model['version']}" for model in models}
        assert labels <= (self.doubtful or {self.assigned}), (labels, self.assigned, self.doubtful)
        if labels:
            (self.assigned,) = labels
        self.doubtful = set()


def killed_during(federation: Federation, victim: str, work: Callable[[], None], delay_s: float) -> None:
    """Do some work and kill a peer with -9 in the middle of it, or just after it; then start the peer again."""
    done = threading.Event()

    def working() -> None:
        try:
            work()
        except (Problem, AssertionError):
            pass  # whoever was killed did not answer
        finally:
            done.set()

    worker = threading.Thread(target=working)
    worker.start()
    done.wait(delay_s)
    process = federation.process(victim)
    process.send_signal(signal.SIGKILL)
    worker.join()
    federation.killed(victim)
    federation.start(victim)


def test_killed_at_any_moment(tmp_path: Path) -> None:
    seed = int(os.environ.get("KILL_SEED", "1"))
    print(f"replay: KILL_SEED={seed} KILL_ROUNDS={ROUNDS} python -m pytest {__file__}")
    random = Random(seed)
    federation = Federation(tmp_path)
    try:
        federation.found()
        federation.write_model("m")
        known = Acknowledged(federation)
        known.publish("0")
        known.assign("0")
        federation.start("E1")
        for number in range(1, ROUNDS + 1):
            version = random.choice(sorted(known.published)).partition("@")[2]
            work = random.choice(
                (
                    lambda n=number: known.publish(str(n)),
                    lambda v=version: known.assign(v),
                    lambda n=number: known.join(f"g{n}"),
                )
            )
            killed_during(federation, random.choice(("ns", "E1")), work, random.uniform(0, DELAY_S_MAX))
            known.check()
        assert known.assigned is not None
        wanted = [known.assigned]
        federation.converged(lambda state: state["models:loaded"] == wanted and not state["last_load_errors"])
    finally:
        federation.close()
