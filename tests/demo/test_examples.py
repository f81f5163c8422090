"""The example models, as they lie in the repository and as their scripts make them."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from federation.folders import read_folder

EXAMPLES = Path(__file__).parents[2] / "examples"
DIGITS = EXAMPLES / "digits"
VERSIONS = ("1.0", "2.0", "3.0-broken")


def session(model: Path) -> Any:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def held_out() -> tuple[np.ndarray, np.ndarray]:
    rows = json.loads((DIGITS / "held-out.json").read_text("utf-8"))
    return np.array([row["image"] for row in rows], np.float32), np.array([row["label"] for row in rows])


def right(version: str) -> float:
    images, labels = held_out()
    (found,) = session(DIGITS / version / "model.onnx").run(["label"], {"image": images})
    return float((found == labels).mean())


def vectors_held(version: str) -> list[bool]:
    model = session(DIGITS / version / "model.onnx")
    held = []
    for vector in json.loads((DIGITS / version / "vectors.json").read_text("utf-8")):
        names = list(vector["output"])
        found = model.run(names, {"image": np.array(vector["input"]["image"], np.float32)})
        wanted = [np.array(vector["output"][name]) for name in names]
        within = vector["tolerance"]
        held.append(all(np.allclose(w, f, within, within) for w, f in zip(wanted, found, strict=True)))
    return held


@pytest.mark.parametrize("version", VERSIONS)
def test_the_digits_folders_can_be_packed(version: str) -> None:
    folder = read_folder(DIGITS / version)
    assert folder.name == "digits"
    assert list(folder.files) == ["model.onnx", "labels.json", "digits.pql", "vectors.json"]


def test_the_second_release_reads_more_digits_than_the_first() -> None:
    assert right("1.0") == pytest.approx(0.836, abs=0.01)
    assert right("2.0") == pytest.approx(0.987, abs=0.01)


def test_only_the_broken_release_fails_its_vectors() -> None:
    assert all(vectors_held("1.0"))
    assert all(vectors_held("2.0"))
    assert not all(vectors_held("3.0-broken"))


def test_the_readme_of_the_digits_says_what_was_measured() -> None:
    readme = (DIGITS / "README.md").read_text("utf-8")
    assert f"{right('1.0') * 100:.1f} %" in readme
    assert f"{right('2.0') * 100:.1f} %" in readme


@pytest.fixture(scope="module")
def file_types(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "file-types"
    subprocess.run([sys.executable, EXAMPLES / "file-types" / "folder.py", folder], check=True)
    return folder


def module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_types_folder_can_be_packed(file_types: Path) -> None:
    folder = read_folder(file_types)
    assert folder.name == "file-types"
    assert folder.description.licenses == ("Apache-2.0",)


@pytest.mark.parametrize(
    "path",
    [
        EXAMPLES / "digits" / "train.py",
        EXAMPLES / "digits" / "README.md",
        EXAMPLES / "digits" / "held-out.json",
        EXAMPLES / "digits" / "2.0" / "model.onnx",
        EXAMPLES / "digits" / "2.0" / "model.toml",
        Path(sys.executable).resolve(),
    ],
    ids=lambda path: path.name,
)
def test_our_features_give_what_the_package_itself_says(file_types: Path, path: Path) -> None:
    from magika import Magika

    row = module_of(EXAMPLES / "file-types" / "features.py").features_of_file(path)
    (scores,) = session(file_types / "model.onnx").run(["target_label"], {"bytes": row[np.newaxis]})
    names = json.loads((file_types / "labels.json").read_text("utf-8"))
    said = Magika().identify_path(path).prediction
    assert names[int(scores[0].argmax())] == said.dl.label
    assert float(scores[0].max()) == pytest.approx(said.score, abs=1e-3)


def test_a_file_that_is_too_small_is_not_judged(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(b"   hi   \n")
    assert module_of(EXAMPLES / "file-types" / "features.py").features_of_file(small) is None
