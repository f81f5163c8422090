"""Whether steps fit each other is decided when a version is made, and the error says what does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from federation.documents import ReleaseRecord, TensorSpec
from federation.names import Digest, digest_of
from federation.pipeline_schemas import PipelineSignature, check_schemas, schema_of
from federation.pipelines import (
    BadPipeline,
    Deployment,
    KeySplit,
    LogSettings,
    ModelRef,
    ModelStep,
    PipelineDefinition,
    PqlStep,
    RandomSplit,
    Shadow,
    Step,
    Validation,
    Weighted,
)

Spec = tuple[str, str, tuple[int, ...]]


@dataclass
class Model:
    """A release that nobody made, but for its record."""

    name: str
    inputs: Sequence[Spec]
    outputs: Sequence[Spec]
    version: str = "1.0"

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.name, self.version, digest_of(f"{self.name}@{self.version}".encode()))

    @property
    def record(self) -> ReleaseRecord:
        return ReleaseRecord(
            name=self.name,
            version=self.version,
            manifest=Digest("sha256:" + "0" * 64),
            manifest_size=1,
            kind="onnx" if self.outputs else "functions",
            files=(),
            inputs=tuple(TensorSpec(*spec) for spec in self.inputs),
            outputs=tuple(TensorSpec(*spec) for spec in self.outputs),
        )


X = [("x", "FP32", (-1, 4))]
A = Model("a", X, [("y", "FP32", (-1, 2))])
B = Model("b", X, [("y", "FP32", (-1, 2)), ("label", "INT64", (-1,))])
ON_Y = Model("on-y", [("y", "FP32", (-1, 2))], [("z", "FP32", (-1, 1))])
LATER = Model("a", X, [("y", "FP32", (-1, 2))], version="2.0")
TEXTS = Model("texts", [("t", "BYTES", (-1, 1)), ("flag", "BOOL", (-1,))], [("p", "RECORD", (-1,))])
FUNCTIONS = Model("functions", [], [])
KNOWN = (A, B, ON_Y, LATER, TEXTS, FUNCTIONS)


def checked(*steps: Step, validations: Sequence[str] = (), known: Sequence[Model] = KNOWN) -> PipelineSignature:
    made = tuple(Validation(f"v{at}", text) for at, text in enumerate(validations))
    definition = PipelineDefinition(name="pipe", steps=steps, validations=made)
    return check_schemas(definition, {model.ref.record: model.record for model in known})


def step(model: Model) -> ModelStep:
    return ModelStep(model.ref)


def shapes(specs: Sequence[TensorSpec]) -> dict[str, str]:
    return {spec.name: f"{spec.datatype}{list(spec.shape)}" for spec in specs}


def test_clients_send_what_the_first_step_takes_and_get_what_the_last_one_gives() -> None:
    found = checked(step(A), step(ON_Y))
    assert shapes(found.inputs) == {"x": "FP32[-1, 4]"}
    assert shapes(found.outputs) == {"z": "FP32[-1, 1]"}


def test_what_a_step_has_no_input_for_is_left() -> None:
    assert shapes(checked(step(B), step(ON_Y)).outputs) == {"z": "FP32[-1, 1]"}


@pytest.mark.parametrize(
    ("inputs", "outputs", "way", "columns"),
    [
        ([("x", "FP32", (-1, 4))], [("y", "FP32", (-1,))], "batch", "FP32[-1, 4]"),
        ([("x", "FP32", (1, 4))], [("y", "FP32", (1, 2))], "single", "FP32[-1, 4]"),
        ([("x", "FP32", (4,))], [("y", "FP32", (2,))], "whole", "FP32[-1, 4]"),
        ([("x", "FP32", (-1, 4))], [("y", "FP32", ())], "whole", "FP32[-1, -1, 4]"),
        ([("x", "FP32", ())], [("y", "FP32", ())], "whole", "FP32[-1]"),
        ([("x", "FP32", (-1, 4))], [("y", "FP32", (1,))], "whole", "FP32[-1, -1, 4]"),
    ],
)
def test_how_rows_become_runs_follows_from_the_shapes(
    inputs: list[Spec], outputs: list[Spec], way: str, columns: str
) -> None:
    model = Model("m", inputs, outputs)
    definition = PipelineDefinition(name="pipe", steps=(step(model),))
    schema = schema_of(definition, {model.ref.record: model.record})
    assert schema.steps[0].models[0].way == way
    assert shapes(schema.signature.inputs) == {"x": columns}


def test_a_first_expression_says_what_clients_send() -> None:
    text = '{"x": [rooms, ln(area), case when town = "Lund" then 1 else 0 end, 1]}'
    assert shapes(checked(PqlStep(text), step(A)).inputs) == {
        "rooms": "FP64[-1]",
        "area": "FP64[-1]",
        "town": "BYTES[-1]",
    }


def test_what_expressions_hand_on_to_a_model_is_what_the_model_takes() -> None:
    found = checked(PqlStep('{"t": features, "b": new}'), PqlStep('{"t": t, "flag": b}'), step(TEXTS))
    assert shapes(found.inputs) == {"features": "BYTES[-1, 1]", "new": "BOOL[-1]"}


def test_the_field_that_a_first_split_decides_by_is_sent_as_text_if_nothing_says_otherwise() -> None:
    split = KeySplit(A.ref, "country", {"se": LATER.ref})
    assert shapes(checked(split).inputs) == {"x": "FP32[-1, 4]", "country": "BYTES[-1]"}
    hashed = RandomSplit((Weighted(1, A.ref), Weighted(1, LATER.ref)), hash_key="s")
    found = checked(PqlStep('{"x": x, "s": id}'), hashed)
    assert shapes(found.inputs) == {"x": "FP32[-1, 4]", "id": "BYTES[-1]"}
    assert shapes(found.outputs) == {"y": "FP32[-1, 2]", "_model_split": "BYTES[-1, 1]"}


def test_records_are_fields_of_conditions_and_expressions() -> None:
    found = checked(step(TEXTS), validations=['out.p.yes > 0.5 and out.p["no"] < 0.5', "in.flag"])
    assert shapes(found.outputs) == {"p": "RECORD[-1]"}
    assert shapes(checked(step(TEXTS), PqlStep('{"sure": cast(p.yes as Real), "p": p}')).outputs) == {
        "sure": "FP64[-1]",
        "p": "RECORD[-1]",
    }


def test_challengers_are_named_in_conditions_as_the_language_can() -> None:
    odd = Model("ch-1.b", X, [("y", "FP32", (-1, 2)), ("odd field", "FP32", (-1,))])
    validations = ['out_Ch_1_b.y[2] > out.y[1] and out_ch_1_b["odd field"] > 1']
    checked(Shadow(A.ref, (odd.ref,)), validations=validations, known=(*KNOWN, odd))


@pytest.mark.parametrize(
    ("steps", "validations", "message"),
    [
        ([], [], 'pipeline "pipe" has no steps: expected at least one'),
        (
            [step(A), step(B)],
            [],
            'step 2: input "x" of b@1.0: expected FP32[-1,4], found no such field among "y" FP32[-1,2]',
        ),
        ([step(FUNCTIONS)], [], "step 1: expected a model with a graph, found functions@1.0 of functions"),
        ([ModelStep(Model("gone", X, X).ref)], [], "step 1: expected the release gone@1.0, found none"),
        (
            [PqlStep('{"x": [a, b, c]}'), step(A)],
            [],
            'step 2: input "x" of a@1.0: expected FP32[-1,4], found FP64[-1,3]',
        ),
        (
            [PqlStep('{"t": a + 1, "flag": a > 1}'), step(TEXTS)],
            [],
            'step 2: input "t" of texts@1.0: expected BYTES[-1,1]',
        ),
        ([step(A), PqlStep('{"y": tensor("float64", y)}'), step(ON_Y)], [], "expected FP32[-1,2], found FP64[-1,2]"),
        ([PqlStep('{"x": 1}'), step(A)], [], "step 1: expected an expression that reads a field of the record"),
        ([PqlStep('{"x": dot(a, b)}')], [], 'step 1: field "x": expected a number, text, truth value'),
        ([step(A), PqlStep('{"z": q + 1}')], [], 'step 2, column 7: no variable "q"'),
        ([step(A), PqlStep('{"z": y[3]}')], [], "step 2, column 7: index 3 is outside of 1 to 2"),
        ([PqlStep("1 +")], [], "step 1, column 3: the statement ends too early"),
        (
            [RandomSplit((Weighted(1, A.ref), Weighted(1, B.ref)))],
            [],
            'step 1: output "label": expected none as of a@1.0, found INT64[-1] of b@1.0',
        ),
        ([RandomSplit((Weighted(0, A.ref), Weighted(0, LATER.ref)))], [], "expected weights that sum to more than 0"),
        (
            [step(A), KeySplit(ON_Y.ref, "country", {})],
            [],
            'step 2: expected a field "country" to decide by, found "y"',
        ),
        ([step(A), RandomSplit((Weighted(1, ON_Y.ref),), hash_key="y")], [], 'field "y": expected a single value'),
        ([Shadow(A.ref, (TEXTS.ref,)), Shadow(ON_Y.ref, (TEXTS.ref,))], [], 'step 2: input "t" of texts@1.0'),
        (
            [Shadow(A.ref, (B.ref,)), PqlStep('{"x": [y[1], y[1], y[1], y[1]]}'), Shadow(A.ref, (B.ref,))],
            [],
            'step 3: "b" is a challenger of another step already',
        ),
        ([step(A)], ["in.z > 1"], 'validation "v0", column 1: no field "z" in "in": expected "x"'),
        ([step(A)], ["out.y[1] > 1", "out.q"], 'validation "v1", column 1: no field "q" in "out"'),
        ([step(A)], ["out_b.y[1] > 1"], 'validation "v0", column 1: no variable "out_b"'),
        ([step(A)], ["out.y[1]"], "expected a condition, which is true or false, found float64"),
        ([step(A)], ["out.y > 1"], 'validation "v0", column 1: ">": no meaning for float32[2] and int64'),
        ([step(TEXTS)], ["in.t > 1"], 'validation "v0", column 1: ">": no meaning for str and int64'),
        ([step(TEXTS)], ["in.flag and in.t"], 'validation "v0", column 1: and: expected true or false, found str'),
    ],
)
def test_what_does_not_fit_is_refused_with_step_field_expected_and_found(
    steps: list[Step], validations: list[str], message: str
) -> None:
    with pytest.raises(BadPipeline) as caught:
        checked(*steps, validations=validations)
    assert message in caught.value.message


def test_challengers_that_conditions_could_not_tell_apart_are_refused() -> None:
    one, other = Model("c-1", X, X), Model("c.1", X, X)
    with pytest.raises(BadPipeline, match="its outputs would be called as those of another"):
        checked(Shadow(A.ref, (one.ref, other.ref)), known=(*KNOWN, one, other))


def test_the_models_of_a_split_need_the_same_of_a_field() -> None:
    other = Model("other", [("x", "FP64", (-1, 4))], [("y", "FP32", (-1, 2))])
    with pytest.raises(BadPipeline) as caught:
        checked(RandomSplit((Weighted(1, A.ref), Weighted(1, other.ref))), known=(*KNOWN, other))
    assert caught.value.message == ('step 1: input "x": expected FP32[-1,4] as of a@1.0, found FP64[-1,4] of other@1.0')
    loose = Model("loose", [("x", "FP32", (-1, -1)), ("k", "INT64", (-1,))], [("y", "FP32", (-1, -1))])
    found = checked(RandomSplit((Weighted(1, loose.ref), Weighted(1, A.ref))), known=(*KNOWN, loose))
    assert shapes(found.inputs) == {"x": "FP32[-1, 4]", "k": "INT64[-1]"}
    assert shapes(found.outputs)["y"] == "FP32[-1, -1]"


def logging(*columns: str) -> PipelineDefinition:
    steps = (Shadow(A.ref, (B.ref,)),)
    deployment = Deployment(log=LogSettings(columns=columns))
    return PipelineDefinition(
        name="p", steps=steps, validations=(Validation("odd", "out.y[1] > 1"),), deployment=deployment
    )


def test_the_log_names_columns_that_there_are() -> None:
    records = {one.ref.record: one.record for one in (A, B)}
    every = ("*", "time", "metadata", "in", "in.x", "out.y", "out_b", "out_b.label", "anomaly.count", "anomaly.odd")
    check_schemas(logging(*every), records)
    for name in ("y", "output", "out.z", "out_a", "anomaly.even"):
        with pytest.raises(BadPipeline, match=f'the log has no column "{name}"'):
            check_schemas(logging("time", name), records)
