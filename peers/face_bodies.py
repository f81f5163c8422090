"""What the application face answers, as structures: the schemas of the OpenAPI document are made from these.

Owns the form of answers that are written by hand elsewhere, for speed or as another protocol wants them; tests hold the
real answers to them. What is read from clients is described by the structures that read it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from engine.servables import IndexState

Sha256 = Annotated[str, Meta(description="hex digest of the ONNX file; empty where there is none")]
Scalar = str | int | float | bool


class FaceError(Struct):
    """Every error but those below `/v1`: `error` says what was expected and found, `code` is its stable name, `hint`
    the next step.
    """

    error: str
    code: str | UnsetType = UNSET
    hint: str | UnsetType = UNSET


class ErrorDetail(Struct):
    code: str
    message: str
    hint: str | UnsetType = UNSET
    span: dict[str, int] | UnsetType = UNSET
    peer: str | UnsetType = UNSET


class ErrorOfV1(Struct):
    """An error below `/v1`."""

    error: ErrorDetail


# --- the Open Inference Protocol -------------------------------------------------------------------------------------


class Live(Struct):
    live: bool


class Ready(Struct):
    """`reason` where it is not ready."""

    ready: bool
    name: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class ServerMetadata(Struct):
    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(Struct):
    """`shape`: -1 for a dimension that varies."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(Struct):
    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ModelReady(Struct):
    name: str
    ready: bool
    reason: str | UnsetType = UNSET


class ConfiguredTensor(Struct):
    name: str
    data_type: str
    dims: tuple[int, ...]


class ConfiguredText(Struct):
    string_value: str


class ModelConfiguration(Struct):
    name: str
    platform: str
    max_batch_size: int
    input: tuple[ConfiguredTensor, ...]
    output: tuple[ConfiguredTensor, ...]
    parameters: dict[str, ConfiguredText] = {}


class CountedNs(Struct):
    count: int
    ns: int


class InferenceStatistics(Struct):
    success: CountedNs
    fail: CountedNs
    queue: CountedNs
    compute_input: CountedNs
    compute_infer: CountedNs
    compute_output: CountedNs


class BatchStatistics(Struct):
    batch_size: int
    compute_input: CountedNs | UnsetType = UNSET
    compute_infer: CountedNs | UnsetType = UNSET
    compute_output: CountedNs | UnsetType = UNSET


class ModelStatisticsEntry(Struct):
    """`last_inference`: ms since the epoch. `inference_count`: rows. `execution_count`: runs."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: tuple[BatchStatistics, ...]


class ModelStatisticsList(Struct):
    model_stats: tuple[ModelStatisticsEntry, ...]


class AnsweredTensor(Struct):
    """`data` is flat and row-major, and absent where the tensor is binary."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, Scalar] | UnsetType = UNSET
    data: tuple[Any, ...] | UnsetType = UNSET


class InferenceAnswer(Struct):
    model_name: str
    model_version: str
    outputs: tuple[AnsweredTensor, ...]
    id: str | UnsetType = UNSET
    parameters: dict[str, Scalar] | UnsetType = UNSET


class RepositoryEntry(Struct):
    name: str
    version: str | UnsetType = UNSET
    state: IndexState | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class IndexRequest(Struct):
    """`ready`: only what is ready."""

    ready: bool | UnsetType = UNSET


class LoadRequest(Struct):
    """No parameter is taken: only a verified release can be loaded."""

    parameters: dict[str, Any] | UnsetType = UNSET


class Nothing(Struct):
    """An empty object."""


# --- the pipeline server ---------------------------------------------------------------------------------------------


class PipelineEntry(Struct):
    """`version` is the UUID of the pipeline's version."""

    id: str
    version: str
    status: Literal["Running", "Error"]


class PipelineList(Struct):
    pipelines: tuple[PipelineEntry, ...]


class ModelEntry(Struct):
    """A model in memory, alone or in a pipeline. `model_version_id` is the digest of its release record."""

    name: str
    version: str
    sha: Sha256
    status: Literal["Running"]
    model_version_id: str


class ModelList(Struct):
    models: tuple[ModelEntry, ...]


class Metadata(Struct):
    """`last_model`: a JSON text with `model_name` and `model_sha`. `elapsed`: ns, of reading and of each step."""

    last_model: str | UnsetType = UNSET
    pipeline_version: str | UnsetType = UNSET
    elapsed: tuple[int, ...] | UnsetType = UNSET
    dropped: tuple[str, ...] | UnsetType = UNSET
    partition: str | UnsetType = UNSET


class InferenceRow(Struct, rename={"inputs": "in"}):
    """One row of an answer; `out_NAME` beside `out` for each challenger. `time`: ms since the epoch on this device.
    What was not asked for is absent. Not-a-number and infinities are the texts "NaN", "Infinity" and "-Infinity".
    """

    time: int | UnsetType = UNSET
    inputs: dict[str, Any] | UnsetType = UNSET
    out: dict[str, Any] | UnsetType = UNSET
    anomaly: dict[str, int | bool] | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET


class LogsRequest(Struct, frozen=True):
    """`cursor` of the page before; `pipeline`: of it alone; `start` and `end` in ms since the epoch, `end` excluded."""

    cursor: Annotated[str, Meta(max_length=100)] | None = None
    limit: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    pipeline: Annotated[str, Meta(max_length=100)] | None = None
    start: int | None = None
    end: int | None = None
    newest_first: bool = False


class RowIdentity(Struct):
    """A row for ever."""

    edge: str
    epoch: int
    sequence: int


class LoggedRow(InferenceRow, rename={"inputs": "in"}):
    """A row of the log; `row` where it was asked for."""

    row: RowIdentity | UnsetType = UNSET


# --- this peer -------------------------------------------------------------------------------------------------------


class Health(Struct):
    """More members say more of this kind of peer."""

    live: bool
    uptime_s: float
    ready: bool | UnsetType = UNSET
    peer: str | UnsetType = UNSET
    kind: str | UnsetType = UNSET
