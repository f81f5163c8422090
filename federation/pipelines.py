"""What a pipeline is: an ordered list of steps over releases of models, as the document that a release carries.

Owns the definition, its bounds and its version. Pure. Knows nothing of running: :mod:`engine.pipelines` does that.

A version is immutable and is a UUID of version 5 (RFC 9562) over the canonical bytes of everything that changes what
the pipeline answers or what it takes: the same edit made twice is the same version, and going back to an earlier list
of steps is going back to its version.

A pipeline version that is deployed is a release of kind ``pipeline``, whose files are

    pipeline.json                          this module's :class:`PipelineDefinition`
    models/<name>/<version>/release.json   the signed record of each model that a step names, as its publisher signed it
    models/<name>/<version>/manifest.json  the OCI manifest that the record names
    models/<name>/<version>/files/<path>   the model's files, the same blobs as in the model's own release

so that a pipeline is one thing to sign, move, load, swap and take back, two versions of one model can stand side by
side in it, and every model in it is still under its own publisher's signature.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import Meta, Struct

from federation.names import BadName, Digest, checked_digest, checked_model, checked_version
from query.errors import UserProblem

DEFINITION_FILE: Final = "pipeline.json"
STEPS_MAX: Final = 32
CHOICES_MAX: Final = 16  # models in one split or shadow
VALIDATIONS_MAX: Final = 64
TEXT_LENGTH_MAX: Final = 4096  # of one PQL text in a definition
VERSION_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://peerage.dev/pipeline")

RESERVED_VALIDATIONS: Final = frozenset({"count"})  # stands beside them in ``anomaly``


class BadPipeline(UserProblem):
    """A definition that no pipeline can have; the message names the step or the validation."""

    code = "bad_pipeline"


Text = Annotated[str, Meta(min_length=1, max_length=TEXT_LENGTH_MAX)]
FIELD_NAME: Final = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
FieldName = Annotated[str, Meta(pattern=FIELD_NAME)]


class ModelRef(Struct, frozen=True, forbid_unknown_fields=True):
    """A release of a model; ``record`` is the digest of the payload of its release record, which decides."""

    name: str
    version: str
    record: Digest

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class ModelStep(Struct, frozen=True, forbid_unknown_fields=True, tag="model", tag_field="step"):
    model: ModelRef

    @property
    def models(self) -> tuple[ModelRef, ...]:
        return (self.model,)


class PqlStep(Struct, frozen=True, forbid_unknown_fields=True, tag="pql", tag_field="step"):
    """``text``: a PQL expression over the fields of one record, giving the record that the next step gets."""

    text: Text

    @property
    def models(self) -> tuple[ModelRef, ...]:
        return ()


class Weighted(Struct, frozen=True, forbid_unknown_fields=True):
    weight: Annotated[float, Meta(ge=0)]
    model: ModelRef


class RandomSplit(Struct, frozen=True, forbid_unknown_fields=True, tag="random_split", tag_field="step"):
    """One of the models for each request, in proportion to the weights; with ``hash_key``, a field of the record, the
    same one for the same value, row by row.
    """

    choices: Annotated[tuple[Weighted, ...], Meta(min_length=1, max_length=CHOICES_MAX)]
    hash_key: str | None = None

    @property
    def models(self) -> tuple[ModelRef, ...]:
        return tuple(choice.model for choice in self.choices)


class KeySplit(Struct, frozen=True, forbid_unknown_fields=True, tag="key_split", tag_field="step"):
    """The model that the value of field ``key`` names, row by row; ``default`` for every other value."""

    default: ModelRef
    key: str
    choices: Annotated[dict[str, ModelRef], Meta(max_length=CHOICES_MAX)]

    @property
    def models(self) -> tuple[ModelRef, ...]:
        """The default, and the choices in the order of their values, which no reading or writing changes."""
        return (self.default, *(self.choices[value] for value in sorted(self.choices)))


class Shadow(Struct, frozen=True, forbid_unknown_fields=True, tag="shadow", tag_field="step"):
    """Every row to every model: the champion's outputs feed on, the challengers' are shown and recorded."""

    champion: ModelRef
    challengers: Annotated[tuple[ModelRef, ...], Meta(min_length=1, max_length=CHOICES_MAX)]

    @property
    def models(self) -> tuple[ModelRef, ...]:
        return (self.champion, *self.challengers)


Step: TypeAlias = ModelStep | PqlStep | RandomSplit | KeySplit | Shadow


class Validation(Struct, frozen=True, forbid_unknown_fields=True):
    """``condition``: a PQL expression over ``in``, ``out`` and ``out_<challenger>``; true means anomaly."""

    name: FieldName
    condition: Text


class BatchSettings(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Whether requests that wait are run together. ``enabled`` None: where warm-up measured a gain."""

    enabled: bool | None = None
    rows_max: Annotated[int, Meta(ge=1, le=4096)] = 64


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What of each inference is recorded: the share of its rows, and groups or ``group.column``, empty for all."""

    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0
    columns: Annotated[tuple[str, ...], Meta(max_length=64)] = ()


class Deployment(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a pipeline may take of the peer that runs it.

    ``cpus``: threads that run it, fractions rounded up. ``memory_bytes``: of all its models together; with replicas, of
    each replica's process. ``replicas``: processes of its own that run its models; 0: this peer's process does.
    """

    cpus: Annotated[float, Meta(gt=0, le=1024)] | None = None
    memory_bytes: Annotated[int, Meta(ge=1)] | None = None
    replicas: Annotated[int, Meta(ge=0, le=64)] = 0
    batch: BatchSettings = BatchSettings()
    log: LogSettings = LogSettings()


class PipelineDefinition(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The content of ``pipeline.json``. See :func:`version_of` for its name."""

    name: str
    steps: Annotated[tuple[Step, ...], Meta(max_length=STEPS_MAX)] = ()
    validations: Annotated[tuple[Validation, ...], Meta(max_length=VALIDATIONS_MAX)] = ()
    deployment: Deployment = Deployment()

    def models(self) -> Iterator[ModelRef]:
        """Each release that a step names, once, in the order in which it is first named."""
        seen: set[Digest] = set()
        for step in self.steps:
            for model in step.models:
                if model.record not in seen:
                    seen.add(model.record)
                    yield model


msgspec.json.Decoder(PipelineDefinition)  # at its first use, which threads must not share


def check_definition(definition: PipelineDefinition) -> None:
    """What the types of a definition do not say. Raises :class:`BadPipeline`."""
    records: dict[str, Digest] = {}
    labels: dict[Digest, str] = {}
    try:
        checked_model(definition.name)
        for model in (model for step in definition.steps for model in step.models):
            checked_model(model.name)
            checked_version(model.version)
            checked_digest(model.record)
            same = records.setdefault(model.label, model.record) == model.record
            if not same or labels.setdefault(model.record, model.label) != model.label:
                raise BadPipeline(f'pipeline "{definition.name}": {model.label} is named by two different records')
    except BadName as problem:
        raise BadPipeline(f'pipeline "{definition.name[:80]}": {problem.message}') from problem
    for number, step in enumerate(definition.steps, start=1):
        where = f'step {number} of pipeline "{definition.name}"'
        match step:
            case RandomSplit(choices=choices):
                check_weights([choice.weight for choice in choices], where)
                _check_distinct([choice.model for choice in choices], where)
            case Shadow(champion=champion, challengers=challengers):
                _check_distinct([champion, *challengers], where)
                names = [model.name for model in challengers]
                if len(set(names)) != len(names):
                    raise BadPipeline(f"{where}: challengers are told apart by name, found {', '.join(names)}")
            case _:
                pass
    names = [validation.name for validation in definition.validations]
    for name in names:
        if name in RESERVED_VALIDATIONS or names.count(name) > 1:
            what = "is reserved" if name in RESERVED_VALIDATIONS else "stands twice"
            raise BadPipeline(f'validation "{name}" of pipeline "{definition.name}" {what}: expected another name')


def check_weights(weights: list[float], where: str) -> None:
    """Raises :class:`BadPipeline` for weights that no choice can be drawn by."""
    for weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise BadPipeline(f"{where}: expected weights of 0 or more, found {weight}")
    if not 0 < sum(weights) < math.inf:
        raise BadPipeline(f"{where}: expected weights that sum to more than 0, found {sum(weights)}")


def _check_distinct(models: list[ModelRef], where: str) -> None:
    labels = [model.label for model in models]
    for label in labels:
        if labels.count(label) > 1:
            raise BadPipeline(f"{where}: {label} stands twice, expected different models")


def encode_definition(definition: PipelineDefinition) -> bytes:
    """The canonical bytes: the same definition gives the same ones, also where a whole number stands for a real, or
    what goes without saying was said.
    """
    read = msgspec.json.decode(msgspec.json.encode(definition), type=PipelineDefinition)
    told = msgspec.to_builtins(read) | {"deployment": _said(read.deployment)}
    return msgspec.json.encode({key: value for key, value in told.items() if value}, order="deterministic")


def _said(settings: Deployment | BatchSettings | LogSettings) -> dict[str, Any]:
    """What differs from the defaults; msgspec leaves out what *is* the default, not what equals it."""
    fresh = type(settings)()
    values = {name: getattr(settings, name) for name in settings.__struct_fields__}
    return {
        name: _said(value) if isinstance(value, BatchSettings | LogSettings) else value
        for name, value in values.items()
        if value != getattr(fresh, name)
    }


def version_of(definition: PipelineDefinition) -> str:
    """The UUID of this version of the pipeline."""
    return str(uuid.uuid5(VERSION_NAMESPACE, encode_definition(definition).decode()))


def member_folder(model: ModelRef) -> str:
    """Where a model's files lie in the release of a pipeline."""
    return f"models/{model.name}/{model.version}"
