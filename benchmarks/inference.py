"""What a call through the engine costs over the runtime's own.

``engine call vs session.run``: :meth:`engine.engine.Engine.call`, which checks the input, holds the run to its
deadline and names the outputs, against ``session.run`` of the same session on the same array. Goal: at most 5 µs more.
``limit`` is the runtime's own call.

``PQL statement``: ``models:infer("digits", :image)`` parsed, resolved and evaluated in this process, without a goal.

Medians of interleaved pairs of batches of calls, in µs a call; what a call is over the other is the median of the
pairs' differences. Statistics are on, as always.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from benchmarks.measurement import Measurement
from engine.engine import Engine, Verdict
from engine.functions import ModelFunctions
from federation.folders import read_folder
from federation.keys import PrivateKey
from federation.packing import Inspection, pack
from federation.roots import first_root, pin_of, trust_chain
from federation.verification import VerifiedRelease, verify
from query.catalogue import Catalogue
from query.declarations import Call, Caller, Role, bind
from query.evaluation import evaluate
from query.parsing import parse
from query.resolution import resolve
from query.session import Session

GOAL_US: Final = 5.0
PAIRS: Final = 201
CALLS: Final = 100
DIGITS: Final = Path(__file__).parents[1] / "examples" / "digits"
STATEMENT: Final = 'models:infer("digits", :image)'
CASES: Final = (("1.0", 1), ("2.0", 1), ("2.0", 32))


def run() -> Iterator[Measurement]:
    for version, rows in CASES:
        yield against_the_runtime(version, rows)
    for version in ("1.0", "2.0"):
        yield _through_pql(version)


def against_the_runtime(version: str, rows: int) -> Measurement:
    """Calls through the engine beside the runtime's own, on so many rows of digits."""
    engine = asyncio.run(_loaded(version))
    loaded = engine.find_model("digits").session
    assert loaded is not None
    bare_run = loaded.native.run
    feed = {"image": np.random.default_rng(1).integers(0, 17, (rows, 64)).astype(np.float32)}
    ours, bare, over = _pairs(lambda: engine.call("digits", feed), lambda: bare_run(None, feed))
    engine.close()
    return Measurement(
        benchmark="inference",
        case=f"engine call vs session.run, digits {version}, {rows} {'row' if rows == 1 else 'rows'}",
        ours=round(ours, 3),
        limit=round(bare, 3),
        ratio=round(ours / bare, 3),
        unit="µs",
        conditions=f"{_conditions(engine)}; {over:.2f} µs over, goal at most {GOAL_US:g} µs over",
    )


def _through_pql(version: str) -> Measurement:
    engine = asyncio.run(_loaded(version))
    taken = asyncio.run(_statements(engine, np.zeros((1, 64), np.float32)))
    engine.close()
    return Measurement(
        benchmark="inference",
        case=f"PQL statement, digits {version}, 1 row",
        ours=round(taken, 3),
        limit=None,
        ratio=None,
        unit="µs",
        conditions=f"{_conditions(engine)}; {STATEMENT} parsed, resolved and evaluated in process",
    )


def _pairs(ours: Callable[[], Any], bare: Callable[[], Any]) -> tuple[float, float, float]:
    """Medians of both and of what one is over the other, each batch of one followed by a batch of the other."""
    for _ in range(CALLS):
        ours()
        bare()
    pairs = [(_batch_us(ours), _batch_us(bare)) for _ in range(PAIRS)]
    return (
        statistics.median(one for one, _ in pairs),
        statistics.median(other for _, other in pairs),
        statistics.median(one - other for one, other in pairs),
    )


def _batch_us(call: Callable[[], Any]) -> float:
    started = perf_counter()
    for _ in range(CALLS):
        call()
    return (perf_counter() - started) / CALLS * 1e6


@dataclass
class _Catalogue:
    """The one catalogue of this benchmark."""

    current: Catalogue

    def set_user_functions(self, functions: Any) -> None:
        self.current = self.current.with_functions("user", functions)


async def _statements(engine: Engine, image: Any) -> float:
    with tempfile.TemporaryDirectory() as empty:
        functions = ModelFunctions(engine, models_path=Path(empty), open_folder=_no_folder)
        catalogue = _Catalogue(Catalogue(bind(functions)))
        session = Session()
        session.set("image", image)
        call = Call(Caller("benchmark", Role.VIEWER), datetime.now(UTC), "here")

        async def statement() -> None:
            (one,) = parse(STATEMENT).statements
            plan = resolve(one, catalogue.current, session.variables)
            async for _ in evaluate(plan, call, session=session, catalogue=catalogue):
                pass

        taken = []
        for _ in range(PAIRS):
            started = perf_counter()
            for _ in range(CALLS // 10):
                await statement()
            taken.append((perf_counter() - started) / (CALLS // 10) * 1e6)
        return statistics.median(taken)


async def _no_folder(name: str) -> VerifiedRelease:
    raise LookupError(name)


async def _loaded(version: str) -> Engine:
    """An engine with a release of the digits, signed here; its verdict is given, as after a restart."""
    engine = Engine()
    publisher, director, root = (PrivateKey(bytes([number]) * 32) for number in (1, 2, 3))
    folder = read_folder(DIGITS / version)
    packed = pack(
        folder,
        version=version,
        publisher=publisher,
        inspection=Inspection(folder.description.inputs, folder.description.outputs, {"ai.onnx": 17}),
        now=0,
    )
    signed = first_root(
        "benchmark", roots=(root,), director=director.public, publishers={"here": publisher.public}, now=0
    )
    release = verify(
        packed.signed, root=trust_chain([signed], pin_of(signed)), manifest=packed.manifest, files=packed.files
    )
    verdict = Verdict(record=release.record_digest, runtime=engine.runtime_version)
    await engine.load(release, origin="manual", verdict=verdict)
    return engine


def _conditions(engine: Engine) -> str:
    return (
        f"Python {sys.version_info.major}.{sys.version_info.minor}, {engine.runtime_version}, one thread, "
        f"median of {PAIRS} batches"
    )
