"""What an edge takes: memory while it idles, without a model, with one and with a hundred; processor time while it
idles; and time from its start to its first answer.

Memory is the proportional set size of a real edge's process (shared pages by their share), looked at after it has
settled. The hundred are the same small classifier, each with a graph of its own. Processor time is what the process
took over ``IDLE_S`` seconds after it had answered, in percent of one processor. The start is measured with the
nameserver gone: from starting the process to the answer of the first inference over its Unix socket, as a program on
the device sees it. ``limit`` is the goal. Medians.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from benchmarks.measurement import Measurement
from peers.client import connect
from peers.demo import EXAMPLES
from peers.demo.stage import Stage

MIB: Final = 1024 * 1024
IDLE_MIB_MAX: Final = 50.0
LOADED_MIB_MAX: Final = 85.0
HUNDRED_MIB_MAX: Final = 100.0
IDLE_PERCENT_MAX: Final = 1.0
FIRST_INFERENCE_S_MAX: Final = 0.6
TINY: Final = 100
IDLE_S: Final = 20.0
LOOKS: Final = 7
LOOK_EVERY_S: Final = 0.5
STARTS: Final = 9
CONVERGE_S_MAX: Final = 30.0
HUNDRED_S_MAX: Final = 600.0

NAMESERVER: Final = (
    *("nameserver", "--federation", "bench", "--federation-host", "127.0.0.1", "--federation-port", "0"),
    *("--application-port", "0", "--no-zeroconf", "--poll-interval", "1s~10%"),
)
EDGE: Final = ("edge", "--application-port", "0", "--no-zeroconf")
TINY_TOML: Final = """
name = "{name}"
kind = "onnx"
model = "model.onnx"
vectors = "vectors.json"

[[inputs]]
name = "image"
datatype = "FP32"
shape = [-1, 64]

[[outputs]]
name = "label"
datatype = "INT64"
shape = [-1]

[[outputs]]
name = "probabilities"
datatype = "FP32"
shape = [-1, 10]
"""
QUESTION: Final = 'models:infer("digits", :image)["label"]'


def run() -> Iterator[Measurement]:
    with tempfile.TemporaryDirectory(prefix="peerage-bench-") as folder:
        stage = Stage(Path(folder), EXAMPLES)
        try:
            yield from _measured(stage)
        finally:
            stage.stop()


def _measured(stage: Stage) -> Iterator[Measurement]:
    _federation(stage)
    yield _memory(stage, "idle edge without a model", IDLE_MIB_MAX)
    _deploy(stage)
    with connect(stage.home("edge")) as edge:
        edge.value(QUESTION, params=_image())
    yield _memory(stage, "idle edge with digits 2.0", LOADED_MIB_MAX)
    yield _idle(stage)
    _deploy_tiny(stage)
    with connect(stage.home("edge")) as edge:
        for number in range(TINY):
            edge.value(f'models:infer("{_tiny(number)}", :image)["label"]', params=_image())
    yield _memory(stage, f"idle edge with digits 2.0 and {TINY} tiny models", HUNDRED_MIB_MAX)
    _remove_tiny(stage)
    stage.kill("nameserver")
    taken = [_first_inference_s(stage) for _ in range(STARTS)]
    found = round(statistics.median(taken), 3)
    yield Measurement(
        benchmark="footprint",
        case="process start to first inference, offline",
        ours=found,
        limit=FIRST_INFERENCE_S_MAX,
        ratio=round(found / FIRST_INFERENCE_S_MAX, 3),
        unit="s",
        conditions=f"median of {STARTS}, {min(taken):.3f} to {max(taken):.3f}; killed with -9 before each; Unix socket",
    )


def _federation(stage: Stage) -> None:
    stage.start("nameserver", *NAMESERVER)
    admin = str(stage.home("nameserver-admin"))
    for name, role in (("edge", ()), ("publisher", ("--role", "operator", "--publisher"))):
        bundle = str(stage.folder / f"{name}.bundle")
        stage.command("register", name, *role, "--home", admin, "--out", bundle)
        stage.command("join", bundle, "--home", str(stage.home(name)))
    root = str(stage.home("nameserver-root"))
    stage.command("keys", "endorse", "publisher", "--root-home", root, "--home", admin)
    stage.start("edge", *EDGE)


def _deploy(stage: Stage) -> None:
    shutil.copytree(stage.examples / "digits" / "2.0", stage.home("publisher") / "models" / "digits")
    with connect(stage.home("publisher")) as publisher:
        publisher.value('models:create_release("digits", "2.0")')
        publisher.value('models:publish("digits", "2.0")')
        publisher.value('edge:set_group_models("all", [{"name": "digits", "version": "2.0"}])')
    _await_loaded(stage, ["digits@2.0"], within_s=CONVERGE_S_MAX)


def _deploy_tiny(stage: Stage) -> None:
    names = write_tiny(stage.home("publisher") / "models")
    with connect(stage.home("publisher")) as publisher:
        for name in names:
            publisher.value(f'models:create_release("{name}", "1.0", {{"test": false}})')
            publisher.value(f'models:publish("{name}", "1.0")')
        models = [{"name": name, "version": "1.0"} for name in names]
        publisher.value('edge:set_group_models("all", :models)', params={"models": models})
    _await_loaded(stage, [f"{name}@1.0" for name in names], within_s=HUNDRED_S_MAX)


def write_tiny(models: Path) -> list[str]:
    """The classifier of digits 1.0 under as many names, each in a file that differs from the others' in its text."""
    import onnx

    source = EXAMPLES / "digits" / "1.0"
    names = [_tiny(number) for number in range(TINY)]
    for name in names:
        folder = models / name
        folder.mkdir()
        shutil.copy(source / "vectors.json", folder)
        graph = onnx.load(source / "model.onnx")
        graph.doc_string = name
        onnx.save(graph, folder / "model.onnx")
        (folder / "model.toml").write_text(TINY_TOML.format(name=name), "utf-8")
    return names


def _remove_tiny(stage: Stage) -> None:
    names = [_tiny(number) for number in range(TINY)]
    with connect(stage.home("publisher")) as publisher:
        publisher.value('edge:remove_group_models("all", :names)', params={"names": names})
    ends = time.monotonic() + CONVERGE_S_MAX
    with connect(stage.home("edge")) as edge:
        while edge.value("models:loaded()") != ["digits@2.0"]:
            if time.monotonic() > ends:
                raise TimeoutError(f"the edge did not unload the tiny models within {CONVERGE_S_MAX:.0f} s")
            time.sleep(LOOK_EVERY_S)


def _tiny(number: int) -> str:
    return f"tiny-{number:03}"


def _await_loaded(stage: Stage, labels: list[str], *, within_s: float) -> None:
    ends = time.monotonic() + within_s
    with connect(stage.home("edge")) as edge:
        while not set(labels) <= set(edge.value("models:loaded()")):
            if time.monotonic() > ends:
                raise TimeoutError(f"the edge did not load {labels[0]} and its like within {within_s:.0f} s")
            time.sleep(LOOK_EVERY_S)


def _memory(stage: Stage, case: str, goal: float) -> Measurement:
    found = memory_mib(stage.pid("edge"))
    return Measurement(
        benchmark="footprint",
        case=case,
        ours=found,
        limit=goal,
        ratio=round(found / goal, 3),
        unit="MiB PSS",
        conditions=f"median of {LOOKS} looks, {LOOK_EVERY_S} s apart; INTERACTIVE, with its uplink",
    )


def memory_mib(pid: int) -> float:
    """The proportional set size of a process, the median of a few looks."""
    process = psutil.Process(pid)
    sizes = []
    for _ in range(LOOKS):
        time.sleep(LOOK_EVERY_S)
        sizes.append(process.memory_full_info().pss / MIB)
    return round(statistics.median(sizes), 1)


def _idle(stage: Stage) -> Measurement:
    process = psutil.Process(stage.pid("edge"))
    before = process.cpu_times()
    time.sleep(IDLE_S)
    after = process.cpu_times()
    taken_s = after.user + after.system - before.user - before.system
    found = round(100 * taken_s / IDLE_S, 2)
    return Measurement(
        benchmark="footprint",
        case="idle processor time of an edge with digits 2.0",
        ours=found,
        limit=IDLE_PERCENT_MAX,
        ratio=round(found / IDLE_PERCENT_MAX, 3),
        unit="%",
        conditions=f"of one processor, over {IDLE_S:.0f} s; INTERACTIVE, polling every second",
    )


def _first_inference_s(stage: Stage) -> float:
    stage.kill("edge")
    began = time.perf_counter()
    stage.start("edge", *EDGE)
    with connect(stage.home("edge")) as edge:
        edge.value(QUESTION, params=_image())
    return time.perf_counter() - began


def _image() -> dict[str, Any]:
    return {"image": np.zeros((1, 64), dtype=np.float32)}
