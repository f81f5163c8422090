"""The protocol library, set up for this server: plain values for ``peerage/…``, and a problem as an error of its own.

Owns how our own requests are read from the wire: parameters stay values of JSON, for :mod:`peers.lsp.messages` to
judge. A request whose parameters are not those of its method is answered so. What the library logs goes to standard
error, but for problems that a request met: its answer tells them.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec
from pygls.exceptions import JsonRpcException
from pygls.protocol import (
    JsonRPCNotification,
    JsonRPCRequestMessage,
    JsonRPCResponseMessage,
    LanguageServerProtocol,
    default_converter,
)

from query.errors import Problem

REQUEST_FAILED: Final = -32803


class RequestFailed(JsonRpcException):
    """A problem that a request met: the message with its hint, and the record as data."""

    CODE = REQUEST_FAILED
    MESSAGE = "failed"


class AnsweringProtocol(LanguageServerProtocol):
    """The library logs a request that it cannot read, and leaves the editor waiting: this one answers it too."""

    def structure_message(self, data: dict[str, Any]) -> Any:
        try:
            return super().structure_message(data)
        except JsonRpcException as error:
            if "id" in data and "method" in data:
                self._send_response(data["id"], None, error.to_response_error())
            raise


def failed(problem: Problem) -> RequestFailed:
    hint = f" ({problem.hint})" if problem.hint else ""
    return RequestFailed(problem.message + hint, REQUEST_FAILED, msgspec.to_builtins(problem.record()))


def converter() -> Any:
    """The library's converter, with our own messages' parameters as they came."""
    made: Any = default_converter()  # type: ignore[no-untyped-call]
    for kind in (JsonRPCRequestMessage, JsonRPCResponseMessage, JsonRPCNotification):
        made.register_structure_hook(kind, _as_it_came)
    return made


def _as_it_came(message: dict[str, Any], kind: Any) -> Any:
    names = {field.name for field in kind.__attrs_attrs__}
    absent = dict.fromkeys(names & {"params", "result"})
    return kind(**{**absent, **{name: value for name, value in message.items() if name in names}})


def _is_news(record: logging.LogRecord) -> bool:
    raised = record.exc_info[1] if record.exc_info else None
    return not isinstance(raised, RequestFailed)


def log_to_stderr() -> None:
    """Warnings and errors of the library, without what their answers tell."""
    logger = logging.getLogger("pygls")
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.addFilter(_is_news)
    logger.addHandler(handler)
    logger.propagate = False
