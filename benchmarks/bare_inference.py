"""A bare aiohttp handler around an ONNX session: the least that an inference server in Python can do.

    python -m benchmarks.bare_inference MODEL.onnx

Prints its port as a line. It reads the messages of the Open Inference Protocol, JSON and binary, as they are when they
are right, and checks nothing: no name, no shape, no datatype, no limit, no time. The same JSON library and the same
settings of the runtime as Peerage; one process, one loop, the model runs on it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

DTYPES = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}
DATATYPES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}


def session_of(model: Path) -> Any:
    """A session with the settings that Peerage's own has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    return onnxruntime.InferenceSession(model.read_bytes(), options, providers=["CPUExecutionProvider"])


def application_of(session: Any) -> web.Application:
    names = [node.name for node in session.get_outputs()]

    async def infer(request: web.Request) -> web.Response:
        body = await request.read()
        header = request.headers.get("Inference-Header-Content-Length")
        size = len(body) if header is None else int(header)
        asked = msgspec.json.decode(body[:size])
        feed, at = {}, size
        for tensor in asked["inputs"]:
            dtype = DTYPES[tensor["datatype"]]
            if header is None:
                array = np.array(tensor["data"], dtype).reshape(tensor["shape"])
            else:
                count = tensor["parameters"]["binary_data_size"]
                array = np.frombuffer(body, dtype, count // np.dtype(dtype).itemsize, at).reshape(tensor["shape"])
                at += count
            feed[tensor["name"]] = array
        outputs = zip(names, session.run(names, feed), strict=True)
        answer: dict[str, Any] = {"model_name": "model", "model_version": "1", "outputs": []}
        parts = []
        for name, array in outputs:
            told = {"name": name, "datatype": DATATYPES[array.dtype], "shape": array.shape}
            if header is None:
                told["data"] = array.ravel().tolist()
            else:
                parts.append(array.tobytes())
                told["parameters"] = {"binary_data_size": len(parts[-1])}
            answer["outputs"].append(told)
        head = msgspec.json.encode(answer)
        if header is None:
            return web.Response(body=head, content_type="application/json")
        return web.Response(
            body=b"".join((head, *parts)),
            content_type="application/octet-stream",
            headers={"Inference-Header-Content-Length": str(len(head))},
        )

    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_post("/v2/models/{model}/infer", infer)
    return application


async def serve(model: Path) -> None:
    runner = web.AppRunner(application_of(session_of(model)), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
