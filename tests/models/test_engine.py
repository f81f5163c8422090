"""Loading, swapping and calling: the old version answers until the new one has, and no call is lost."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import numpy as np
import pytest

from engine import errors
from engine.engine import Engine, EngineSettings, Verdict
from engine.loaded import CONVERTED_INLINE_MAX, is_small
from peers.catalogues import check_functions
from query.errors import Problem
from tests.models.making import SCALING_VECTORS, endless_when_positive, packed, release, scaling, spec
from tests.models.putting import accepted, put

ROW = np.array([[1, 2, 3, 4]], np.float32)


def factor(engine: Engine, name: str = "scaling") -> float:
    return float(engine.call(name, {"x": ROW})["y"][0, 0])


async def test_a_release_is_tried_loaded_and_answers() -> None:
    engine = Engine(clock=lambda: 1_800_000_000.5)
    model = await engine.load(release(scaling(), vectors=SCALING_VECTORS), origin="manual")
    assert engine.loaded() == (model,)
    assert (model.label, model.origin, model.since, model.signer) == ("scaling@1.0", "manual", 1_800_000_000, "ada")
    assert model.memory_bytes > 0
    assert model.require_vectors() == 1
    assert engine.call("scaling", {"x": ROW})["y"].tolist() == [[2, 4, 6, 8]]
    assert (await engine.infer("scaling", [1, 2, 3, 4]))["y"].tolist() == [[2, 4, 6, 8]]


async def test_only_a_verified_release_is_taken() -> None:
    made: Any = packed(scaling())
    with pytest.raises(TypeError, match="expected a VerifiedRelease, found PackedRelease"):
        await Engine().load(made, origin="manual")
    with pytest.raises(TypeError):
        await Engine().trial(made)


async def test_a_remembered_verdict_saves_the_trial_and_a_foreign_one_does_not() -> None:
    engine = Engine(EngineSettings(trial_wall_s=0.0))  # a trial cannot succeed
    await put(engine, scaling())
    other = release(scaling(), version="2.0")
    with pytest.raises(errors.OverTime):
        await engine.load(other, origin="group", verdict=accepted(release(scaling(3.0)), engine))
    assert factor(engine) == 2


async def test_a_remembered_refusal_is_raised_again() -> None:
    engine = Engine()
    candidate = release(scaling())
    refusal = Verdict(
        record=candidate.record_digest, runtime=engine.runtime_version, error=errors.FailedVectors("no").record()
    )
    with pytest.raises(errors.FailedVectors, match="no"):
        await engine.load(candidate, origin="group", verdict=refusal)


async def test_a_failed_load_keeps_what_was_there() -> None:
    engine = Engine()
    await put(engine, scaling(2.0))
    before = engine.loaded()
    for about in ({"vectors": SCALING_VECTORS}, {"inputs": [spec("x", "FP32", -1, 9)]}):
        with pytest.raises(errors.ContentProblem):
            await put(engine, scaling(3.0), version="2.0", **about)
    assert engine.loaded() == before
    assert factor(engine) == 2


async def test_a_swap_replaces_one_reference_and_calls_in_flight_keep_theirs() -> None:
    engine = Engine()
    await put(engine, scaling(2.0))
    old = engine.find_model("scaling")
    await put(engine, scaling(3.0), version="2.0")
    assert factor(engine) == 3
    assert old.call({"x": ROW})["y"][0, 0] == 2
    assert [model.label for model in engine.loaded()] == ["scaling@2.0"]


async def test_no_answer_is_lost_or_mixed_while_versions_are_swapped() -> None:
    engine = Engine()
    await put(engine, scaling(2.0))
    releases = [release(scaling(2.0)), release(scaling(3.0), version="2.0")]
    stop = threading.Event()
    answers: list[float] = []
    failures: list[BaseException] = []

    def calling() -> None:
        rows = np.ones((64, 4), np.float32)
        while not stop.is_set():
            try:
                answer = engine.call("scaling", {"x": rows})["y"]
            except Problem as problem:
                failures.append(problem)
                return
            if answer.min() != answer.max():
                failures.append(AssertionError("two versions in one answer"))
            answers.append(float(answer[0, 0]))

    threads = [threading.Thread(target=calling) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(30):
        await engine.load(releases[turn % 2], origin="group", verdict=accepted(releases[turn % 2], engine))
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(answers) == {2.0, 3.0}


async def test_unload_and_names_that_are_not_loaded() -> None:
    engine = Engine()
    await put(engine, scaling())
    with pytest.raises(errors.ModelNotLoaded, match=r'no model "scalin" .* did you mean "scaling"'):
        engine.call("scalin", {"x": ROW})
    assert engine.unload("scaling").label == "scaling@1.0"
    assert engine.loaded() == ()
    with pytest.raises(errors.ModelNotLoaded):
        engine.unload("scaling")


async def test_listeners_hear_of_every_swap_and_unload() -> None:
    engine = Engine()
    heard: list[tuple[str, str | None]] = []
    remove = engine.subscribe(lambda name, model: heard.append((name, model and model.version)))
    await put(engine, scaling())
    await put(engine, scaling(), version="2.0")
    engine.unload("scaling")
    remove()
    await put(engine, scaling())
    assert heard == [("scaling", "1.0"), ("scaling", "2.0"), ("scaling", None)]


async def test_quick_calls_run_on_the_loop_and_long_ones_do_not() -> None:
    engine = Engine(EngineSettings(threads=1, inline_us=1e9))
    await put(engine, scaling())
    assert not engine._scheduler.started
    await engine.infer("scaling", ROW)
    assert not engine._scheduler.started, "a quick call needs no pool"
    many = [[1.0, 2.0, 3.0, 4.0]] * CONVERTED_INLINE_MAX
    assert (await engine.infer("scaling", many))["y"].shape == (CONVERTED_INLINE_MAX, 4)
    assert engine._scheduler.started, "a large value is read in the pool"
    slow = Engine(EngineSettings(threads=1, inline_us=0.0))
    await put(slow, scaling())
    assert (await slow.infer("scaling", ROW))["y"].tolist() == [[2, 4, 6, 8]]
    assert slow._scheduler.started
    engine.close()
    slow.close()


def test_only_a_bounded_part_of_a_value_is_looked_at() -> None:
    assert is_small([[1, 2], [3, 4]])
    assert is_small({"x": [1] * 100, "y": np.zeros(10**6)})
    assert not is_small([0] * (CONVERTED_INLINE_MAX + 1))
    assert not is_small([[0] * 100] * 100)
    assert not is_small([{"x": [0] * 100}] * 100)


async def running_forever(**settings: Any) -> Engine:
    """An engine with a model that never ends once its input is positive; on zeros, as in warming up, it ends."""
    engine = Engine(EngineSettings(threads=1, **settings))
    await put(engine, endless_when_positive(), name="endless")
    return engine


async def test_an_endless_run_is_ended_at_its_deadline_while_the_loop_goes_on() -> None:
    engine = await running_forever(run_s=0.4)
    rounds = 0
    call = asyncio.create_task(engine.infer("endless", ROW))
    while not call.done():
        await asyncio.sleep(0)
        rounds += 1
    with pytest.raises(errors.OverTime, match="took longer than allowed"):
        call.result()
    assert rounds > 100
    with pytest.raises(errors.OverTime):
        engine.call("endless", {"x": ROW})
    engine.close()


async def test_the_queue_is_bounded_and_a_cancelled_call_gives_its_place_back() -> None:
    engine = await running_forever(run_s=30.0, queue_max=2)
    calls = [asyncio.create_task(engine.infer("endless", ROW)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(errors.EngineBusy, match="expected at most 2 calls at once"):
        await engine.infer("endless", ROW)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    engine.close(wait=True)  # ends only if the run was ended
    assert engine.waiting() == 0


async def test_a_model_of_functions_alone_has_no_graph() -> None:
    engine = Engine()
    model = await engine.load(
        release(None, name="circle", script="create function area(Real r) -> Real as 3 * r * r;"), origin="manual"
    )
    assert [one.name for one in model.contents.functions] == ["area"]
    with pytest.raises(errors.InputProblem, match=r"circle@1\.0 has functions alone and no graph to run"):
        await engine.infer("circle", [1])
    assert model.require_vectors() == 0


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("create function area(", "functions.pql, line 1: "),
        ("1 + 1;", "functions.pql: expected create function statements only"),
    ],
)
async def test_scripts_that_are_no_functions_are_refused(script: str, message: str) -> None:
    verdict = await Engine().trial(release(scaling(), script=script))
    assert verdict.error is not None
    assert (verdict.error.code, verdict.passing) == ("bad_functions", False)
    assert verdict.error.message.startswith(message)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("create function f(Real x) -> Real as squroot(x);", 'in f: no function "squroot" — did you mean "sqrt"?'),
        ("create function f(Real x) -> Real as sqrt(y);", 'in f: no variable "y"'),
        ("create function f(Real x) -> Real as g(x, 1); create function g(Real x) -> Real as x;", "in f: g: "),
        ("create function f() -> Real as sqrt('a', 2);", "in f: sqrt: "),
        ("create function Sqrt(Real x) -> Real as x;", '"sqrt" is a built-in function and cannot be replaced'),
        ("create function edge:groups(String e) -> Real as 1;", '"edge:groups" is a built-in function'),
    ],
)
async def test_functions_that_could_not_be_called_are_refused_at_trial_and_load(script: str, message: str) -> None:
    engine = Engine(check_functions=check_functions)
    engine.subscribe(lambda name, model: pytest.fail("nothing was loaded"))
    candidate = release(scaling(), script=script)
    verdict = await engine.trial(candidate)
    assert verdict.error is not None
    assert (verdict.error.code, verdict.passing) == ("bad_functions", False)
    assert verdict.error.message.startswith(message)
    with pytest.raises(errors.BadFunctions) as caught:
        await engine.load(candidate, origin="manual", verdict=accepted(candidate, engine))
    assert caught.value.message == verdict.error.message
    assert engine.loaded() == ()


async def test_functions_may_call_the_programs_and_each_other() -> None:
    script = """
        create function even(Integer n) -> Boolean as case when n = 0 then true else odd(n - 1) end;
        create function odd(Integer n) -> Boolean as case when n = 0 then false else even(n - 1) end;
        create function both(Real a) -> Real as sqrt(a) + both(a, a);
        create function both(Real a, Real b) -> Real as a + b;
        create function there(String e) -> Vector as edge:groups(e);
    """
    engine = Engine(check_functions=check_functions)
    candidate = release(None, script=script)
    assert (await engine.trial(candidate)).accepted
    model = await engine.load(candidate, origin="manual")
    assert len(model.contents.functions) == 5


async def test_nothing_heavy_is_imported_before_the_first_load() -> None:
    program = (
        "import asyncio, contextlib, sys\n"
        "import engine.functions\n"
        "from engine.engine import Engine\n"
        "from engine.errors import ContentProblem, ModelNotLoaded\n"
        "Engine().runtime_version\n"
        "with contextlib.suppress(ModelNotLoaded):\n"
        "    asyncio.run(Engine().infer('none', [1]))\n"
        "with contextlib.suppress(ContentProblem):\n"
        "    asyncio.run(Engine().describe(b'nothing'))\n"
        "print([name for name in ('numpy', 'onnxruntime', 'lark', 'onnx', 'sqlite_utils', 'cryptography', 'aiohttp')"
        " if name in sys.modules])"
    )
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    assert out.decode().strip() == "[]"
