"""Models that others made and measured: loaded as any release, with vectors taken from what their makers say."""

from __future__ import annotations

import json
from importlib import resources, util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from engine.engine import Engine
from engine.errors import FailedVectors
from engine.vectors import tensor_value
from federation.folders import read_folder
from tests.models.making import release, spec

ROOT = Path(__file__).parents[2]
DATASETS = Path(onnxruntime.__file__).parent / "datasets"


async def test_the_runtimes_own_sigmoid() -> None:
    engine = Engine()
    given = np.linspace(-2, 2, 60, dtype=np.float32).reshape(3, 4, 5)
    vector = {"input": {"x": tensor_value(given)}, "output": {"y": tensor_value(1 / (1 + np.exp(-given)))}}
    shape = spec("x", "FP32", 3, 4, 5)
    model = await engine.load(
        release(
            (DATASETS / "sigmoid.onnx").read_bytes(),
            name="sigmoid",
            inputs=[shape],
            outputs=[spec("y", "FP32", 3, 4, 5)],
            vectors=json.dumps([vector]).encode(),
        ),
        origin="manual",
    )
    assert model.require_vectors() == 1


@pytest.mark.skipif(util.find_spec("magika") is None, reason="magika comes with the demo extra")
async def test_magika_names_no_bytes_of_ours_differently_in_a_batch() -> None:
    folder = resources.files("magika").joinpath("models/standard_v3_3")
    graph = folder.joinpath("model.onnx").read_bytes()
    engine = Engine()
    described = await engine.describe(graph)
    model = await engine.load(
        release(graph, name="magika", inputs=described.inputs, outputs=described.outputs), origin="manual"
    )
    (given,) = described.inputs
    rows = np.random.default_rng(5).integers(0, 257, (3, *given.shape[1:]))
    batch = await engine.infer("magika", rows.astype(np.int32))
    (output,) = batch.values()
    one: dict[str, Any] = await engine.infer("magika", rows[1].tolist())
    assert np.allclose(next(iter(one.values()))[0], output[1], atol=1e-5)
    assert model.expected_us({given.name: rows[:1]}) > engine.settings.inline_us, "it runs beside the event loop"
    engine.close()


async def test_the_broken_digits_of_the_examples_are_refused() -> None:
    folder = read_folder(ROOT / "examples/digits/3.0-broken")
    assert folder.weight is not None
    candidate = release(
        folder.weight,
        name="digits",
        version="3.0",
        inputs=folder.description.inputs,
        outputs=folder.description.outputs,
        vectors=folder.files["vectors.json"].content,
    )
    verdict = await Engine().trial(candidate)
    assert isinstance(verdict.problem(), FailedVectors)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
async def test_the_digits_of_the_examples_load_with_their_vectors(version: str) -> None:
    folder = read_folder(ROOT / "examples/digits" / version)
    assert folder.weight is not None
    described = await Engine().describe(folder.weight)
    assert (described.inputs, described.outputs) == (folder.description.inputs, folder.description.outputs)
    engine = Engine()
    model = await engine.load(
        release(
            folder.weight,
            name="digits",
            inputs=described.inputs,
            outputs=described.outputs,
            vectors=folder.files["vectors.json"].content,
        ),
        origin="group",
    )
    assert model.require_vectors() > 0
