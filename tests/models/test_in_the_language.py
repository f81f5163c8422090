"""Models asked in the language: parsed, resolved and evaluated in one process."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.engine import Engine, Verdict
from engine.errors import InputProblem, ModelNotLoaded
from engine.functions import ModelFunctions
from engine.servables import Servable
from federation.verification import VerifiedRelease
from query.catalogue import USER, Catalogue, user_function
from query.declarations import Call, Caller, Declaration, Role, bind
from query.evaluation import evaluate
from query.parsing import parse
from query.resolution import resolve
from query.session import Session
from tests.models.making import SCALING_VECTORS, release, scaling

CALL = Call(Caller("ada", Role.ADMIN), datetime(2027, 1, 1, tzinfo=UTC), "here")
SCRIPT = """create function doubled(Object rows) -> Tensor
/* Each row times two. */
as models:infer("scaling", rows)["y"];
"""


async def no_folder(name: str) -> VerifiedRelease:
    raise LookupError(name)


class Asking:
    """One peer's engine, catalogue and session. The functions of a loaded model join the catalogue."""

    def __init__(self, engine: Engine, models: Path) -> None:
        self.current = Catalogue(bind(ModelFunctions(engine, models_path=models, open_folder=no_folder)))
        self.session = Session()
        engine.subscribe(self._changed)

    def set_user_functions(self, functions: Iterable[Declaration]) -> None:
        self.current = self.current.with_functions(USER, functions)

    def _changed(self, name: str, model: Servable | None) -> None:
        if model is None:
            self.current = self.current.without(name)
            return
        source = parse("true").source
        functions = [user_function(statement, source) for statement in model.contents.functions]
        self.current = self.current.with_functions(name, functions)

    async def value(self, text: str, **variables: Any) -> Any:
        for name, value in variables.items():
            self.session.set(name, value)
        (statement,) = parse(text).statements
        plan = resolve(statement, self.current, self.session.variables)
        rows = [row async for row in evaluate(plan, CALL, session=self.session, catalogue=self)]
        ((value,),) = rows
        return value


@pytest.fixture
async def asking(tmp_path: Path) -> Asking:
    engine = Engine()
    peer = Asking(engine, tmp_path)
    candidate = release(scaling(), vectors=SCALING_VECTORS, script=SCRIPT)
    verdict = Verdict(record=candidate.record_digest, runtime=engine.runtime_version)
    await engine.load(candidate, origin="manual", verdict=verdict)
    return peer


@pytest.mark.parametrize(
    "text",
    [
        'models:infer("scaling", [1, 2, 3, 4])["y"]',
        'models:infer("scaling", [[1, 2, 3, 4]]).y',
        'models:infer("scaling", {"x": [1.0, 2, 3, 4]})["y"]',
        'models:infer("scaling", [{"x": [1, 2, 3, 4]}])["y"]',
        'models:infer("scaling", :rows)["y"]',
        "doubled(:rows)",
        "doubled([1, 2, 3, 4])",
    ],
)
async def test_one_answer_in_many_words(asking: Asking, text: str) -> None:
    answer = await asking.value(text, rows=np.array([[1, 2, 3, 4]], np.float32))
    assert (answer.dtype, answer.tolist()) == (np.float32, [[2, 4, 6, 8]])


async def test_errors_name_the_input_and_stand_at_the_call(asking: Asking) -> None:
    with pytest.raises(InputProblem) as caught:
        await asking.value('models:infer("scaling", [1, 2, 3])')
    assert caught.value.message == 'input "x": expected FP32[-1,4], found FP32[1,3]'
    assert caught.value.span is not None
    with pytest.raises(ModelNotLoaded, match='no model "scalings" is loaded here'):
        await asking.value('models:infer("scalings", [1, 2, 3, 4])')


async def test_what_is_loaded(asking: Asking) -> None:
    assert await asking.value("models:loaded()") == ["scaling@1.0"]
    assert await asking.value('models:info("scaling")["functions"]') == ["doubled"]
    assert await asking.value('models:test("scaling")["vectors"]') == 1
