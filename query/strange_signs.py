"""Signs of other languages and of word processors, and what is written here instead. Pure: a table and its look-up."""

from __future__ import annotations

from typing import Final

_STRAIGHT: Final = "quotes are straight: \"…\" or '…'"
CHARACTERS: Final[tuple[tuple[str, str, str | None], ...]] = (
    ("&&", 'expected "and"', None),
    ("&", 'expected "and"', None),
    ("!", 'expected "not", or "!=" for unequal', None),
    ("#", 'expected "//" before a comment', None),
    ("`", "expected a quote", _STRAIGHT),
    *((sign, "expected a quote", _STRAIGHT) for sign in "“”„‘’‚«»"),
    ("@", "expected an operator", 'a model and its version are two strings: ("m", "1.0")'),
    ("$", "expected a name", "a session variable is written :x"),
    ("\\", "expected a statement", "what begins with \\ is for the prompt of peerage repl, at a line's start"),
    ("?", "expected an expression", 'apropos("word") finds functions, doc("name") tells of one'),
    ("~", "expected an operator", "a pattern is compared with like: name like 'line-%'"),
)


def sign_meant(text: str, position: int) -> tuple[str, str | None, int] | None:
    """Message, hint and length of what is known to be written at a place where no token begins."""
    if text.startswith("=!", max(0, position - 1)):
        return '"=!" has no meaning here: expected "!="', None, 1
    for sign, wanted, hint in CHARACTERS:
        if text.startswith(sign, position):
            return f'"{sign}" has no meaning here: {wanted}', hint, len(sign)
    return None
