"""What a stateful model shows, runs and keeps: the signature without its states, and streams of calls."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from engine.engine import Engine
from engine.errors import FailedVectors, InputProblem, StreamBusy, StreamUnknown, WrongSignature
from engine.sessions import Session
from engine.stateful import StatefulSession
from engine.streams import KEY_LENGTH_MAX, REASONS_MAX, StreamCall, Streams
from federation.documents import StateSpec
from federation.folders import read_folder
from federation.names import Digest
from federation.packing import Inspection, pack
from federation.states import STATES_MAX, BadStates, shown_signature
from query.errors import LimitExceeded
from tests.models.making import PUBLISHER, graph_of, release, spec

SUM = StateSpec("total", "totalN")
ONE = Digest("sha256:" + "1" * 64)
OTHER = Digest("sha256:" + "2" * 64)


def summing(factor: float = 1.0, *, rows: int = -1) -> bytes:
    """x[rows,2], total[1,2] → y[rows,2] = totalN = total + factor * x."""
    weight = numpy_helper.from_array(np.full((2,), factor, np.float32), "w")
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["scaled"]),
        helper.make_node("Add", ["scaled", "total"], ["y"]),
        helper.make_node("Identity", ["y"], ["totalN"]),
    ]
    inputs = [spec("x", "FP32", rows, 2), spec("total", "FP32", 1, 2)]
    outputs = [spec("y", "FP32", rows, 2), spec("totalN", "FP32", rows, 2)]
    return graph_of(nodes, inputs, outputs, initializers=[weight]).SerializeToString()


def smoothing(window: int = 3) -> bytes:
    """audio[1,-1] → mean[1,-1]: of the element and the ``window`` - 1 before it, where it has them."""
    weight = numpy_helper.from_array(np.full((1, 1, window), 1 / window, np.float32), "w")
    axis = numpy_helper.from_array(np.array([1], np.int64), "axis")
    nodes = [
        helper.make_node("Unsqueeze", ["audio", "axis"], ["a"]),
        helper.make_node("Conv", ["a", "w"], ["c"]),
        helper.make_node("Squeeze", ["c", "axis"], ["mean"]),
    ]
    inputs, outputs = [spec("audio", "FP32", 1, -1)], [spec("mean", "FP32", 1, -1)]
    return graph_of(nodes, inputs, outputs, initializers=[weight, axis]).SerializeToString()


GRAPH_INPUTS = [spec("x", "FP32", -1, 2), spec("total", "FP32", 1, 2)]
GRAPH_OUTPUTS = [spec("y", "FP32", -1, 2), spec("totalN", "FP32", -1, 2)]
X, Y = spec("x", "FP32", -1, 2), spec("y", "FP32", -1, 2)


def f4(*rows: Any) -> Any:
    return np.array(rows, np.float32)


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_states_are_no_inputs_or_outputs() -> None:
    inputs = [spec("input", "FP32", -1, -1), spec("state", "FP32", 2, -1, 128), spec("sr", "INT64")]
    outputs = [spec("output", "FP32", -1, 1), spec("stateN", "FP32", -1, -1, -1)]
    shown = shown_signature(inputs, outputs, [StateSpec("state", "stateN"), StateSpec("input", tail=64)])
    assert shown == ((spec("input", "FP32", -1, -1), spec("sr", "INT64")), (spec("output", "FP32", -1, 1),))


def test_fixed_shapes_are_shown_in_rows_and_without_the_tail() -> None:
    inputs = [spec("input", "FP32", 1, 576), spec("state", "FP32", 2, 1, 128)]
    outputs = [spec("output", "FP32", 1, 1), spec("stateN", "FP32", 2, 1, 128)]
    shown = shown_signature(inputs, outputs, [StateSpec("state", "stateN"), StateSpec("input", tail=64)])
    assert shown == ((spec("input", "FP32", -1, 512),), (spec("output", "FP32", -1, 1),))


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ([StateSpec("totl", "totalN")], 'a state names the input "totl": the model has x, total, name, t'),
        ([StateSpec("total", "totalM")], 'a state names the output "totalM": the model has y, totalN, wide, r'),
        ([SUM, SUM], 'state "total" stands twice'),
        ([SUM, StateSpec("x", "totalN")], 'output "totalN" is the state of two inputs'),
        ([StateSpec("name", tail=1)], 'state "name": expected numbers, found BYTES'),
        ([StateSpec("total", "wide")], 'state "total": expected an output FP32[1,2], found "wide" FP32[-1,3]'),
        ([StateSpec("total", "r")], 'state "total": expected an output FP32[1,2], found "r" RECORD[-1]'),
        ([StateSpec("total", "totalN", 3)], 'state "total": expected an output or a tail, found both'),
        ([StateSpec("x")], 'state "x": expected an output, or a tail of 1 to 1048576, found neither'),
        ([StateSpec("t", tail=1)], 'state "t": expected an input with dimensions, found a single number'),
        ([StateSpec("x", tail=2)], 'state "x": expected a last dimension longer than its tail of 2, found 2'),
        ([SUM] * (STATES_MAX + 1), f"expected at most {STATES_MAX} states, found {STATES_MAX + 1}"),
    ],
)
def test_states_that_a_graph_cannot_have(states: list[StateSpec], message: str) -> None:
    inputs = [X, spec("total", "FP32", 1, 2), spec("name", "BYTES", -1), spec("t", "FP32")]
    outputs = [Y, spec("totalN", "FP32", -1, 2), spec("wide", "FP32", -1, 3), spec("r", "RECORD", -1)]
    with pytest.raises(BadStates) as caught:
        shown_signature(inputs, outputs, states)
    assert caught.value.message == message


def test_something_must_be_left() -> None:
    with pytest.raises(BadStates, match="that are no state, found no input"):
        shown_signature([spec("total", "FP32", 1, 2)], [Y, spec("totalN", "FP32", -1, 2)], [SUM])
    with pytest.raises(BadStates, match="that are no state, found no output"):
        shown_signature([X, spec("total", "FP32", 1, 2)], [spec("totalN", "FP32", -1, 2)], [SUM])


def test_a_folder_says_its_states(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(summing())
    (tmp_path / "model.toml").write_text(
        'name = "summing"\n[[inputs]]\nname = "x"\ndatatype = "FP32"\nshape = [-1, 2]\n'
        '[[states]]\ninput = "total"\noutput = "totalN"\n'
    )
    session = Session(summing())
    inspection = Inspection(session.inputs, session.outputs, {"ai.onnx": 17})
    packed = pack(read_folder(tmp_path), version="1.0", publisher=PUBLISHER, inspection=inspection, now=0.0)
    assert (packed.record.inputs, packed.record.outputs, packed.record.states) == ((X,), (Y,), (SUM,))
    assert b"total from totalN" in packed.manifest


# --- running ----------------------------------------------------------------------------------------------------------


def test_rows_are_moments_of_one_stream() -> None:
    session = StatefulSession(Session(summing()), [SUM])
    assert (session.inputs, session.outputs) == ((X,), (Y,))
    (y,) = session.run({"x": f4([1, 1], [2, 0], [3, 5])})
    assert y.tolist() == [[1, 1], [3, 1], [6, 6]]
    outputs, state = session.advance({"x": f4([1, 1])}, {})
    assert (outputs[0].tolist(), state["total"].tolist()) == ([[1, 1]], [[1, 1]])
    outputs, state = session.advance({"x": f4([2, 0], [3, 5])}, state)
    assert (outputs[0].tolist(), state["total"].tolist()) == ([[3, 1], [6, 6]], [[6, 6]])


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 6], [2, 10]])
def test_a_tail_joins_pieces_of_any_length(pieces: list[int]) -> None:
    """As if the whole had come at once, with silence before it."""
    session = StatefulSession(Session(smoothing()), [StateSpec("audio", tail=2)])
    whole = np.random.default_rng(3).normal(size=12).astype(np.float32)
    expected = np.convolve(np.concatenate((np.zeros(2, np.float32), whole)), np.full(3, 1 / 3), mode="valid")
    found, state = [], {}
    for piece in np.split(whole, np.cumsum(pieces)[:-1]):
        outputs, state = session.advance({"audio": piece[np.newaxis]}, state)
        found += outputs[0][0].tolist()
        assert state["audio"].shape == (1, 2)
    assert np.allclose(found, expected, atol=1e-6)


def test_rows_of_every_input_must_be_as_many_and_an_output_without_rows_takes_one() -> None:
    two = graph_of(
        [
            helper.make_node("Add", ["a", "b"], ["s"]),
            helper.make_node("Add", ["s", "total"], ["y"]),
            helper.make_node("ReduceSum", ["y"], ["sum"], keepdims=0),
            helper.make_node("Identity", ["y"], ["totalN"]),
        ],
        [spec("a", "FP32", -1, 2), spec("b", "FP32", -1, 2), spec("total", "FP32", 1, 2)],
        [spec("y", "FP32", -1, 2), spec("sum", "FP32"), spec("totalN", "FP32", -1, 2)],
    )
    session = StatefulSession(Session(two.SerializeToString()), [SUM])
    with pytest.raises(InputProblem, match='expected as many rows of every input, found "a" 1, "b" 2'):
        session.run({"a": f4([1, 1]), "b": f4([1, 1], [2, 2])})
    with pytest.raises(InputProblem, match='one row a call, as the output "sum" has no rows, found 2'):
        session.run({"a": f4([1, 1], [2, 2]), "b": f4([1, 1], [2, 2])})
    assert session.run({"a": f4([1, 1]), "b": f4([2, 2])})[1] == 6


def test_states_that_the_graph_cannot_have_are_refused_with_the_release() -> None:
    with pytest.raises(WrongSignature, match='the model cannot have its states: a state names the input "sum"'):
        StatefulSession(Session(summing()), [StateSpec("sum", "totalN")])
    huge = graph_of(
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Identity", ["total"], ["totalN"])],
        [X, spec("total", "FP32", 100_000, 100_000)],
        [Y, spec("totalN", "FP32", 100_000, 100_000)],
    )
    with pytest.raises(WrongSignature, match=r'state "total": expected at most 16777216 elements, found FP32\[100000'):
        StatefulSession(Session(huge.SerializeToString()), [SUM])


# --- streams ----------------------------------------------------------------------------------------------------------


class Hand:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def going(streams: Streams, session: StatefulSession, *, record: Digest = ONE, **call: Any) -> Any:
    """One call of ones: what it answered, and the call."""
    made = StreamCall(**{"key": "a", "scope": "m", **call})
    (y,) = streams.run(session, {"x": f4([1, 1])}, made, record=record)
    return y[0, 0], made


@pytest.fixture(scope="module")
def session() -> StatefulSession:
    return StatefulSession(Session(summing()), [SUM])


def test_a_stream_goes_on_and_others_do_not_see_it(session: StatefulSession) -> None:
    streams = Streams()
    assert [going(streams, session)[0] for _ in range(3)] == [1, 2, 3]
    assert going(streams, session, key="b")[0] == 1
    assert going(streams, session, scope="m/step")[0] == 1
    total, call = going(streams, session, end=True)
    assert (total, call.position, call.restarted) == (4, 4, "")
    assert (going(streams, session)[0], len(streams)) == (1, 3)
    assert going(streams, session, start=True)[0] == 1
    assert [(one.scope, one.key, one.position) for one in streams.shown("m")] == [
        ("m", "b", 1),
        ("m/step", "a", 1),
        ("m", "a", 1),
    ]
    assert streams.memory_bytes == 3 * 8
    assert streams.end("m", "b")
    assert not streams.end("m", "b")


def test_a_position_counts_rows(session: StatefulSession) -> None:
    streams = Streams()
    for rows, position in ((3, 3), (1, 4), (2, 6)):
        call = StreamCall(key="a", scope="m")
        streams.run(session, {"x": np.ones((rows, 2), np.float32)}, call, record=ONE)
        assert call.position == position


def test_who_goes_on_with_what_is_not_open_is_told(session: StatefulSession) -> None:
    streams = Streams()
    with pytest.raises(StreamUnknown, match='stream "a" of m is not open: it never began, or was ended'):
        going(streams, session, start=False)
    going(streams, session)
    assert going(streams, session, start=False)[0] == 2


def test_streams_that_nobody_uses_are_dropped_and_never_in_silence(session: StatefulSession) -> None:
    clock = Hand()
    streams = Streams(idle_s=60, clock=clock)
    going(streams, session)
    going(streams, session, key="b")
    clock.now += 59
    assert going(streams, session)[0] == 2
    clock.now += 2
    assert [one.key for one in streams.shown("m")] == ["a"]
    with pytest.raises(StreamUnknown, match='stream "b" of m is not open: nobody used it for 60 s'):
        going(streams, session, key="b", start=False)
    total, call = going(streams, session, key="b")
    assert (total, call.position, call.restarted) == (1, 1, "nobody used it for 60 s")
    assert going(streams, session, key="b")[1].restarted == ""


def test_over_the_bound_the_least_recently_used_stream_is_dropped(session: StatefulSession) -> None:
    streams = Streams(streams_max=2)
    for key in ("a", "b", "a", "c"):
        going(streams, session, key=key)
    assert [one.key for one in streams.shown("m")] == ["a", "c"]
    with pytest.raises(StreamUnknown, match="dropped for others that were used later, as at most 2 streams are kept"):
        going(streams, session, key="b", start=False)


def test_the_memory_of_states_is_bounded(session: StatefulSession) -> None:
    streams = Streams(memory_bytes=20)
    for key in ("a", "b", "c"):
        going(streams, session, key=key)
    assert ([one.key for one in streams.shown("m")], streams.memory_bytes) == (["b", "c"], 16)
    assert "20 bytes of states" in going(streams, session)[1].restarted
    small = Streams(memory_bytes=7)
    with pytest.raises(LimitExceeded, match="expected a state of at most 7 bytes, found 8"):
        going(small, session)
    assert (len(small), small.memory_bytes) == (0, 0)


def test_reasons_are_remembered_for_some_streams_only(session: StatefulSession) -> None:
    streams = Streams(streams_max=1)
    for number in range(REASONS_MAX + 10):
        going(streams, session, key=str(number))
    assert len(streams._reasons) == REASONS_MAX


def test_another_version_begins_every_stream_anew(session: StatefulSession) -> None:
    streams = Streams()
    going(streams, session)
    total, call = going(streams, session, record=OTHER)
    assert (total, call.restarted) == (1, "its model was replaced by another version")
    with pytest.raises(StreamUnknown, match="replaced by another version"):
        going(streams, session, record=ONE, start=False)


def test_a_call_that_fails_leaves_its_stream_where_it_was(session: StatefulSession) -> None:
    streams = Streams()
    going(streams, session)
    with pytest.raises(InputProblem):
        streams.run(session, {"x": f4([1, 1, 1])}, StreamCall(key="a", scope="m"), record=ONE)
    with pytest.raises(InputProblem):
        streams.run(session, {"x": f4([1, 1, 1])}, StreamCall(key="new", scope="m"), record=ONE)
    assert (going(streams, session)[0], len(streams)) == (2, 1)


def test_calls_of_one_stream_come_one_after_another(session: StatefulSession) -> None:
    streams = Streams()

    class Within:
        """A session during whose run another call comes."""

        def advance(self, feed: Any, state: Any, options: Any) -> Any:
            with pytest.raises(StreamBusy, match='a call is running on stream "a" of m'):
                going(streams, session)
            with pytest.raises(StreamBusy):
                streams.end("m", "a")
            streams.forget("m")
            return session.advance(feed, state, options)

        def rows(self, feed: Any) -> int:
            return session.rows(feed)

    streams.run(Within(), {"x": f4([1, 1])}, StreamCall(key="a", scope="m"), record=ONE)  # type: ignore[arg-type]
    assert going(streams, session)[0] == 2


@pytest.mark.parametrize("key", ["", "k" * (KEY_LENGTH_MAX + 1)])
def test_a_key_has_a_length(session: StatefulSession, key: str) -> None:
    with pytest.raises(InputProblem, match=f"a stream's key of 1 to {KEY_LENGTH_MAX} characters"):
        going(Streams(), session, key=key)


# --- in an engine -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    yield engine
    engine.close(wait=True)


async def loaded(engine: Engine, graph: bytes, **about: Any) -> Any:
    about = {"name": "summing", "inputs": GRAPH_INPUTS, "outputs": GRAPH_OUTPUTS, "states": (SUM,), **about}
    return await engine.load(release(graph, **about), origin="manual")


async def test_a_loaded_model_keeps_streams(engine: Engine) -> None:
    assert engine.open_streams() == (0, 0)
    model = await loaded(engine, summing())
    assert model.rows_input is None, "requests are never merged"
    for expected in (1, 2, 3):
        answer = await engine.infer("summing", [1, 1], stream=StreamCall(key="mic"))
        assert answer["y"].tolist() == [[expected] * 2]
    alone = await engine.infer("summing", [[1, 1], [1, 1]])
    assert alone["y"].tolist() == [[1, 1], [2, 2]]
    assert [one.key for one in engine.streams().shown("summing")] == ["mic"]
    assert engine.open_streams() == (1, 8)
    await loaded(engine, summing(2.0), version="2.0")
    call = StreamCall(key="mic")
    assert (await engine.infer("summing", [1, 1], stream=call))["y"].tolist() == [[2, 2]]
    assert call.restarted == "its model was replaced by another version"
    engine.unload("summing")
    assert len(engine.streams()) == 0


async def test_test_vectors_are_streams_of_their_own(engine: Engine) -> None:
    rows = [[1, 1], [2, 0]]
    vectors = [{"input": {"x": rows}, "output": {"y": [[1, 1], [3, 1]]}}] * 2
    model = await loaded(engine, summing(), vectors=json.dumps(vectors).encode())
    assert model.require_vectors() == 2
    wrong = [{"input": {"x": rows}, "output": {"y": [[1, 1], [9, 1]]}}]
    with pytest.raises(FailedVectors, match=r'"y"\[1, 0\]: expected 9'):
        await loaded(engine, summing(), vectors=json.dumps(wrong).encode())


async def test_a_release_must_show_what_its_graph_and_states_leave(engine: Engine) -> None:
    more = [*GRAPH_INPUTS, spec("t", "FP32")]
    verdict = await engine.trial(release(summing(), name="summing", inputs=more, outputs=GRAPH_OUTPUTS, states=(SUM,)))
    assert isinstance(verdict.problem(), WrongSignature)


async def test_a_model_without_states_takes_no_stream(engine: Engine) -> None:
    await loaded(engine, summing(), states=())
    with pytest.raises(InputProblem, match="carries nothing from call to call: it takes no stream"):
        await engine.infer("summing", {"x": [1, 1], "total": [0, 0]}, stream=StreamCall(key="mic"))
