"""What the language can say of models: folders, vectors, signatures, inference."""

from __future__ import annotations

import runpy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import errors
from engine.engine import Engine, EngineSettings, Verdict
from engine.functions import ModelFunctions
from engine.template_folder import FolderExists, FolderNotWritten
from federation.folders import read_folder
from federation.names import BadName
from federation.packing import Inspection, pack
from federation.roots import first_root, pin_of, trust_chain
from federation.verification import VerifiedRelease, verify
from query.declarations import Call, Caller, Role, bind, declarations
from query.errors import UnknownName
from tests.models.making import DIRECTOR, PUBLISHER, ROOT_KEY, SCALING_VECTORS, release, scaling

ROOT = Path(__file__).parents[2]
CALL = Call(Caller("ada", Role.ADMIN), datetime(2027, 1, 1, tzinfo=UTC), "here")


def functions(engine: Engine, models: Path, **ports: Any) -> ModelFunctions:
    async def open_folder(name: str) -> VerifiedRelease:
        """As a peer does it: read, describe in a child, pack under the peer's own key, verify."""
        folder = read_folder(models / name)
        assert folder.weight is not None
        described = await engine.describe(folder.weight)
        made = pack(
            folder,
            version="",
            publisher=PUBLISHER,
            inspection=Inspection(described.inputs, described.outputs, described.opset),
            now=1_800_000_000,
            development=True,
        )
        signed = first_root("test", roots=(ROOT_KEY,), director=DIRECTOR.public, now=1_800_000_000)
        return verify(
            made.signed,
            root=trust_chain([signed], pin_of(signed)),
            manifest=made.manifest,
            files=made.files,
            development_key=PUBLISHER.public,
        )

    return ModelFunctions(engine, models_path=models, open_folder=open_folder, **ports)


async def load(engine: Engine, model: bytes, **about: Any) -> None:
    candidate = release(model, **about)
    verdict = Verdict(record=candidate.record_digest, runtime=engine.runtime_version, peak_bytes=5)
    await engine.load(candidate, origin="manual", verdict=verdict)


async def test_the_template_loads_tests_and_answers(tmp_path: Path) -> None:
    engine = Engine(clock=lambda: 7)
    models = functions(engine, tmp_path / "models")
    path = await models.create(CALL, "my-model.2")
    assert path == str(tmp_path / "models" / "my-model.2")
    assert await models.list_folders(CALL) == ["my-model.2"]
    assert await models.folder(CALL, "my-model.2") == path
    tested = await models.test(CALL, "my-model.2")
    assert tested["model"].startswith("my-model.2@dev+")
    assert tested["vectors"] == 1
    assert tested["memory_bytes"] > 0
    model = await engine.load(await models._open_folder("my-model.2"), origin="development")
    assert [one.name for one in model.contents.functions] == ["my_model_2_fahrenheit"]
    answer = await models.infer(CALL, "my-model.2", [0, 100])
    assert answer["fahrenheit"].tolist() == pytest.approx([32, 212])
    assert (await models.infer(CALL, "my-model.2", 37.5))["fahrenheit"].tolist() == pytest.approx([99.5])


def test_the_template_is_what_its_script_makes() -> None:
    script = runpy.run_path(str(ROOT / "examples/template/make.py"))
    assert script["graph"]() == (ROOT / "engine/template/model.onnx").read_bytes()


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


async def test_names_that_cannot_be_or_are_taken_are_refused(tmp_path: Path) -> None:
    models = functions(Engine(), tmp_path)
    with pytest.raises(BadName):
        await models.create(CALL, "../elsewhere")
    await models.create(CALL, "one")
    with pytest.raises(FolderExists, match='there is a model folder "one" already'):
        await models.create(CALL, "one")
    with pytest.raises(UnknownName, match=r'no model folder "onn" — did you mean "one"\?'):
        await models.folder(CALL, "onn")
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderNotWritten, match="cannot make the model folder"):
        await functions(Engine(), tmp_path / "file").create(CALL, "two")
    assert entries(tmp_path) == ["file", "one"]


async def test_vectors_of_a_folder_that_no_longer_hold_are_named(tmp_path: Path) -> None:
    models = functions(Engine(), tmp_path)
    folder = Path(await models.create(CALL, "wrong"))
    vectors = folder / "vectors.json"
    vectors.write_text(vectors.read_text().replace("98.6", "97"))
    with pytest.raises(errors.FailedVectors, match=r'test vector 1, output "fahrenheit"\[2\]: expected 97\.0'):
        await models.test(CALL, "wrong")


async def test_a_loaded_model_is_tested_shown_and_run(tmp_path: Path) -> None:
    engine = Engine(clock=lambda: 1_800_000_000)
    models = functions(engine, tmp_path)
    await load(engine, scaling(), vectors=SCALING_VECTORS, labels=b'["a", "b"]')
    assert models.loaded(CALL) == ["scaling@1.0"]
    assert await models.test(CALL, "scaling") == {"model": "scaling@1.0", "vectors": 1}
    assert models.labels(CALL, "scaling") == ["a", "b"]
    info = await models.info(CALL, "scaling")
    shown = {key: info[key] for key in ("model", "signer", "inputs", "opset", "loaded", "origin", "since", "labels")}
    assert shown == {
        "model": "scaling@1.0",
        "signer": "ada",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "opset": {"ai.onnx": 17},
        "loaded": True,
        "origin": "manual",
        "since": datetime.fromtimestamp(1_800_000_000, UTC),
        "labels": 2,
    }
    assert info["digest"].startswith("sha256:")
    assert info["run"].keys() == {"p99_us", "at_once_elements", "together_rows"}
    assert info["run"]["at_once_elements"] > 4
    for given in (
        {"x": [1, 2, 3, 4]},
        [1, 2, 3, 4],
        [[1, 2, 3, 4]],
        [{"x": [1, 2, 3, 4]}],
        np.array([1, 2, 3, 4], np.float32),
        np.array([[1, 2, 3, 4]], np.float32),
    ):
        answer = await models.infer(CALL, "scaling", given)
        assert answer["y"].tolist() == [[2, 4, 6, 8]]
    with pytest.raises(errors.InputProblem, match=r'input "x": expected FP32\[-1,4\], found FP64\[1,4\]'):
        await models.infer(CALL, "scaling", np.array([[1, 2, 3, 4]], np.float64))


async def test_an_installed_release_is_shown_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    installed = release(scaling(), version="2.0")

    async def find(name: str, version: str | None) -> VerifiedRelease | None:
        return installed if (name, version) == ("scaling", None) else None

    engine = Engine()
    models = functions(engine, tmp_path, find_release=find)
    shown = await models.info(CALL, "scaling")
    assert (shown["model"], shown["loaded"]) == ("scaling@2.0", False)
    await load(engine, scaling())
    shown = await models.info(CALL, "scaling")
    assert (shown["model"], shown["loaded"]) == ("scaling@1.0", True)
    with pytest.raises(errors.ModelNotLoaded, match='did you mean "scaling"'):
        await models.info(CALL, "scalin")


def test_every_function_is_declared_with_documentation_and_bound(tmp_path: Path) -> None:
    static = declarations(ModelFunctions)
    assert {one.name for one in static} == {
        f"models:{name}"
        for name in ("create", "list", "folder", "loaded", "test", "info", "labels", "infer", "streams", "end_stream")
    }
    assert all(one.documentation and one.examples for one in static)
    bound = bind(functions(Engine(EngineSettings()), tmp_path))
    assert all(one.implementation is not None for one in bound)
