"""A graph that carries something from call to call, run as its release shows it: without what it carries.

Owns the first state of a stream, the feed of the graph made of a call and a state, and the state that follows. Knows no
streams: who holds a state between two calls is decided in :mod:`engine.streams`. The rules of states stand in
:mod:`federation.states`.

The rows of a call are moments of one stream and go through the graph one by one, in their order, each with the state
that the one before left. An input or output without rows is the same for all of them; of such an output the graph can
give one only, so a model that has one takes one row a call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from engine.errors import InputProblem, WrongSignature
from engine.sessions import GraphSession
from engine.signature import ELEMENTS_MAX, NUMPY, Array, shown
from federation.documents import StateSpec, TensorSpec
from federation.states import BadStates, has_rows, shown_signature

State: TypeAlias = Mapping[str, Array]
"""By input of the graph what it carries; what is missing is zeros."""

NOTHING: Final[State] = {}


class StatefulSession:
    """A :class:`~engine.sessions.GraphSession` whose signature is the release's."""

    __slots__ = (
        "_carried",
        "_given",
        "_inner",
        "_one_row",
        "_positions",
        "_shown",
        "inputs",
        "output_names",
        "outputs",
        "providers",
        "reading",
        "waits",
    )

    def __init__(self, inner: GraphSession, states: Sequence[StateSpec]) -> None:
        """Raises :class:`WrongSignature` for states that the graph cannot have."""
        try:
            self.inputs, self.outputs = shown_signature(inner.inputs, inner.outputs, states)
        except BadStates as problem:
            raise WrongSignature(f"the model cannot have its states: {problem.message}") from problem
        self._inner = inner
        self.output_names: list[str] = [spec.name for spec in self.outputs]
        self.reading = inner.reading
        self.providers = inner.providers
        self.waits = inner.waits
        specs = {spec.name: spec for spec in inner.inputs}
        tails = {state.input: state.tail for state in states if state.output is None}
        position = {name: at for at, name in enumerate(inner.output_names)}
        self._carried = tuple(
            (state.input, position[state.output], _start(specs[state.input]))
            for state in states
            if state.output is not None
        )
        self._given = tuple(
            (spec.name, has_rows(spec, tail=tail), tail)
            for spec in inner.inputs
            for tail in (tails.get(spec.name, 0),)
            if any(spec.name == one.name for one in self.inputs)
        )
        self._shown = {spec.name: spec for spec in self.inputs}
        self._positions = tuple(position[spec.name] for spec in self.outputs)
        self._one_row = next((spec.name for spec in self.outputs if not has_rows(spec)), None)

    def run(self, feed: dict[str, Array], options: Any = None) -> list[Array]:
        """The outputs on a stream that begins and ends with this call. Raises as :meth:`advance`."""
        return self.advance(feed, NOTHING, options)[0]

    def advance(self, feed: Mapping[str, Array], state: State, options: Any = None) -> tuple[list[Array], State]:
        """The outputs of a checked feed after ``state``, and the state that follows. Raises what a run raises."""
        rows = self.rows(feed)
        answers: list[list[Array]] = []
        for row in range(rows):
            given, kept = self._fed(feed, row, state)
            outputs = self._inner.run(given, options)
            kept |= {name: outputs[at] for name, at, _ in self._carried}
            answers.append([outputs[at] for at in self._positions])
            state = kept
        if rows == 1:
            return answers[0], state
        return [np.concatenate(parts) for parts in zip(*answers, strict=True)], state

    def rows(self, feed: Mapping[str, Array]) -> int:
        """How many moments of a stream a checked feed is. Raises ``InputProblem`` when its inputs disagree."""
        rows = {feed[name].shape[0] for name, in_rows, _ in self._given if in_rows}
        if len(rows) > 1:
            told = ", ".join(f'"{name}" {feed[name].shape[0]}' for name, in_rows, _ in self._given if in_rows)
            raise InputProblem(f"expected as many rows of every input, found {told}")
        count = rows.pop() if rows else 1
        if count > 1 and self._one_row is not None:
            raise InputProblem(f'expected one row a call, as the output "{self._one_row}" has no rows, found {count}')
        return count

    def _fed(self, feed: Mapping[str, Array], row: int, state: State) -> tuple[dict[str, Array], dict[str, Array]]:
        """What the graph gets for one row, and the tails that the next one gets."""
        given: dict[str, Array] = {}
        kept: dict[str, Array] = {}
        for name, in_rows, tail in self._given:
            array = feed[name]
            if in_rows:
                array = array[row : row + 1]
            if tail:
                array = self._behind(name, state.get(name), array, tail)
                kept[name] = array[..., -tail:].copy()
            given[name] = array
        for name, _, start in self._carried:
            given[name] = state.get(name, start)
        return given, kept

    def _behind(self, name: str, before: Array | None, array: Array, tail: int) -> Array:
        """``array`` with the end of the call before in front of it."""
        if before is None:
            before = np.zeros((*array.shape[:-1], tail), dtype=array.dtype)
        elif before.shape[:-1] != array.shape[:-1]:
            spec = self._shown[name]
            expected = (*before.shape[:-1], spec.shape[-1])
            raise InputProblem(
                f'input "{name}": expected {shown(spec.datatype, expected)} as in the call before, '
                f"found {shown(spec.datatype, array.shape)}"
            )
        return np.concatenate((before, array), axis=-1)


def _start(spec: TensorSpec) -> Array:
    """The zeros that a stream begins with: one where a dimension is variable."""
    shape = tuple(max(size, 1) for size in spec.shape)
    if math.prod(shape) > ELEMENTS_MAX:
        raise WrongSignature(
            f'state "{spec.name}": expected at most {ELEMENTS_MAX} elements, found {shown(spec.datatype, spec.shape)}'
        )
    zeros = np.zeros(shape, dtype=NUMPY[spec.datatype])
    zeros.flags.writeable = False
    return zeros
