"""The text form of values, one for ``peerage query`` and the REPL; it parses back to the same value.

A string alone stands in ``"…"``; strings inside vectors and records in ``'…'``; a record's keys in ``"…"``; no blanks
after ``,`` and ``:``. A tensor is a call of ``tensor``, each of its numbers the shortest text that its type reads back
as the same number; a number outside the decimal ones is ``NaN``, ``Infinity`` or ``-Infinity``.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Final

from query import limits
from query.errors import SyntaxProblem
from query.limits import over
from query.values import NotAValue, is_tensor, normal


def to_text(value: Any) -> str:
    """The text form of a value. Raises :class:`NotAValue` for what is none."""
    if type(value) is str:
        return _quoted(value)
    out: list[str] = []
    _write(normal(value), out, 0)
    return "".join(out)


def _write(value: Any, out: list[str], depth: int) -> None:
    if depth > limits.VALUE_DEPTH_MAX:
        raise over("a value", limits.VALUE_DEPTH_MAX, "more", "levels")
    kind = type(value)
    if value is None:
        out.append("null")
    elif kind is bool:
        out.append("true" if value else "false")
    elif kind is str:
        out.append(raw_quoted(value))
    elif kind is int:
        out.append(str(value))
    elif kind is float:
        out.append(_real(value))
    elif kind is datetime:
        out.append(f"|{value.astimezone(UTC).isoformat().removesuffix('+00:00')}Z|")
    elif kind is list:
        out.append("[")
        for number, part in enumerate(value):
            if number:
                out.append(",")
            _write(part, out, depth + 1)
        out.append("]")
    elif kind is dict:
        out.append("{")
        for number, (key, part) in enumerate(value.items()):
            out.append("," + _quoted(key) + ":" if number else _quoted(key) + ":")
            _write(part, out, depth + 1)
        out.append("}")
    elif is_tensor(value):
        _write_tensor(value, out, depth)
    else:
        raise NotAValue(f"{kind.__name__} is no value of the language")


def _write_tensor(value: Any, out: list[str], depth: int) -> None:
    name = f"'{value.dtype.name}'"
    if value.size == 0:
        shape = ",".join(map(str, value.shape))
        out.append(f"reshape(tensor({name},[]),[{shape}])")
        return
    out.append(f"tensor({name},")
    _write(_shortest(value).tolist() if name in _NARROW else value.tolist(), out, depth + 1)
    out.append(")")


_NARROW: Final = ("'float16'", "'float32'")
_BLOCK: Final = 4096  # elements of which the digits are in memory at once


def _shortest(value: Any) -> Any:
    """A tensor of floats of 16 or 32 bits as floats of 64 whose digits are the fewest that give the same tensor."""
    import numpy as np

    with np.errstate(all="ignore"):
        found = value.astype("float64", order="C")
        flat = found.reshape(-1)
        narrow = value.reshape(-1)
        for start in range(0, value.size, _BLOCK):
            block = narrow[start : start + _BLOCK]
            short = block.astype("U32").astype("float64")
            same = short.astype(value.dtype) == block  # rounded twice, a text on the border could end beside it
            flat[start : start + _BLOCK][same] = short[same]
    return found


def _real(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def _quoted(text: str) -> str:
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join(_ESCAPED.get(character) or _visible(character) for character in text) + '"'


def _visible(character: str) -> str:
    code = ord(character)
    return character if code >= 0xA0 or 0x20 <= code < 0x7F else f"\\u{code:04x}"


def raw_quoted(text: str) -> str:
    """A string as it stands inside vectors and records: everything as it is, quotes doubled."""
    return "'" + text.replace("'", "''") + "'"


def from_text(text: str, *, limit: int = limits.TEXT_BYTES_LOCAL_MAX) -> Any:
    """The value that a text form says. Raises :class:`SyntaxProblem` for any other text."""
    from query.constants import constant
    from query.parsing import parse_statement
    from query.syntax import Evaluate

    statement = parse_statement(text, limit=limit)
    body = statement.body
    if not isinstance(body, Evaluate):
        raise SyntaxProblem("expected a value, found a statement", span=statement.span)
    return constant(body.value, statement.source)
