"""What a pipeline costs over what it consists of.

``pipeline of one model vs session.run``: :meth:`engine.pipelines.LoadedPipeline.infer`, which checks the input, runs
the model under a deadline, counts, and makes the inference that is answered and recorded, against ``session.run`` of
the same session on the same array.

``condition vs numpy``: a validation over the rows of one request, against the same written with numpy by hand.

``steps, split, shadow and conditions``: a whole pipeline, without a goal.

Medians of interleaved pairs of batches of calls, in µs a call.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from benchmarks.measurement import Measurement
from engine.engine import Engine, Verdict
from engine.pipelines import LoadedPipeline
from federation.folders import read_folder
from federation.keys import PrivateKey
from federation.names import digest_of
from federation.packing import Inspection, PackedRelease, pack
from federation.pipeline_packing import pack_pipeline
from federation.pipeline_schemas import check_schemas
from federation.pipelines import (
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
from federation.roots import first_root, pin_of, trust_chain
from federation.verification import verify
from query.row_expressions import condition
from query.row_types import Cells

PAIRS: Final = 41
CALLS: Final = 300
ROWS: Final = 1000
DIGITS: Final = Path(__file__).parents[1] / "examples" / "digits"
CONDITION: Final = "out.price > 1.5 and in.rooms = 0 or in.scores[2] < 0.1"


def run() -> Iterator[Measurement]:
    yield from asyncio.run(_one_model())
    yield _condition()
    yield from asyncio.run(_whole())


async def _one_model() -> list[Measurement]:
    found = []
    digits = _digits("1.0")
    engine, pipeline = await _loaded([digits], [ModelStep(_ref(digits))])
    (model,) = pipeline.members.values()
    assert model.session is not None
    native: Any = model.session
    bare_run = native.native.run
    for rows in (1, 32):
        feed = {"image": _images(rows)}

        async def bare(feed: Any = feed) -> None:
            bare_run(None, feed)

        ours, limit = await _pairs(lambda feed=feed: pipeline.infer(feed), bare)  # type: ignore[misc]
        case = f"pipeline of one model vs session.run, digits 1.0, {rows} {'row' if rows == 1 else 'rows'}"
        found.append(_measured(engine, case, ours, limit, more=f"; {ours - limit:.2f} µs over"))
    engine.close()
    return found


def _condition() -> Measurement:
    groups = {
        "in": {"rooms": Cells("int64", ()), "scores": Cells("float32", (4,))},
        "out": {"price": Cells("float32", ())},
    }
    draw = np.random.default_rng(1)
    rooms, scores = draw.integers(0, 5, ROWS), draw.random((ROWS, 4)).astype(np.float32)
    price = draw.random(ROWS).astype(np.float32)
    columns = {"in": {"rooms": rooms, "scores": scores}, "out": {"price": price}}
    expression = condition(CONDITION, groups)

    async def ours() -> None:
        expression.flags(columns, ROWS)

    async def numpy() -> None:
        np.logical_or(np.logical_and(price.astype(np.float64) > 1.5, rooms == 0), scores[:, 1].astype(np.float64) < 0.1)

    one, other = asyncio.run(_pairs(ours, numpy))
    return _measured(None, f"condition vs numpy, {ROWS} rows", one, other, more=f"; {CONDITION}")


async def _whole() -> list[Measurement]:
    linear, layers = _digits("1.0"), _digits("2.0")
    weighted = (Weighted(1, _ref(linear)), Weighted(1, _ref(layers)))
    steps = [
        PqlStep('{"image": image, "expected": expected}'),
        Shadow(_ref(linear), (_ref(layers),)),
    ]
    split = [RandomSplit(weighted), PqlStep('{"label": label, "sure": max(probabilities)}')]
    found = []
    for name, made, validations in (
        ("PQL step and shadow, two conditions", steps, ("out.label = 0", "out_digits.label != out.label")),
        ("split and PQL step, one condition", split, ("out.sure < 0.5",)),
    ):
        engine, pipeline = await _loaded([linear, layers], made, validations)
        for rows in (1, 100):
            feed = {
                spec.name: _images(rows) if spec.name == "image" else np.ones(rows) for spec in pipeline.record.inputs
            }
            ours, _ = await _pairs(lambda feed=feed, one=pipeline: one.infer(feed), _nothing)  # type: ignore[misc]
            found.append(_measured(engine, f"{name}, {rows} {'row' if rows == 1 else 'rows'}", ours, None))
        engine.close()
    return found


async def _nothing() -> None:
    """The other side of a pair that has none."""


async def _pairs(ours: Callable[[], Awaitable[Any]], other: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    for _ in range(CALLS):
        await ours()
        await other()
    pairs = [(await _batch_us(ours), await _batch_us(other)) for _ in range(PAIRS)]
    return statistics.median(one for one, _ in pairs), statistics.median(one for _, one in pairs)


async def _batch_us(call: Callable[[], Awaitable[Any]]) -> float:
    started = perf_counter()
    for _ in range(CALLS):
        await call()
    return (perf_counter() - started) / CALLS * 1e6


def _measured(engine: Engine | None, case: str, ours: float, limit: float | None, *, more: str = "") -> Measurement:
    runtime = "" if engine is None else f" {engine.runtime_version},"
    return Measurement(
        benchmark="pipelines",
        case=case,
        ours=round(ours, 3),
        limit=None if limit is None else round(limit, 3),
        ratio=None if limit is None else round(ours / limit, 3),
        unit="µs",
        conditions=f"Python {sys.version_info.major}.{sys.version_info.minor},{runtime} one thread, "
        f"median of {PAIRS} batches{more}",
    )


def _images(rows: int) -> Any:
    return np.random.default_rng(1).integers(0, 17, (rows, 64)).astype(np.float32)


PUBLISHER, DIRECTOR, ROOT = (PrivateKey(bytes([number]) * 32) for number in (1, 2, 3))


def _digits(version: str) -> PackedRelease:
    folder = read_folder(DIGITS / version)
    inspection = Inspection(folder.description.inputs, folder.description.outputs, {"ai.onnx": 17})
    return pack(folder, version=version, publisher=PUBLISHER, inspection=inspection, now=0)


def _ref(model: PackedRelease) -> ModelRef:
    return ModelRef(model.record.name, model.record.version, digest_of(model.signed.payload))


async def _loaded(
    models: Sequence[PackedRelease],
    steps: Sequence[Step],
    conditions: Sequence[str] = (),
    *,
    record: Callable[[Any, Any], None] | None = None,
) -> tuple[Engine, LoadedPipeline]:
    """A pipeline of releases signed here; verdicts are given, as after a restart."""
    made = tuple(Validation(f"v{at}", text) for at, text in enumerate(conditions))
    definition = PipelineDefinition(name="pipe", steps=tuple(steps), validations=made)
    signature = check_schemas(definition, {digest_of(one.signed.payload): one.record for one in models})
    packed = pack_pipeline(
        definition,
        members={digest_of(one.signed.payload): one.signed for one in models},
        inputs=signature.inputs,
        outputs=signature.outputs,
        publisher=PUBLISHER,
        now=0,
    )
    known = {digest_of(content): content for one in models for content in (*one.files.values(), one.manifest)}
    files = {entry.path: packed.files.get(entry.path) or known[entry.digest] for entry in packed.record.files}
    signed = first_root(
        "benchmark", roots=(ROOT,), director=DIRECTOR.public, publishers={"here": PUBLISHER.public}, now=0
    )
    release = verify(packed.signed, root=trust_chain([signed], pin_of(signed)), manifest=packed.manifest, files=files)
    engine = Engine(record=record)
    verdict = Verdict(
        record=release.record_digest,
        runtime=engine.runtime_version,
        members=tuple(
            Verdict(record=member.record_digest, runtime=engine.runtime_version) for member in release.members
        ),
    )
    pipeline = await engine.load(release, origin="manual", verdict=verdict)
    assert isinstance(pipeline, LoadedPipeline)
    return engine, pipeline
