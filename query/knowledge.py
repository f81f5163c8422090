"""What completion, signature help and hover know: a catalogue, names by kind, and the keys of records.

Contract for front ends: :class:`Knowledge` is a value. :func:`peers.knowledge.fetch` makes one from a living peer;
:func:`built_in` makes one of declarations alone. ``query.completion.completions(text, offset, knowledge)``,
``query.pointing.signature_at`` and ``hover_at`` take it; a newer one is taken up by passing it.

Owns which kind of name a parameter takes (by its own name, where the function says nothing else), and the form in which
``functions()`` tells a catalogue, both ways. Records' keys go by a path: ``edge:actual_state`` for what a function
gives (folded), ``:v`` for a variable, ``edge:set_group_models(models)`` for what a parameter takes, and
``.key`` behind any of them for what lies below a key.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from query.catalogue import BUILT_IN, USER, Catalogue
from query.declarations import NAME, Declaration, Effect, Example, Home, Parameter, Role
from query.errors import Problem, UserProblem
from query.types import parse_type

FUNCTIONS_MAX: Final = 10_000  # that a peer's catalogue is read for
NAMES_MAX: Final = 10_000  # of one kind
KEYS_MAX: Final = 200  # of one record
KEY_DEPTH_MAX: Final = 3
PATHS_MAX: Final = 2_000
TEXT_MAX: Final = 100_000  # characters of one function's documentation


class BadCatalogue(UserProblem):
    """What should be a peer's catalogue is not."""

    code = "bad_catalogue"


class Kind(enum.Enum):
    """What a name names."""

    EDGE = "edge"
    GROUP = "group"
    EDGE_OR_GROUP = "edge or group"
    PEER = "peer"
    MODEL = "model"
    VERSION = "version"
    RELEASE = "release"  # name@version
    REPOSITORY = "repository"
    MODE = "mode"
    PIPELINE = "pipeline"
    FUNCTION = "function"
    QUERY = "query"
    ROLE = "role"
    PROPERTY = "property"


MODES: Final = ("INTERACTIVE", "ONLINE", "AUTONOMOUS")
ROLES: Final = tuple(role.name.lower() for role in Role)

_BY_PARAMETER: Final[Mapping[str, Kind]] = {
    "edge": Kind.EDGE,
    "edges": Kind.EDGE,
    "edge_or_group": Kind.EDGE_OR_GROUP,
    "group": Kind.GROUP,
    "peer": Kind.PEER,
    "model": Kind.MODEL,
    "names": Kind.MODEL,
    "version": Kind.VERSION,
    "repo": Kind.REPOSITORY,
    "mode": Kind.MODE,
    "default": Kind.RELEASE,
    "champion": Kind.RELEASE,
    "challengers": Kind.RELEASE,
    "pipeline": Kind.PIPELINE,
    "role": Kind.ROLE,
}
_NAME_IN: Final[Mapping[str, Kind]] = {
    "": Kind.FUNCTION,
    "models": Kind.MODEL,
    "pipeline": Kind.PIPELINE,
    "peer": Kind.PEER,
    "keys": Kind.PEER,
}
_OF_FUNCTION: Final[Mapping[tuple[str, str], Kind | None]] = {
    ("edge:register", "edge"): None,  # a name that is new
    ("peer:register", "name"): None,
    ("models:create", "name"): None,
    ("models:create_release", "version"): None,
    ("pipeline:create", "name"): None,
    ("models:repository", "name"): Kind.REPOSITORY,
    ("models:set_repository", "name"): Kind.REPOSITORY,
    ("edge_query", "edge"): Kind.PEER,
    ("edge_cq", "edge"): Kind.PEER,
    ("query:cancel", "id"): Kind.QUERY,
    ("query:results", "id"): Kind.QUERY,
    ("edge:set_property", "key"): Kind.PROPERTY,
}
_NAME: Final = re.compile(NAME)
_BY_KEY: Final[Mapping[str, Kind]] = {
    **_BY_PARAMETER,
    "name": Kind.MODEL,
    "model": Kind.RELEASE,
}


def kind_of(function: str, parameter: Parameter) -> Kind | None:
    """What kind of name a parameter takes, or None."""
    folded = function.casefold()
    named = (folded, parameter.name)
    if named in _OF_FUNCTION:
        return _OF_FUNCTION[named]
    if parameter.name == "name" and parameter.type.name == "String":
        return _NAME_IN.get(folded.rpartition(":")[0])
    return _BY_PARAMETER.get(parameter.name)


def kind_of_key(key: str) -> Kind | None:
    """What kind of name the value of a record's key takes, in a record that a parameter takes."""
    return _BY_KEY.get(key)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """See the module. ``peer``: whose catalogue it is, None for the program's own, without a peer.

    ``versions``: by a model's folded name. ``keys``: by path, see the module. ``variables``: the session's.
    """

    catalogue: Catalogue
    names: Mapping[Kind, tuple[str, ...]] = field(default_factory=dict)
    versions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    peer: str | None = None

    def of_kind(self, kind: Kind) -> tuple[str, ...]:
        if kind is Kind.MODE:
            return MODES
        if kind is Kind.ROLE:
            return ROLES
        if kind is Kind.EDGE_OR_GROUP:
            return (*self.names.get(Kind.EDGE, ()), *self.names.get(Kind.GROUP, ()))
        if kind is Kind.FUNCTION:
            return self.catalogue.names()
        return self.names.get(kind, ())

    def with_variables(self, variables: Mapping[str, Any]) -> Knowledge:
        """This knowledge with a session's variables, and the keys of those that hold records."""
        keys = {path: found for path, found in self.keys.items() if not path.startswith(":")}
        for name, value in variables.items():
            keys.update(key_paths(f":{name.casefold()}", value))
        return replace(self, variables=tuple(sorted(variables)), keys=keys)

    def with_result(self, function: str, value: Any) -> Knowledge:
        """This knowledge with the keys of a record that ``function`` gave."""
        if len(self.keys) >= PATHS_MAX:
            return self
        return replace(self, keys={**self.keys, **key_paths(function.casefold(), value)})


def key_paths(path: str, value: Any) -> dict[str, tuple[str, ...]]:
    """The keys of a value's records by path, as deep as ``KEY_DEPTH_MAX``; of a vector's first record for a vector."""
    return dict(_key_paths(path, value, KEY_DEPTH_MAX))


def _key_paths(path: str, value: Any, depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    if depth and isinstance(value, list | tuple) and value:
        yield from _key_paths(path, value[0], depth)
    elif depth and isinstance(value, dict):
        keys = tuple(str(key) for key in list(value)[:KEYS_MAX])
        yield path, keys
        for key in keys:
            yield from _key_paths(f"{path}.{key}", value.get(key), depth - 1)


def built_in(declarations: Iterable[Declaration], keys: Mapping[str, tuple[str, ...]] | None = None) -> Knowledge:
    """What is known without a peer."""
    return Knowledge(Catalogue(declarations), keys=keys or {})


# The form in which functions() tells a catalogue.


def told(declared: Declaration, owner: str) -> dict[str, Any]:
    """A declaration as the record that ``functions()`` gives."""
    return {
        "name": declared.name,
        "parameters": [
            {"name": one.name, "type": str(one.type), "optional": one.optional} for one in declared.parameters
        ],
        "result": str(declared.result),
        "home": declared.home.value,
        "role": declared.role.name.lower(),
        "effect": declared.effect.value,
        "documentation": declared.documentation,
        "examples": [example.text for example in declared.examples],
        "aliases": list(declared.aliases),
        "past": declared.past,
        "owner": owner,
    }


def read_told(record: Mapping[str, Any]) -> tuple[str, Declaration]:
    """The owner and the declaration, without implementation, of a record of ``functions()``.

    Raises :class:`BadCatalogue`. What a newer peer tells beside is passed over.
    """
    try:
        name = _text(record["name"])
        if not _NAME.fullmatch(name):
            raise BadCatalogue(f"no name of a function: {name[:80]!r}")
        parameters = tuple(
            Parameter(_text(one["name"]), parse_type(_text(one["type"])), one["optional"] is True)
            for one in record["parameters"]
        )
        return _text(record["owner"]), Declaration(
            name=name,
            parameters=parameters,
            result=parse_type(_text(record["result"])),
            home=Home(record["home"]),
            role=Role[_text(record["role"]).upper()],
            effect=Effect(record["effect"]),
            documentation=_text(record["documentation"])[:TEXT_MAX],
            examples=tuple(Example(_text(text)) for text in record["examples"]),
            aliases=tuple(map(_text, record["aliases"])),
            past=record.get("past") is True,
        )
    except (KeyError, TypeError, ValueError, Problem) as error:
        if isinstance(error, BadCatalogue):
            raise
        raise BadCatalogue(f"not a function's record: {error}"[:300]) from error


def catalogue_of(records: Iterable[Mapping[str, Any]]) -> Catalogue:
    """The catalogue that a peer's ``functions()`` tells. Records that cannot be read are left out, as newer ones."""
    layers: dict[str, list[Declaration]] = {}
    for count, record in enumerate(records):
        if count >= FUNCTIONS_MAX:
            break
        try:
            owner, declared = read_told(record)
        except BadCatalogue:
            continue
        layers.setdefault(owner, []).append(declared)
    catalogue = Catalogue(layers.pop(BUILT_IN, ()))
    users = layers.pop(USER, [])
    for owner, declarations in (*layers.items(), (USER, users)):
        free = [declared for declared in declarations if catalogue.owner(declared.name) != BUILT_IN]
        if free:
            catalogue = catalogue.with_functions(owner, free)
    return catalogue


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {type(value).__name__}")
    return value
