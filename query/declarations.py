"""The form of a function declaration: what every function says of itself, once.

A declaration feeds resolution, ``doc()``, ``apropos()``, completion, the reference pages and the permission check.
Declarations are static: they are known on every peer. Implementations are bound where a peer is composed:

    class GroupFunctions:
        def __init__(self, store): ...

        @function("edge:groups(String edge) -> Vector of String", home=Home.NAMESERVER, example='edge:groups("E1")')
        def groups(self, call, edge):
            '''The groups of an edge.'''

    declarations(GroupFunctions)          # static, for the catalogue of every peer
    bind(GroupFunctions(store))           # with implementations, on the nameserver

The method's docstring is the function's documentation. A method may be ``async``. For a ``Bag of`` result it
returns an iterable or async iterable whose elements become rows; every other result is one value, one row.
``String edge?`` in a signature is an optional parameter (absent arguments are not passed).
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from query.types import Type, parse_type


class Home(enum.Enum):
    """Where a function can run."""

    EVERYWHERE = "everywhere"
    NAMESERVER = "nameserver"


class Role(enum.IntEnum):
    """What a caller may do; a higher role includes the lower ones."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


class Effect(enum.Enum):
    READS = "reads"
    CHANGES = "changes"


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a statement runs, as far as the executing peer has proven it."""

    name: str
    role: Role
    uuid: str = ""
    key: bytes | None = None  # its public key, where this peer knows it


class Progress(Protocol):
    """Told by long work; shown by front ends. ``total`` is None while unknown."""

    def __call__(self, label: str, done: int, total: int | None, unit: str) -> None: ...


def silent(label: str, done: int, total: int | None, unit: str) -> None:
    """A :class:`Progress` that tells nobody."""


async def let_others_run() -> None:
    """A pause that lasts until everything else that is ready has run."""
    await asyncio.sleep(0)


class KnownFunctions(Protocol):
    """The functions that the running statement could call; see :class:`query.catalogue.Catalogue`."""

    def require(self, name: str) -> tuple[Declaration, ...]: ...

    def matching(self, text: str) -> tuple[Declaration, ...]: ...

    def owner(self, name: str) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Call:
    """What an implementation is told beside its arguments.

    ``now`` is federation time. ``sender`` is the peer that carried the statement here, when it came from elsewhere.
    ``functions`` is set while a statement is evaluated. ``as_of``: the moment in the past that the call is about; only
    functions that declare to have a past are told of one. ``pause`` is awaited between two pieces of long work, and
    returns when it may go on.
    """

    caller: Caller
    now: datetime
    peer: str
    progress: Progress = silent
    sender: str | None = None
    functions: KnownFunctions | None = None
    as_of: datetime | None = None
    pause: Callable[[], Awaitable[None]] = let_others_run


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    type: Type
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """A statement that runs in the example federation of the tests, and the text form of its answer if stable."""

    text: str
    shows: str | None = None


@dataclass(frozen=True, slots=True)
class Declaration:
    """One overload of a function. ``name`` keeps its spelling and compares without case. ``past``: a call of it may be
    followed by ``as of``.
    """

    name: str
    parameters: tuple[Parameter, ...]
    result: Type
    home: Home
    role: Role
    effect: Effect
    documentation: str
    examples: tuple[Example, ...]
    aliases: tuple[str, ...] = ()
    past: bool = False
    implementation: Callable[..., Any] | None = field(default=None, compare=False)

    @property
    def arity(self) -> range:
        """The numbers of arguments that this overload takes."""
        least = sum(not parameter.optional for parameter in self.parameters)
        return range(least, len(self.parameters) + 1)

    @property
    def signature(self) -> str:
        inner = ", ".join(f"{p.type} {p.name}{'?' if p.optional else ''}" for p in self.parameters)
        return f"{self.name}({inner}) -> {self.result}"


NAME: Final = r"(?:[A-Za-z_][A-Za-z0-9_]*:)?[A-Za-z_][A-Za-z0-9_]*"
_SIGNATURE = re.compile(rf"\s*(?P<name>{NAME})\s*\((?P<parameters>[^)]*)\)\s*->\s*(?P<result>[\w ]+?)\s*$")
_PARAMETER = re.compile(r"\s*(?P<type>[\w ]+?)\s+(?P<name>[A-Za-z_]\w*)(?P<optional>\?)?\s*$")

_ATTRIBUTE: Final = "__pql_declarations__"
_Method = TypeVar("_Method", bound=Callable[..., Any])


def parse_signature(text: str) -> tuple[str, tuple[Parameter, ...], Type]:
    """``"f(String a, Integer n?) -> Real"`` → name, parameters, result. Raises ValueError on anything else."""
    match = _SIGNATURE.match(text)
    if match is None:
        raise ValueError(f"not a signature: {text!r}")
    parameters = []
    for part in filter(str.strip, match["parameters"].split(",")):
        parameter = _PARAMETER.match(part)
        if parameter is None:
            raise ValueError(f"not a parameter: {part!r} in {text!r}")
        parameters.append(Parameter(parameter["name"], parse_type(parameter["type"]), bool(parameter["optional"])))
    return match["name"], tuple(parameters), parse_type(match["result"])


def function(
    signature: str,
    *,
    example: str | Example | tuple[Example, ...],
    home: Home = Home.EVERYWHERE,
    role: Role = Role.VIEWER,
    effect: Effect = Effect.READS,
    aliases: tuple[str, ...] = (),
    past: bool = False,
) -> Callable[[_Method], _Method]:
    """Declare a method as a PQL function. Stack it for overloads that one method serves."""
    name, parameters, result = parse_signature(signature)
    if past and result.name in ("Bag", "Stream"):
        raise ValueError(f"{name} has a past, and so one answer, not a {result.name}")
    examples = example if isinstance(example, tuple) else (Example(example) if isinstance(example, str) else example,)

    def decorate(method: _Method) -> _Method:
        documentation = inspect.getdoc(method) or ""
        declared = Declaration(name, parameters, result, home, role, effect, documentation, examples, aliases, past)
        setattr(method, _ATTRIBUTE, (declared, *getattr(method, _ATTRIBUTE, ())))
        return method

    return decorate


def declarations(owner: type) -> tuple[Declaration, ...]:
    """What the methods of ``owner`` declare, in the order of the source, without implementations."""
    return tuple(
        declared for member in vars(owner).values() if callable(member) for declared in getattr(member, _ATTRIBUTE, ())
    )


def bind(instance: object) -> tuple[Declaration, ...]:
    """The declarations of ``type(instance)`` with its bound methods as implementations."""
    bound = []
    for name, member in vars(type(instance)).items():
        if callable(member):
            for declared in getattr(member, _ATTRIBUTE, ()):
                bound.append(replace(declared, implementation=getattr(instance, name)))
    return tuple(bound)
