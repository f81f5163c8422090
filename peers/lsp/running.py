"""Running statements for an editor and choosing where they go: the ``peerage/…`` requests and the commands.

Owns how a run's frames and the server's state are told to the editor. The command ``peerage.run``, for editors that
know nothing of ours, runs in the same way and answers with the text that ``peerage query`` would print, at most
``TEXT_LINES_MAX`` lines of it, besides telling the frames.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from lsprotocol import types
from pygls.lsp.server import LanguageServer

from federation.names import shown
from peers.lsp.answers import CHOOSE, RUN, SET_DEFAULT
from peers.lsp.living import Living
from peers.lsp.messages import (
    BadMessage,
    CancelRequest,
    Default,
    DefaultRequest,
    FrameTold,
    Peers,
    RunRequest,
    RunResult,
    StateTold,
    UriRequest,
    WirePosition,
    WireRange,
    read,
    written,
)
from peers.lsp.pipes import Output
from peers.lsp.positions import Lines
from peers.lsp.runs import Runs
from peers.lsp.targets import Targets
from peers.rendering import ledger_matters, ledger_text, progress_text, row_text
from query.errors import Span
from query.frames import EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame, encode_frame
from query.knowledge import Kind, Knowledge
from query.outline import pieces

TEXT_LINES_MAX: Final = 1_000
CHOICES_MAX: Final = 20
NAMESERVER: Final = "nameserver"


@dataclass(slots=True)
class _Asked:
    """A text to run and where it stands: in the text ``uri`` from ``origin`` on, when it stands in one."""

    text: str
    uri: str | None = None
    lines: Lines | None = None
    origin: int = 0
    shown: list[str] = field(default_factory=list)


class Running:
    """See the module."""

    def __init__(
        self,
        language: LanguageServer,
        living: Living,
        targets: Targets,
        *,
        output: Output,
        lines: Callable[[str], Lines],
    ) -> None:
        self._language = language
        self._living = living
        self._targets = targets
        self._output = output
        self._lines = lines
        self._runs = Runs(living.connection)
        self._numbers = itertools.count(1)

    def requests(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        return {
            "peerage/run": self._run,
            "peerage/cancel": self._cancel,
            "peerage/peers": self._peers,
            "peerage/setDefaultPeer": self._set_default,
        }

    def commands(self) -> dict[str, Callable[..., Awaitable[Any]]]:
        return {RUN: self._command_run, SET_DEFAULT: self._command_default, CHOOSE: self._command_choose}

    # --- runs ---------------------------------------------------------------------------------------------------

    async def _run(self, params: Any) -> Any:
        request = read(params, RunRequest)
        return written(await self._ran(request, self._asked(request)))

    async def _ran(self, request: RunRequest, asked: _Asked) -> RunResult:
        peer = request.peer if request.peer is not None else self._targets.default(request.uri)

        async def tell(frame: Frame) -> None:
            self._tell(request.id, asked, frame)
            await self._output.drained()

        result = await self._runs.run(request, asked.text, peer=peer, tell=tell)
        self._living.forget()
        self._living.want(self._targets.default(request.uri))
        return result

    def _asked(self, request: RunRequest) -> _Asked:
        if request.text is not None:
            if request.range is not None or request.position is not None:
                raise BadMessage("expected a range or position with uri, found text")
            return _Asked(request.text)
        if request.uri is None or (request.range is not None and request.position is not None):
            raise BadMessage("expected text, or uri with a range, a position, or neither")
        lines = self._lines(request.uri)
        start, end = 0, len(lines.text)
        if request.range is not None:
            start, end = (
                lines.offset(types.Position(one.line, one.character))
                for one in (request.range.start, request.range.end)
            )
        elif request.position is not None:
            start, end = _statement_at(lines, types.Position(request.position.line, request.position.character))
        return _Asked(lines.text[start:end], request.uri, lines, start)

    def _tell(self, name: str, asked: _Asked, frame: Frame) -> None:
        place = self._place(asked, frame.error.span) if isinstance(frame, ErrorFrame) else None
        text = _text(frame)
        if text and not isinstance(frame, ProgressFrame) and len(asked.shown) < TEXT_LINES_MAX:
            asked.shown.append(text)
        told = FrameTold(name, msgspec.Raw(encode_frame(frame)), text, asked.uri if place is not None else None, place)
        self._language.protocol.notify("peerage/frame", written(told))

    @staticmethod
    def _place(asked: _Asked, span: Span | None) -> WireRange | None:
        if asked.lines is None or span is None:
            return None
        starts = [0, *(found.end() for found in re.finditer("\n", asked.text))]
        if not 1 <= span.line <= span.end_line <= len(starts):
            return None  # another peer's word, and no place in this text

        def offset(line: int, column: int) -> int:
            return asked.origin + min(max(starts[line - 1] + column - 1, 0), len(asked.text))

        found = asked.lines.range(offset(span.line, span.column), offset(span.end_line, span.end_column))
        return WireRange(
            WirePosition(found.start.line, found.start.character), WirePosition(found.end.line, found.end.character)
        )

    async def _cancel(self, params: Any) -> bool:
        return await self._runs.cancel(read(params, CancelRequest).id)

    async def _command_run(self, *arguments: Any) -> Any:
        given = arguments[0] if arguments and isinstance(arguments[0], dict) else {}
        request = read({"id": f"command-{next(self._numbers)}", **given}, RunRequest)
        asked = self._asked(request)
        result = await self._ran(request, asked)
        return {**written(result), "text": "\n".join(asked.shown)}

    # --- where statements go ------------------------------------------------------------------------------------

    def tell_state(self) -> None:
        default = self._targets.default(None)
        known = self._living.known(default)
        state = self._living.state
        silent = f"{default} does not tell its functions" if default and self._living.silent(default) else ""
        told = StateTold(
            connected=state.peer,
            reason=state.reason or self._targets.complaint or silent,
            default_peer=default,
            catalogue=None if known.peer is None else shown(known.peer or state.peer or ""),
        )
        self._language.protocol.notify("peerage/state", written(told))

    async def _peers(self, params: Any) -> Any:
        default = self._targets.default(read(params, UriRequest).uri)
        known = self._living.known(default)
        state = self._living.state
        return written(Peers(default, state.peer, state.reason, _choices(known), known.of_kind(Kind.GROUP)))

    async def _set_default(self, params: Any) -> Any:
        request = read(params, DefaultRequest)
        return written(self._chosen(request.peer, request.uri))

    def _chosen(self, peer: str | None, uri: str | None) -> Default:
        file = self._targets.choose(peer, uri)
        default = self._targets.default(uri)
        self._living.want(default)
        self._living.tell_anew()
        return Default(default, str(file))

    async def _command_default(self, *arguments: Any) -> Any:
        """``peerage.setDefaultPeer``: a peer, and the text whose workspace is meant."""
        peer, uri, *_ = (*arguments, None, None)
        return written(self._chosen(*_checked(peer, uri)))

    async def _command_choose(self, *arguments: Any) -> Any:
        """``peerage.chooseDefaultPeer``: the editor shows the peers, and whoever sits there chooses."""
        request = read(arguments[0] if arguments else None, UriRequest)
        known = self._living.known(self._targets.default(request.uri))
        names = _choices(known)[:CHOICES_MAX]
        chosen = await self._language.window_show_message_request_async(
            types.ShowMessageRequestParams(
                types.MessageType.Info, "default peer", [types.MessageActionItem(name) for name in names]
            )
        )
        return None if chosen is None else written(self._chosen(chosen.title, request.uri))


def _choices(known: Knowledge) -> tuple[str, ...]:
    """The peers that may be the default, the nameserver first."""
    return (NAMESERVER, *(name for name in known.of_kind(Kind.PEER) if name.casefold() != NAMESERVER))


def _statement_at(lines: Lines, position: types.Position) -> tuple[int, int]:
    """Where the statement stands that a cursor is in or behind, else the next one."""
    offset = lines.offset(position)
    found = pieces(lines.text)
    for at, piece in enumerate(found):
        if offset <= piece.end or at + 1 == len(found) or offset < found[at + 1].start:
            return piece.start, piece.end
    raise BadMessage("no statement stands there")


def _checked(peer: Any, uri: Any) -> tuple[str | None, str | None]:
    for value in (peer, uri):
        if value is not None and not isinstance(value, str):
            raise BadMessage(f"expected a peer and the uri of a text, found {value!r:.60}")
    return peer, uri


def _text(frame: Frame) -> str:
    """What ``peerage query`` would print for a frame."""
    match frame:
        case RowFrame():
            return row_text(frame)
        case ErrorFrame(error=error):
            return f"error: {error.message}" + (f" ({error.hint})" if error.hint else "")
        case ProgressFrame():
            return progress_text(frame)
        case EndFrame(ledger=ledger):
            return ledger_text(ledger) if ledger_matters(ledger) else ""
        case _:
            return ""
