"""What msgspec says of a value that does not fit, in the words of every other error: pure."""

from __future__ import annotations

import re

import msgspec

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a vector",
    "object": "a record",
    "null": "null",
}
_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>[^`]*)`")
_QUOTED = re.compile(r"`([^`]*)`")


def in_words(error: msgspec.ValidationError, *, apart_from: str = "") -> str:
    """``"sample": expected a number <= 1.0``. ``apart_from``: a field that need not be named."""
    text = str(error)
    at = _AT.search(text)
    path = at["path"] if at else ""
    text = _AT.sub("", text)
    if unknown := _UNKNOWN.match(text):
        text = f'unknown field "{unknown["name"][:80]}"'
    text = _QUOTED.sub(lambda found: _KINDS.get(found[1], found[1]), text)
    text = text.replace("Expected", "expected", 1).replace(", got ", ", found ")
    return text if path in ("", apart_from) else f'"{path}": {text}'
