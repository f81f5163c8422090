"""Whether the tensors of a graph grow with the values that it is given, and not with their shapes alone.

Pure. A few operators make a tensor as large as the numbers in one of their inputs say. Where these numbers are in the
file, or are worked out of the file and of the shapes of the inputs, a measured run says what another one takes. Where
they come from the values of an input, a run that took microseconds says nothing: the next may ask for gigabytes.

Rules: what no operator here can tell counts as a value; a name means one tensor in all graphs of a model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

SIZED_BY: Final[dict[str, tuple[int, ...]]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1,),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Tile": (1, 2),
    "Upsample": (1,),
}
"""Operators by the positions of the inputs whose numbers say how large their outputs are."""

_SHAPES: Final = frozenset({"Shape", "Size"})


class Node(NamedTuple):
    """An operator of ai.onnx; an input that is left out has an empty name."""

    operator: str
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]


def grows(nodes: Iterable[Node], constants: Iterable[bytes]) -> bool:
    """Whether some operator's output is as large as values say that a caller sends."""
    listed = tuple(nodes)
    sized = [
        node.inputs[at]
        for node in listed
        for at in SIZED_BY.get(node.operator, ())
        if at < len(node.inputs) and node.inputs[at]
    ]
    return bool(sized) and not _known(listed, constants).issuperset(sized)


def _known(nodes: tuple[Node, ...], constants: Iterable[bytes]) -> set[bytes]:
    """The tensors whose values the file and the shapes of the inputs decide."""
    known = set(constants)
    missing: list[int] = []
    waiting: dict[bytes, list[int]] = {}
    ready: list[int] = []
    for at, node in enumerate(nodes):
        needed = set() if node.operator in _SHAPES else {name for name in node.inputs if name and name not in known}
        missing.append(len(needed))
        for name in needed:
            waiting.setdefault(name, []).append(at)
        if not needed:
            ready.append(at)
    while ready:
        for name in nodes[ready.pop()].outputs:
            if name in known:
                continue
            known.add(name)
            for at in waiting.get(name, ()):
                missing[at] -= 1
                if not missing[at]:
                    ready.append(at)
    return known
