"""What is asked of a peer: the body of ``POST /v1/query``, and on whose behalf. See docs/query-api.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec

from federation.documents import SignedDocument
from query.declarations import Caller
from query.errors import LimitExceeded, UserProblem

TIMEOUT_S_MAX: Final = 24 * 3600.0
PARAMETERS_MAX: Final = 256


class StatementRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of ``POST /v1/query``; see docs/query-api.md.

    ``params``: encoded values that ``:name`` reads. ``targets``: the default target, in the words of ``//peer:``, or a
    list of peers. ``timeout``: seconds for the whole request.
    """

    text: str
    params: dict[str, Any] = {}
    targets: str | tuple[str, ...] | None = None
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from.

    ``envelope`` covers the request's exact bytes. ``own``: the caller is on this peer's own socket or in its process,
    so that this peer signs for it, with its home's identity, what goes elsewhere.
    """

    caller: Caller
    envelope: SignedDocument | None = None
    own: bool = False


def decode_request(body: bytes) -> StatementRequest:
    """Raises :class:`UserProblem` that says what a request looks like."""
    try:
        request = msgspec.json.decode(body, type=StatementRequest)
    except msgspec.MsgspecError as error:
        raise UserProblem(f"expected a request {{text, params, targets, timeout}}: {error}") from error
    if request.timeout is not None and not 0 < request.timeout <= TIMEOUT_S_MAX:
        raise UserProblem(
            f"expected a timeout of more than 0 and at most {TIMEOUT_S_MAX:g} s, found {request.timeout:g}"
        )
    if len(request.params) > PARAMETERS_MAX:
        raise LimitExceeded(f"{len(request.params)} parameters, expected at most {PARAMETERS_MAX}")
    return request


def encode_request(request: StatementRequest) -> bytes:
    return msgspec.json.encode(request)
