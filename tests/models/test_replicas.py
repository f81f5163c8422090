"""Models in processes of their own: the same answers, limits that hold, ends that are survived and told."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.errors import InputProblem, ModelFailed, NotOnnx, OverMemory, OverTime, ReplicaLost
from engine.replicas import ReplicaSet, ReplicaSettings
from engine.sessions import Session, run_options
from engine.stateful import StatefulSession
from engine.tensor_frames import HEAD_BYTES_MAX, BadFrame, Head, _Part, receive, send
from federation.documents import StateSpec
from federation.names import Digest, digest_of
from tests.models.making import endless_when_positive, graph_of, hungry_to_run, scaling, spec
from tests.models.test_states import summing

MIB = 1024 * 1024
IRIS = Path(onnxruntime.__file__).parent / "datasets/logreg_iris.onnx"


def texts() -> bytes:
    node = helper.make_node("Identity", ["s"], ["t"])
    return graph_of([node], [spec("s", "BYTES", -1, -1)], [spec("t", "BYTES", -1, -1)]).SerializeToString()


GRAPHS = {
    "scaling": scaling(),
    "iris": IRIS.read_bytes(),
    "texts": texts(),
    "endless": endless_when_positive(),
    "hungry": hungry_to_run(),
    "summing": summing(),
}


def digest(name: str) -> Digest:
    return digest_of(GRAPHS[name])


@pytest.fixture(scope="module")
def replicas() -> Iterator[ReplicaSet]:
    """Two processes with every graph, each allowed 256 MiB."""
    graphs = {digest_of(graph): graph for graph in GRAPHS.values()}
    found = ReplicaSet(graphs, ReplicaSettings(count=2, memory_bytes=256 * MIB))
    yield found
    ids = found.process_ids
    found.close()
    assert all(not psutil.pid_exists(one) for one in ids)


def f4(*rows: Any) -> Any:
    return np.array(rows, np.float32)


@pytest.mark.parametrize(
    ("name", "feed"),
    [
        ("scaling", {"x": f4([1, 2, 3, 4], [5, 6, 7, 8])}),
        ("scaling", {"x": np.arange(400_000, dtype=np.float32).reshape(-1, 4)}),
        ("scaling", {"x": np.arange(16, dtype=np.float32).reshape(4, 4).T}),
        ("iris", {"float_input": f4([5.1, 3.5], [6.2, 2.9], [7.7, 3.0])}),
        ("texts", {"s": np.array([["a", "é\0"], ["", "🙂"]], object)}),
    ],
)
def test_a_process_answers_what_a_session_does(replicas: ReplicaSet, name: str, feed: dict[str, Any]) -> None:
    here, there = Session(GRAPHS[name]), replicas.session(digest(name))
    assert (there.inputs, there.outputs, there.output_names) == (here.inputs, here.outputs, here.output_names)
    assert (there.reading, there.providers, there.waits) == (here.reading, ("cpu",), True)
    for found, expected in zip(there.run(feed), here.run(feed), strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tolist() == expected.tolist()


def test_states_are_kept_here(replicas: ReplicaSet) -> None:
    session = StatefulSession(replicas.session(digest("summing")), [StateSpec("total", "totalN")])
    assert session.waits
    assert session.run({"x": f4([1, 1], [2, 0])})[0].tolist() == [[1, 1], [3, 1]]


def test_processes_run_at_the_same_time(replicas: ReplicaSet) -> None:
    session = replicas.session(digest("endless"))
    stopping = [run_options(), run_options()]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(session.run, {"x": f4([1, 0, 0, 0])}, options) for options in stopping]
        while sum(psutil.Process(one).cpu_times().user > 0.05 for one in replicas.process_ids) < 2:
            threading.Event().wait(0.01)
        ids = replicas.process_ids
        for options in stopping:
            options.terminate = True
        for run in runs:
            with pytest.raises(OverTime):
                run.result()
    assert replicas.process_ids == ids, "a loop ends when it is asked to"
    assert session.run({"x": f4([-1, 0, 0, 0])})[0].tolist() == [[-1, 0, 0, 0]]


def test_a_memory_limit_holds_and_the_process_goes_on(replicas: ReplicaSet) -> None:
    with pytest.raises(OverMemory):
        replicas.session(digest("hungry")).run({"x": f4([1, 1, 1, 1])})
    assert replicas.session(digest("scaling")).run({"x": f4([1, 1, 1, 1])})[0].tolist() == [[2, 2, 2, 2]]
    with pytest.raises((OverMemory, ModelFailed)):  # what is asked is larger than its memory
        replicas.session(digest("scaling")).run({"x": np.zeros((24 * MIB, 4), np.float32)})
    assert replicas.session(digest("scaling")).run({"x": f4([1, 1, 1, 1])})[0].tolist() == [[2, 2, 2, 2]]


def test_an_input_that_does_not_fit_is_told_as_here(replicas: ReplicaSet) -> None:
    with pytest.raises(InputProblem):
        replicas.session(digest("scaling")).run({"x": f4([1, 1, 1])})


def test_a_graph_that_is_none_is_refused_and_leaves_no_process() -> None:
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(NotOnnx):
        ReplicaSet({Digest("sha256:" + "0" * 64): b"nothing"}, ReplicaSettings(count=1, memory_bytes=MIB))
    weights = helper.make_tensor("w", 1, [4, 4 * MIB], bytes(64 * MIB), raw=True)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    wide = graph_of([node], [spec("x", "FP32", -1, 4)], [spec("y", "FP32", -1, 4 * MIB)], initializers=[weights])
    graph = wide.SerializeToString()
    with pytest.raises(OverMemory):
        ReplicaSet({digest_of(graph): graph}, ReplicaSettings(count=1, memory_bytes=MIB))
    assert {child.pid for child in psutil.Process().children()} == before


@pytest.fixture
def one() -> Iterator[ReplicaSet]:
    graphs = {digest(name): GRAPHS[name] for name in ("scaling", "endless")}
    found = ReplicaSet(graphs, ReplicaSettings(count=1, memory_bytes=256 * MIB))
    yield found
    found.close()


def busy(replicas: ReplicaSet) -> int:
    """The process of a set, once its run is under way: it has taken more time than its start does."""
    while True:
        for process in replicas.process_ids:
            with suppress(psutil.Error):
                before = psutil.Process(process).cpu_times().user
                threading.Event().wait(0.1)
                if psutil.Process(process).cpu_times().user - before > 0.02 and before > 0.6:
                    return process
        threading.Event().wait(0.01)


def test_a_process_that_is_gone_is_started_again(one: ReplicaSet) -> None:
    session = one.session(digest("scaling"))
    (before,) = one.process_ids
    os.kill(before, signal.SIGSEGV)
    while one.process_ids:
        threading.Event().wait(0.01)
    assert session.run({"x": f4([1, 1, 1, 1])})[0].tolist() == [[2, 2, 2, 2]]
    (after,) = one.process_ids
    assert (after != before, one.restarts) == (True, 1)


def test_a_process_that_ends_in_a_run_is_told(one: ReplicaSet) -> None:
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(one.session(digest("endless")).run, {"x": f4([1, 0, 0, 0])})
        os.kill(busy(one), signal.SIGSEGV)
        with pytest.raises(ModelFailed, match="the model ended its process by SIGSEGV"):
            run.result()


def test_a_process_that_ends_again_and_again_is_not_started_at_once(one: ReplicaSet) -> None:
    session = one.session(digest("endless"))
    for _ in range(2):
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(session.run, {"x": f4([1, 0, 0, 0])})
            os.kill(busy(one), signal.SIGKILL)
            with pytest.raises(OverMemory, match="than the 268435456 bytes of memory that its process may have"):
                run.result()
    with pytest.raises(ReplicaLost, match=r"ended 2 times in a row; the next is started in 0\.\d s"):
        session.run({"x": f4([-1, 0, 0, 0])})


def test_a_process_that_does_not_end_its_run_is_ended(one: ReplicaSet) -> None:
    (process,) = one.process_ids
    options = run_options()
    os.kill(process, signal.SIGSTOP)  # as an operator that takes for ever: it cannot look at the flag
    options.terminate = True
    with pytest.raises(OverTime, match="its process was ended"):
        one.session(digest("scaling")).run({"x": f4([1, 1, 1, 1])}, options)
    assert not psutil.pid_exists(process)


def test_sessions_keep_the_processes_and_their_end_ends_them() -> None:
    found: ReplicaSet | None = ReplicaSet(
        {digest("scaling"): GRAPHS["scaling"]}, ReplicaSettings(count=1, memory_bytes=64 * MIB)
    )
    assert found is not None
    (process,) = found.process_ids
    session = found.session(digest("scaling"))
    found = None
    gc.collect()
    assert session.run({"x": f4([1, 1, 1, 1])})[0].tolist() == [[2, 2, 2, 2]]
    running = psutil.Process(process)
    del session
    gc.collect()
    running.wait(10)  # who let go does not
    assert not psutil.pid_exists(process)


# --- frames -----------------------------------------------------------------------------------------------------------


def exchanged(head: Head, tensors: dict[str, Any]) -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sending = threading.Thread(target=send, args=(ours, head, tensors))
        sending.start()
        found = receive(theirs)
        sending.join()
        return found


def test_frames_carry_every_datatype() -> None:
    tensors = {
        "f2": np.array([1.5, np.nan], np.float16),
        "b": np.array([[True], [False]]),
        "u8": np.array(3, np.uint64),
        "none": np.zeros((0, 4), np.float32),
        "t": np.array(["a", ""], object),
        "r": np.array([{"a": 1.0}], object),
    }
    _, found = exchanged(Head(kind="answer"), tensors)
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(found[name], array, equal_nan=array.dtype.kind == "f")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (_Part("x", "<f4", (2,), 7), r'tensor "x": 7 bytes are no <f4 of shape \[2\]'),
        (_Part("x", "|O8", (2,), 7), r"7 bytes are no \|O8"),
        (_Part("x", "<f4", (-1, -2), 8), "expected at most"),
        (_Part("x", "<f4", (1 << 40,), 1 << 42), "expected at most"),
        (_Part("x", "O", (2,), 1), r"expected a list of elements"),
    ],
)
def test_a_frame_that_contradicts_itself_is_refused(part: _Part, message: str) -> None:
    import msgspec

    head = msgspec.msgpack.encode(Head(kind="answer", parts=(part,)))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(len(head).to_bytes(4, "little") + head + bytes(16))
        with pytest.raises(BadFrame, match=message):
            receive(theirs)


def test_heads_are_bounded_and_an_end_is_told() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall((HEAD_BYTES_MAX + 1).to_bytes(4, "little"))
        with pytest.raises(BadFrame, match="expected a head of at most"):
            receive(theirs)
        ours.sendall(b"\x10\0\0\0ab")
        ours.close()
        assert receive(theirs) is None


OWNER = """
import sys, threading
from pathlib import Path
import numpy as np
from engine.replicas import ReplicaSet, ReplicaSettings
from federation.names import digest_of

graph = Path(sys.argv[1]).read_bytes()
found = []
thread = threading.Thread(
    target=lambda: found.append(ReplicaSet({digest_of(graph): graph}, ReplicaSettings(count=2, memory_bytes=1 << 28)))
)
thread.start()
thread.join()  # processes outlive the thread that started them
print(*found[0].process_ids, flush=True)
found[0].session(digest_of(graph)).run({"x": np.ones((1, 4), np.float32)})
"""


def test_processes_do_not_outlive_their_peer(tmp_path: Path) -> None:
    """However it ends, and in the middle of a run."""
    (tmp_path / "endless.onnx").write_bytes(GRAPHS["endless"])
    command = [sys.executable, "-c", OWNER, str(tmp_path / "endless.onnx")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        processes = [psutil.Process(int(one)) for one in owner.stdout.readline().split()]
        while sum(one.cpu_times().user > 0.2 for one in processes) < 1:
            threading.Event().wait(0.01)
        assert all(one.is_running() for one in processes)
        folders = {Path(one.cwd()) for one in processes}
        owner.kill()
    gone, alive = psutil.wait_procs(processes, timeout=10)
    assert (len(gone), alive) == (2, [])
    assert len(folders) == 2
    assert not any(folder.exists() for folder in folders)


SMALL_OWNER = """
import resource, sys
from pathlib import Path
import numpy as np
from engine.errors import OverMemory
from engine.replicas import ReplicaSet, ReplicaSettings
from federation.names import digest_of

graph = Path(sys.argv[1]).read_bytes()
replicas = ReplicaSet({digest_of(graph): graph}, ReplicaSettings(count=1, memory_bytes=1 << 29))
session = replicas.session(digest_of(graph))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), used + (64 << 20)))
try:
    session.run({"x": np.full((1, 4), 8e6, np.float32)})
except OverMemory as problem:
    print(problem.message)
print(session.run({"x": np.full((1, 4), 2, np.float32)})[0].tolist())
"""


def repeating() -> bytes:
    """x[1,4] → y[-1,4]: x, as often as its largest element says."""
    one = numpy_helper.from_array(np.array([1], np.int64), "one")
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["count"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["count", "one"], ["counted"]),
        helper.make_node("Concat", ["counted", "one"], ["shape"], axis=0),
        helper.make_node("Expand", ["x", "shape"], ["y"]),
    ]
    graph = graph_of(nodes, [spec("x", "FP32", 1, 4)], [spec("y", "FP32", -1, 4)], initializers=[one])
    return graph.SerializeToString()


def test_an_answer_that_the_peer_has_no_room_for_is_told(tmp_path: Path) -> None:
    (tmp_path / "repeating.onnx").write_bytes(repeating())
    command = [sys.executable, "-c", SMALL_OWNER, str(tmp_path / "repeating.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "the answer of the model's process needs more memory than there is here",
        "[[2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0]]",
    ]
