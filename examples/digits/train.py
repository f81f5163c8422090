"""Train the digits models and write their folders, ready to be packed as releases.

    pip install 'peerage[train]'
    python examples/digits/train.py [FOLDER]

Writes beside this file, or into FOLDER: ``held-out.json``, the quarter of scikit-learn's 1797 handwritten digits that
no model was trained on, and a model folder a version:

    1.0         a linear classifier that saw 120 digits
    2.0         a small network that saw three quarters of them; measurably better
    3.0-broken  a larger network whose export lost the scaling of its input: its own test vectors find that

Every seed is fixed. The test vectors hold what scikit-learn itself answers, so that they also test the export.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler

HERE = Path(__file__).parent
SEED = 7
VECTORS = 12
OPSET = {"": 17, "ai.onnx.ml": 3}

DESCRIPTION = """\
name = "digits"
kind = "onnx"
description = "{description}"
model = "model.onnx"
labels = "labels.json"
functions = ["digits.pql"]
vectors = "vectors.json"
licenses = ["Apache-2.0"]

[needs]
memory_bytes = 50000000

[[inputs]]
name = "image"
datatype = "FP32"
shape = [-1, 64]

[[outputs]]
name = "label"
datatype = "INT64"
shape = [-1]

[[outputs]]
name = "probabilities"
datatype = "FP32"
shape = [-1, 10]
"""

FUNCTIONS = """\
create function classify(Object images) -> Tensor
/* The digit in each image: 64 grey values from 0 to 16, row by row; a vector or tensor of such rows. */
as models:infer("digits", images)["label"];

create function right(Object images, Object labels) -> Real
/* The part of the images that are classified as their labels say. */
as count(select d from Object d in extract(classify(images) - labels) where d = 0) / dim(labels);
"""


@dataclass(frozen=True)
class Version:
    """A release to be: how its model is made, how many digits it sees, and what of it is exported."""

    name: str
    description: str
    seen: int
    make: Callable[[], Pipeline]
    exported: Callable[[Pipeline], ClassifierMixin]


def network(width: int) -> Pipeline:
    return make_pipeline(MaxAbsScaler(), MLPClassifier((width,), max_iter=2000, random_state=SEED))


VERSIONS = (
    Version(
        "1.0",
        "a linear classifier of handwritten digits that saw 120 of them",
        120,
        lambda: make_pipeline(MaxAbsScaler(), LogisticRegression(C=0.1, max_iter=500)),
        lambda pipeline: pipeline,
    ),
    Version("2.0", "a small network that classifies handwritten digits", 1347, lambda: network(32), lambda p: p),
    Version("3.0-broken", "a larger network, exported without its scaling", 1347, lambda: network(48), lambda p: p[-1]),
)


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    digits = load_digits()
    images, held_out_images, labels, held_out_labels = train_test_split(
        digits.data.astype(np.float32), digits.target, test_size=0.25, random_state=SEED, stratify=digits.target
    )
    rows = [
        {"label": int(y), "image": [int(v) for v in x]} for x, y in zip(held_out_images, held_out_labels, strict=True)
    ]
    target.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (target / "held-out.json").write_text(f"[{lines}]\n", "utf-8")
    for version in VERSIONS:
        pipeline = version.make().fit(images[: version.seen], labels[: version.seen])
        write_folder(target / version.name, version, pipeline, held_out_images[:VECTORS])
        print(
            f"{version.name:12} {pipeline.score(held_out_images, held_out_labels):.3f} of {len(rows)} held-out digits"
        )


def write_folder(folder: Path, version: Version, pipeline: Pipeline, questions: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    model = to_onnx(
        version.exported(pipeline),
        initial_types=[("image", FloatTensorType([None, 64]))],
        final_types=[("label", Int64TensorType([None])), ("probabilities", FloatTensorType([None, 10]))],
        options={"zipmap": False},
        target_opset=OPSET,
    )
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "model.toml").write_text(DESCRIPTION.format(description=version.description), "utf-8")
    (folder / "digits.pql").write_text(FUNCTIONS, "utf-8")
    (folder / "labels.json").write_text(json.dumps([str(digit) for digit in range(10)]) + "\n", "utf-8")
    (folder / "vectors.json").write_text(vectors(pipeline, questions), "utf-8")


def vectors(pipeline: Pipeline, questions: np.ndarray) -> str:
    listed: list[dict[str, Any]] = [
        {
            "input": {"image": [[int(value) for value in image]]},
            "output": {
                "label": [int(pipeline.predict([image])[0])],
                "probabilities": [[round(float(p), 6) for p in pipeline.predict_proba([image])[0]]],
            },
            "tolerance": 1e-4,
        }
        for image in questions
    ]
    return "[" + ",\n".join(json.dumps(vector, separators=(",", ":")) for vector in listed) + "]\n"


if __name__ == "__main__":
    main()
