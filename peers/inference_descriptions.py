"""What the inference API says of what is loaded: metadata, configuration, statistics, the repository's index.

Owns these answers of the Open Inference Protocol and its extensions, as the structures of :mod:`peers.face_bodies`.
Pure.

Rules: ``versions`` are those that can be asked for now, of which there is one: the version that the desired state, or a
person, made active. A dimension that varies is -1. ``max_batch_size`` is 0 and ``dims`` are whole: a first dimension
that varies is the model's own. ``parameters`` say on which execution providers it runs. A model that was never loaded
is in the index by its name alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from msgspec import UNSET

from engine.oip_messages import told_datatype
from engine.servables import IndexEntry, Servable
from engine.statistics import Counted, ModelStatistics
from federation.documents import TensorSpec
from peers.face_bodies import (
    BatchStatistics,
    ConfiguredTensor,
    ConfiguredText,
    CountedNs,
    InferenceStatistics,
    ModelConfiguration,
    ModelMetadata,
    ModelStatisticsEntry,
    RepositoryEntry,
    ServerMetadata,
    TensorMetadata,
)

PLATFORM: Final = "onnx_onnxv1"
EXTENSIONS: Final = ("binary_tensor_data", "model_repository", "model_configuration", "statistics")


def server_metadata(version: str) -> ServerMetadata:
    return ServerMetadata(name="peerage", version=version, extensions=EXTENSIONS)


def model_metadata(servable: Servable) -> ModelMetadata:
    return ModelMetadata(
        name=servable.name,
        versions=(servable.version,),
        platform=_platform(servable),
        inputs=_tensors(servable.record.inputs),
        outputs=_tensors(servable.record.outputs),
    )


def model_configuration(servable: Servable) -> ModelConfiguration:
    return ModelConfiguration(
        name=servable.name,
        platform=_platform(servable),
        max_batch_size=0,
        input=_configured(servable.record.inputs),
        output=_configured(servable.record.outputs),
        parameters={"execution_providers": ConfiguredText(", ".join(servable.providers))},
    )


def statistics_entry(found: ModelStatistics) -> ModelStatisticsEntry:
    return ModelStatisticsEntry(
        name=found.name,
        version=found.version,
        last_inference=found.last_inference_ms,
        inference_count=found.inference_count,
        execution_count=found.execution_count,
        inference_stats=InferenceStatistics(
            success=_counted(found.success),
            fail=_counted(found.fail),
            queue=_counted(found.queue),
            compute_input=_counted(found.compute_input),
            compute_infer=_counted(found.compute_infer),
            compute_output=_counted(found.compute_output),
        ),
        batch_stats=tuple(
            BatchStatistics(batch_size=rows, compute_infer=_counted(counted)) for rows, counted in found.batches.items()
        ),
    )


def repository_index(
    entries: Iterable[IndexEntry], installed: Collection[str], *, ready_only: bool
) -> list[RepositoryEntry]:
    """``installed``: names of the releases in this peer's repository, in memory or not."""
    told = [
        RepositoryEntry(name=one.name, version=one.version, state=one.state, reason=one.reason or UNSET)
        for one in entries
        if one.state == "READY" or not ready_only
    ]
    if not ready_only:
        known = {one.name for one in told}
        told.extend(RepositoryEntry(name=name) for name in sorted(set(installed) - known))
    return told


def _platform(servable: Servable) -> str:
    return "ensemble" if servable.record.kind == "pipeline" else PLATFORM


def _tensors(specs: Iterable[TensorSpec]) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(spec.name, told_datatype(spec.datatype), spec.shape) for spec in specs)


def _configured(specs: Iterable[TensorSpec]) -> tuple[ConfiguredTensor, ...]:
    return tuple(
        ConfiguredTensor(spec.name, f"TYPE_{_triton_type(told_datatype(spec.datatype))}", spec.shape) for spec in specs
    )


def _triton_type(datatype: str) -> str:
    """The configuration has a word of its own for texts."""
    return "STRING" if datatype == "BYTES" else datatype


def _counted(found: Counted) -> CountedNs:
    return CountedNs(found.count, found.ns)
