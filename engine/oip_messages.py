"""The JSON of an inference request: its form, read strictly, and the words for what is wrong with it.

Owns the structures of a request of the Open Inference Protocol v2 with the binary tensor extension, and reading them
from text. Pure. Knows no model: names, datatypes and shapes are compared by :mod:`engine.oip`.

    request         inputs[], outputs?[], id?, parameters?
    request input   name, shape[], datatype, parameters?, data (absent when binary)
    request output  name, parameters?

Rules: a member or parameter that nobody knows is passed over; one that would change the meaning and is not supported is
refused (shared memory, classification). ``data`` is not read here: it stays text until its size was checked, but where
the literals ``NaN``, ``Infinity`` and ``-Infinity`` make the text more than JSON: Python's reader takes it then, and
``data`` is a list of values already.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn

import msgspec
from msgspec import UNSET, Struct, UnsetType

from engine.oip_errors import BadMessage, UnsupportedParameter
from query.errors import LimitExceeded

JSON_BYTES_MAX: Final = 16 * 1024 * 1024  # of a request's JSON; binary tensors beside it are not counted
HEADER_DIGITS_MAX: Final = 12
SHOWN_MAX: Final = 80  # characters of a foreign text in a message

_CONSTANTS: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_INFINITE: Final = (_CONSTANTS["Infinity"], _CONSTANTS["-Infinity"])
_SHARED_MEMORY: Final = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")


class InputParameters(Struct, gc=False):
    binary_data_size: int | UnsetType = UNSET
    shared_memory_region: Any = UNSET
    shared_memory_byte_size: Any = UNSET
    shared_memory_offset: Any = UNSET


class RequestedInput(Struct, gc=False):
    """``data``: the text of a JSON value, or that value read, a list; UNSET when the tensor is binary."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: Any = UNSET
    parameters: InputParameters | UnsetType | None = UNSET


class _TextInput(RequestedInput, gc=False):
    data: msgspec.Raw | UnsetType = UNSET


class OutputParameters(Struct, gc=False):
    binary_data: bool | UnsetType = UNSET
    classification: Any = UNSET
    shared_memory_region: Any = UNSET
    shared_memory_byte_size: Any = UNSET
    shared_memory_offset: Any = UNSET


class RequestedOutput(Struct, gc=False):
    name: str
    parameters: OutputParameters | UnsetType | None = UNSET


class RequestParameters(Struct, gc=False):
    """``timeout``: µs for the whole request. ``priority`` is a hint that nothing here takes."""

    binary_data_output: bool | UnsetType = UNSET
    timeout: int | UnsetType = UNSET
    sequence_id: int | str | UnsetType = UNSET
    sequence_start: bool | UnsetType = UNSET
    sequence_end: bool | UnsetType = UNSET


class Message(Struct, gc=False):
    inputs: tuple[RequestedInput, ...]
    outputs: tuple[RequestedOutput, ...] | UnsetType | None = UNSET
    id: str | UnsetType | None = UNSET
    parameters: RequestParameters | UnsetType | None = UNSET


class _TextMessage(Message, gc=False):
    inputs: tuple[_TextInput, ...]


_decode: Final = msgspec.json.Decoder(_TextMessage).decode


def read_message(text: bytes | memoryview) -> Message:
    """Raises :class:`BadMessage`, :class:`UnsupportedParameter` and :class:`LimitExceeded`."""
    if len(text) > JSON_BYTES_MAX:
        raise LimitExceeded(
            f"expected at most {JSON_BYTES_MAX} bytes of JSON, found {len(text)}",
            hint="send large tensors in binary form: binary_data_size, Inference-Header-Content-Length",
        )
    try:
        return _decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return _understood(bytes(text))


def refuse_shared_memory(parameters: InputParameters | OutputParameters, where: str) -> None:
    """Raises :class:`UnsupportedParameter` when a tensor is to be found, or left, outside the message."""
    for name in _SHARED_MEMORY:
        if getattr(parameters, name) is not UNSET:
            raise UnsupportedParameter(f"{where}: {name} is not supported", hint="send the tensor in the request")


def json_value(text: bytes) -> Any:
    """A JSON value, where the literals ``NaN``, ``Infinity`` and ``-Infinity`` are allowed. Raises BadMessage."""
    try:
        return json.loads(text.decode(), parse_constant=_CONSTANTS.__getitem__)
    except UnicodeDecodeError as error:
        raise BadMessage(f"expected JSON in UTF-8, found a byte that is not at {error.start}") from error
    except json.JSONDecodeError as error:
        raise BadMessage(f"expected JSON, found at byte {error.pos}: {error.msg[0].lower()}{error.msg[1:]}") from error
    except RecursionError as error:
        raise BadMessage("expected JSON of a few levels, found it nested too deep") from error
    except ValueError as error:
        raise BadMessage("expected JSON, found an integer with thousands of digits") from error


def header_length_of(text: str | None) -> int | None:
    """The number in ``Inference-Header-Content-Length``. Raises :class:`BadMessage` for anything else."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= HEADER_DIGITS_MAX):
        raise BadMessage(f'expected Inference-Header-Content-Length to be a number of bytes, found "{shortened(text)}"')
    return int(text)


def told_datatype(datatype: str) -> str:
    """A datatype as this protocol knows it: a record is a text of JSON."""
    return "BYTES" if datatype == "RECORD" else datatype


def is_overflow(value: float) -> bool:
    """Whether a number of :func:`json_value` was written out and is too large to be one, rather than ``Infinity``."""
    return value in _INFINITE and not any(value is constant for constant in _CONSTANTS.values())


def _understood(text: bytes) -> Message:
    """A message that the quick reader did not take: it has literals that are no JSON, or something wrong."""
    found = json_value(text)
    if not isinstance(found, dict):
        raise BadMessage(f"expected an object with inputs, found {kind_of(found)}")
    inputs = found.get("inputs")
    if not isinstance(inputs, list):
        _expected("inputs", "a list of tensors", found, "inputs")
    outputs = found.get("outputs")
    if not isinstance(outputs, list | None):
        _expected("outputs", "a list of outputs", found, "outputs")
    return Message(
        inputs=tuple(_input(at, one) for at, one in enumerate(inputs)),
        outputs=None if outputs is None else tuple(_output(at, one) for at, one in enumerate(outputs)),
        id=_taken("id", found, "id", str | None, "text"),
        parameters=_request_parameters(found),
    )


def _input(at: int, found: Any) -> RequestedInput:
    where = f"inputs[{at}]"
    if not isinstance(found, dict):
        raise BadMessage(f"{where}: expected an object with name, shape and datatype, found {kind_of(found)}")
    name = _required(where, found, "name", str, "text")
    where = f'input "{shortened(name)}"'
    shape = _required(where, found, "shape", list, "a list of sizes")
    for size in shape:
        if size.__class__ is not int:
            raise BadMessage(f"{where}: expected a shape of whole numbers, found {kind_of(size)} in it")
    parameters = _parameters(where, found, InputParameters)
    if parameters is not None:
        size = parameters.binary_data_size
        if size is not UNSET and size.__class__ is not int:
            _expected(where, "a whole number of bytes", found["parameters"], "binary_data_size")
    return RequestedInput(
        name=name,
        shape=tuple(shape),
        datatype=_required(where, found, "datatype", str, "text"),
        data=found.get("data", UNSET),
        parameters=parameters,
    )


def _output(at: int, found: Any) -> RequestedOutput:
    where = f"outputs[{at}]"
    if not isinstance(found, dict):
        raise BadMessage(f"{where}: expected an object with a name, found {kind_of(found)}")
    name = _required(where, found, "name", str, "text")
    where = f'output "{shortened(name)}"'
    parameters = _parameters(where, found, OutputParameters)
    if parameters is not None:
        _boolean(where, found["parameters"], "binary_data")
    return RequestedOutput(name=name, parameters=parameters)


def _request_parameters(found: dict[str, Any]) -> RequestParameters | None:
    parameters: RequestParameters | None = _parameters("the request", found, RequestParameters)
    if parameters is None:
        return None
    given = found["parameters"]
    for name in ("binary_data_output", "sequence_start", "sequence_end"):
        _boolean("the request", given, name)
    if parameters.timeout is not UNSET and parameters.timeout.__class__ is not int:
        _expected("the request", "a whole number of microseconds", given, "timeout")
    if parameters.sequence_id is not UNSET and parameters.sequence_id.__class__ not in (int, str):
        _expected("the request", "a whole number or text", given, "sequence_id")
    if isinstance(parameters.sequence_id, str):
        checked_text(parameters.sequence_id, "the request: sequence_id")
    return parameters


def _parameters(where: str, found: dict[str, Any], kind: Any) -> Any:
    """The parameters that are known, of whatever types; None when there are none."""
    given = found.get("parameters")
    if given is None:
        return None
    if not isinstance(given, dict):
        _expected(where, "an object", found, "parameters")
    return kind(**{name: given[name] for name in kind.__struct_fields__ if name in given})


def _boolean(where: str, given: dict[str, Any], name: str) -> None:
    if name in given and given[name].__class__ is not bool:
        _expected(where, "true or false", given, name)


def _required(where: str, found: dict[str, Any], name: str, kind: Any, expected: str) -> Any:
    if name not in found:
        raise BadMessage(f"{where}: expected {name}, found none")
    return _taken(where, found, name, kind, expected)


def _taken(where: str, found: dict[str, Any], name: str, kind: Any, expected: str) -> Any:
    value = found.get(name)
    if not isinstance(value, kind):
        _expected(where, expected, found, name)
    if isinstance(value, str):
        checked_text(value, f"{where}: {name}")
    return value


def checked_text(text: str, where: str) -> str:
    """Raises BadMessage for half a character: JSON can write one, and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadMessage(
            f"{where}: expected text that UTF-8 can hold, found half a surrogate pair at {error.start}"
        ) from error
    return text


def _expected(where: str, expected: str, found: dict[str, Any], name: str) -> NoReturn:
    what = kind_of(found[name]) if name in found else "none"
    raise BadMessage(f"{'' if where == name else f'{where}: '}expected {name} to be {expected}, found {what}")


def kind_of(value: Any) -> str:
    """What a JSON value is, for people."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {str(value)[:40]}"
        case str():
            return f'the text "{shortened(value)}"'
        case list():
            return "a list"
        case _:
            return "an object"


def shortened(text: str) -> str:
    """A foreign text as a message may hold it."""
    safe = text.encode(errors="replace").decode()
    return safe if len(safe) <= SHOWN_MAX else safe[:SHOWN_MAX] + "…"
