"""Execution providers: which are chosen, what is said of those that are absent, and what models run on in fact."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import pytest

from engine.engine import Engine, EngineSettings
from engine.functions import in_memory
from engine.providers import CPU, RUNTIME_NAMES, Choice, Provider, chosen, known
from engine.sessions import Session, available_providers
from peers.local_parts import built_in_properties
from peers.setting_texts import BadSetting
from peers.settings import EdgeSettings, resolve_settings
from tests.models.making import release, scaling

CARD = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
HERE = onnxruntime.get_available_providers()
NO_CARD = "CUDAExecutionProvider" not in HERE


@pytest.mark.parametrize(
    ("wanted", "available", "choice"),
    [
        (("cpu",), HERE, Choice(("cpu",))),
        ((), HERE, Choice(("cpu",))),
        (("cuda",), CARD, Choice(("cuda", "cpu"))),
        (("tensorrt", "cuda", "cpu"), CARD, Choice(("tensorrt", "cuda", "cpu"))),
        (("cpu", "cuda"), CARD, Choice(("cpu", "cuda"))),
        (("cuda", "cuda"), CARD, Choice(("cuda", "cpu"))),
        (("openvino", "cuda"), CARD, Choice(("cuda", "cpu"), absent=("openvino",))),
        (("cuda", "tensorrt"), ["CPUExecutionProvider"], Choice(("cpu",), absent=("cuda", "tensorrt"))),
    ],
)
def test_what_is_wanted_and_there_is_chosen_in_its_order(
    wanted: tuple[Provider, ...], available: list[str], choice: Choice
) -> None:
    assert chosen(wanted, available) == choice


def test_a_clear_word_is_said_of_what_is_absent() -> None:
    assert Choice(("cpu",)).word("onnxruntime 1") is None
    assert Choice(("cpu",), ("cuda",)).word("onnxruntime 1") == (
        "execution provider cuda is wanted, and onnxruntime 1 here does not have it: models run on cpu"
    )
    assert Choice(("cuda", "cpu"), ("tensorrt", "openvino")).word("onnxruntime 1") == (
        "execution providers tensorrt, openvino are wanted, and onnxruntime 1 here does not have them: "
        "models run on cuda, cpu"
    )


def test_our_names_are_the_runtimes() -> None:
    assert set(get_args(Provider)) == set(RUNTIME_NAMES)
    assert set(RUNTIME_NAMES.values()) <= set(onnxruntime.get_all_providers())
    assert known(CARD) == ("tensorrt", "cuda", "cpu")
    assert known(["AzureExecutionProvider"]) == (), "it sends models elsewhere"


def test_a_session_says_what_it_runs_on() -> None:
    session = Session(scaling())
    assert session.providers == ("cpu",)
    assert session.run({"x": np.ones((1, 4), np.float32)})[0].tolist() == [[2, 2, 2, 2]]
    assert available_providers(CPU) == Choice(CPU)


@pytest.mark.skipif(not NO_CARD, reason="this machine has CUDA")
async def test_without_a_card_models_run_on_the_processor_and_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(EngineSettings(providers=("cuda", "tensorrt")))
    with caplog.at_level(logging.WARNING, "peerage.engine"):
        for version in ("1.0", "2.0"):
            model = await engine.load(release(scaling(), version=version), origin="manual")
    (told,) = caplog.records
    assert (told.msg, "cuda, tensorrt are wanted" in told.__dict__["reason"]) == ("execution_provider_absent", True)
    assert (model.providers, in_memory(model)["providers"]) == (("cpu",), ["cpu"])
    properties = built_in_properties(engine.providers())
    assert properties["execution_providers"] == "cpu"
    assert properties["execution_providers_absent"] == "cuda, tensorrt"
    assert "execution_providers_absent" not in built_in_properties()
    engine.close(wait=True)


def test_the_setting_takes_known_names() -> None:
    settings = resolve_settings(EdgeSettings, environment={"PEERAGE_EXECUTION_PROVIDERS": "tensorrt, cuda"})
    assert settings.execution_providers == ("tensorrt", "cuda")
    assert resolve_settings(EdgeSettings).execution_providers == ("cpu",)
    with pytest.raises(BadSetting, match=r"execution_providers in peerage.toml: expected a list.*gpu"):
        resolve_settings(EdgeSettings, file='execution_providers = ["gpu"]')


def test_the_processor_alone_needs_no_runtime_at_the_start() -> None:
    program = (
        "import sys; from engine.engine import Engine; print(Engine().providers().chosen, 'onnxruntime' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split(") ") == ["('cpu',", "False\n"]
