"""Hostile models are refused in a child process, each with its own class, and this process never grows."""

from __future__ import annotations

import asyncio
import gc
import random
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import psutil
import pytest
from onnx import TensorProto, helper

from engine import errors
from engine.confinement import confined
from engine.engine import Engine, EngineSettings, Verdict
from engine.trial import Task
from federation.documents import Needs, TensorSpec
from federation.names import Digest
from tests.models.making import (
    SCALING_VECTORS,
    X,
    Y,
    endless,
    gathering,
    graph_of,
    hungry_to_run,
    packed,
    release,
    scaling,
    spec,
    vectors_of,
)

MIB = 1024 * 1024
GROWTH_MAX = 24 * MIB  # of this process while a child meets a hostile model
SETTINGS = EngineSettings(memory_budget_bytes=256 * MIB, trial_cpu_s=20, trial_wall_s=40.0, run_s=1.0)
LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"

ONE_VECTOR = vectors_of(({"x": [1, 2, 3, 4]}, {"y": [[0, 0, 0, 0]]}))


def foreign() -> bytes:
    node = helper.make_node("FusedMatMul", ["x", "x"], ["y"], domain="com.microsoft")
    return graph_of([node], [X], [Y], opset={"": 17, "com.microsoft": 1}).SerializeToString()


def external() -> bytes:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    return graph_of([helper.make_node("Mul", ["x", "w"], ["y"])], [X], [Y], initializers=[tensor]).SerializeToString()


def relu(opset: int = 17, ir_version: int = 8, operator: str = "Relu") -> bytes:
    node = helper.make_node(operator, ["x"], ["y"])
    return graph_of([node], [X], [Y], opset={"": opset}, ir_version=ir_version).SerializeToString()


def light(name: str) -> tuple[bytes, list[TensorSpec], list[TensorSpec]]:
    """A published network whose large weights are made while it loads, with its signature."""
    path = LIGHT / f"light_{name}.onnx"
    model = onnx.load(path)

    def specs(infos: Any) -> list[TensorSpec]:
        return [spec(one.name, "FP32", *(size.dim_value for size in one.type.tensor_type.shape.dim)) for one in infos]

    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    return path.read_bytes(), specs(inputs), specs(model.graph.output)


def ort_format(tmp_path: Path) -> bytes:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(scaling(), options, providers=["CPUExecutionProvider"])
    return (tmp_path / "model.ort").read_bytes()


def resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


HOSTILE: dict[str, tuple[bytes, type[errors.ContentProblem | errors.PassingProblem], str, dict[str, Any]]] = {
    "empty": (b"", errors.NotOnnx, "found an empty file", {}),
    "truncated": (scaling()[:-20], errors.NotOnnx, "expected an ONNX model, found", {}),
    "random": (random.Random(3).randbytes(5000), errors.NotOnnx, "expected", {}),
    "foreign domain": (foreign(), errors.ForeignOperators, "found com.microsoft:FusedMatMul", {}),
    "external data": (external(), errors.ExternalData, "a tensor that names external data", {}),
    "opset 99": (relu(99), errors.UnsupportedOpset, "found ai.onnx 99 in IR version 8: ONNX Runtime only", {}),
    "ir version 99": (
        relu(ir_version=99),
        errors.UnsupportedOpset,
        "found ai.onnx 17 in IR version 99: Unsupported model IR version: 99",
        {},
    ),
    "unknown operator": (relu(operator="Frobnicate"), errors.RefusedByRuntime, "Frobnicate", {}),
    "other input": (
        scaling(),
        errors.WrongSignature,
        'the signed record says inputs "x" FP32[-1,5], the model has "x" FP32[-1,4]',
        {"inputs": [spec("x", "FP32", -1, 5)]},
    ),
    "other output": (
        scaling(),
        errors.WrongSignature,
        'the signed record says outputs "y" FP64[-1,4], the model has "y" FP32[-1,4]',
        {"outputs": [spec("y", "FP64", -1, 4)]},
    ),
    "failing vectors": (
        scaling(3.0),
        errors.FailedVectors,
        'scaling@1.0: test vector 1, output "y"[0, 0]: expected 2.0 within 0.0001, found 3.0; 4 of 4 elements differ',
        {"vectors": SCALING_VECTORS},
    ),
    "fails on its vectors": (
        gathering(),
        errors.RefusedByRuntime,
        "scaling@1.0: test vector 1: the model cannot take this input: ",
        {"vectors": SCALING_VECTORS, "outputs": [spec("y", "FP32", 1, 4)]},
    ),
    "garbage vectors": (scaling(), errors.BadVectors, "test vectors: ", {"vectors": b"\x00"}),
    "garbage labels": (scaling(), errors.BadLabels, "expected a JSON list of texts", {"labels": b"[1]"}),
    "endless": (endless(), errors.OverTime, "took longer than allowed and was ended", {"vectors": ONE_VECTOR}),
    "endless without vectors": (endless(), errors.OverTime, "took longer than allowed and was ended", {}),
    "hungry to run": (hungry_to_run(), errors.OverMemory, "more memory than there is", {"vectors": ONE_VECTOR}),
    "needs more than there is": (
        scaling(),
        errors.OverMemory,
        "scaling@1.0 needs 1000000000 bytes of memory and 0 are in use, of a budget of 268435456",
        {"needs": Needs(memory_bytes=1_000_000_000)},
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_a_hostile_model_is_refused_with_its_own_class(case: str) -> None:
    model, kind, message, about = HOSTILE[case]
    engine = Engine(SETTINGS)
    candidate = release(model, **about)
    before = resident()
    verdict = await engine.trial(candidate)
    assert verdict.error is not None
    assert (verdict.error.code, verdict.error.message) == (kind.code, verdict.error.message)
    assert message in verdict.error.message
    assert verdict.passing == issubclass(kind, errors.PassingProblem)
    with pytest.raises(kind):
        await engine.load(candidate, origin="group", verdict=None if verdict.passing else verdict)
    assert engine.loaded() == ()
    assert resident() - before < GROWTH_MAX


async def test_ort_format_is_refused(tmp_path: Path) -> None:
    verdict = await Engine(SETTINGS).trial(release(ort_format(tmp_path)))
    assert verdict.error is not None
    assert verdict.error.code == errors.OrtFormat.code


async def test_a_model_that_is_hungry_to_load_is_refused_though_its_file_is_small() -> None:
    model, inputs, outputs = light("vgg19")
    assert len(model) < 10_000
    before = resident()
    settings = EngineSettings(memory_budget_bytes=128 * MIB)
    verdict = await Engine(settings).trial(release(model, name="vgg", inputs=inputs, outputs=outputs))
    assert verdict.error is not None
    assert (verdict.error.code, verdict.passing) == ("over_memory", True)
    assert resident() - before < GROWTH_MAX


async def test_an_accepted_model_is_measured() -> None:
    verdict = await Engine(SETTINGS).trial(release(scaling(), vectors=SCALING_VECTORS))
    assert (verdict.error, verdict.vectors) == (None, 1)
    assert 0 < verdict.peak_bytes < 64 * MIB
    assert verdict.load_ms > 0
    assert verdict.p99_us > 0
    assert verdict.runtime == f"onnxruntime {onnxruntime.__version__}, peerage {metadata.version('peerage')}"


async def test_processor_time_is_limited() -> None:
    made = packed(endless(), vectors=ONE_VECTOR)
    task = Task(
        record=made.record,
        model_size=len(endless()),
        vector_sizes=(len(ONE_VECTOR),),
        memory_bytes=256 * MIB,
        cpu_s=2,
        run_s=60.0,
    )
    answer = await confined(task, endless(), [ONE_VECTOR], wall_s=40.0)
    assert answer.error is not None
    assert answer.error.message == "the model needs more than 2 s of processor time"
    answer = await confined(task, endless(), [ONE_VECTOR], wall_s=0.5)
    assert answer.error is not None
    assert answer.error.message == "the trial took longer than 0.5 s and was ended"


async def test_a_cancelled_trial_leaves_no_child() -> None:
    children = psutil.Process().children
    trial = asyncio.create_task(Engine(SETTINGS).trial(release(endless(), vectors=ONE_VECTOR)))
    while not children():  # noqa: ASYNC110 — the child's start tells nobody
        await asyncio.sleep(0)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert not [child for child in children() if child.status() != psutil.STATUS_ZOMBIE]


def test_a_verdict_on_content_holds_for_its_record_and_runtime_and_one_that_may_pass_for_none() -> None:
    one, other = Digest("sha256:" + "1" * 64), Digest("sha256:" + "2" * 64)
    content = Verdict(record=one, runtime="r 1", error=errors.NotOnnx("x").record())
    assert content.holds_for(one, "r 1")
    assert not content.holds_for(other, "r 1")
    assert not content.holds_for(one, "r 2")
    passing = Verdict(record=one, runtime="r 1", error=errors.OverTime("x").record(), passing=True)
    assert not passing.holds_for(one, "r 1")
    assert isinstance(passing.problem(), errors.OverTime)


async def test_a_graph_is_described_in_a_child_too() -> None:
    engine = Engine(SETTINGS)
    description = await engine.describe(scaling())
    assert (description.inputs, description.outputs, description.opset) == ((X,), (Y,), {"ai.onnx": 17})
    with pytest.raises(errors.ForeignOperators):
        await engine.describe(foreign())


async def test_models_of_other_makers_are_described() -> None:
    folder = Path(onnxruntime.__file__).parent / "datasets"
    engine = Engine(SETTINGS)
    description = await engine.describe((folder / "sigmoid.onnx").read_bytes())
    assert description.inputs == (spec("x", "FP32", 3, 4, 5),)
    description = await engine.describe((folder / "logreg_iris.onnx").read_bytes())
    assert description.outputs == (spec("label", "INT64", 3), spec("probabilities", "RECORD", -1))
