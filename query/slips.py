"""What people slip in that other languages have, or that is left out: said by its name, with what to write instead.

Pure: the tokens of a statement that is not one, where it stopped to be one, and what could have stood there → a
:class:`Slip` when it is one that many make. The grammar decides what is wrong; nothing here accepts or refuses.

Rules: a slip names what was written and what is written here; its place is the shortest that shows it. Comments that
look like directives are no errors; :func:`doubtful_comments` names them for whoever wants to tell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from query.errors import NAME_LENGTH_MAX, Span, nearest
from query.lexing import DIRECTIVES, Token
from query.syntax import Place, Source


@dataclass(frozen=True, slots=True)
class Slip:
    message: str
    hint: str | None
    place: Place


STATEMENTS: Final = ("select", "set", "create", "delete", "explain", "validate")
KEYWORDS: Final = (
    *("select", "distinct", "from", "where", "group", "having", "order", "by", "asc", "desc", "limit", "as", "of"),
    *("set", "create", "replace", "function", "delete", "explain", "validate", "check", "and", "or", "not"),
    *("between", "like", "is", "null", "true", "false", "case", "when", "then", "else", "end", "cast", "in"),
)
PARTS: Final = ("FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT")
COMPARISONS: Final = frozenset({"EQUAL", "UNEQUAL", "LESS", "LESSEQUAL", "MORE", "MOREEQUAL"})
VALUES: Final = frozenset(
    {"NUMBER", "NAME", "STRING", "RAW_STRING", "TIMESTAMP", "VARIABLE", "QUALIFIED", "TRUE", "FALSE", "NULL", "LPAR"}
    | {"LSQB", "LBRACE", "CASE", "CAST"}
)
_DEFINING: Final = "a function is made with: create function f(Number x) -> Number as x + 1"
_SETTING: Final = "a session variable is set with: set :x = 5"
OTHERS: Final = {
    **dict.fromkeys(("let", "var", "const", "declare"), _SETTING),
    **dict.fromkeys(("def", "function", "fn", "func"), _DEFINING),
    "if": "a choice is written: case when x > 1 then 'many' else 'one' end",
    **dict.fromkeys(("show", "list", "describe", "desc"), 'functions list things: edge:list(), apropos("models")'),
    **dict.fromkeys(
        ("insert", "update", "alter", "drop", "use"), 'functions change things, as edge:add_group("E1", "g") does'
    ),
    **dict.fromkeys(("print", "return", "echo"), "an expression alone gives its value"),
    "peerage": "this is the query language; commands are typed in a shell",
    "for": "each element of a bag is named in a select: select x + 1 from x in [1, 2, 3]",
    "while": "each element of a bag is named in a select: select x + 1 from x in [1, 2, 3]",
}
_PAIRS: Final = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}


def slip_at(source: Source, tokens: Sequence[Token], at: int, expected: frozenset[str]) -> Slip | None:
    """The slip that made ``tokens[at]`` unexpected; ``at`` is their number where the end was.

    ``expected``: the terminals that could have stood there, as the grammar has them, ``$END`` among them.
    """
    if at == len(tokens):
        return _at_end(tokens)
    for known in (_word, _operator, _star, _source, _call_of_field, _key, _part, _misspelt, _separator):
        found = known(source, tokens, at, expected)
        if found is not None:
            return found
    return None


def _place(*tokens: Token) -> Place:
    return Place((tokens[0].start, tokens[-1].end))


def _types(tokens: Sequence[Token], at: int, count: int) -> list[str]:
    """The types of the ``count`` tokens before one, fewer at the beginning."""
    return [token.type for token in tokens[max(0, at - count) : at]]


def _word(source: Source, tokens: Sequence[Token], at: int, expected: frozenset[str]) -> Slip | None:
    """A statement that begins with a word of another language, or a misspelt one of this."""
    first = tokens[0]
    word = first.value.casefold()
    if at != 1 or first.type not in ("NAME", "FUNCTION", "DELETE") or _new_line(source, first, tokens[1]):
        return _variable_to_set(tokens, at)
    if word in OTHERS:
        return Slip(f'no statement begins with "{first.value}"', OTHERS[word], _place(first))
    close = nearest(first.value, STATEMENTS) if first.type == "NAME" and tokens[1].type in VALUES else None
    if close is not None:
        return Slip(f'no statement begins with "{brief(first.value)}" — did you mean "{close}"?', None, _place(first))
    return _variable_to_set(tokens, at)


def _variable_to_set(tokens: Sequence[Token], at: int) -> Slip | None:
    token = tokens[at]
    if _types(tokens, at, 1) == ["SET"] and token.type == "NAME":
        return Slip(
            f'expected a session variable, found "{brief(token.value)}"',
            f"it has a colon: set :{brief(token.value)} = …",
            _place(token),
        )
    if _types(tokens, at, 2) == ["NAME"] and token.type == "COLON":
        return Slip('":" has no meaning here', _SETTING, _place(token))
    return None


def _operator(source: Source, tokens: Sequence[Token], at: int, expected: frozenset[str]) -> Slip | None:
    token, before = tokens[at], tokens[at - 1] if at else None
    if before is not None and token.type == before.type == "EQUAL" and before.end == token.start:
        return Slip('"==" has no meaning here: expected "="', None, _place(before, token))
    if before is not None and before.type == "EQUAL" and token.type in ("MORE", "LESS") and before.end == token.start:
        pair = before.value + token.value
        return Slip(f'"{pair}" has no meaning here: expected "{token.value}="', None, _place(before, token))
    if token.type == "YIELDS":
        return _arrow(token, tokens)
    if token.type in COMPARISONS:
        joined = next((one for one in _same_level(tokens, at) if one.type == "CONCAT"), None)
        if joined is not None:
            return Slip('"||" joins strings: expected "or" between conditions', None, _place(joined))
        doubled = before is not None and before.type in COMPARISONS
        if not doubled and any(one.type in COMPARISONS for one in _same_level(tokens, at)):
            return Slip(
                f'unexpected "{brief(token.value)}"', "conditions are joined by and: 1 < x and x < 3", _place(token)
            )
    return None


def _arrow(token: Token, tokens: Sequence[Token]) -> Slip | None:
    if token.type == "YIELDS" and tokens[0].type != "VALIDATE":
        return Slip('"=>" has no meaning here: expected ">="', None, _place(token))
    return None


def _same_level(tokens: Sequence[Token], at: int) -> list[Token]:
    """The tokens before one, back to where a condition begins: inside the same brackets."""
    depth, found = 0, []
    for token in reversed(tokens[:at]):
        if token.type in _PAIRS.values():
            depth += 1
        elif token.type in _PAIRS:
            depth -= 1
            if depth < 0:
                break
        elif depth == 0:
            if token.type in ("AND", "OR", "WHERE", "HAVING", "WHEN", "COMMA", "SELECT"):
                break
            found.append(token)
    return found


def _star(source: Source, tokens: Sequence[Token], at: int, expected: frozenset[str]) -> Slip | None:
    token = tokens[at]
    if token.type != "STAR":
        return None
    match _types(tokens, at, 2):
        case [*_, "SELECT" | "COMMA" | "DISTINCT"]:
            hint = "name each element and give it: select x from x in […]; a member of a record is x.name"
            return Slip('"*" stands for nothing here: expected an expression', hint, _place(token))
        case ["NAME", "LPAR"]:
            name = tokens[at - 2].value
            hint = f"name what is counted: {name}(x), as in select {name}(x) from x in […]"
            return Slip('"*" stands for nothing here: expected an expression', hint, _place(token))
        case _:
            return None


def _source(source: Source, tokens: Sequence[Token], at: int, expected: frozenset[str]) -> Slip | None:
    """``from`` with a source that nobody named."""
    token = tokens[at]
    match [*_types(tokens, at, 2), token.type]:
        case [_, "FROM", "QUALIFIED" | "LSQB" | "LPAR" | "VARIABLE" | "STRING" | "RAW_STRING" | "LBRACE"]:
            shown = brief(token.value) + ("()" if token.type == "QUALIFIED" else "…" if token.type in _PAIRS else "")
            hint = f"name each element: from x in {shown}"
            return Slip(f'unexpected {quoted(token.value)}: expected a name and "in"', hint, _place(token))
        case ["FROM", "NAME", "LPAR"]:
            name = tokens[at - 1]
            hint = f"name each element: from x in {brief(name.value)}(…)"
            return Slip(f'unexpected "{brief(name.value)}": expected a name and "in"', hint, _place(name))
        case _:
            return None


def _call_of_field(source: Source, tokens: Sequence[Token], at: int, expected: frozenset[str]) -> Slip | None:
    if tokens[at].type != "LPAR":
        return None
    match _types(tokens, at, 3):
        case ["NAME", "DOT", "FIELD" | "NAME"]:
            space, _, name = tokens[at - 3 : at]
            hint = f"a function of a namespace is written with a colon: {brief(space.value)}:{brief(name.value)}(…)"
            return Slip(
                f'"{brief(space.value)}.{brief(name.value)}" is a field, and a field is not called',
                hint,
                _place(space, name),
            )
        case _:
            return None


def _key(source: Source, tokens: Sequence[Token], at: int, expected: frozenset[str]) -> Slip | None:
    token = tokens[at]
    if token.type == "RBRACE" and _types(tokens, at, 1) == ["COMMA"]:
        return Slip('unexpected "}": expected a key in quotes', "no comma stands behind the last member", _place(token))
    if (
        not token.value[:1].isalpha()
        or _types(tokens, at, 1) not in (["LBRACE"], ["COMMA"])
        or "STRING" not in expected
    ):
        return None
    if _innermost(tokens, at) != "LBRACE":
        return None
    hint = f'keys stand in quotes: {{"{brief(token.value)}": …}}'
    return Slip(f'unexpected "{brief(token.value)}": expected a key in quotes', hint, _place(token))


def _innermost(tokens: Sequence[Token], at: int) -> str | None:
    """The bracket that is open before a token."""
    open_ones: list[str] = []
    for token in tokens[:at]:
        if token.type in _PAIRS:
            open_ones.append(token.type)
        elif token.type in _PAIRS.values() and open_ones:
            open_ones.pop()
    return open_ones[-1] if open_ones else None


def _part(source: Source, tokens: Sequence[Token], at: int, expected: frozenset[str]) -> Slip | None:
    """A part of a select that stands behind one that it goes before."""
    token = tokens[at]
    if token.type not in PARTS or _innermost(tokens, at) is not None or tokens[0].type != "SELECT":
        return None
    seen = [one.type for one in tokens[:at] if one.type in PARTS]
    later = [part for part in seen if PARTS.index(part) >= PARTS.index(token.type)]
    if not later:
        return None
    what = "stands twice" if token.type in seen else f'stands behind "{later[0].casefold()}"'
    hint = "the parts come in this order: select … from … where … group by … having … order by … limit …"
    return Slip(f'"{token.value}" {what}', hint, _place(token))


def _misspelt(source: Source, tokens: Sequence[Token], at: int, expected: frozenset[str]) -> Slip | None:
    token = tokens[at]
    if token.type != "NAME" or len(token.value) < 3:
        return None
    close = nearest(token.value, [word for word in KEYWORDS if word.upper() in expected and len(word) > 2])
    if close is None:
        return None
    return Slip(f'unexpected "{brief(token.value)}" — did you mean "{close}"?', None, _place(token))


def _separator(source: Source, tokens: Sequence[Token], at: int, expected: frozenset[str]) -> Slip | None:
    """What is left out between two statements, or between two values in brackets."""
    token, before = tokens[at], tokens[at - 1] if at else None
    if before is None:
        return None
    if _innermost(tokens, at) is None:
        if "$END" in expected and _new_line(source, before, token):
            shown = _line(source, before)
            hint = f"a statement ends with a semicolon: {shown};" if shown else "a statement ends with a semicolon"
            return Slip(f'expected ";" before "{brief(token.value)}"', hint, _place(token))
        return None
    if token.type in VALUES and before.type not in _PAIRS and "COMMA" in expected:
        return Slip(f'expected "," before {quoted(token.value)}', None, _place(token))
    return None


def _at_end(tokens: Sequence[Token]) -> Slip | None:
    match [token.type for token in tokens[-2:]]:
        case [*_, "QUALIFIED"]:
            name = brief(tokens[-1].value)
            return Slip(f'expected "(" behind "{name}"', f"a call has parentheses: {name}()", _place(tokens[-1]))
        case ["FROM", "NAME"]:
            name = brief(tokens[-1].value)
            hint = f"name each element: from x in {name}, or in {name}() when it is a function"
            return Slip(f'expected "in" behind "{name}"', hint, _place(tokens[-1]))
        case _:
            return None


def _new_line(source: Source, before: Token, token: Token) -> bool:
    return "\n" in source.text[before.end : token.start]


def _line(source: Source, token: Token) -> str:
    """The line that a token ends, when it is short enough to be shown."""
    start = source.text.rfind("\n", 0, token.start) + 1
    line = source.text[start : token.end].strip()
    return line if len(line) <= 60 else ""


def brief(text: str) -> str:
    """The beginning of what was found, in one line, as a message shows it."""
    line = "".join(character if character.isprintable() else "…" for character in text[:41].partition("\n")[0])
    return line if line == text and len(text) <= 40 else line[:37] + "…"


def quoted(text: str) -> str:
    shown = brief(text)
    return shown if shown[:1] in ("'", '"') else f'"{shown}"'


# --- names and comments ---------------------------------------------------------------------------------------------

QUOTES: Final = "a string stands in quotes:"  # how a hint begins
_WHOLE: Final = re.compile(r"[A-Za-z_]\w*(?:[-.@/]\w+)+")
NAMES: Final = {
    **dict.fromkeys(("none", "nil", "undefined", "nothing"), "nothing is written null"),
    "help": 'apropos("word") finds functions, doc("edge:list") tells of one',
    **dict.fromkeys(("exit", "quit"), "Ctrl-D leaves the prompt"),
}


def whole_word(text: str, start: int) -> str | None:
    """What a person means who writes ``line-1`` without quotes; None where there is just a name."""
    found = _WHOLE.match(text, start, start + NAME_LENGTH_MAX)
    return found[0] if found else None


_COMMENT: Final = re.compile(r"[ \t]*//[ \t]*([A-Za-z]{3,20})[ \t]*(:?)[ \t]*(.*)")
_TRAILING: Final = re.compile(rf"//[ \t]*({'|'.join(DIRECTIVES)})[ \t]*:", re.IGNORECASE)
COMMENTS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Doubt:
    """A comment that was probably meant to be a directive."""

    message: str
    span: Span


def doubtful_comments(text: str) -> list[Doubt]:
    """Comments that look like directives and are none, at most :data:`COMMENTS_MAX`."""
    found: list[Doubt] = []
    for number, line in enumerate(text.split("\n"), 1):
        if "//" not in line or len(found) >= COMMENTS_MAX:
            continue
        doubt = _doubt(line)
        if doubt is not None:
            message, start, end = doubt
            found.append(Doubt(message, Span(number, start + 1, number, end + 1)))
    return found


def _doubt(line: str) -> tuple[str, int, int] | None:
    own = _COMMENT.match(line)
    start = line.index("//")
    if own is None:
        trailing = _TRAILING.search(line)
        if trailing is None or any(line[: trailing.start()].count(quote) % 2 for quote in "\"'"):
            return None
        name = trailing[1].casefold()
        told = f'"//{name}:" is a remark here: as a directive it stands on a line of its own, above the statement'
        return told, trailing.start(), len(line.rstrip())
    word, colon, rest = own[1], own[2], own[3].strip()
    end = len(line.rstrip())
    if word.casefold() in DIRECTIVES:
        if not colon and rest and " " not in rest:
            return f'"//{word} {rest[:40]}" is a comment — did you mean "//{word.casefold()}: {rest[:40]}"?', start, end
        return None
    close = nearest(word, DIRECTIVES) if colon and rest else None
    return (f'"//{word}:" is a comment — did you mean "//{close}:"?', start, end) if close else None
