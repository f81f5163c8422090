"""Whether the steps of a pipeline fit each other, and what clients see of it. Pure.

Owns :func:`check_schemas`, which is asked when a version is made and by whoever packs one, and :func:`schema_of`, which
says it step by step for who runs the pipeline. Refuses with :class:`~federation.pipelines.BadPipeline`, naming the
step, the field, what was expected and what was found.

A record is columns: for each field an array whose first dimension counts rows. Rules:

- A model takes its inputs by name from the record that the step before gave, and leaves what it has no input for; its
  outputs are the next record. A field has the input's datatype and fits its shape. The first step says what clients
  send: the inputs of its models, and the field by which a split decides, a text if nothing else says what it is.
- How rows become runs follows from a model's shapes: ``batch``, all rows at once, when the first dimension of every
  input and output varies; ``single``, row by row, when it is 1 everywhere, or where an input without dimensions or, of
  a stateful model, without rows stands beside: each row has one of its own. Else ``whole``, row by row, each row all of
  an input, so that a column has a dimension more.
- The models of a split take what any of them takes and give the same outputs. A challenger may give others.
- A PQL step writes out the record that it makes. A field that it only hands on stays as it is; tensors keep their
  datatype; numbers that it makes take on that of the input for which they are, reals never that of integers. Of a
  first step the fields are what their use says (:mod:`query.row_inputs`).
- ``out._model_split``, of texts, says for each split of the pipeline which model answered.
- A condition names fields as ``in.f``, ``out.f`` and ``out_challenger.f``, where ``_`` stands for each character of
  the challenger's name that no name of the language has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from federation.documents import ReleaseRecord, TensorSpec
from federation.log_columns import check_log_columns
from federation.names import Digest
from federation.pipelines import (
    BadPipeline,
    KeySplit,
    ModelRef,
    PipelineDefinition,
    PqlStep,
    RandomSplit,
    Shadow,
    Step,
    check_definition,
)
from query.errors import Problem
from query.row_expressions import RowExpression, condition, record
from query.row_inputs import inputs_of
from query.row_types import Cells

MODEL_SPLIT: Final = "_model_split"
VARIABLE: Final = -1
KEY: Final = TensorSpec("", "BYTES", (VARIABLE,))

DTYPES: Final[Mapping[str, str]] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "str",
    "RECORD": "record",
}
_DATATYPES: Final = {dtype: datatype for datatype, dtype in DTYPES.items()}

Way = Literal["batch", "single", "whole"]


@dataclass(frozen=True, slots=True)
class PipelineSignature:
    """What clients send and get."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class RecordField:
    """A field of the record between two steps. ``loose``: of numbers that take on a datatype."""

    spec: TensorSpec
    loose: bool = False


@dataclass(frozen=True, slots=True)
class ModelSchema:
    """A model as a step uses it: ``inputs`` and ``outputs`` as columns of the record.

    ``entire``: those of them that have no dimension for rows in the model.
    """

    ref: ModelRef
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    way: Way
    entire: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StepSchema:
    """A step: its models in the order in which it names them, or the expressions of a PQL step.

    ``loose``: fields whose numbers are given the datatype of the input that they are for.
    """

    step: Step
    models: tuple[ModelSchema, ...] = ()
    expressions: Mapping[str, RowExpression] = field(default_factory=dict)
    loose: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PipelineSchema:
    signature: PipelineSignature
    steps: tuple[StepSchema, ...]
    validations: tuple[tuple[str, RowExpression], ...]


def check_schemas(definition: PipelineDefinition, records: Mapping[Digest, ReleaseRecord]) -> PipelineSignature:
    """What clients see of a pipeline. ``records``: of each model that it names. Raises :class:`BadPipeline`."""
    return schema_of(definition, records).signature


def schema_of(definition: PipelineDefinition, records: Mapping[Digest, ReleaseRecord]) -> PipelineSchema:
    """As :func:`check_schemas`, with each step and condition ready to run."""
    check_definition(definition)
    if not definition.steps:
        raise BadPipeline(f'pipeline "{definition.name}" has no steps: expected at least one')
    making = _Making(definition, records)
    for number in range(len(definition.steps)):
        making.take(number)
    return making.done()


def group_name(challenger: str) -> str:
    """The group of a challenger's outputs in conditions."""
    return "out_" + re.sub(r"[^A-Za-z0-9_]", "_", challenger)


def cells_of(specs: Iterable[TensorSpec]) -> dict[str, Cells]:
    """Columns as expressions know them."""
    return {spec.name: Cells(DTYPES[spec.datatype], spec.shape[1:]) for spec in specs}


def shown(spec: TensorSpec) -> str:
    return f"{spec.datatype}[{','.join(map(str, spec.shape))}]"


def model_schema(ref: ModelRef, signed: ReleaseRecord) -> ModelSchema:
    """A model's inputs and outputs as columns."""
    inputs, outputs = signed.inputs, signed.outputs
    if signed.states:
        entire = {spec.name for spec in (*inputs, *outputs) if spec.shape[:1] != (VARIABLE,)}
    else:
        entire = {spec.name for spec in inputs if not spec.shape}
    first = {spec.shape[0] if spec.shape else None for spec in (*inputs, *outputs) if spec.name not in entire}
    way: Way = "batch" if not entire and first == {VARIABLE} else "single"
    if first not in ({VARIABLE}, {1}) or all(spec.name in entire for spec in inputs):
        way, entire = "whole", {spec.name for spec in (*inputs, *outputs)}
    columns = [
        tuple(
            TensorSpec(spec.name, spec.datatype, (VARIABLE, *spec.shape[0 if spec.name in entire else 1 :]))
            for spec in specs
        )
        for specs in (inputs, outputs)
    ]
    return ModelSchema(ref, columns[0], columns[1], way, frozenset(entire))


class _Making:
    """The schemas of the steps so far, and the record after the last of them."""

    def __init__(self, definition: PipelineDefinition, records: Mapping[Digest, ReleaseRecord]) -> None:
        self.definition = definition
        self.records = records
        self.inputs: tuple[TensorSpec, ...] = ()
        self.fields: dict[str, RecordField] = {}
        self.steps: list[StepSchema] = []
        self.challengers: dict[str, tuple[TensorSpec, ...]] = {}
        self.splits = 0

    def take(self, number: int) -> None:
        step = self.definition.steps[number]
        if isinstance(step, PqlStep):
            self._expressions(number, step)
            return
        models = self._models(number)
        needed = _required(models, number)
        key = _key(step)
        if number == 0:
            if key is not None and key not in {spec.name for spec in needed}:
                needed = (*needed, TensorSpec(key, KEY.datatype, KEY.shape))
            self._start(needed)
        loose = set()
        for spec in needed:
            if self._matched(number, spec, models):
                loose.add(spec.name)
        if key is not None:
            self._check_key(number, key)
        self.steps.append(StepSchema(step, models, loose=frozenset(loose)))
        self._give(number, step, models)

    def done(self) -> PipelineSchema:
        outputs = tuple(one.spec for one in self.fields.values())
        if self.splits:
            if MODEL_SPLIT in self.fields:
                raise BadPipeline(f'{self._last()}: a pipeline with a split says its own "{MODEL_SPLIT}"')
            outputs += (TensorSpec(MODEL_SPLIT, "BYTES", (VARIABLE, self.splits)),)
        signature = PipelineSignature(self.inputs, outputs)
        groups = {"in": cells_of(self.inputs), "out": cells_of(outputs)}
        for name, specs in self.challengers.items():
            if group_name(name) in groups:
                raise BadPipeline(f'challenger "{name}": its outputs would be called as those of another')
            groups[group_name(name)] = cells_of(specs)
        validations = []
        for validation in self.definition.validations:
            try:
                validations.append((validation.name, condition(validation.condition, groups)))
            except Problem as problem:
                raise _told(f'validation "{validation.name}"', problem) from problem
        said = {f"out_{name}": [spec.name for spec in specs] for name, specs in self.challengers.items()}
        logged = {"in": [*groups["in"]], "out": [*groups["out"]], **said, "anomaly": ["count", *dict(validations)]}
        check_log_columns(self.definition.deployment.log.columns, logged)
        return PipelineSchema(signature, tuple(self.steps), tuple(validations))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _last(self) -> str:
        return _at(len(self.steps) - 1)

    def _start(self, specs: Sequence[TensorSpec]) -> None:
        self.inputs = tuple(specs)
        self.fields = {spec.name: RecordField(spec) for spec in specs}

    def _models(self, number: int) -> tuple[ModelSchema, ...]:
        found = []
        for ref in self.definition.steps[number].models:
            signed = self.records.get(ref.record)
            if signed is None:
                raise BadPipeline(f"{_at(number)}: expected the release {ref.label}, found none ({ref.record})")
            if signed.kind != "onnx":
                raise BadPipeline(f"{_at(number)}: expected a model with a graph, found {ref.label} of {signed.kind}")
            found.append(model_schema(ref, signed))
        return tuple(found)

    def _matched(self, number: int, wanted: TensorSpec, models: Sequence[ModelSchema]) -> bool:
        """Whether a field takes on the datatype of an input. Raises :class:`BadPipeline` when it cannot be it."""
        takers = ", ".join(one.ref.label for one in models if any(spec.name == wanted.name for spec in one.inputs))
        where = f'{_at(number)}: input "{wanted.name}" of {takers}: expected {shown(wanted)}'
        found = self.fields.get(wanted.name)
        if found is None:
            known = ", ".join(f'"{name}" {shown(one.spec)}' for name, one in self.fields.items()) or "nothing"
            hint = f'a PQL step before it may name fields anew: {{"{wanted.name}": expression}}'
            raise BadPipeline(f"{where}, found no such field among {known}", hint=hint)
        if _fits(found.spec, wanted):
            return False
        if found.loose and _takes_on(found.spec, wanted):
            return True
        rounded = None
        if found.loose and found.spec.datatype == "FP64" and "INT" in wanted.datatype:
            rounded = "round(…) and floor(…) make integers"
        raise BadPipeline(f"{where}, found {shown(found.spec)}", hint=rounded)

    def _check_key(self, number: int, key: str) -> None:
        found = self.fields.get(key)
        if found is None:
            known = ", ".join(f'"{name}"' for name in self.fields)
            raise BadPipeline(f'{_at(number)}: expected a field "{key}" to decide by, found {known}')
        if found.spec.datatype == "RECORD" or any(size not in (1, VARIABLE) for size in found.spec.shape[1:]):
            raise BadPipeline(f'{_at(number)}: field "{key}": expected a single value, found {shown(found.spec)}')

    def _give(self, number: int, step: Step, models: tuple[ModelSchema, ...]) -> None:
        if isinstance(step, RandomSplit | KeySplit):
            self.splits += 1
            outputs = _common_outputs(models, number)
        else:
            outputs = models[0].outputs
        if isinstance(step, Shadow):
            for one in models[1:]:
                if one.ref.name in self.challengers:
                    raise BadPipeline(f'{_at(number)}: "{one.ref.name}" is a challenger of another step already')
                self.challengers[one.ref.name] = one.outputs
        self.fields = {spec.name: RecordField(spec) for spec in outputs}

    def _expressions(self, number: int, step: PqlStep) -> None:
        if number == 0:
            self._start(self._demanded(0))
            if not self.inputs:
                raise BadPipeline(f"{_at(0)}: expected an expression that reads a field of the record, found none")
        cells = cells_of(one.spec for one in self.fields.values())
        try:
            expressions = record(step.text, cells)
        except Problem as problem:
            raise _told(_at(number), problem) from problem
        made = {}
        for name, expression in expressions.items():
            made[name] = self._made(number, name, expression)
        self.steps.append(StepSchema(step, expressions=expressions))
        self.fields = made

    def _made(self, number: int, name: str, expression: RowExpression) -> RecordField:
        if expression.bare is not None and expression.bare.field is not None:
            found = self.fields[expression.bare.field]
            return RecordField(TensorSpec(name, found.spec.datatype, found.spec.shape), found.loose)
        cells = expression.cells
        datatype = _DATATYPES.get(cells.dtype or "")
        if datatype is None or cells.shape is None:
            raise BadPipeline(
                f'{_at(number)}: field "{name}": expected a number, text, truth value, or vector or tensor of them, '
                f"found {cells}",
                hint="cast(… as Real), or tensor('float32', …), says what it is",
            )
        return RecordField(TensorSpec(name, datatype, (VARIABLE, *cells.shape)), loose=not cells.tensor)

    def _demanded(self, number: int) -> tuple[TensorSpec, ...]:
        """What a step needs of the record before it, as far as that can be said without it."""
        if number == len(self.definition.steps):
            return ()
        step = self.definition.steps[number]
        if isinstance(step, PqlStep):
            wanted = cells_of(self._demanded(number + 1))
            try:
                found = inputs_of(step.text, wanted)
            except Problem as problem:
                raise _told(_at(number), problem) from problem
            return tuple(
                TensorSpec(name, _DATATYPES[cells.dtype or "float64"], (VARIABLE, *(cells.shape or ())))
                for name, cells in found.items()
            )
        needed = _required(self._models(number), number)
        key = _key(step)
        if key is not None and key not in {spec.name for spec in needed}:
            needed = (*needed, TensorSpec(key, KEY.datatype, KEY.shape))
        return needed


def _at(number: int) -> str:
    """A step as people count."""
    return f"step {number + 1}"


def _key(step: Step) -> str | None:
    if isinstance(step, KeySplit):
        return step.key
    return step.hash_key if isinstance(step, RandomSplit) else None


def _told(where: str, problem: Problem) -> BadPipeline:
    place = f", column {problem.span.column}" if problem.span is not None else ""
    return BadPipeline(f"{where}{place}: {problem.message}", hint=problem.hint)


def _fits(found: TensorSpec, wanted: TensorSpec) -> bool:
    return (
        found.datatype == wanted.datatype
        and len(found.shape) == len(wanted.shape)
        and all(VARIABLE in pair or pair[0] == pair[1] for pair in zip(found.shape, wanted.shape, strict=True))
    )


def _takes_on(found: TensorSpec, wanted: TensorSpec) -> bool:
    """Whether the language's own numbers and texts may become an input."""
    one, other = found.datatype, wanted.datatype
    numbers = one in ("INT64", "FP64") and other not in ("BOOL", "BYTES", "RECORD")
    if one != other and not (numbers and (one == "INT64" or other.startswith("FP"))):
        return False
    if len(found.shape) == 1:  # one value a row, for an input of one element
        return all(size in (1, VARIABLE) for size in wanted.shape[1:])
    return _fits(TensorSpec(found.name, other, found.shape), wanted)


def _required(models: Sequence[ModelSchema], number: int) -> tuple[TensorSpec, ...]:
    """What any of the models takes. Raises :class:`BadPipeline` when two of them need different things of a field."""
    found: dict[str, tuple[TensorSpec, ModelRef]] = {}
    for model in models:
        for spec in model.inputs:
            known = found.setdefault(spec.name, (spec, model.ref))
            if not _fits(spec, known[0]):
                raise BadPipeline(
                    f'{_at(number)}: input "{spec.name}": expected {shown(known[0])} as of {known[1].label}, '
                    f"found {shown(spec)} of {model.ref.label}"
                )
            shape = tuple(max(pair) for pair in zip(spec.shape, known[0].shape, strict=True))
            found[spec.name] = (TensorSpec(spec.name, spec.datatype, shape), known[1])
    return tuple(spec for spec, _ in found.values())


def _common_outputs(models: Sequence[ModelSchema], number: int) -> tuple[TensorSpec, ...]:
    """What each of the models gives. Raises :class:`BadPipeline` when they differ."""
    first = models[0]
    common = {spec.name: spec for spec in first.outputs}
    for model in models[1:]:
        given = {spec.name: spec for spec in model.outputs}
        for name in {**common, **given}:
            one, other = common.get(name), given.get(name)
            if one is None or other is None or not _fits(one, other):
                expected = shown(one) if one else "none"
                raise BadPipeline(
                    f'{_at(number)}: output "{name}": expected {expected} as of {first.ref.label}, '
                    f"found {shown(other) if other else 'none'} of {model.ref.label}",
                    hint="the models of a split give the same outputs; a shadow's need not",
                )
            shape = tuple(min(pair) for pair in zip(one.shape, other.shape, strict=True))
            common[name] = TensorSpec(name, one.datatype, shape)
    return tuple(common.values())
