"""Functions about functions."""

from __future__ import annotations

from typing import Any

from query.declarations import Call, Declaration, Example, KnownFunctions, function
from query.errors import InternalProblem
from query.knowledge import told


def _known(call: Call) -> KnownFunctions:
    if call.functions is None:
        raise InternalProblem("a function about functions was called outside of a statement")
    return call.functions


def described_function(declared: Declaration) -> dict[str, Any]:
    """What ``doc`` says of one overload."""
    return {
        "signature": declared.signature,
        "documentation": declared.documentation,
        "home": declared.home.value,
        "role": declared.role.name.lower(),
        "effect": declared.effect.value,
        "past": declared.past,
        "aliases": list(declared.aliases),
        "examples": [example.text for example in declared.examples],
    }


class DocumentationFunctions:
    """What the functions of this peer are called and do."""

    @function("doc(String name) -> Bag of Record", example='doc("count")')
    def doc(self, call: Call, name: str) -> list[dict[str, Any]]:
        """One record for each overload of a function: signature, documentation, home, role, effect, examples;
        ``past`` is true where a call may be followed by ``as of``.
        """
        return [described_function(declared) for declared in _known(call).require(name)]

    @function(
        "signature(String name) -> Bag of String",
        example=Example('signature("ln")', shows='"ln(Object x) -> Object"'),
    )
    def signature(self, call: Call, name: str) -> list[str]:
        """The signature of each overload of a function."""
        return [declared.signature for declared in _known(call).require(name)]

    @function("apropos(String text) -> Bag of Record", example='apropos("logarithm")')
    def apropos(self, call: Call, text: str) -> list[dict[str, Any]]:
        """The functions in whose name or documentation all the words of a text occur."""
        return [
            {"signature": declared.signature, "documentation": declared.documentation.split("\n\n")[0]}
            for declared in _known(call).matching(text)
        ]

    @function("functions() -> Bag of Record", example="functions()")
    def functions(self, call: Call) -> list[dict[str, Any]]:
        """Every function that this peer knows, one record an overload, those of models and users with their owner.

        Editors complete and explain from it: name, parameters, result, home, role, effect, documentation, examples,
        aliases, past (whether `as of` may follow a call), owner (`built-in`, `model NAME` or `user`).
        """
        known = _known(call)
        return [told(declared, known.owner(declared.name) or "") for declared in known.matching("")]
