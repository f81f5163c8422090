"""Sounds to listen to, made with numpy alone: a voice that chatters in vowels, a hum, and silence.

    python examples/speech/voice.py FILE.wav

writes four seconds at 16 kHz: one of silence, two of chatter, one of hum. The voice is a buzz of changing pitch through
the resonances of a mouth (formants); it says nothing, and is speech to a model that tells speech from noise.
"""

from __future__ import annotations

import sys
import wave
from pathlib import Path

import numpy as np

RATE = 16_000
WINDOW = 512

# Resonances of five vowels in Hz (Peterson and Barney, 1952), and how broad each is.
FORMANTS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
BANDWIDTHS = (80, 100, 140)


def chatter(seconds: float, *, seed: int = 1) -> np.ndarray:
    """A voice, as float32 between -0.5 and 0.5."""
    random = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * RATE:
        parts.append(vowel(random, random.choice(list(FORMANTS)), random.uniform(0.1, 0.22), random.uniform(110, 150)))
        parts.append(random.normal(size=RATE // 20) * 0.02)
    sound = np.concatenate(parts)[: int(seconds * RATE)]
    return (sound / np.abs(sound).max() * 0.5).astype(np.float32)


def hum(seconds: float) -> np.ndarray:
    """A tone of 440 Hz."""
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE), np.float32)


def vowel(random: np.random.Generator, name: str, seconds: float, pitch_hz: float) -> np.ndarray:
    count = int(seconds * RATE)
    time = np.arange(count) / RATE
    drift = 1 + 0.01 * np.cumsum(random.normal(size=count)) / np.sqrt(count)
    frequency = pitch_hz * (1 + 0.08 * np.sin(6 * np.pi * time) - 0.1 * time / seconds) * drift
    pulses = np.diff(np.floor(np.cumsum(frequency) / RATE), prepend=0)
    sound = np.convolve(pulses, np.exp(-np.arange(60) / 12))[:count] + 0.02 * random.normal(size=count)
    for formant, bandwidth in zip(FORMANTS[name], BANDWIDTHS, strict=True):
        sound = resonance(sound, formant, bandwidth)
    ramp = np.minimum(np.arange(count), np.arange(count)[::-1]) / (0.03 * RATE)
    return sound * np.minimum(1, ramp)


def resonance(sound: np.ndarray, frequency_hz: float, bandwidth_hz: float) -> np.ndarray:
    """A two-pole filter."""
    radius = np.exp(-np.pi * bandwidth_hz / RATE)
    first, second = 2 * radius * np.cos(2 * np.pi * frequency_hz / RATE), -radius * radius
    filtered = np.zeros_like(sound)
    before = before_that = 0.0
    for at, sample in enumerate(sound):
        filtered[at] = sample * (1 - first - second) + first * before + second * before_that
        before, before_that = filtered[at], before
    return filtered


def write_wav(path: Path, sound: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


def read_wav(path: Path) -> np.ndarray:
    """Raises SystemExit for anything but 16 kHz, 16 bits, one channel."""
    with wave.open(str(path), "rb") as file:
        form = (file.getframerate(), file.getsampwidth() * 8, file.getnchannels())
        if form != (RATE, 16, 1):
            sys.exit(f"{path}: expected {RATE} samples a second of 16 bits on 1 channel, found {form}")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: voice.py FILE.wav")
    write_wav(Path(sys.argv[1]), np.concatenate((silence(1), chatter(2), hum(1))))
