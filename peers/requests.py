"""What is asked of a peer: the body of ``POST /v1/query``, and on whose behalf. See docs/query-api.md."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from federation.documents import SignedDocument
from query.budgets import Budget, parse_budget
from query.declarations import Caller
from query.errors import LimitExceeded, UserProblem, suggestion
from query.frames import Frame

TIMEOUT_S_MAX: Final = 24 * 3600.0
QUERY_BYTES_MAX: Final = 64 * 1024 * 1024  # of a request's body, on either face
PARAMETERS_MAX: Final = 256
MEMBERS: Final[Mapping[str, tuple[str, tuple[type, ...]]]] = {
    "text": ("text", (str,)),
    "params": ("an object", (dict,)),
    "targets": ("text or a list of names", (str, list, type(None))),
    "timeout": ("a number of seconds", (int, float, type(None))),
    "budget": ("text", (str, type(None))),
}


class StatementRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of ``POST /v1/query``; see docs/query-api.md.

    ``params``: encoded values that ``:name`` reads. ``targets``: the default target, in the words of ``//peer:``, or a
    list of peers. ``timeout``: seconds for the whole request. ``budget``: what each statement may use on each peer, in
    the words of ``//budget:``.
    """

    text: str
    params: dict[str, Any] = {}
    targets: str | tuple[str, ...] | None = None
    timeout: float | None = None
    budget: str | None = None

    @property
    def bounds(self) -> Budget | None:
        """The budget, read. Raises :class:`~query.budgets.BadBudget`."""
        return None if self.budget is None else parse_budget(self.budget)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from.

    ``envelope`` covers the request's exact bytes. ``own``: the caller is on this peer's own socket or in its process,
    so that this peer signs for it, with its home's identity, what goes elsewhere.
    """

    caller: Caller
    envelope: SignedDocument | None = None
    own: bool = False


class StatementRunner(Protocol):
    """What both faces hand a request to: the peer's statements."""

    def run(self, body: bytes, *, origin: Origin, query: str) -> AsyncGenerator[Frame, None]: ...

    def new_query(self) -> str: ...


def decode_request(body: bytes) -> StatementRequest:
    """Raises :class:`UserProblem` that says what a request looks like."""
    try:
        request = msgspec.json.decode(body, type=StatementRequest)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise UserProblem(f"{_fault(body)}: expected a request {{text, params, targets, timeout, budget}}") from error
    if request.timeout is not None and not 0 < request.timeout <= TIMEOUT_S_MAX:
        raise UserProblem(
            f"expected a timeout of more than 0 and at most {TIMEOUT_S_MAX:g} s, found {request.timeout:g}"
        )
    if len(request.params) > PARAMETERS_MAX:
        raise LimitExceeded(f"{len(request.params)} parameters, expected at most {PARAMETERS_MAX}")
    if request.budget is not None:
        parse_budget(request.budget)
    return request


def _fault(body: bytes) -> str:
    """What keeps a body from being a request."""
    try:
        read = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return "the body is not JSON"
    if not isinstance(read, dict):
        return f"the body is {_kind(read)}"
    for name, value in read.items():
        if name not in MEMBERS:
            return f'a request has no "{name[:80]}"{suggestion(name, MEMBERS)}'
        wanted, kinds = MEMBERS[name]
        if isinstance(value, bool) or not isinstance(value, kinds):
            return f'"{name}" is {_kind(value)}, not {wanted}'
    if "text" not in read:
        return 'the request has no "text"'
    return '"targets" holds something else than text'


def _kind(value: object) -> str:
    words = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return words.get(type(value), "a number")


def encode_request(request: StatementRequest) -> bytes:
    return msgspec.json.encode(request)
