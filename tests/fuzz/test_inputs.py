"""Twenty thousand inputs, the same each time: no crash, no hang, no growth. ``make fuzz`` has a million."""

from __future__ import annotations

import pytest

from tests.fuzz import watching
from tests.fuzz.targets import TARGETS, Target
from tests.fuzz.watching import Failed, fuzz, input_of

INPUTS = {"parser": 5_000, "formatter": 4_000, "resolver": 4_000, "editor": 1_000, "frames": 6_000}
ROUNDS = 2


def test_how_many_there_are() -> None:
    assert INPUTS.keys() == TARGETS.keys()
    assert sum(INPUTS.values()) == 20_000


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("target", TARGETS)
def test_nothing_breaks(target: str, number: int) -> None:
    inputs = INPUTS[target] // ROUNDS
    assert fuzz(target, seed=0, first=number * inputs, inputs=inputs).inputs == inputs


def test_an_input_comes_again() -> None:
    for target in TARGETS:
        assert [input_of(target, seed=3, number=n) for n in range(20)] == [
            input_of(target, seed=3, number=n) for n in range(20)
        ]


def loops(text: str) -> None:
    while text is not None:
        pass


def raises(text: str) -> None:
    raise KeyError(text)


kept: list[list[object]] = []


def keeps(text: str) -> None:
    kept.append([object() for _ in range(200)])


@pytest.mark.parametrize(("check", "told"), [(loops, "Hung"), (raises, "KeyError"), (keeps, "more blocks of memory")])
def test_the_watch_sees_it(monkeypatch: pytest.MonkeyPatch, check: object, told: str) -> None:
    monkeypatch.setitem(TARGETS, "bad", Target(lambda draw: "x", check))  # type: ignore[arg-type]
    monkeypatch.setattr(watching, "INPUT_CPU_S_MAX", 0.05)
    monkeypatch.setattr(watching, "BLOCKS_MORE_MAX", 10_000)
    with pytest.raises(Failed, match=told):
        fuzz("bad", seed=0, inputs=2_000)
    kept.clear()
