"""Execution providers: what of a processor, a graphics card or an accelerator runs the operators of a model.

Owns their names in settings and reports, the choice among what is wanted and what this machine's runtime has, and what
is said when the two differ. Pure, and light to import: it knows the names that onnxruntime has for its providers, not
the runtime.

Rules: the order is the user's; the processor stands last where it was not named, since every model runs on it; what is
absent is left out and told, never a reason to run nothing. Trials run on the processor alone: they judge the content,
and a card's driver reserves more address space than a trial may have.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Provider = Literal[
    "acl",
    "cann",
    "coreml",
    "cpu",
    "cuda",
    "directml",
    "dnnl",
    "migraphx",
    "nnapi",
    "openvino",
    "qnn",
    "rknpu",
    "tensorrt",
    "vitisai",
    "webgpu",
    "xnnpack",
]

RUNTIME_NAMES: Final[dict[Provider, str]] = {
    "acl": "ACLExecutionProvider",
    "cann": "CANNExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "directml": "DmlExecutionProvider",
    "dnnl": "DnnlExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "nnapi": "NnapiExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "rknpu": "RknpuExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "vitisai": "VitisAIExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}
_OURS: Final = {name: provider for provider, name in RUNTIME_NAMES.items()}
CPU: Final[tuple[Provider, ...]] = ("cpu",)


@dataclass(frozen=True, slots=True)
class Choice:
    """``chosen``: those to run on, the first preferred; ``absent``: those wanted that this machine does not have."""

    chosen: tuple[Provider, ...]
    absent: tuple[Provider, ...] = ()

    def word(self, runtime: str) -> str | None:
        """What to say of the absent ones; None when every wanted one is there."""
        if not self.absent:
            return None
        many = len(self.absent) > 1
        return (
            f"execution provider{'s' if many else ''} {', '.join(self.absent)} {'are' if many else 'is'} wanted, and "
            f"{runtime} here does not have {'them' if many else 'it'}: models run on {', '.join(self.chosen)}"
        )


CPU_ALONE: Final = Choice(CPU)


def chosen(wanted: Iterable[Provider], available: Iterable[str]) -> Choice:
    """``available``: names as the runtime gives them."""
    there = known(available)
    asked = list(dict.fromkeys(wanted))
    kept = [provider for provider in asked if provider in there]
    if "cpu" not in kept:
        kept.append("cpu")
    return Choice(tuple(kept), tuple(provider for provider in asked if provider not in kept))


def known(available: Iterable[str]) -> tuple[Provider, ...]:
    """The runtime's names in our words; others are left out."""
    return tuple(_OURS[name] for name in available if name in _OURS)


def runtime_names(providers: Sequence[Provider]) -> list[str]:
    return [RUNTIME_NAMES[provider] for provider in providers]


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How a session runs. Equal settings and an equal graph may share one session.

    ``threads``: of one run; 1 is best for small models, whose operators are shorter than a hand-over.
    """

    providers: tuple[Provider, ...] = CPU
    threads: int = 1
