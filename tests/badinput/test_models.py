"""Models that lie, and versions that are published twice: refused by name at each step that meets them, while what
answered before goes on answering.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from federation.keys import read_key
from federation.layout import ImageLayout
from tests.models.making import (
    SCALING_VECTORS,
    hungry_to_run,
    packed,
    scaling,
    spec,
    vectors_of,
)
from tests.wire.living import Living, living, publisher_in

pytestmark = pytest.mark.timeout(120)

ONE_VECTOR = vectors_of(({"x": [[1, 2, 3, 4]]}, {"y": [[0, 0, 0, 0]]}))
RANDOM = random.Random(3).randbytes(5000)

IN_A_FOLDER: list[tuple[bytes, str, str]] = [
    (scaling()[:-20], "not_onnx", "expected an ONNX model, found a file that is cut off or damaged near byte 4"),
    (RANDOM, "not_onnx", "expected protobuf, found wire type 7 at byte 9"),
    (
        scaling(),
        "bad_folder",
        'the model of "thermo" has inputs x FP32[-1,4] and outputs y FP32[-1,4]; '
        "its model.toml says celsius FP32[-1] and fahrenheit FP32[-1]",
    ),
]
AT_AN_EDGE: dict[str, tuple[bytes, dict[str, Any], str, str]] = {
    "hungry": (hungry_to_run(), {"vectors": ONE_VECTOR}, "over_memory", "running the model needs more memory than"),
    "random": (RANDOM, {}, "not_onnx", "expected protobuf, found wire type 7 at byte 9"),
    "shape": (
        scaling(),
        {"inputs": [spec("x", "FP32", -1, 5)]},
        "wrong_signature",
        'shape@1.0: the signed record says inputs "x" FP32[-1,5], the model has "x" FP32[-1,4]',
    ),
    "truncated": (scaling()[:-20], {}, "not_onnx", "expected an ONNX model, found a file that is cut off"),
    "vectors": (
        scaling(3.0),
        {"vectors": SCALING_VECTORS},
        "failed_vectors",
        'vectors@1.0: test vector 1, output "y"[0, 0]: expected 2.0 within 0.0001, found 3.0; 4 of 4 elements differ',
    ),
}


async def endorsed(federation: Living) -> None:
    await publisher_in(federation)
    await federation.value('models:create("thermo")', home="ada")


async def test_a_folder_with_a_broken_model_makes_no_release(tmp_path: Path) -> None:
    async with living(tmp_path) as federation:
        await endorsed(federation)
        folder = tmp_path / "ada" / "models" / "thermo"
        good = (folder / "model.onnx").read_bytes()
        for model, code, message in IN_A_FOLDER:
            (folder / "model.onnx").write_bytes(model)
            for options in ("", ', {"test": false}'):
                answer = await federation.ask(f'models:create_release("thermo", "1.0"{options})', home="ada")
                assert [(problem.code, problem.message) for problem in answer.errors] == [(code, message)]
        assert await federation.value("models:installed()", home="ada") == []
        (folder / "model.onnx").write_bytes(good)
        made = await federation.value('models:create_release("thermo", "1.0")', home="ada")
        assert made["model"] == "thermo@1.0"


async def test_an_edge_refuses_each_by_name_while_the_model_before_answers(tmp_path: Path) -> None:
    async with living(tmp_path) as federation:
        await endorsed(federation)
        await federation.add_edge("e1", memory_bytes_max=512 << 20, load_timeout_s=20.0)
        await federation.value('edge:add_group("e1", "field")')
        await federation.value('models:create_release("thermo", "1.0")', home="ada")
        await federation.value('models:publish("thermo", "1.0")', home="ada")
        publisher = read_key(federation.home("ada").publisher_key)
        layout = ImageLayout(federation.home("ada").releases)
        for name, (model, about, *_) in AT_AN_EDGE.items():  # made with other tools than ours, and signed
            layout.install(packed(model, name=name, publisher=publisher, **about))
            await federation.value(f'models:publish("{name}", "1.0")', home="ada")
        models = [{"name": name, "version": "1.0"} for name in ("thermo", *AT_AN_EDGE)]
        await federation.value('edge:set_group_models("field", :models)', params={"models": models})
        codes = 'select e["error"] from e in edge:actual_state("e1")["last_load_errors"]'
        wanted = [code for _, _, code, _ in AT_AN_EDGE.values()]
        await federation.until(f"vectorof({codes})", wanted, timeout_s=60.0)  # what may pass is tried again
        errors = await federation.value('edge:actual_state("e1")["last_load_errors"]')
        for error, (name, (_, _, code, message)) in zip(errors, AT_AN_EDGE.items(), strict=True):
            assert (error["model"], error["error"]) == (f"{name}@1.0", code)
            assert error["message"].startswith(message)
        await federation.until('edge:actual_state("e1")["models:loaded"]', ["thermo@1.0"])
        answered = await federation.value('//peer: e1\nmodels:infer("thermo", [100.0])')
        assert answered["fahrenheit"].tolist() == [212.0]


async def test_a_version_published_twice_with_other_bytes(tmp_path: Path) -> None:
    async with living(tmp_path) as federation:
        await endorsed(federation)
        await federation.value('models:create_release("thermo", "1.0")', home="ada")
        first = await federation.value('models:publish("thermo", "1.0")', home="ada")
        await publisher_in(federation, "bob")
        await federation.value('models:create("thermo")', home="bob")
        description = tmp_path / "bob" / "models" / "thermo" / "model.toml"
        description.write_text(description.read_text().replace("degrees Celsius", "degrees C"))
        other = await federation.value('models:create_release("thermo", "1.0")', home="bob")
        (problem,) = (await federation.ask('models:publish("thermo", "1.0")', home="bob")).errors
        assert (problem.code, problem.hint) == ("version_taken", "a version is made once; choose another")
        assert problem.message.startswith("models/thermo:1.0 exists already with other content: expected sha256:")
        assert other["digest"] != first["digest"]
        assert await federation.value('models:publish("thermo", "1.0")', home="ada") == first  # still the first
