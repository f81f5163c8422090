"""Runs a target over numbered inputs and watches each: what it raises, the processor time it takes, what stays behind.

Rules: an input is known by target, seed and number. The time is of the processor, so a busy machine hurries nobody.
Memory is counted in blocks that live after a round of inputs and a collection: the second half of a run must not have
more than the first, beyond what a cache of bounded size may still take.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import FrameType
from typing import Any

from tests.fuzz.targets import TARGETS

INPUT_CPU_S_MAX = 3.0
AGAIN_CPU_S = 1.0  # where a callback of the interpreter swallowed the first call
COUNTED_MIN = 1_000  # inputs; of fewer, the first use of everything is in the second half
BLOCKS_MORE_MAX = 40_000  # allocated by the interpreter and still there, of a run's second half


class Hung(BaseException):
    """An input took longer than it may; no ``except Exception`` catches it."""


class Failed(AssertionError):
    """An input after which something did not hold; says how to see it again."""


@dataclass(frozen=True)
class Run:
    inputs: int
    blocks_more: int


def input_of(target: str, *, seed: int, number: int) -> Any:
    return TARGETS[target].make(Random(f"{target}:{seed}:{number}"))


def fuzz(target: str, *, seed: int, first: int = 0, inputs: int) -> Run:
    """Raises :class:`Failed` at the first input that crashes, hangs or breaks a rule, or when memory grew."""
    with _watchdog():
        _some(target, seed, range(first, first + inputs // 2))
        halfway = _blocks()
        _some(target, seed, range(first + inputs // 2, first + inputs))
        more = _blocks() - halfway
    if more > BLOCKS_MORE_MAX and inputs >= COUNTED_MIN:
        raise Failed(f"{target}: {more} more blocks of memory after {inputs - inputs // 2} more inputs")
    return Run(inputs, more)


def _some(target: str, seed: int, numbers: range) -> None:
    check = TARGETS[target].check
    for number in numbers:
        given = None
        try:
            given = input_of(target, seed=seed, number=number)
            signal.setitimer(signal.ITIMER_VIRTUAL, INPUT_CPU_S_MAX, AGAIN_CPU_S)
            check(given)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        except (Exception, Hung) as error:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            again = f"python -m tests.fuzz {target} --seed {seed} --first {number} --inputs 1"
            raise Failed(f"{again}\n{type(error).__name__}: {error}\n{given!r:.2000}") from error


def _blocks() -> int:
    for _ in range(2):  # what has a finalizer goes with the second
        gc.collect()
    return sys.getallocatedblocks()


@contextmanager
def _watchdog() -> Iterator[None]:
    def hung(number: int, frame: FrameType | None) -> None:
        raise Hung(f"more than {INPUT_CPU_S_MAX} s of processor time")

    before = signal.signal(signal.SIGVTALRM, hung)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
