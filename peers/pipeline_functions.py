"""Functions of the language that edit pipelines in a peer's home.

At home everywhere: each runs with the pipelines and the repository of the peer that runs it. What they edit runs
nowhere until a version is made of it and deployed, which is the business of :mod:`peers.pipeline_deployment`.

Rules: a step names releases, and which ones is settled when it is added; steps count from 1, as the elements of a
vector do. A call that raises has changed nothing. Whether the steps fit each other is asked when a version is made,
since a pipeline is edited one step at a time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from federation.pipelines import (
    CHOICES_MAX,
    FIELD_NAME,
    STEPS_MAX,
    VALIDATIONS_MAX,
    BadPipeline,
    KeySplit,
    ModelStep,
    PipelineDefinition,
    PqlStep,
    RandomSplit,
    Shadow,
    Step,
    Validation,
    Weighted,
    check_weights,
)
from peers.conversion_words import in_words
from peers.pipeline_drafts import PipelineDrafts
from peers.pipeline_models import StepModels, named
from query.declarations import Call, Effect, Example, Role, function
from query.errors import LimitExceeded, WrongArguments, unknown


class PipelineFunctions:
    """``pipeline:create add_model_step add_pql_step … steps validations list remove``."""

    def __init__(self, drafts: PipelineDrafts, models: StepModels) -> None:
        self._drafts = drafts
        self._models = models

    @function(
        "pipeline:create(String name) -> String",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('pipeline:create("my-pipeline")', shows='"my-pipeline"'),
    )
    async def create(self, call: Call, name: str) -> str:
        """Begin a pipeline without steps in this peer's home, and give its name. One that is there stays as it is.
        Pipelines and models share their names.
        """
        await asyncio.to_thread(self._models.check_name, name)
        await asyncio.to_thread(self._drafts.create, name)
        return name

    @function("pipeline:list() -> Vector of String", example="pipeline:list()")
    async def list_pipelines(self, call: Call) -> list[str]:
        """The names of the pipelines in this peer's home."""
        return list(await asyncio.to_thread(self._drafts.names))

    @function("pipeline:steps(String name) -> Vector of Record", example='pipeline:steps("my-pipeline")')
    async def steps(self, call: Call, name: str) -> list[dict[str, Any]]:
        """The steps of a pipeline as it is edited here, the first one first."""
        return shown_steps(await asyncio.to_thread(self._drafts.draft, name))

    @function("pipeline:validations(String name) -> Record", example='pipeline:validations("my-pipeline")')
    async def validations(self, call: Call, name: str) -> dict[str, str]:
        """The validations of a pipeline as it is edited here: name and condition."""
        draft = await asyncio.to_thread(self._drafts.draft, name)
        return {one.name: one.condition for one in draft.validations}

    @function(
        "pipeline:add_model_step(String name, String model, String version) -> Vector of Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('pipeline:add_model_step("my-pipeline", "my-model", "1.0")'),
    )
    async def add_model_step(self, call: Call, name: str, model: str, version: str) -> list[dict[str, Any]]:
        """Add a model as the last step. It takes its inputs by name from what the step before gives. The release may
        be here or on the nameserver. The steps after that.
        """
        return await self._add(name, ModelStep(await self._models.ref({"name": model, "version": version})))

    @function(
        "pipeline:add_pql_step(String name, String expression) -> Vector of Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('pipeline:add_pql_step("my-pipeline", \'{"celsius": (fahrenheit - 32) / 1.8}\')'),
    )
    async def add_pql_step(self, call: Call, name: str, expression: str) -> list[dict[str, Any]]:
        """Add a step that makes a new record of each: an expression over the fields of the record before, giving a
        record.
        """
        return await self._add(name, PqlStep(expression))

    @function(
        "pipeline:replace_model_step(String name, Integer step, String model, String version) -> Vector of Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('pipeline:replace_model_step("my-pipeline", 1, "my-model", "1.0")'),
    )
    async def replace_model_step(
        self, call: Call, name: str, step: int, model: str, version: str
    ) -> list[dict[str, Any]]:
        """Put a model in the place of a step, of whatever kind; steps count from 1. What runs goes on until the
        pipeline is deployed again.
        """
        made = ModelStep(await self._models.ref({"name": model, "version": version}))

        def edit(draft: PipelineDefinition) -> PipelineDefinition:
            at = _position(draft, step)
            return replace(draft, steps=(*draft.steps[:at], made, *draft.steps[at + 1 :]))

        return await self._changed(name, edit)

    @function(
        "pipeline:add_random_split(String name, Vector choices, String hash_key?) -> Vector of Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example(
            'pipeline:add_random_split("my-pipeline", [{"weight": 9, "model": "my-model@1.0"}, '
            '{"weight": 1, "model": "my-model@1.1"}])'
        ),
    )
    async def add_random_split(
        self, call: Call, name: str, choices: Sequence[Any], hash_key: str | None = None
    ) -> list[dict[str, Any]]:
        """Add a step of which one model answers each request, drawn in proportion to the weights; with `hash_key`, a
        field of the record, row by row, and the same one for the same value. `out._model_split` says which.
        """
        read = [_weighted(number, choice) for number, choice in enumerate(choices, start=1)]
        _check_count(len(read))
        check_weights([weight for weight, _ in read], "the split")
        weighted = tuple([Weighted(weight, await self._models.ref(model)) for weight, model in read])
        return await self._add(name, RandomSplit(weighted, hash_key))

    @function(
        "pipeline:add_key_split(String name, Object default, String key, Record choices) -> Vector of Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example(
            'pipeline:add_key_split("my-pipeline", "my-model@1.0", "kind", {"new": "my-model@1.1"})',
        ),
    )
    async def add_key_split(
        self, call: Call, name: str, default: Any, key: str, choices: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Add a step whose model is named by the value of field `key`, row by row; `default` for every other value."""
        _check_count(len(choices))
        known = await self._models.ref(default)
        found = {value: await self._models.ref(model) for value, model in choices.items()}
        return await self._add(name, KeySplit(known, key, found))

    @function(
        "pipeline:add_shadow(String name, Object champion, Vector challengers) -> Vector of Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('pipeline:add_shadow("my-pipeline", "my-model@1.0", ["other-model@1.0"])'),
    )
    async def add_shadow(
        self, call: Call, name: str, champion: Any, challengers: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """Add a step that gives every row to every model: the champion's outputs feed on, those of the challengers are
        shown and recorded as `out_NAME`.
        """
        _check_count(len(challengers))
        first = await self._models.ref(champion)
        return await self._add(name, Shadow(first, tuple([await self._models.ref(one) for one in challengers])))

    @function(
        "pipeline:add_validation(String name, String validation, String condition) -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('pipeline:add_validation("my-pipeline", "too_cold", "out.fahrenheit < 32")'),
    )
    async def add_validation(self, call: Call, name: str, validation: str, condition: str) -> dict[str, str]:
        """Add a condition over `in` and `out` that is true of an anomaly; rows tell it as `anomaly.NAME`, and count
        them. All validations after that.
        """
        if not re.fullmatch(FIELD_NAME, validation):
            raise BadPipeline(
                f'"{validation[:80]}" cannot name a validation: expected letters, digits and "_", the first no digit'
            )
        made = _converted({"name": validation, "condition": condition}, Validation)

        def edit(draft: PipelineDefinition) -> PipelineDefinition:
            if len(draft.validations) >= VALIDATIONS_MAX:
                raise LimitExceeded(f'pipeline "{name}" has {VALIDATIONS_MAX} validations, the most it can have')
            return replace(draft, validations=(*draft.validations, made))

        changed = await asyncio.to_thread(self._drafts.change, name, edit)
        return {one.name: one.condition for one in changed.validations}

    @function(
        "pipeline:remove_validation(String name, String validation) -> Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('pipeline:remove_validation("my-pipeline", "too_hot")'),
    )
    async def remove_validation(self, call: Call, name: str, validation: str) -> dict[str, str]:
        """Take a validation away. All that are left."""

        def edit(draft: PipelineDefinition) -> PipelineDefinition:
            left = tuple(one for one in draft.validations if one.name != validation)
            if len(left) == len(draft.validations):
                raise unknown("validation", validation[:80], [one.name for one in left])
            return replace(draft, validations=left)

        changed = await asyncio.to_thread(self._drafts.change, name, edit)
        return {one.name: one.condition for one in changed.validations}

    @function(
        "pipeline:remove_step(String name, Integer step) -> Vector of Record",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('pipeline:remove_step("my-pipeline", 1)'),
    )
    async def remove_step(self, call: Call, name: str, step: int) -> list[dict[str, Any]]:
        """Take a step away; steps count from 1. The steps after that."""

        def edit(draft: PipelineDefinition) -> PipelineDefinition:
            at = _position(draft, step)
            return replace(draft, steps=(*draft.steps[:at], *draft.steps[at + 1 :]))

        return await self._changed(name, edit)

    @function(
        "pipeline:clear(String name) -> Boolean",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('pipeline:clear("my-pipeline")', shows="true"),
    )
    async def clear(self, call: Call, name: str) -> bool:
        """Take all steps and validations away. Versions that were made stay, and what runs goes on."""
        await self._changed(name, lambda draft: replace(draft, steps=(), validations=()))
        return True

    @function(
        "pipeline:remove(String name) -> Boolean",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('pipeline:remove("old-pipeline")', shows="true"),
    )
    async def remove(self, call: Call, name: str) -> bool:
        """Forget a pipeline and its versions in this peer's home. Releases that were made of them stay where they are,
        and what runs goes on.
        """
        await asyncio.to_thread(self._drafts.remove, name)
        return True

    async def _add(self, name: str, step: Step) -> list[dict[str, Any]]:
        checked = _converted(msgspec.to_builtins(step), type(step))

        def edit(draft: PipelineDefinition) -> PipelineDefinition:
            if len(draft.steps) >= STEPS_MAX:
                raise LimitExceeded(f'pipeline "{name}" has {STEPS_MAX} steps, the most it can have')
            return replace(draft, steps=(*draft.steps, checked))

        return await self._changed(name, edit)

    async def _changed(
        self, name: str, edit: Callable[[PipelineDefinition], PipelineDefinition]
    ) -> list[dict[str, Any]]:
        return shown_steps(await asyncio.to_thread(self._drafts.change, name, edit))


# --- what is read and shown -----------------------------------------------------------------------------------------


def shown_steps(definition: PipelineDefinition) -> list[dict[str, Any]]:
    """A record a step: its number, its kind, and its models as ``name@version``."""
    return [{"step": number, **_shown(step)} for number, step in enumerate(definition.steps, start=1)]


def _shown(step: Step) -> dict[str, Any]:
    match step:
        case ModelStep(model=model):
            return {"kind": "model", "model": model.label}
        case PqlStep(text=text):
            return {"kind": "pql", "expression": text}
        case RandomSplit(choices=choices, hash_key=hash_key):
            told = [{"weight": one.weight, "model": one.model.label} for one in choices]
            return {"kind": "random_split", "choices": told, "hash_key": hash_key}
        case KeySplit(default=default, key=key, choices=by_value):
            named_by = {value: model.label for value, model in by_value.items()}
            return {"kind": "key_split", "key": key, "default": default.label, "choices": named_by}
        case Shadow(champion=champion, challengers=challengers):
            others = [model.label for model in challengers]
            return {"kind": "shadow", "champion": champion.label, "challengers": others}


def _weighted(number: int, choice: Any) -> tuple[float, Any]:
    """Weight and model of one element of a split."""
    if isinstance(choice, Mapping) and {"weight"} <= choice.keys():
        rest = {key: value for key, value in choice.items() if key != "weight"}
        weight = choice["weight"]
        if isinstance(weight, int | float) and not isinstance(weight, bool):
            model = rest["model"] if rest.keys() == {"model"} else rest
            named(model)
            return float(weight), model
    raise WrongArguments(
        f'choice {number}: expected a record like {{"weight": 0.9, "model": "m@1.0"}}, found {choice!r:.60}'
    )


def _check_count(count: int) -> None:
    if not 1 <= count <= CHOICES_MAX:
        raise WrongArguments(f"expected 1 to {CHOICES_MAX} models to choose from, found {count}")


def _position(draft: PipelineDefinition, step: int) -> int:
    if not 1 <= step <= len(draft.steps):
        there = f"1 to {len(draft.steps)}" if draft.steps else "none: it has no steps"
        raise WrongArguments(f'pipeline "{draft.name}" has no step {step}: expected {there}')
    return step - 1


def _converted(told: Any, kind: type[Any]) -> Any:
    """A step or validation within its bounds. Raises :class:`~federation.pipelines.BadPipeline`."""
    try:
        return msgspec.convert(told, kind)
    except msgspec.ValidationError as error:
        raise BadPipeline(in_words(error)) from error
