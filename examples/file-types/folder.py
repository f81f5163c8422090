"""Make a model folder of Google's Magika, which tells the types of files from their first and last bytes.

    pip install 'peerage[demo]'
    python examples/file-types/folder.py FOLDER

The weights come from the installed package (Apache-2.0) and are not part of this repository. The folder's function
file_types(features) names the types; its test vectors hold what the package's own file answers.
"""

import base64
import hashlib
import json
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from features import features

PACKAGE = "magika"
MODEL = "magika/models/standard_v3_3"
SHA256_START = "fe2d2eb49c5f88a9"

DESCRIPTION = """\
name = "file-types"
kind = "onnx"
description = "the type of a file from its first and last bytes: Magika standard_v3_3"
model = "model.onnx"
labels = "labels.json"
functions = ["file-types.pql"]
vectors = "vectors.json"
licenses = ["Apache-2.0"]

[needs]
memory_bytes = 80000000

[[inputs]]
name = "bytes"
datatype = "INT32"
shape = [-1, 2048]

[[outputs]]
name = "target_label"
datatype = "FP32"
shape = [-1, 214]
"""

FUNCTIONS = """\
create function file_types(Object features) -> Bag of String
/* The type of each file whose features are a row; examples/file-types/features.py makes them. */
as select models:labels("file-types")[argmax(scores)]
   from Object scores in extract(models:infer("file-types", features)["target_label"]);
"""

SAMPLES = {
    "python": b"import json\nimport sys\n\n\ndef main() -> None:\n    print(json.dumps(sys.argv[1:]))\n\n\nmain()\n",
    "html": b"<!DOCTYPE html>\n<html><head><title>Hello</title></head>\n<body><p>Hello</p></body></html>\n",
    "csv": b"time,edge,value\n" + b"".join(b"2026-01-%02d,edge-1,%d.5\n" % (day, day * 3) for day in range(1, 29)),
    "gif": b"GIF89a" + bytes.fromhex("01000100800000ff ffff0000002c000000000100010000020244013b"),
}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: folder.py FOLDER")
    make_folder(Path(sys.argv[1]))


def make_folder(target: Path) -> None:
    try:
        source = Path(str(distribution(PACKAGE).locate_file(MODEL)))
    except PackageNotFoundError:
        sys.exit(f"the package {PACKAGE} is not installed: pip install 'peerage[demo]'")
    found = hashlib.sha256((source / "model.onnx").read_bytes()).hexdigest()
    if not found.startswith(SHA256_START):
        sys.exit(f"{source / 'model.onnx'}: expected a digest that starts with {SHA256_START}, found {found}")
    names = json.loads((source / "config.min.json").read_text("utf-8"))["target_labels_space"]
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / "model.onnx", target / "model.onnx")
    (target / "model.toml").write_text(DESCRIPTION, "utf-8")
    (target / "labels.json").write_text(json.dumps(names) + "\n", "utf-8")
    (target / "file-types.pql").write_text(FUNCTIONS, "utf-8")
    (target / "vectors.json").write_text(json.dumps(vectors(target / "model.onnx")) + "\n", "utf-8")


def vectors(model: Path) -> list[dict[str, object]]:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the runtime is imported
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rows = [features(sample)[np.newaxis] for sample in SAMPLES.values()]
    return [
        {
            "input": {"bytes": tensor(row)},
            "output": {"target_label": tensor(session.run(["target_label"], {"bytes": row})[0])},
            "tolerance": 1e-3,
        }
        for row in rows
    ]


def tensor(array: np.ndarray) -> dict[str, object]:
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode("ascii")
    return {"$tensor": {"dtype": little.dtype.str, "shape": list(array.shape), "data": data}}


if __name__ == "__main__":
    main()
