"""The one shape of an error, from where it is raised to where it is shown.

Every package roots its errors here, so that an error raised on one peer is the same class when another peer
reads it from the wire. The tree, by who must act:

    Problem
    ├── UserProblem        the person or program that asked: the text, a name, an argument, a permission
    │   ├── SyntaxProblem      the text is not PQL; EndsTooEarly: it ends where more has to come
    │   ├── LimitExceeded      a named limit was passed
    │   ├── UnknownName        a function, variable, edge, group, model or version that does not exist
    │   ├── WrongArguments     arity or type
    │   ├── BadStatement       parts that do not fit together: a name twice, having without a group
    │   ├── NotDeletable       a function that delete function cannot delete: built-in, or of a model
    │   └── Forbidden          the caller's role is too low
    ├── PeerProblem        another peer, or this one's configuration: wrong home, not joined, refused
    ├── WorldProblem       network, disk, memory, time: may pass when tried again
    └── InternalProblem    us

Rules: a message names the thing, what was expected, what was found; lower case, no full stop. ``hint`` is the
next step. ``span`` counts in the statement as it was written. Errors carry data; text is made at the edge.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, Self

import msgspec

NAME_LENGTH_MAX: Final = 256  # of a name that is compared with others


class Span(msgspec.Struct, frozen=True):
    """Where in a text: 1-based line and column of the first character, and just past the last one."""

    line: int
    column: int
    end_line: int
    end_column: int


class ErrorRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The wire form of a :class:`Problem`."""

    code: str
    message: str
    span: Span | None = None
    hint: str | None = None
    peer: str | None = None


class Problem(Exception):
    """Root of every error that a user may see. Raise a subclass.

    A subclass sets ``code``, the stable name of its class on the wire; codes are unique in the program.
    """

    code: ClassVar[str] = "problem"
    _by_code: ClassVar[dict[str, type[Problem]]] = {}
    _load: ClassVar[Callable[[str], None] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        code = cls.__dict__.get("code")
        if code is None:
            return
        known = Problem._by_code.setdefault(code, cls)
        if known is not cls and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"error code {code!r} is used by {known.__qualname__} and {cls.__qualname__}")

    def __init__(
        self, message: str, *, span: Span | None = None, hint: str | None = None, peer: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.span = span
        self.hint = hint
        self.peer = peer

    def at(self, span: Span | None) -> Self:
        """The same error, with a place when it has none yet."""
        if self.span is None:
            self.span = span
        return self

    def record(self, *, peer: str | None = None) -> ErrorRecord:
        return ErrorRecord(self.code, self.message, self.span, self.hint, self.peer or peer)

    @staticmethod
    def load_unknown_with(load: Callable[[str], None]) -> None:
        """Have ``load(code)`` import the module that defines a code, when an error of an unknown code is read."""
        Problem._load = staticmethod(load)

    @staticmethod
    def from_record(record: ErrorRecord) -> Problem:
        """The error of the class that made the record; :class:`ForeignProblem` for a code from a newer peer."""
        if Problem._load is not None and record.code not in Problem._by_code:
            Problem._load(record.code)
        made_by = Problem._by_code.get(record.code)
        problem = Problem.__new__(made_by or ForeignProblem)
        Problem.__init__(problem, record.message, span=record.span, hint=record.hint, peer=record.peer)
        if made_by is None:
            problem.code = record.code  # type: ignore[misc]
        return problem


class ForeignProblem(Problem):
    """An error whose code this version does not know; keeps the code it came with."""

    code = "foreign"


class UserProblem(Problem):
    code = "user"


class SyntaxProblem(UserProblem):
    code = "syntax"


class EndsTooEarly(SyntaxProblem):
    """The text ends before its last statement does: it may go on. Told as any other :class:`SyntaxProblem`."""


class LimitExceeded(UserProblem):
    code = "limit"


class UnknownName(UserProblem):
    code = "unknown_name"


class WrongArguments(UserProblem):
    code = "wrong_arguments"


class BadStatement(UserProblem):
    code = "bad_statement"


class NotDeletable(UserProblem):
    code = "not_deletable"


class Forbidden(UserProblem):
    code = "forbidden"


class PeerProblem(Problem):
    code = "peer"


class WrongHome(PeerProblem):
    """A function was run at a peer where it has no home; the hint is the directive to add."""

    code = "wrong_home"


class WorldProblem(Problem):
    code = "world"


class Cancelled(WorldProblem):
    code = "cancelled"


class DeadlinePassed(WorldProblem):
    code = "timeout"


class InternalProblem(Problem):
    code = "internal"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The existing name most like ``name`` by letters, ignoring case, or None when nothing comes close. A text of more
    than ``NAME_LENGTH_MAX`` is no misspelt name: comparing it would take as long as it likes.
    """
    if len(name) > NAME_LENGTH_MAX:
        return None
    folded = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def suggestion(name: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """How an error about a name ends: `` — did you mean "staging"?``, or ``otherwise`` when nothing comes close."""
    close = nearest(name, known)
    return f' — did you mean "{close}"?' if close else otherwise


def unknown(
    kind: str, name: str, known: Iterable[str], *, span: Span | None = None, hint: str | None = None
) -> UnknownName:
    """``no group "stagin" — did you mean "staging"?``, with a hint to list when nothing comes close."""
    return UnknownName(f'no {kind} "{name}"{suggestion(name, known)}', span=span, hint=hint)
