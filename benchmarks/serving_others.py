"""Other inference servers with the same ONNX file: each in an environment of its own, made once.

Owns the pinned packages, the least service that each one's own documentation shows, and how each is started on
loopback without telling anybody. Environments are kept beside the user's caches (``PEERAGE_BENCH_ENVIRONMENTS``
elsewhere), a folder for each set of packages; making them needs PyPI.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.serving_load import Question, post

ONNXRUNTIME: Final = "onnxruntime==1.31.1"
NO_TELEMETRY: Final = {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1", "ORT_DISABLE_TELEMETRY": "1"}

SESSION: Final = """\
import onnxruntime

def session():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])
"""

MLSERVER: Final = """\
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from session import session


class Onnx(MLModel):
    async def load(self) -> bool:
        self.session = session()
        self.names = [node.name for node in self.session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feed = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        outputs = zip(self.names, self.session.run(self.names, feed))
        encoded = [NumpyCodec.encode_output(name, array) for name, array in outputs]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=encoded)
"""

LITSERVE: Final = """\
import sys

import litserve
import numpy as np

from session import session


class Onnx(litserve.LitAPI):
    def setup(self, device):
        self.session = session()

    def decode_request(self, request):
        return np.array(request["image"], np.float32)

    def predict(self, image):
        return self.session.run(None, {"image": image})

    def encode_response(self, outputs):
        return {"label": outputs[0].tolist(), "probabilities": outputs[1].tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Onnx(), accelerator="cpu", workers_per_device=1)
    port = int(sys.argv[1])
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="error")
"""

BENTOML: Final = """\
import bentoml
import numpy as np

from session import session


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Onnx:
    def __init__(self):
        self.session = session()

    @bentoml.api
    def predict(self, image: list[list[float]]) -> dict:
        label, probabilities = self.session.run(None, {"image": np.array(image, np.float32)})
        return {"label": label.tolist(), "probabilities": probabilities.tolist()}
"""


@dataclass(frozen=True, slots=True)
class Other:
    """A server of others: its packages, its service's files, its command line, and how it is asked."""

    name: str
    packages: tuple[str, ...]
    files: Mapping[str, str]
    command: Callable[[Path, int], list[str]]
    question: Callable[[int, list[list[float]]], Question]


def _mlserver_question(port: int, image: list[list[float]]) -> Question:
    return post(port, "/v2/models/digits/infer", oip_json("image", image), headers="Content-Type: application/json\r\n")


def _record_question(port: int, image: list[list[float]]) -> Question:
    body = json.dumps({"image": image}).encode()
    return post(port, "/predict", body, headers="Content-Type: application/json\r\n", expected=b"label")


def oip_json(name: str, rows: list[list[Any]], datatype: str = "FP32") -> bytes:
    """A request of the Open Inference Protocol with one tensor."""
    flat = [value for row in rows for value in row]
    tensor = {"name": name, "shape": [len(rows), len(rows[0])], "datatype": datatype, "data": flat}
    return json.dumps({"inputs": [tensor]}).encode()


def _mlserver_settings(port: int) -> str:
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    return json.dumps({"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports})


OTHERS: Final = (
    Other(
        "MLServer",
        ("mlserver==1.7.1", ONNXRUNTIME),
        {
            "service.py": MLSERVER,
            "model-settings.json": '{"name": "digits", "implementation": "service.Onnx"}',
        },
        lambda bin_folder, port: [str(bin_folder / "mlserver"), "start", "."],
        _mlserver_question,
    ),
    Other(
        "LitServe",
        ("litserve==0.2.19", ONNXRUNTIME),
        {"service.py": LITSERVE},
        lambda bin_folder, port: [str(bin_folder / "python"), "service.py", str(port)],
        _record_question,
    ),
    Other(
        "BentoML",
        ("bentoml==1.4.39", ONNXRUNTIME),
        {"service.py": BENTOML},
        lambda bin_folder, port: [
            str(bin_folder / "bentoml"),
            "serve",
            "service:Onnx",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ],
        _record_question,
    ),
)


def environment(other: Other) -> Path:
    """The folder of executables of a server's own environment, made when it is not there yet."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "peerage-bench"
    folder = Path(os.environ.get("PEERAGE_BENCH_ENVIRONMENTS", default)).expanduser()
    key = hashlib.sha256("\n".join((sys.version, *other.packages)).encode()).hexdigest()[:12]
    place = folder / f"{other.name.lower()}-{key}"
    ready = place / ".ready"
    if not ready.exists():
        print(f"installing {other.name} into {place}, once", file=sys.stderr, flush=True)
        venv.create(place, with_pip=True, clear=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run([*pip, *other.packages], check=True, stdin=subprocess.DEVNULL, env=_variables())
        ready.touch()
    return place / "bin"


def started(other: Other, model: Path, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The server's process, not yet answering, and its port. Everything that it says stands in ``folder/log``."""
    folder.mkdir()
    port = free_port()
    (folder / "model.onnx").write_bytes(model.read_bytes())
    (folder / "session.py").write_text(SESSION, "utf-8")
    for name, text in other.files.items():
        (folder / name).write_text(text, "utf-8")
    if other.name == "MLServer":
        (folder / "settings.json").write_text(_mlserver_settings(port), "utf-8")
    home = folder / "home"
    home.mkdir()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            other.command(environment(other), port),
            cwd=folder,
            env=_variables() | NO_TELEMETRY | {"HOME": str(home), "PYTHONPATH": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process, port


def _variables() -> dict[str, str]:
    """The environment without what concerns this Python and these packages."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PEERAGE_"))}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
