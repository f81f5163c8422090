"""The editor server's own requests and notifications, ``peerage/…``, as they travel; docs/editor.md explains them.

    peerage/run             RunRequest → RunResult        frames come meanwhile as peerage/frame
    peerage/cancel          CancelRequest → bool          the run goes on to its ledger, which says cancelled
    peerage/peers           UriRequest → Peers
    peerage/setDefaultPeer  DefaultRequest → Default
    peerage/frame           FrameTold                     notification to the editor
    peerage/state           StateTold                     notification to the editor

Read strictly: an unknown member, a wrong type or a value out of bounds is an error that names it, and nothing runs.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from query.errors import UserProblem

RUN_ID_LENGTH_MAX: Final = 128
ROWS_MAX: Final = 100_000  # frames of rows that one run sends when nothing else is said
_T = TypeVar("_T")


class BadMessage(UserProblem):
    """A request of the editor that is not one."""

    code = "bad_editor_message"


class WirePosition(Struct, frozen=True):
    line: int
    character: int


class WireRange(Struct, frozen=True):
    start: WirePosition
    end: WirePosition


class RunRequest(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """``text``, or of the open text ``uri`` the part ``range``, or the statement at ``position``, or all of it.

    ``peer``: the default target, in the words of ``//peer:``; without, the workspace's. ``rows_max``: rows that are
    told; those beyond are counted.
    """

    id: str
    text: str | None = None
    uri: str | None = None
    range: WireRange | None = None
    position: WirePosition | None = None
    params: dict[str, Any] = {}
    peer: str | None = None
    timeout_s: float | None = None
    rows_max: int = ROWS_MAX


class RunResult(Struct, frozen=True, rename="camel"):
    """How a run ended. ``complete``: every target of every statement answered. ``told``: rows that frames told of."""

    id: str
    complete: bool
    cancelled: bool
    statements: int
    rows: int
    told: int
    errors: int
    elapsed_ms: float


class CancelRequest(Struct, frozen=True, forbid_unknown_fields=True):
    id: str


class UriRequest(Struct, frozen=True, forbid_unknown_fields=True):
    uri: str | None = None


class DefaultRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """``peer`` None: statements go to the connected peer again, and the key leaves the workspace's file."""

    peer: str | None
    uri: str | None = None


class Default(Struct, frozen=True, rename="camel"):
    default_peer: str | None
    file: str | None


class Peers(Struct, frozen=True, rename="camel"):
    default_peer: str | None
    connected: str | None
    reason: str
    peers: tuple[str, ...]
    groups: tuple[str, ...]


class FrameTold(Struct, frozen=True, omit_defaults=True):
    """``frame``: as in an answer to ``POST /v1/query``. ``text``: what ``peerage query`` would print for it.
    ``range``: where an error stands in the open text ``uri``.
    """

    id: str
    frame: msgspec.Raw
    text: str = ""
    uri: str | None = None
    range: WireRange | None = None


class StateTold(Struct, frozen=True, rename="camel"):
    """``connected``: the name of the peer that answers, null with a ``reason``. ``catalogue``: whose functions are
    completed: a peer's, or null for the program's own.
    """

    connected: str | None
    reason: str
    default_peer: str | None
    catalogue: str | None


def read(params: Any, kind: type[_T]) -> _T:
    """A request's parameters. Raises :class:`BadMessage`."""
    try:
        return msgspec.convert(params if params is not None else {}, kind)
    except msgspec.ValidationError as error:
        raise BadMessage(f"not a request of this kind: {error}") from error


def written(message: Struct) -> Any:
    """A message as values of JSON."""
    return msgspec.json.decode(msgspec.json.encode(message))
