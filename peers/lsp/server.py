"""Which request of an editor is answered by what; see :mod:`peers.lsp`.

Rules: an answer about a text is made at once from what is known; only runs wait for peers. Diagnostics follow a change
after ``QUIET_S`` without another. A problem that a request meets is its answer's error, with the problem's message and
hint. The workspace's default peer is read anew at each use: other programs write it too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import unquote

from lsprotocol import types
from pygls.io_ import run_async
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path
from pygls.workspace import TextDocument

from peers.client import AsyncConnection
from peers.lsp import answers
from peers.lsp.living import Living
from peers.lsp.messages import BadMessage
from peers.lsp.pipes import Output, opened
from peers.lsp.positions import Lines
from peers.lsp.protocol import AnsweringProtocol, converter, failed
from peers.lsp.running import Running
from peers.lsp.scripts import Script, folder_of, script, workspace_scripts
from peers.lsp.targets import Targets
from peers.workspace import FILE
from query.diagnosis import with_script
from query.errors import Problem
from query.knowledge import Knowledge
from query.layout import format_text
from query.outline import checked_new_name, function_at, places_of

QUIET_S: Final = 0.15
TRIGGERS: Final = (":", ".", '"', "'", "/", "(", "[", "{", ",", " ")
_Answer = TypeVar("_Answer")


def answering(
    method: Callable[..., Awaitable[_Answer]],
) -> Callable[..., Awaitable[_Answer]]:
    """A problem that a request meets becomes its answer's error."""

    @wraps(method)
    async def answer(*arguments: Any) -> _Answer:
        try:
            return await method(*arguments)
        except Problem as problem:
            raise failed(problem) from problem

    return answer


class EditorServer:
    """See the module. Made for one editor; :meth:`serve` returns when it is gone."""

    def __init__(
        self,
        connect: Callable[[], AsyncConnection],
        *,
        output: Output,
        version: str,
        peer: str | None = None,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._output = output
        self._quiet_s = quiet_s
        self.language = LanguageServer(
            "peerage",
            version,
            text_document_sync_kind=types.TextDocumentSyncKind.Full,
            protocol_cls=AnsweringProtocol,
            converter_factory=converter,
        )
        self._living = Living(connect, changed=self._known_changed)
        self._targets = Targets(peer, folders=self._folders)
        self._running = Running(self.language, self._living, self._targets, output=output, lines=self._lines)
        self._register()

    async def background(self) -> None:
        """What goes on beside the requests, until cancelled."""
        await self._living.run()

    # --- texts --------------------------------------------------------------------------------------------------

    def _encoding(self) -> str:
        encoding = self.language.workspace.position_encoding
        return str(getattr(encoding, "value", encoding) or "utf-16")

    def _open(self, uri: str) -> TextDocument | None:
        texts: dict[str, TextDocument] = self.language.workspace.text_documents  # by their URIs without quoting
        return texts.get(unquote(uri))

    def _text(self, uri: str) -> TextDocument:
        found = self._open(uri)
        if found is None:
            raise BadMessage(f"{uri:.200} is not open")
        return found

    def _lines(self, uri: str) -> Lines:
        return Lines(self._text(uri).source, self._encoding())

    def _script(self, uri: str) -> Script:
        text = self._text(uri)
        return script(text.uri, text.source, self._encoding())

    def _folders(self) -> list[Path]:
        workspace = self.language.workspace
        roots = [
            *(folder.uri for folder in workspace.folders.values()),
            *([workspace.root_uri] if workspace.root_uri else []),
        ]
        paths = [to_fs_path(root) for root in roots]
        return list(dict.fromkeys(Path(path) for path in paths if path))

    async def _scripts(self) -> list[Script]:
        opened = {text.uri: text.source for text in self.language.workspace.text_documents.values()}
        return await asyncio.to_thread(workspace_scripts, self._folders(), opened, self._encoding())

    def _knowledge(self, uri: str) -> Knowledge:
        return self._living.known(self._targets.default(uri))

    def _in_script(self, uri: str) -> Knowledge:
        return with_script(self._lines(uri).text, self._knowledge(uri))

    # --- while typing -------------------------------------------------------------------------------------------

    async def _completion(self, params: types.CompletionParams) -> types.CompletionList:
        uri = params.text_document.uri
        return answers.completion_list(self._lines(uri), params.position, self._in_script(uri))

    async def _signature_help(self, params: types.SignatureHelpParams) -> types.SignatureHelp | None:
        uri = params.text_document.uri
        return answers.signature_help(self._lines(uri), params.position, self._in_script(uri))

    async def _hover(self, params: types.HoverParams) -> types.Hover | None:
        uri = params.text_document.uri
        return answers.hover(self._lines(uri), params.position, self._in_script(uri))

    async def _opened(self, params: types.DidOpenTextDocumentParams) -> None:
        await self._look(params.text_document.uri)

    async def _changed(self, params: types.DidChangeTextDocumentParams) -> None:
        uri = params.text_document.uri
        version = self._version(uri)
        await asyncio.sleep(self._quiet_s)
        if self._version(uri) == version:
            await self._look(uri)

    async def _closed(self, params: types.DidCloseTextDocumentParams) -> None:
        self._publish(params.text_document.uri, None, [])

    def _version(self, uri: str) -> int | None:
        document = self._open(uri)
        return None if document is None else document.version

    async def _look(self, uri: str) -> None:
        """Tell what is wrong with a text, unless it has changed meanwhile."""
        if self._open(uri) is None:
            return
        version, lines, default = self._version(uri), self._lines(uri), self._targets.default(uri)
        found = await asyncio.to_thread(
            answers.diagnostics,
            lines,
            self._living.known(default),
            default=default,
            at=self._living.catalogues(),
        )
        if self._version(uri) == version:
            self._publish(uri, version, found)

    def _publish(self, uri: str, version: int | None, found: list[types.Diagnostic]) -> None:
        self.language.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, found, version=version))

    async def _known_changed(self) -> None:
        """More is known than before: look again at what is open, and have the editor ask for the lenses again."""
        self._running.tell_state()
        for text in list(self.language.workspace.text_documents.values()):
            await self._look(text.uri)
        asks = self.language.client_capabilities.workspace
        if asks is not None and asks.code_lens is not None and asks.code_lens.refresh_support:
            self.language.workspace_code_lens_refresh(None)

    # --- functions of scripts -----------------------------------------------------------------------------------

    async def _definition(self, params: types.DefinitionParams) -> list[types.Location]:
        here = self._script(params.text_document.uri)
        named = function_at(here.pieces, here.lines.offset(params.position))
        if named is None:
            return []
        others = [] if here.makes(named[0]) else await self._scripts()
        return answers.definitions(named[0], here, others)

    async def _references(self, params: types.ReferenceParams) -> list[types.Location]:
        here = self._script(params.text_document.uri)
        named = function_at(here.pieces, here.lines.offset(params.position))
        if named is None:
            return []
        return answers.references(named[0], answers.meaning_the_same(named[0], here, await self._scripts()))

    async def _symbols(self, params: types.DocumentSymbolParams) -> list[types.DocumentSymbol]:
        return answers.symbols(self._script(params.text_document.uri))

    async def _prepare_rename(self, params: types.PrepareRenameParams) -> types.Range | None:
        here = self._script(params.text_document.uri)
        named = function_at(here.pieces, here.lines.offset(params.position))
        if named is None or not any(one.makes(named[0]) for one in [here, *await self._scripts()]):
            return None
        return here.lines.range(*named[1])

    async def _rename(self, params: types.RenameParams) -> types.WorkspaceEdit | None:
        uri = params.text_document.uri
        here = self._script(uri)
        named = function_at(here.pieces, here.lines.offset(params.position))
        if named is None:
            return None
        meant = answers.meaning_the_same(named[0], here, await self._scripts())
        if not any(one.makes(named[0]) for one in meant):
            return None
        taken = [made.name for one in meant for made in one.made] + [
            params.new_name for one in meant if places_of(one.pieces, params.new_name)
        ]
        new = checked_new_name(params.new_name, was=named[0], catalogue=self._knowledge(uri).catalogue, taken=taken)
        return answers.renamed(named[0], new, meant)

    # --- the text as a whole ------------------------------------------------------------------------------------

    async def _formatting(self, params: types.DocumentFormattingParams) -> list[types.TextEdit] | None:
        lines = self._lines(params.text_document.uri)
        return answers.edits_to(lines, await asyncio.to_thread(format_text, lines.text))

    async def _lenses(self, params: types.CodeLensParams) -> list[types.CodeLens]:
        uri = params.text_document.uri
        return answers.lenses(
            self._script(uri),
            self._knowledge(uri),
            default=self._targets.default(uri),
            connected=self._living.state.peer,
        )

    async def _initialized(self, params: types.InitializedParams) -> None:
        self._living.want(self._targets.default(None))
        watched = self.language.client_capabilities.workspace
        files = watched.did_change_watched_files if watched is not None else None
        if files is not None and files.dynamic_registration:
            self.language.client_register_capability(
                types.RegistrationParams(
                    [
                        types.Registration(
                            "default-peer",
                            types.WORKSPACE_DID_CHANGE_WATCHED_FILES,
                            types.DidChangeWatchedFilesRegistrationOptions([types.FileSystemWatcher(f"**/{FILE}")]),
                        )
                    ]
                )
            )

    async def _files_changed(self, params: types.DidChangeWatchedFilesParams) -> None:
        if any(
            (folder_of(change.uri) or Path()) / FILE == Path(to_fs_path(change.uri) or "") for change in params.changes
        ):
            await self._known_changed()

    def _register(self) -> None:
        features: tuple[tuple[str, Callable[[Any], Awaitable[Any]], Any], ...] = (
            (types.INITIALIZED, self._initialized, None),
            (types.TEXT_DOCUMENT_DID_OPEN, self._opened, None),
            (types.TEXT_DOCUMENT_DID_CHANGE, self._changed, None),
            (types.TEXT_DOCUMENT_DID_CLOSE, self._closed, None),
            (
                types.TEXT_DOCUMENT_COMPLETION,
                self._completion,
                types.CompletionOptions(trigger_characters=list(TRIGGERS)),
            ),
            (types.TEXT_DOCUMENT_HOVER, self._hover, None),
            (
                types.TEXT_DOCUMENT_SIGNATURE_HELP,
                self._signature_help,
                types.SignatureHelpOptions(trigger_characters=["(", ","]),
            ),
            (types.TEXT_DOCUMENT_DEFINITION, self._definition, None),
            (types.TEXT_DOCUMENT_REFERENCES, self._references, None),
            (types.TEXT_DOCUMENT_DOCUMENT_SYMBOL, self._symbols, None),
            (types.TEXT_DOCUMENT_PREPARE_RENAME, self._prepare_rename, None),
            (types.TEXT_DOCUMENT_RENAME, self._rename, None),
            (types.TEXT_DOCUMENT_FORMATTING, self._formatting, None),
            (types.TEXT_DOCUMENT_CODE_LENS, self._lenses, None),
            (types.WORKSPACE_DID_CHANGE_WATCHED_FILES, self._files_changed, None),
            *((name, method, None) for name, method in self._running.requests().items()),
        )
        for name, method, options in features:
            self.language.feature(name, options)(partial(answering(method)))
        for name, command in self._running.commands().items():
            self.language.command(name)(partial(answering(command)))


async def serve(
    connect: Callable[[], AsyncConnection], stdin: BinaryIO, stdout: BinaryIO, *, version: str, peer: str | None = None
) -> None:
    """Serve one editor until it says exit, which ends the process, or is gone.

    Raises OSError or ValueError when these are neither pipes nor sockets nor terminals.
    """
    reader, output = await opened(stdin, stdout)
    server = EditorServer(connect, output=output, version=version, peer=peer)
    server.language.protocol.set_writer(output)
    try:
        async with asyncio.TaskGroup() as together:
            background = together.create_task(server.background())
            told = server.language.report_server_error  # of a message that cannot be read, which nobody would answer
            await run_async(Event(), reader, server.language.protocol, error_handler=told)
            background.cancel()
    finally:
        reader.close()
        output.close()
        server.language.shutdown()  # type: ignore[no-untyped-call]
