"""The one adapter around onnxruntime: its settings, its types, its exceptions.

Owns building a session from bytes, the signature that a session has, and running it. onnxruntime is imported here and
only when a session is built. Refuses what :mod:`engine.inspection` refuses, before the runtime sees a byte.

Rules: the processor alone where nothing else is set, no thread that spins, no arena, ONNX format forced, no telemetry;
a session is built from bytes in a process whose working directory matters to nobody, as external data was refused
before. Every exception of the runtime leaves as one of :mod:`engine.errors`. Outputs that are sequences leave as
records (:mod:`engine.record_outputs`).
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from typing import Any, Final, Protocol

from engine import inspection
from engine.errors import (
    ContentProblem,
    InputProblem,
    ModelFailed,
    NotOnnx,
    OverMemory,
    OverTime,
    RefusedByRuntime,
    UnservableType,
    UnsupportedOpset,
    WrongSignature,
)
from engine.providers import Choice, Provider, SessionSettings, chosen, known, runtime_names
from engine.record_outputs import RECORD, RECORD_TYPES, records_of
from engine.runtime import runtime_version
from engine.signature import RUNTIME, VARIABLE, Array, shown
from federation.documents import ReleaseRecord, TensorSpec
from query.errors import Problem

NO_TELEMETRY: Final = "ORT_DISABLE_TELEMETRY"  # read at import, when the runtime would open its session file and log
LOG_FATAL_ONLY: Final = 4  # errors are raised as well; on stderr they would stand in between our own log lines
SAID_MAX: Final = 300  # characters of a foreign message that are kept

HALF_A_PAIR: Final = "expected text that can be written as UTF-8, found one with half a surrogate pair"
DEFAULT_SETTINGS: Final = SessionSettings()

# How the runtime's messages tell what its exception classes do not.
_MEMORY: Final = ("bad_alloc", "failed to allocate", "out of memory", "allocate memory", "bfcarena")
_TERMINATED: Final = ("terminate flag", "exiting due to terminate")
_OPSET: Final = ("opset", "ir version")
_PREFIX: Final = re.compile(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )?(/\S+:\d+ [^()]*\([^()]*\) )?")


@functools.cache
def load_runtime() -> Any:
    """The runtime's module, imported at the first call, set up to keep to itself."""
    os.environ[NO_TELEMETRY] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(LOG_FATAL_ONLY)
    return onnxruntime


@functools.cache
def _foreign() -> tuple[type[BaseException], ...]:
    """What the runtime may raise: its own classes derive from Exception and have no common root."""
    load_runtime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*own, RuntimeError, MemoryError, ValueError, TypeError, OSError)


def available_providers(wanted: Sequence[Provider]) -> Choice:
    """What of the wanted providers the runtime of this machine has. Imports the runtime."""
    return chosen(wanted, load_runtime().get_available_providers())


class GraphSession(Protocol):
    """What runs a graph: a session in this process, in processes of its own, or one that keeps its states."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def output_names(self) -> list[str]: ...
    @property
    def reading(self) -> inspection.Reading: ...
    @property
    def providers(self) -> tuple[Provider, ...]: ...
    @property
    def waits(self) -> bool:
        """Whether a run may wait for something that other runs hold, so that it must never hold up the event loop."""
        ...

    def run(self, feed: dict[str, Array], options: Any = None) -> list[Array]: ...


class Session:
    """A model ready to run. Calls are thread-safe; ``run`` checks nothing.

    ``feed`` must have been checked against the signature: the runtime lets some mismatches through. ``native`` is the
    runtime's own session, for who measures. ``providers``: those that it runs on in fact, the first preferred; one that
    was asked for and could not start, as of a card without its libraries, is not among them. ``threads``: of one run.
    """

    __slots__ = (
        "__weakref__",
        "_records",
        "_run",
        "inputs",
        "native",
        "output_names",
        "outputs",
        "providers",
        "reading",
        "threads",
    )
    waits = False

    def __init__(self, model: bytes, settings: SessionSettings = DEFAULT_SETTINGS) -> None:
        """Raises a :class:`ContentProblem`, or :class:`OverMemory`."""
        self.reading = inspection.read(model)
        self.threads = settings.threads
        runtime = load_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.enable_cpu_mem_arena = False
        options.log_severity_level = LOG_FATAL_ONLY
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.native = runtime.InferenceSession(
                model, options, providers=runtime_names(settings.providers), enable_fallback=0
            )
        except _foreign() as error:
            raise _load_problem(error, self.reading) from error
        self.inputs = tuple(_spec("input", node) for node in self.native.get_inputs())
        self.outputs = tuple(_spec("output", node) for node in self.native.get_outputs())
        self.output_names: list[str] = [spec.name for spec in self.outputs]
        self.providers: tuple[Provider, ...] = known(self.native.get_providers())
        self._records = tuple(at for at, spec in enumerate(self.outputs) if spec.datatype == RECORD)
        # The wrapper checks names once more and falls back to other providers with a print: its inner session does
        # not. It also keeps the graph's bytes, to build the session anew for other providers.
        inner = getattr(self.native, "_sess", None)
        self._run = self.native.run if inner is None else inner.run
        self.native._model_bytes = None

    def run(self, feed: dict[str, Array], options: Any = None) -> list[Array]:
        """The outputs in the model's order. Raises ``InputProblem``, ``OverTime``, ``OverMemory``, ``ModelFailed``."""
        try:
            outputs: list[Array] = self._run(self.output_names, feed, options)
        except _foreign() as error:
            raise _run_problem(error) from error
        for at in self._records:
            found: Any = outputs[at]  # a list: the runtime has no arrays of these
            outputs[at] = records_of(self.output_names[at], found)
        return outputs


def run_options() -> Any:
    """Options of one run; setting ``terminate`` on them from any thread ends it between two nodes."""
    options = load_runtime().RunOptions()
    options.log_severity_level = LOG_FATAL_ONLY
    return options


def require_signature(record: ReleaseRecord, session: GraphSession) -> None:
    """Raises :class:`WrongSignature` when the session's inputs and outputs are not those that were signed."""
    for kind, signed, found in (
        ("input", record.inputs, session.inputs),
        ("output", record.outputs, session.outputs),
    ):
        if signed != found:
            raise WrongSignature(
                f"{record.label}: the signed record says {kind}s {_listed(signed)}, the model has {_listed(found)}"
            )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f'"{spec.name}" {shown(spec.datatype, spec.shape)}' for spec in specs) or "none"


def _spec(kind: str, node: Any) -> TensorSpec:
    if kind == "output" and node.type in RECORD_TYPES:
        return TensorSpec(node.name, RECORD, (VARIABLE,))
    datatype = RUNTIME.get(node.type)
    if datatype is None:
        served = ", ".join(RUNTIME.values())
        if kind == "output":
            served += f"; or one of {', '.join(RECORD_TYPES)}"
        raise UnservableType(f'{kind} "{node.name}": expected a tensor of {served}, found {node.type}')
    shape = tuple(size if isinstance(size, int) and size >= 0 else VARIABLE for size in node.shape)
    return TensorSpec(node.name, datatype, shape)


def _said(error: BaseException) -> str:
    """The runtime's message on one line, without its error class and its place in the runtime's source."""
    text = _PREFIX.sub("", " ".join(str(error).split()))
    return text[:SAID_MAX] + ("…" if len(text) > SAID_MAX else "")


def _out_of_memory(error: BaseException, said: str) -> bool:
    return isinstance(error, MemoryError) or any(sign in said.lower() for sign in _MEMORY)


def _load_problem(error: BaseException, reading: inspection.Reading) -> ContentProblem | OverMemory:
    said = _said(error)
    if _out_of_memory(error, said):
        return OverMemory(f"loading the model needs more memory than there is: {said}")
    if any(sign in said.lower() for sign in _OPSET):
        found = ", ".join(f"{domain} {version}" for domain, version in reading.opset.items())
        return UnsupportedOpset(
            f"expected operator sets and an IR version that {runtime_version()} knows, "
            f"found {found} in IR version {reading.ir_version}: {said}"
        )
    if type(error).__name__ in ("InvalidProtobuf", "NoModel"):
        return NotOnnx(f"expected an ONNX model: {said}")
    return RefusedByRuntime(f"{runtime_version()} does not take the model: {said}")


def _run_problem(error: BaseException) -> Problem:
    if isinstance(error, UnicodeEncodeError):
        return InputProblem(HALF_A_PAIR)
    if isinstance(error, UnicodeDecodeError):
        return ModelFailed("the model answered with text that is not UTF-8")
    said = _said(error)
    if any(sign in said.lower() for sign in _TERMINATED):
        return OverTime("the run took longer than allowed and was ended")
    if _out_of_memory(error, said):
        return OverMemory(f"running the model needs more memory than there is: {said}")
    if type(error).__name__ == "InvalidArgument":
        return InputProblem(f"the model cannot take this input: {said}")
    return ModelFailed(f"the model failed on an input that fits its signature: {said}")
