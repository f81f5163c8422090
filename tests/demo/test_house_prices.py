"""The models of house prices, as they lie in the repository: packable, right by their vectors, as good as told."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from federation.folders import read_folder

HOUSES = Path(__file__).parents[2] / "examples" / "house-price"
MODELS = ("house-linear", "house-forest", "house-boosted")


def prices(model: str, houses: list[dict[str, float]]) -> np.ndarray:
    session = onnxruntime.InferenceSession(HOUSES / model / "model.onnx", providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    feed = {name: np.array([[house[name]] for house in houses], np.float32) for name in names}
    (found,) = session.run(["price"], feed)
    return found[:, 0]


@pytest.mark.parametrize("model", MODELS)
def test_the_folders_can_be_packed_and_answer_their_vectors(model: str) -> None:
    folder = read_folder(HOUSES / model)
    assert folder.name == model
    vectors = json.loads(folder.files["vectors.json"].content)
    houses = [{name: value[0][0] for name, value in vector["input"].items()} for vector in vectors]
    wanted = [vector["output"]["price"][0][0] for vector in vectors]
    assert prices(model, houses) == pytest.approx(wanted, rel=1e-3)


def test_the_readme_says_what_was_measured() -> None:
    held_out = json.loads((HOUSES / "held-out.json").read_text("utf-8"))
    sold = np.array([house["price"] for house in held_out])
    readme = (HOUSES / "README.md").read_text("utf-8")
    errors = [float(np.abs(prices(model, held_out) - sold).mean()) for model in MODELS]
    assert errors == sorted(errors, reverse=True)
    for model, error in zip(MODELS, errors, strict=True):
        (line,) = (line for line in readme.splitlines() if line.startswith(f"| `{model}`"))
        told = float(line.split("|")[-2].strip().removesuffix(" dollars").replace(",", ""))
        assert told == pytest.approx(error, rel=1e-3)
