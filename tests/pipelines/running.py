"""Pipelines in an engine, without trials: the verdicts are given, as after a restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from engine.engine import Engine, Verdict
from engine.pipelines import LoadedPipeline
from federation.documents import TensorSpec
from federation.names import digest_of
from federation.packing import PackedRelease
from federation.pipeline_schemas import check_schemas
from federation.pipelines import Deployment, PipelineDefinition, Step, Validation
from federation.verification import VerifiedRelease, verify
from tests.models.making import graph_of, packed, spec
from tests.pipelines.defining import packed_pipeline, root_of, whole_files

PLAIN = Deployment()


def affine(factor: float, offset: float = 0.0, *, name: str, version: str = "1.0", output: str = "y") -> PackedRelease:
    """x[-1,4] → y[-1] = factor * sum(x) + offset."""
    weight = numpy_helper.from_array(np.full((4, 1), factor, np.float32), "w")
    bias = numpy_helper.from_array(np.array([offset], np.float32), "b")
    shape = numpy_helper.from_array(np.array([-1], np.int64), "flat")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["s"]),
        helper.make_node("Reshape", ["s", "flat"], [output]),
    ]
    inputs, outputs = (spec("x", "FP32", -1, 4),), (spec(output, "FP32", -1),)
    graph = graph_of(nodes, inputs, outputs, initializers=[weight, bias, shape]).SerializeToString()
    return packed(graph, name=name, version=version, inputs=inputs, outputs=outputs)


def pipeline_release(
    models: Sequence[PackedRelease],
    steps: Sequence[Step],
    *,
    name: str = "pipe",
    validations: Sequence[Validation] = (),
    deployment: Deployment = PLAIN,
) -> VerifiedRelease:
    defined = PipelineDefinition(name=name, steps=tuple(steps), validations=tuple(validations), deployment=deployment)
    signature = check_schemas(defined, {digest_of(model.signed.payload): model.record for model in models})
    made = packed_pipeline(defined, models=models, inputs=signature.inputs, outputs=signature.outputs)
    return verify(made.signed, root=root_of(), manifest=made.manifest, files=whole_files(made, models))


async def put_pipeline(
    engine: Engine, models: Sequence[PackedRelease], steps: Sequence[Step], **about: Any
) -> LoadedPipeline:
    release = pipeline_release(models, steps, **about)
    return await put(engine, release)


async def put(engine: Engine, release: VerifiedRelease) -> LoadedPipeline:
    members = tuple(
        Verdict(record=member.record_digest, runtime=engine.runtime_version, peak_bytes=1) for member in release.members
    )
    verdict = Verdict(record=release.record_digest, runtime=engine.runtime_version, peak_bytes=1, members=members)
    found = await engine.load(release, origin="group", verdict=verdict)
    assert isinstance(found, LoadedPipeline)
    return found


def rows_of(*sums: float) -> np.ndarray[Any, Any]:
    """x: rows of four equal numbers with these sums."""
    return np.array([[total / 4] * 4 for total in sums], np.float32)


def fields(**columns: Any) -> dict[str, Any]:
    return columns


def tensor(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name, datatype, shape)
