"""tritonclient[http] as it comes, against a real ``peerage edge`` process: sync, async_infer and aio.

What is asserted is what the client makes of an answer, so that a status, a header or a body that it does not expect
fails here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.models.making import classifying
from tests.models.test_states import summing
from tests.serving.device import Device, device
from tests.serving.face import identity_graph
from tests.serving.refused import KINDS

MODELS = ("one", "kinds", "scalar", "text", "summing", "classes")
ROW = np.array([[1, 2, 3, 4]], np.float32)
VALUES: dict[str, Any] = {"BOOL": [True, False], "BYTES": ["ab", "größer \0 日本"], "FP16": [1.5, -2.0]}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    models = {name: identity_graph(name) for name in MODELS[:4]} | {"summing": summing(), "classes": classifying()}
    states = '[[states]]\ninput = "total"\noutput = "totalN"\n'
    with device(tmp_path_factory.mktemp("device"), models, told={"summing": states}) as made:
        yield made


@pytest.fixture
def client(edge: Device) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(edge.address, concurrency=4) as made:
        yield made


def given(array: np.ndarray[Any, Any], name: str = "x", *, binary: bool = True) -> triton.InferInput:
    datatype = KINDS.get(name) or ("BYTES" if array.dtype.kind == "O" else "FP32")
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def kinds_of(datatype: str) -> np.ndarray[Any, Any]:
    dtype = {"BOOL": np.bool_, "BYTES": np.object_}.get(datatype)
    if dtype is None:
        kind = {"U": "uint", "I": "int", "F": "float"}[datatype[0]]
        bits = datatype.removeprefix("UINT").removeprefix("INT").removeprefix("FP")
        dtype = np.dtype(f"{kind}{bits}")
    return np.array(VALUES.get(datatype, [0, 1]), dtype)


class TestWhatIsTold:
    def test_health_and_metadata(self, client: triton.InferenceServerClient, edge: Device) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        told = client.get_server_metadata()
        assert told["name"] == "peerage"
        assert told["extensions"] == ["binary_tensor_data", "model_repository", "model_configuration", "statistics"]
        for version in ("", edge.versions["one"]):
            assert client.is_model_ready("one", version)
            assert client.get_model_metadata("one", version) == {
                "name": "one",
                "versions": [edge.versions["one"]],
                "platform": "onnx_onnxv1",
                "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}],
            }
            configuration = client.get_model_config("one", version)
            assert configuration["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 4]}]
            assert configuration["max_batch_size"] == 0
            assert configuration["parameters"] == {"execution_providers": {"string_value": "cpu"}}
        assert client.get_model_metadata("scalar")["inputs"][0]["shape"] == []
        assert not client.is_model_ready("nobody")
        assert not client.is_model_ready("one", "0.1")

    def test_statistics(self, client: triton.InferenceServerClient, edge: Device) -> None:
        def count() -> int:
            (told,) = client.get_inference_statistics("one")["model_stats"]
            assert told["version"] == edge.versions["one"]
            return int(told["inference_stats"]["success"]["count"])

        before = count()
        client.infer("one", [given(ROW)])
        assert count() == before + 1
        assert {told["name"] for told in client.get_inference_statistics()["model_stats"]} == set(MODELS)

    def test_the_index(self, client: triton.InferenceServerClient, edge: Device) -> None:
        told = client.get_model_repository_index()
        assert {entry["name"]: (entry["version"], entry["state"]) for entry in told} == {
            name: (version, "READY") for name, version in edge.versions.items()
        }


class TestInference:
    @pytest.mark.parametrize("binary_in", [True, False])
    @pytest.mark.parametrize("binary_out", [True, False])
    @pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
    def test_both_forms_and_codings(
        self, client: triton.InferenceServerClient, binary_in: bool, binary_out: bool, coding: str | None
    ) -> None:
        result = client.infer(
            "one",
            [given(ROW, binary=binary_in)],
            outputs=[triton.InferRequestedOutput("y", binary_data=binary_out)],
            request_id="r1",
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
        assert result.as_numpy("y").tolist() == ROW.tolist()
        assert result.get_response()["id"] == "r1"
        assert ("data" in result.get_output("y")) is not binary_out

    def test_without_outputs_everything_comes_in_binary(self, client: triton.InferenceServerClient) -> None:
        result = client.infer("one", [given(ROW)])
        assert result.get_output("y")["parameters"] == {"binary_data_size": 16}
        assert result.as_numpy("y").dtype == np.float32
        assert result.as_numpy("nothing") is None

    def test_every_datatype(self, client: triton.InferenceServerClient) -> None:
        arrays = {name: kinds_of(datatype) for name, datatype in KINDS.items()}
        result = client.infer("kinds", [given(array, name) for name, array in arrays.items()])
        for name, array in arrays.items():
            found = result.as_numpy(f"{name}_out")
            if KINDS[name] == "BYTES":
                found = np.array([text.decode() for text in found], np.object_)
            assert found.dtype == array.dtype
            assert found.tolist() == array.tolist()
        mixed = [given(array, name, binary=name in ("f16", "i8", "s")) for name, array in arrays.items()]
        wanted = [triton.InferRequestedOutput(f"{name}_out", binary_data=name == "f16") for name in ("s", "f16", "u64")]
        result = client.infer("kinds", mixed, outputs=wanted)
        assert [output["name"] for output in result.get_response()["outputs"]] == ["s_out", "f16_out", "u64_out"]
        assert result.as_numpy("s_out").tolist() == VALUES["BYTES"]
        assert result.as_numpy("f16_out").tolist() == VALUES["FP16"]

    @pytest.mark.parametrize("binary", [True, False])
    def test_scalars_and_what_is_no_number(self, client: triton.InferenceServerClient, binary: bool) -> None:
        outputs = [triton.InferRequestedOutput("y", binary_data=binary)]
        scalar = client.infer("scalar", [given(np.array(2.5, np.float32), binary=binary)], outputs=outputs)
        assert scalar.as_numpy("y").shape == ()
        odd = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
        result = client.infer("one", [given(odd, binary=binary)], outputs=outputs)
        assert np.array_equal(result.as_numpy("y"), odd, equal_nan=True)

    def test_asynchronous_requests(self, client: triton.InferenceServerClient) -> None:
        running = [client.async_infer("one", [given(ROW * factor)]) for factor in range(20)]
        found = [one.get_result().as_numpy("y").tolist() for one in running]
        assert found == [(ROW * factor).tolist() for factor in range(20)]

    def test_a_time_limit_and_parameters_of_ones_own(self, client: triton.InferenceServerClient) -> None:
        result = client.infer("one", [given(ROW)], timeout=5_000_000, priority=2, parameters={"mine": "x", "n": 1})
        assert result.as_numpy("y").tolist() == ROW.tolist()


class TestRefusals:
    """The text of each refusal reaches whoever catches the client's exception."""

    @pytest.mark.parametrize(
        ("model", "made", "more", "status", "says"),
        [
            ("nobody", given(ROW), {}, "404", 'no model "nobody" is loaded here'),
            ("one", given(ROW), {"model_version": "0.1"}, "404", "one@0.1 is not loaded here"),
            ("one", given(ROW, "z"), {}, "400", 'unknown input "z": expected "x"'),
            ("one", given(ROW[0]), {}, "400", "expected FP32[-1,4], found a shape of [4]"),
            ("one", given(ROW[:, :3]), {}, "400", "found a shape of [1,3]"),
            ("one", given(ROW[:0]), {}, "400", "found a shape of [0,4]"),
            ("one", given(np.array([0], np.int8), "i8"), {}, "400", 'unknown input "i8"'),
            ("one", given(ROW), {"sequence_id": 5, "sequence_start": True}, "400", "keeps no state between requests"),
            ("one", given(ROW), {"outputs": [triton.InferRequestedOutput("q")]}, "400", 'unknown output "q"'),
            (
                "one",
                given(ROW),
                {"outputs": [triton.InferRequestedOutput("y", class_count=3)]},
                "400",
                "classification is not supported",
            ),
        ],
    )
    def test_of_an_inference(
        self, client: triton.InferenceServerClient, model: str, made: Any, more: Any, status: str, says: str
    ) -> None:
        with pytest.raises(InferenceServerException) as refused:
            client.infer(model, [made], **more)
        assert refused.value.status() == status
        assert says in refused.value.message()

    def test_of_shared_memory(self, client: triton.InferenceServerClient) -> None:
        shared = triton.InferInput("x", [1, 4], "FP32")
        shared.set_shared_memory("region", 16)
        with pytest.raises(InferenceServerException, match="shared_memory_region is not supported"):
            client.infer("one", [shared])
        with pytest.raises(InferenceServerException, match="no GET /v2/systemsharedmemory/status on this face"):
            client.get_system_shared_memory_status()

    def test_of_what_is_told(self, client: triton.InferenceServerClient) -> None:
        for call in (client.get_model_metadata, client.get_model_config, client.get_inference_statistics):
            with pytest.raises(InferenceServerException) as refused:
                call("nobody")
            assert (refused.value.status(), refused.value.message()) == ("404", 'no model "nobody" is loaded here')

    def test_of_changes(self, client: triton.InferenceServerClient, edge: Device) -> None:
        for call in (client.load_model, client.unload_model):
            with pytest.raises(InferenceServerException) as refused:
                call("one")
            assert refused.value.status() == "403"
            assert "need the token of this peer" in refused.value.message()
            with pytest.raises(InferenceServerException) as refused:
                call("nobody", headers=edge.authorized)
            assert refused.value.status() == "404"
        with pytest.raises(InferenceServerException, match='load takes no parameter "config"'):
            client.load_model("one", headers=edge.authorized, config="{}", files={"file:1/model.onnx": b"x"})
        with pytest.raises(InferenceServerException, match="unload takes no dependents"):
            client.unload_model("one", headers=edge.authorized, unload_dependents=True)


class TestAio:
    async def test_everything_in_a_loop(self, edge: Device) -> None:
        async with triton_aio.InferenceServerClient(edge.address) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert await client.is_model_ready("one")
            assert not await client.is_model_ready("nobody")
            assert (await client.get_server_metadata())["name"] == "peerage"
            assert (await client.get_model_metadata("one"))["versions"] == [edge.versions["one"]]
            assert (await client.get_model_config("one"))["platform"] == "onnx_onnxv1"
            assert len(await client.get_model_repository_index()) == len(MODELS)
            for coding in (None, "gzip", "deflate"):
                for binary in (True, False):
                    result = await client.infer(
                        "one",
                        [given(ROW, binary=binary)],
                        outputs=[triton.InferRequestedOutput("y", binary_data=binary)],
                        request_compression_algorithm=coding,
                        response_compression_algorithm=coding,
                    )
                    assert result.as_numpy("y").tolist() == ROW.tolist()
            large = np.full((5000, 4), 0.1, np.float32)
            assert (await client.infer("one", [given(large)])).as_numpy("y").tolist() == large.tolist()
            with pytest.raises(InferenceServerException, match='unknown input "z"'):
                await client.infer("one", [given(ROW, "z")])
            with pytest.raises(InferenceServerException, match="need the token"):
                await client.unload_model("one")
            assert (await client.get_inference_statistics("one"))["model_stats"][0]["inference_count"] > 5000


def test_a_model_is_taken_out_and_brought_back(edge: Device) -> None:
    """A folder that was never released is not in the repository: it can be unloaded, and not loaded by this call."""
    with triton.InferenceServerClient(edge.address) as client:
        client.unload_model("text", headers=edge.authorized)
        assert not client.is_model_ready("text")
        with pytest.raises(InferenceServerException) as refused:
            client.infer("text", [given(np.array(["a"], np.object_))])
        assert refused.value.status() == "404"


class TestSequences:
    """A stateful model's streams are the protocol's sequences."""

    def summed(self, client: triton.InferenceServerClient, sequence: int | str, *rows: float, **more: Any) -> Any:
        array = np.array([[row, row] for row in rows], np.float32)
        answer = client.infer("summing", [given(array)], sequence_id=sequence, **more)
        return answer.as_numpy("y")[:, 0].tolist(), answer.get_response().get("parameters")

    def test_a_sequence_goes_on_until_its_end(self, client: triton.InferenceServerClient) -> None:
        assert client.get_model_metadata("summing")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
        first = self.summed(client, 7, 1, 2, sequence_start=True)
        assert first == ([1, 3], {"sequence_id": "7", "sequence_position": 2})
        assert self.summed(client, "seven", 5, sequence_start=True)[0] == [5]
        assert self.summed(client, 7, 1) == ([4], {"sequence_id": "7", "sequence_position": 3})
        assert self.summed(client, 7, 1, sequence_end=True)[0] == [5]
        with pytest.raises(InferenceServerException, match='stream "7" of summing is not open: it never began'):
            self.summed(client, 7, 1)
        assert self.summed(client, 7, 1, sequence_start=True)[0] == [1]

    def test_without_a_sequence_nothing_is_kept(self, client: triton.InferenceServerClient) -> None:
        for _ in range(2):
            answer = client.infer("summing", [given(np.ones((2, 2), np.float32))])
            assert answer.as_numpy("y").tolist() == [[1, 1], [2, 2]]

    def test_a_model_that_keeps_nothing_takes_no_sequence(self, client: triton.InferenceServerClient) -> None:
        with pytest.raises(InferenceServerException, match="keeps no state between requests"):
            client.infer("one", [given(ROW)], sequence_id=7, sequence_start=True)


@pytest.mark.parametrize("binary", [True, False])
def test_records_are_texts_of_json(client: triton.InferenceServerClient, binary: bool) -> None:
    told = client.get_model_metadata("classes")["outputs"]
    assert told == [
        {"name": "label", "datatype": "INT64", "shape": [-1]},
        {"name": "scores", "datatype": "BYTES", "shape": [-1]},
    ]
    wanted = [triton.InferRequestedOutput("scores", binary_data=binary)]
    answer = client.infer("classes", [given(np.eye(4, dtype=np.float32)[:2] * 9)], outputs=wanted)
    assert answer.get_output("scores")["parameters"]["content_type"] == "application/json"
    first, second = (json.loads(text) for text in answer.as_numpy("scores"))
    assert (max(first, key=first.get), max(second, key=second.get)) == ("0", "1")
    assert sum(first.values()) == pytest.approx(1.0)
