"""What a stateful model shows to who calls it, and what it keeps to itself.

Owns the rules of ``states`` in a release and the signature that is left when they are taken out of a graph's own. Pure.

A model that listens to a stream (speech, sensors) carries something from one call to the next, in one of two ways:

    {input = "state", output = "stateN"}    what the graph gave as ``stateN`` is its ``state`` in the next call; zeros
                                            in the first
    {input = "input", tail = 64}            the last 64 elements along the last dimension of ``input`` are put before
                                            the next call's; zeros before the first

Whoever calls the model neither sends nor gets the first, and sends the second without its head. What is left of the
graph's inputs and outputs is the signature of the release. Its rows are moments of one stream, in their order: the
graph itself always runs on one row.

Refuses (:class:`BadStates`): names that the graph does not have, an input named twice, tensors that are not numbers, an
output that does not fit its input, a tail that is longer than a fixed last dimension, a model of which nothing is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from federation.documents import StateSpec, TensorSpec
from query.errors import UserProblem, nearest

STATES_MAX: Final = 16
TAIL_MAX: Final = 1 << 20
VARIABLE: Final = -1

Signature = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


class BadStates(UserProblem):
    """States that the graph cannot have."""

    code = "bad_states"


def shown_signature(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], states: Sequence[StateSpec]
) -> Signature:
    """The inputs and outputs of a release, from those of its graph. Raises :class:`BadStates`."""
    if not states:
        return tuple(inputs), tuple(outputs)
    if len(states) > STATES_MAX:
        raise BadStates(f"expected at most {STATES_MAX} states, found {len(states)}")
    known_inputs = {spec.name: spec for spec in inputs}
    known_outputs = {spec.name: spec for spec in outputs}
    carried: set[str] = set()
    tails: dict[str, int] = {}
    given: set[str] = set()
    for state in states:
        spec = _named("input", state.input, known_inputs)
        if state.input in carried or state.input in tails:
            raise BadStates(f'state "{state.input}" stands twice')
        if spec.datatype in ("BYTES", "BOOL"):
            raise BadStates(f'state "{state.input}": expected numbers, found {spec.datatype}')
        if state.output is not None:
            _check_carried(state, spec, _named("output", state.output, known_outputs))
            if state.output in given:
                raise BadStates(f'output "{state.output}" is the state of two inputs')
            carried.add(state.input)
            given.add(state.output)
        else:
            _check_tail(state, spec)
            tails[state.input] = state.tail
    left = tuple(_in_rows(spec, tails.get(spec.name, 0)) for spec in inputs if spec.name not in carried)
    answered = tuple(_in_rows(spec, 0) for spec in outputs if spec.name not in given)
    if not left or not answered:
        raise BadStates(
            f"expected an input and an output that are no state, found {'no input' if not left else 'no output'}"
        )
    return left, answered


def _named(kind: str, name: str, known: Mapping[str, TensorSpec]) -> TensorSpec:
    if name not in known:
        close = nearest(name, known)
        raise BadStates(
            f'a state names the {kind} "{name}": the model has {", ".join(known) or "none"}',
            hint=f'did you mean "{close}"?' if close else None,
        )
    return known[name]


def _check_carried(state: StateSpec, given: TensorSpec, kept: TensorSpec) -> None:
    if state.tail:
        raise BadStates(f'state "{state.input}": expected an output or a tail, found both')
    fits = (
        given.datatype == kept.datatype
        and len(given.shape) == len(kept.shape)
        and all(one == other or VARIABLE in (one, other) for one, other in zip(given.shape, kept.shape, strict=True))
    )
    if not fits:
        raise BadStates(
            f'state "{state.input}": expected an output {_shown(given)}, found "{kept.name}" {_shown(kept)}'
        )


def _check_tail(state: StateSpec, spec: TensorSpec) -> None:
    if not 0 < state.tail <= TAIL_MAX:
        raise BadStates(f'state "{state.input}": expected an output, or a tail of 1 to {TAIL_MAX}, found neither')
    if not spec.shape:
        raise BadStates(f'state "{state.input}": expected an input with dimensions, found a single number')
    if 0 <= spec.shape[-1] <= state.tail:
        raise BadStates(
            f'state "{state.input}": expected a last dimension longer than its tail of {state.tail}, '
            f"found {spec.shape[-1]}"
        )


def _in_rows(spec: TensorSpec, tail: int) -> TensorSpec:
    """As a caller sees it: without the tail, and with any number of rows where the graph takes or gives one."""
    shape = list(spec.shape)
    if tail and shape[-1] != VARIABLE:
        shape[-1] -= tail
    if has_rows(spec, tail=tail):
        shape[0] = VARIABLE
    return TensorSpec(spec.name, spec.datatype, tuple(shape))


def has_rows(spec: TensorSpec, *, tail: int = 0) -> bool:
    """Whether an input or output of a graph has one entry of its first dimension for each row of a call.

    A vector with a tail has none: its only dimension is time within a row.
    """
    return bool(spec.shape) and spec.shape[0] in (VARIABLE, 1) and not (tail and len(spec.shape) == 1)


def _shown(spec: TensorSpec) -> str:
    return f"{spec.datatype}[{','.join(map(str, spec.shape))}]"
