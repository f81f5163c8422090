"""The Open Inference Protocol v2 for one model or pipeline: a request's bytes into a feed, outputs into an answer's.

Owns :class:`Protocol`, made once for what is loaded, and the rules between the parts of a request. Pure: no socket, no
clock. JSON is read by :mod:`engine.oip_messages`, tensors by :mod:`engine.oip_tensors`, and written by
:mod:`engine.oip_answers`. The document is
https://github.com/open-inference/open-inference-protocol, with the binary tensor extension of Triton.

    body            JSON, then the binary tensors in the order in which the JSON lists them, no padding
    header length   of the JSON (``Inference-Header-Content-Length``); None: all of the body is JSON; 0: all of it is
                    the one input of the model, one row, and every output is answered in binary

Rules: every input once, none unknown, of the model's datatype, rank and fixed dimensions, with at least one element;
exactly one of ``data`` and ``binary_data_size`` for each; outputs known and asked for once, all of them when none is
named; nothing left over. What was read fits the model's signature: it needs no second check. Numbers that a stranger
chose size nothing before they were compared with what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

import msgspec
from msgspec import UNSET, UnsetType

from engine.errors import InputProblem
from engine.oip_answers import OutputTensor
from engine.oip_errors import BadMessage, NoGraph, UnsupportedParameter
from engine.oip_messages import (
    Message,
    OutputParameters,
    RequestedInput,
    RequestedOutput,
    RequestParameters,
    read_message,
    refuse_shared_memory,
    shortened,
)
from engine.oip_tensors import InputTensor
from engine.signature import ELEMENTS_MAX, Array, shown
from engine.streams import StreamCall
from federation.documents import TensorSpec
from query.errors import nearest

TIMEOUT_US_MAX: Final = 24 * 3600 * 1_000_000
NO_JSON: Final = 0  # the header length of a body that is one tensor

_encode: Final = msgspec.json.Encoder().encode

Wanted = tuple[tuple[OutputTensor, bool], ...]


@dataclass(slots=True)
class InferRequest:
    """What was asked: a feed that fits the signature, the outputs in the order of the answer and whether in binary.

    ``timeout_s``: for the whole of it. ``stream``: None where no stream was named.
    """

    feed: dict[str, Array]
    wanted: Wanted
    id: str | None = None
    timeout_s: float | None = None
    stream: StreamCall | None = None


class Protocol:
    """A model or pipeline as this protocol speaks of it. Immutable, usable from any thread.

    ``stateful``: requests may name a stream. ``has_texts``: its binary tensors are read element by element.
    """

    __slots__ = ("_all_binary", "_all_json", "_inputs", "_named", "_open", "_outputs", "_size", "has_texts", "stateful")

    def __init__(
        self,
        name: str,
        version: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        stateful: bool = False,
        elements_max: int = ELEMENTS_MAX,
    ) -> None:
        self._inputs = {spec.name: InputTensor(spec, elements_max=elements_max) for spec in inputs}
        self._size = len(self._inputs)
        self._outputs = {spec.name: OutputTensor(spec) for spec in outputs}
        self._all_json: Wanted = tuple((output, False) for output in self._outputs.values())
        self._all_binary: Wanted = tuple((output, True) for output in self._outputs.values())
        self._open = _encode({"model_name": name, "model_version": version})[:-1]
        self._named = f"{name}@{version}"
        self.stateful = stateful
        self.has_texts = any(spec.datatype == "BYTES" for spec in inputs)

    def read(self, body: bytes, header_length: int | None) -> InferRequest:
        """Raises ``BadMessage``, ``UnsupportedParameter``, ``NoGraph``, ``InputProblem`` and ``LimitExceeded``."""
        if not self._outputs:
            raise NoGraph(f"{self._named} has functions alone and no graph to run")
        if header_length is None:
            message = read_message(body)
            end = len(body)
            feed, _ = self._feed(message, body, end, end)
        elif header_length == NO_JSON:
            return self._read_raw(body)
        else:
            end = len(body)
            if header_length > end:
                raise BadMessage(f"expected a JSON part within the body of {end} bytes, found one of {header_length}")
            message = read_message(memoryview(body)[:header_length])
            feed, at = self._feed(message, body, header_length, end)
            if at != end:
                raise BadMessage(f"expected the last tensor to end with the body, found {end - at} bytes behind it")
        request = InferRequest(feed, self._all_json, None if message.id is UNSET else message.id)
        parameters = message.parameters
        binary = False
        if parameters:
            self._take(request, parameters)
            binary = parameters.binary_data_output is True
        if message.outputs:
            request.wanted = self._wanted(message.outputs, binary)
        else:
            request.wanted = self._all_binary if binary else self._all_json
        for output, in_binary in request.wanted:
            if not in_binary and not output.has_json:
                self._no_json(output)
        return request

    def write(self, request: InferRequest, outputs: Mapping[str, Array]) -> tuple[bytes, int | None]:
        """The answer's body, and the length of its JSON when tensors follow it."""
        opening = self._open
        if request.id is not None:
            opening += b',"id":' + _encode(request.id)
        told: list[bytes] = []
        tensors: list[bytes | memoryview] = []
        for output, binary in request.wanted:
            array = outputs[output.name]
            if binary:
                about, data = output.as_binary(array)
                told.append(about)
                tensors.append(data)
            else:
                told.append(output.as_json(array))
        closing = b"]}"
        if request.stream is not None:
            closing = b'],"parameters":' + _encode(_stream_parameters(request.stream)) + b"}"
        text = b"".join((opening, b',"outputs":[', b",".join(told), closing))
        if not tensors:
            return text, None
        return b"".join((text, *tensors)), len(text)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _feed(self, message: Message, body: bytes, at: int, end: int) -> tuple[dict[str, Array], int]:
        """The inputs, and where the last binary one ends; ``at`` is where the first begins."""
        feed: dict[str, Array] = {}
        for given in message.inputs:
            tensor = self._inputs.get(given.name)
            if tensor is None:
                self._unknown_input(given.name)
            name = tensor.name
            if name in feed:
                raise InputProblem(f'input "{name}" is given twice')
            if given.datatype != tensor.datatype:
                self._wrong_datatype(tensor, given)
            shape = given.shape
            count = tensor.count(shape)
            size: int | UnsetType = UNSET
            if given.parameters:
                parameters = given.parameters
                size = parameters.binary_data_size
                if parameters.shared_memory_region is not UNSET or size is UNSET:
                    refuse_shared_memory(parameters, f'input "{name}"')
            if size is UNSET:
                data = given.data
                if data is UNSET:
                    raise BadMessage(f'input "{name}": expected data or binary_data_size, found neither')
                read: Callable[..., Array] = tensor.from_text if data.__class__ is msgspec.Raw else tensor.from_values
                feed[name] = read(data, shape, count)
                continue
            self._check_binary(given, size, at, end)
            feed[name] = tensor.from_bytes(body, at, size, shape, count)
            at += size
        if len(feed) != self._size:
            self._missing_input(feed)
        return feed, at

    def _check_binary(self, given: RequestedInput, size: int, at: int, end: int) -> None:
        if given.data is not UNSET:
            raise BadMessage(f'input "{given.name}": expected data or binary_data_size, found both')
        if size < 0:
            raise BadMessage(f'input "{given.name}": expected a binary_data_size of at least 0, found {size}')
        if size > end - at:
            hint = None if at < end else "Inference-Header-Content-Length says where the JSON ends"
            raise BadMessage(
                f'input "{given.name}": expected {size} bytes behind the JSON, found {end - at}', hint=hint
            )

    def _read_raw(self, body: bytes) -> InferRequest:
        if self._size != 1:
            raise BadMessage(
                f"expected a model with one input for a body without JSON, found {self._named} with {self._size}"
            )
        (tensor,) = self._inputs.values()
        return InferRequest({tensor.name: tensor.from_raw(body)}, self._all_binary)

    def _take(self, request: InferRequest, parameters: RequestParameters) -> None:
        """The parameters of the request that mean something here."""
        timeout = parameters.timeout
        if timeout is not UNSET and timeout != 0:
            if not 0 < timeout <= TIMEOUT_US_MAX:
                raise BadMessage(f"expected a timeout of 1 to {TIMEOUT_US_MAX} microseconds, found {timeout}")
            request.timeout_s = timeout / 1e6
        key = parameters.sequence_id
        start, end = parameters.sequence_start, parameters.sequence_end
        if key is UNSET and start is UNSET and end is UNSET:
            return
        if not self.stateful:
            raise UnsupportedParameter(
                f"{self._named} keeps no state between requests: it takes no sequence_id, sequence_start, sequence_end"
            )
        if key is UNSET or key in ("", 0):
            raise BadMessage("expected a sequence_id beside sequence_start and sequence_end, found none")
        request.stream = StreamCall(key=str(key), start=None if start is UNSET else start, end=end is True)

    def _wanted(self, asked: tuple[RequestedOutput, ...], binary: bool) -> Wanted:
        wanted: dict[str, tuple[OutputTensor, bool]] = {}
        for one in asked:
            output = self._outputs.get(one.name)
            if output is None:
                self._unknown_output(one.name)
            if one.name in wanted:
                raise BadMessage(f'output "{one.name}" is asked for twice')
            in_binary = binary
            if one.parameters:
                in_binary = self._binary(one.name, one.parameters, binary)
            wanted[one.name] = output, in_binary
        return tuple(wanted.values())

    def _binary(self, name: str, parameters: OutputParameters, binary: bool) -> bool:
        refuse_shared_memory(parameters, f'output "{name}"')
        if parameters.classification is not UNSET and parameters.classification != 0:
            raise UnsupportedParameter(f'output "{name}": classification is not supported')
        return binary if parameters.binary_data is UNSET else parameters.binary_data is True

    # --- what is told ---------------------------------------------------------------------------------------------

    def _unknown_input(self, name: str) -> NoReturn:
        close = nearest(name, self._inputs)
        raise InputProblem(
            f'unknown input "{shortened(name)}": expected {_listed(self._inputs) or "none"}',
            hint=f'did you mean "{close}"?' if close else None,
        )

    def _missing_input(self, feed: Mapping[str, Array]) -> NoReturn:
        missing = [name for name in self._inputs if name not in feed]
        raise InputProblem(
            f"missing input {_listed(missing)}: expected {_listed(self._inputs)}, found {_listed(feed) or 'none'}"
        )

    def _wrong_datatype(self, tensor: InputTensor, given: RequestedInput) -> NoReturn:
        raise InputProblem(
            f'input "{tensor.name}": expected {shown(tensor.datatype, tensor.spec.shape)}, '
            f'found datatype "{shortened(given.datatype)}"'
        )

    def _unknown_output(self, name: str) -> NoReturn:
        close = nearest(name, self._outputs)
        raise InputProblem(
            f'unknown output "{shortened(name)}": expected {_listed(self._outputs)}',
            hint=f'did you mean "{close}"?' if close else None,
        )

    def _no_json(self, output: OutputTensor) -> NoReturn:
        raise InputProblem(
            f'output "{output.name}": FP16 has no JSON form',
            hint="ask for it in binary form: the parameter binary_data, or binary_data_output",
        )


def _stream_parameters(stream: StreamCall) -> dict[str, str | int]:
    """Where a stream is after a call, and why it began anew when it was open before."""
    told: dict[str, str | int] = {"sequence_id": stream.key}
    if stream.position:
        told["sequence_position"] = stream.position
    if stream.restarted:
        told["sequence_restarted"] = stream.restarted
    return told


def _listed(names: Mapping[str, object] | Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
