"""Graphs that ask for gigabytes or never end, on a real edge: each request is answered, and the edge goes on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.models.making import endless_when_positive, scaling
from tests.models.test_ceiling import growing
from tests.serving.device import Device, device

MEMORY = 512 * 1024**2
LIMITS = ("--memory-bytes-max", str(MEMORY), "--run-timeout-s", "1")


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    graphs = {"growing": growing(), "endless": endless_when_positive(), "scaling": scaling()}
    with device(tmp_path_factory.mktemp("hostile"), graphs, *LIMITS) as made:
        yield made


def asked(edge: Device, model: str, name: str, array: np.ndarray) -> tuple[str, list[float] | float]:
    """Status and message of a refusal, or "200" and the first output."""
    datatype = {"int64": "INT64", "float32": "FP32"}[array.dtype.name]
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    with triton.InferenceServerClient(edge.address, network_timeout=30) as client:
        try:
            answer = client.infer(model, [given])
        except InferenceServerException as refused:
            return refused.status(), refused.message()
        output = answer.get_response()["outputs"][0]["name"]
        return "200", answer.as_numpy(output).tolist()


def test_a_graph_that_asks_for_gigabytes(edge: Device) -> None:
    process = psutil.Process(edge.process.pid)
    for _ in range(3):
        status, message = asked(edge, "growing", "size", np.array([16 * 1024, 1024 * 1024], np.int64))
        assert status == "503", message
        assert "memory" in message
        assert asked(edge, "growing", "size", np.array([3, 5], np.int64)) == ("200", 0.0)
    assert process.memory_info().rss < 2 * MEMORY


def test_a_graph_that_never_ends_beside_others(edge: Device) -> None:
    row = np.ones((1, 4), np.float32)
    with ThreadPoolExecutor(6) as people:
        stuck = [people.submit(asked, edge, "endless", "x", row) for _ in range(2)]
        others = [people.submit(asked, edge, "scaling", "x", row) for _ in range(20)]
        assert {one.result()[0] for one in others} == {"200"}
        assert {one.result()[0] for one in stuck} == {"504"}
    assert asked(edge, "endless", "x", -row) == ("200", [[-1.0] * 4])
    assert "Traceback" not in edge.log
