"""The functions that a text may call: declarations in layers, looked up by name without case.

    built-in    every peer knows all of them; a peer's own have implementations
    models      one layer a loaded model, named by its owner; of two models with one function the later loaded counts
    user        what ``create function`` made on this peer

A catalogue is immutable: changing a layer makes a new one, so a statement sees one state of affairs from start to end.
Refuses a user's or model's function with the name of a built-in one. Opens nothing and knows nothing of peers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from query.declarations import Declaration, Effect, Home, Parameter, Role
from query.errors import Span, UnknownName, UserProblem, nearest
from query.syntax import CreateFunction, Source

USER: Final = "user"
BUILT_IN: Final = "built-in"
SAME_NAMES_SHOWN: Final = 3  # functions of one name in different namespaces, in an error


class NameTaken(UserProblem):
    """A function of that name exists and may not be replaced like this."""

    code = "name_taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFunction(Declaration):
    """A function whose body is PQL. It is looked up and resolved anew when the catalogue changes."""

    statement: CreateFunction
    source: Source | None = None  # the text it was written in


def user_function(statement: CreateFunction, source: Source | None = None) -> UserFunction:
    """The declaration that a ``create function`` makes. Its role and effect are its body's, checked where it runs."""
    return UserFunction(
        name=statement.name,
        parameters=tuple(Parameter(parameter.name, parameter.type) for parameter in statement.parameters),
        result=statement.result,
        home=Home.EVERYWHERE,
        role=Role.VIEWER,
        effect=Effect.READS,
        documentation=statement.documentation,
        examples=(),
        statement=statement,
        source=source,
    )


_Layer = dict[str, tuple[Declaration, ...]]


def _layer(declarations: Iterable[Declaration]) -> _Layer:
    """By folded name and alias. Of two overloads with the same parameters the later counts (static, then bound)."""
    found: dict[str, dict[tuple[str, ...], Declaration]] = {}
    for declared in declarations:
        key = tuple(str(parameter.type) for parameter in declared.parameters)
        for name in (declared.name, *declared.aliases):
            found.setdefault(name.casefold(), {})[key] = declared
    return {name: tuple(overloads.values()) for name, overloads in found.items()}


class Catalogue:
    """See the module. ``derived`` is a place for what is computed from this very catalogue, such as resolved bodies."""

    __slots__ = ("_built_in", "_layers", "_merged", "derived")

    def __init__(self, declarations: Iterable[Declaration] = ()) -> None:
        self._built_in = _layer(declarations)
        self._layers: tuple[tuple[str, _Layer], ...] = ()
        self._merged: _Layer = self._built_in
        self.derived: dict[Any, Any] = {}

    def lookup(self, name: str) -> tuple[Declaration, ...]:
        """The overloads of a function, or nothing."""
        return self._merged.get(name.casefold(), ())

    def require(self, name: str, *, span: Span | None = None) -> tuple[Declaration, ...]:
        """The overloads of a function. Raises :class:`UnknownName` with the nearest name."""
        return self._merged.get(name.casefold()) or self._unknown(name, span)

    def _unknown(self, name: str, span: Span | None) -> tuple[Declaration, ...]:
        names = self.names()
        same = [known for known in names if known.rpartition(":")[2].casefold() == name.casefold()]
        close = same[0] if same else nearest(name, names)
        if close is None:
            tail = name.rpartition(":")[2].casefold()
            close = next((known for known in names if known.rpartition(":")[2].casefold() == tail), None)
        meant = '", "'.join(same[:SAME_NAMES_SHOWN]) if same else close
        suggestion = f' — did you mean "{meant}"?' if meant else ""
        hint = None if close else f'apropos("{name}") searches the functions of this peer'
        raise UnknownName(f'no function "{name}"{suggestion}', span=span, hint=hint)

    def names(self) -> tuple[str, ...]:
        """Every function's name in its spelling, and the aliases, in alphabetic order."""
        found = {}
        for folded, overloads in self._merged.items():
            spellings = (overloads[0].name, *overloads[0].aliases)
            found[folded] = next((name for name in spellings if name.casefold() == folded), folded)
        return tuple(sorted(found.values(), key=str.casefold))

    def __iter__(self) -> Iterator[Declaration]:
        """Every overload once, aliases left out, in the order of names."""
        for name, overloads in sorted(self._merged.items()):
            yield from (declared for declared in overloads if declared.name.casefold() == name)

    def __contains__(self, name: str) -> bool:
        return name.casefold() in self._merged

    def matching(self, text: str) -> tuple[Declaration, ...]:
        """The overloads in whose name, aliases or documentation every word of ``text`` occurs."""
        words = text.casefold().split()
        return tuple(
            declared
            for declared in self
            if all(
                word in " ".join((declared.name, *declared.aliases, declared.documentation)).casefold()
                for word in words
            )
        )

    def owner(self, name: str) -> str | None:
        """Which layer answers for a name: ``built-in``, ``user``, a model's owner, or None."""
        folded = name.casefold()
        for owner, layer in reversed(self._layers):
            if folded in layer:
                return owner
        return BUILT_IN if folded in self._built_in else None

    def owned(self, owner: str) -> tuple[Declaration, ...]:
        """The functions of one layer."""
        for name, layer in self._layers:
            if name == owner:
                once = {id(declared): declared for overloads in layer.values() for declared in overloads}
                return tuple(once.values())
        return ()

    def with_functions(self, owner: str, functions: Iterable[Declaration]) -> Catalogue:
        """This catalogue with the layer ``owner`` set to exactly these functions. Raises :class:`NameTaken`."""
        layer = _layer(functions)
        for folded in layer:
            if folded in self._built_in:
                raise NameTaken(f'"{self._built_in[folded][0].name}" is a built-in function and cannot be replaced')
        rest = tuple((name, known) for name, known in self._layers if name != owner)
        users = tuple(pair for pair in rest if pair[0] == USER)
        models = tuple(pair for pair in rest if pair[0] != USER)
        own = ((owner, layer),) if layer else ()
        return self._with(models + users + own if owner == USER else models + own + users)

    def built_in(self) -> Catalogue:
        """The built-in functions alone."""
        return self._with(())

    def without(self, owner: str) -> Catalogue:
        """This catalogue without the layer ``owner``."""
        return self._with(tuple((name, known) for name, known in self._layers if name != owner))

    def _with(self, layers: tuple[tuple[str, _Layer], ...]) -> Catalogue:
        made = Catalogue.__new__(Catalogue)
        made._built_in = self._built_in
        made._layers = layers
        made._merged = dict(self._built_in)
        made.derived = {}
        for _, layer in layers:
            made._merged.update(layer)
        return made
