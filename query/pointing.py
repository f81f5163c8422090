"""What stands at a place of a text: the call whose arguments are typed there, and what a word there means.

    signature_at('edge:add_group("E1", ', 21, knowledge)  →  Signature(the overloads, which one, which parameter)
    hover_at('edge:add_group("E1", "g")', 3, knowledge)  →  Hover("```pql\\nedge:add_group(…", start=0, end=14)

Pure and tolerant, as :mod:`query.completion`. Texts to show are Markdown; bounded by what a function documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from query.declarations import Declaration, Effect, Home
from query.knowledge import Knowledge, kind_of, kind_of_key
from query.lexing import directive_text
from query.reaching import argument_at, overloads_at
from query.unfinished import Unfinished, read_unfinished

OVERLOADS_SHOWN_MAX: Final = 8
EXAMPLES_SHOWN_MAX: Final = 3
_REST: Final = re.compile(r"[A-Za-z0-9_]*(?::[A-Za-z_][A-Za-z0-9_]*)?")
_DIRECTIVE_MEANS: Final = {
    "peer": "where the statement runs: a peer, `nameserver`, a comma list, `all`, `group NAME` or `where CONDITION`",
    "plot": "how a front end draws the rows: `line`, `bar`, `scatter` or `histogram`",
    "timeout": "the longest time that the statement may take, as in `5s`",
    "wait": "how long the statement stays open for edges that are away, as in `1h`",
    "budget": "the most that each peer may spend on the statement, as in `1000 rows, 4MiB, 5s`",
}


@dataclass(frozen=True, slots=True)
class Signature:
    """The call around the cursor. ``active`` is the overload that fits best, ``parameter`` the argument under way;
    it may lie past the overload's last parameter.
    """

    overloads: tuple[Declaration, ...]
    active: int
    parameter: int


@dataclass(frozen=True, slots=True)
class Hover:
    """What ``text[start:end]`` means, in Markdown."""

    markdown: str
    start: int
    end: int


def signature_at(text: str, offset: int, knowledge: Knowledge) -> Signature | None:
    """The innermost call of a known function whose arguments stand around ``offset``."""
    moment = read_unfinished(text, offset)
    if moment.silent or moment.directive is not None:
        return None
    for bracket in reversed(moment.brackets):
        if bracket.sign == "(" and bracket.function is not None:
            overloads = knowledge.catalogue.lookup(bracket.function)
            if not overloads:
                return None
            fitting = overloads_at(bracket, knowledge)
            return Signature(overloads, overloads.index(fitting[0]), len(bracket.commas))
    return None


def hover_at(text: str, offset: int, knowledge: Knowledge) -> Hover | None:
    """What the word, name or directive at ``offset`` means; None where there is nothing to say."""
    rest = _REST.match(text, offset)
    moment = read_unfinished(text, rest.end() if rest is not None else offset)
    if moment.silent:
        return None
    if moment.directive is not None:
        return _directive(moment)
    markdown = _string(moment, knowledge) if moment.quote else _word(moment, knowledge)
    return None if markdown is None else Hover(markdown, moment.start, moment.end)


def _directive(moment: Unfinished) -> Hover | None:
    comment = moment.directive or ""
    start = moment.offset - len(comment)
    line = moment.text[start : moment.end].rstrip("\r")
    named = directive_text(line)
    if named is None or named[0] not in _DIRECTIVE_MEANS:
        return None
    return Hover(f"`//{named[0]}:` {_DIRECTIVE_MEANS[named[0]]}", start, start + len(line))


def _word(moment: Unfinished, knowledge: Knowledge) -> str | None:
    word = moment.text[moment.start : moment.end]
    if moment.last == "DOT":
        return None
    if word.startswith(":") and len(word) > 1:
        keys = knowledge.keys.get(word.casefold(), ())
        known = "session variable" if word[1:].casefold() in knowledge.variables else "session variable or parameter"
        return f"`{word}` {known}" + (f"; keys: {_listed(keys)}" if keys else "")
    overloads = knowledge.catalogue.lookup(word)
    return described(overloads, knowledge.catalogue.owner(word) or "") if overloads else None


def _string(moment: Unfinished, knowledge: Knowledge) -> str | None:
    argument = argument_at(moment, knowledge)
    if argument is None or argument.in_key:
        return None
    value = moment.text[moment.start : moment.end]
    if argument.key is not None:
        kinds = {kind_of_key(argument.key)}
    else:
        kinds = {kind_of(declared.name, parameter) for declared, parameter in argument.parameters}
    for kind in kinds - {None}:
        assert kind is not None
        if value.casefold() in (name.casefold() for name in knowledge.of_kind(kind)):
            versions = knowledge.versions.get(value.casefold(), ()) if kind.value == "model" else ()
            return f"`{value}` {kind.value}" + (f"; versions: {_listed(versions)}" if versions else "")
    return None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in list(names)[:20])


def described(overloads: tuple[Declaration, ...], owner: str = "") -> str:
    """What a function is, in Markdown: signatures, documentation, where it is at home, who may call it, examples."""
    return "\n\n".join(_described(overloads[:OVERLOADS_SHOWN_MAX], owner))


def _described(overloads: tuple[Declaration, ...], owner: str) -> Iterator[str]:
    by_text: dict[str, list[Declaration]] = {}
    for declared in overloads:
        by_text.setdefault(declared.documentation, []).append(declared)
    for documentation, together in by_text.items():
        yield "```pql\n" + "\n".join(declared.signature for declared in together) + "\n```"
        if documentation:
            yield documentation
        yield _facts(together[0], owner)
        examples = [example.text for declared in together for example in declared.examples]
        if examples:
            shown = ";\n".join(dict.fromkeys(examples[:EXAMPLES_SHOWN_MAX]))
            yield f"```pql\n{shown}\n```"


def _facts(declared: Declaration, owner: str) -> str:
    home = "on the nameserver" if declared.home is Home.NAMESERVER else "everywhere"
    does = "changes something" if declared.effect is Effect.CHANGES else "reads only"
    past = "; answers `as of` a moment" if declared.past else ""
    of = f"; of {owner}" if owner not in ("", "built-in") else ""
    also = f"; also called {_listed(declared.aliases)}" if declared.aliases else ""
    return f"*at home {home}; for role {declared.role.name.lower()}; {does}{past}{of}{also}*"
