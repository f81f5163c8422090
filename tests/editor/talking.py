"""An editor for the tests: the protocol's messages over pipes, to a server in this loop or in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.client import AsyncConnection
from peers.lsp.server import serve

WAIT_S_MAX = 20.0
CAPABILITIES = {
    "workspace": {
        "codeLens": {"refreshSupport": True},
        "didChangeWatchedFiles": {"dynamicRegistration": True},
        "workspaceFolders": True,
    },
    "textDocument": {"rename": {"prepareSupport": True}, "publishDiagnostics": {"versionSupport": True}},
}
CURSOR = "¦"


class Refused(Exception):
    """A request that was answered with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.error = error


@dataclass
class Editor:
    """One editor's side. Notifications are kept; :meth:`until` waits for one that fits."""

    reader: asyncio.StreamReader
    write: Callable[[bytes], None]
    told: list[dict[str, Any]] = field(default_factory=list)
    chooses: str | None = None  # the title that is chosen when the server asks
    _waiting: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _number: int = 0
    _versions: dict[str, int] = field(default_factory=dict)

    async def listen(self) -> None:
        while (message := await self._read()) is not None:
            if "method" not in message:
                future = self._waiting.pop(message["id"])
                if not future.done():
                    future.set_result(message)
                continue
            if "id" in message:
                asked = message["method"] == "window/showMessageRequest"
                self.send({"id": message["id"], "result": {"title": self.chooses} if asked and self.chooses else None})
            self.told.append(message)
            self._news.set()

    async def _read(self) -> dict[str, Any] | None:
        length = 0
        while (line := await self.reader.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if not length:
            return None
        found: dict[str, Any] = json.loads(await self.reader.readexactly(length))
        return found

    def send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)

    def begin(self, method: str, params: Any = None) -> tuple[int, asyncio.Future[Any]]:
        """Send a request; its number and the message that will answer it."""
        self._number += 1
        self.send({"id": self._number, "method": method, "params": params})
        future = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        return self._number, future

    async def ask(self, method: str, params: Any = None) -> Any:
        """A request's result. Raises :class:`Refused`."""
        async with asyncio.timeout(WAIT_S_MAX):
            message = await self.begin(method, params)[1]
        if "error" in message:
            raise Refused(message["error"])
        return message["result"]

    def notify(self, method: str, params: Any = None) -> None:
        self.send({"method": method, "params": params})

    async def until(self, method: str, fits: Callable[[Any], bool] = lambda _: True) -> Any:
        """The parameters of the first notification, or request, that fits; those before it are dropped."""
        async with asyncio.timeout(WAIT_S_MAX):
            while True:
                for at, message in enumerate(self.told):
                    if message["method"] == method and fits(message["params"]):
                        del self.told[: at + 1]
                        return message["params"]
                self._news.clear()
                await self._news.wait()

    async def start(self, folder: Path | None = None) -> dict[str, Any]:
        """Introduce the editor; the server's capabilities."""
        folders = [{"uri": folder.as_uri(), "name": folder.name}] if folder else None
        found = await self.ask(
            "initialize",
            {
                "processId": None,
                "rootUri": folder.as_uri() if folder else None,
                "workspaceFolders": folders,
                "capabilities": CAPABILITIES,
            },
        )
        self.notify("initialized", {})
        capabilities: dict[str, Any] = found["capabilities"]
        return capabilities

    def open(self, uri: str, text: str) -> None:
        self._versions[uri] = 1
        item = {"uri": uri, "languageId": "pql", "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})

    def change(self, uri: str, text: str) -> int:
        self._versions[uri] += 1
        document = {"uri": uri, "version": self._versions[uri]}
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": [{"text": text}]})
        return self._versions[uri]

    async def at(self, method: str, uri: str, marked: str, **more: Any) -> Any:
        """Ask about the place of the cursor sign in a text, which becomes the open text without it."""
        before, _, after = marked.partition(CURSOR)
        self.change(uri, before + after)
        line = before.count("\n")
        place = {"line": line, "character": len(before.rpartition("\n")[2].encode("utf-16-le")) // 2}
        return await self.ask(method, {"textDocument": {"uri": uri}, "position": place, **more})

    async def problems(self, uri: str, text: str) -> list[dict[str, Any]]:
        """The diagnostics of a text, once they are those of its version."""
        version = self.change(uri, text)
        fits = lambda params: params["uri"] == uri and params.get("version") == version  # noqa: E731
        found: list[dict[str, Any]] = (await self.until("textDocument/publishDiagnostics", fits))["diagnostics"]
        return found


@asynccontextmanager
async def editing(connect: Callable[[], AsyncConnection], *, peer: str | None = None) -> AsyncIterator[Editor]:
    """An editor and a server of its own in this loop, over pipes as between processes."""
    to_server, from_editor = os.pipe()
    to_editor, from_server = os.pipe()
    files = [os.fdopen(to_server, "rb", 0), os.fdopen(from_server, "wb", 0), os.fdopen(to_editor, "rb", 0)]
    served = asyncio.create_task(serve(connect, files[0], files[1], version="0", peer=peer))  # type: ignore[arg-type]
    reader = asyncio.StreamReader(limit=2**26)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), files[2]
    )
    editor = Editor(reader, lambda data: _write_all(from_editor, data))
    listening = asyncio.create_task(editor.listen())
    try:
        yield editor
    finally:
        os.close(from_editor)
        await served
        for file in files[:2]:
            with suppress(OSError):
                file.close()
        await listening
        transport.close()


def _write_all(pipe: int, data: bytes) -> None:
    with suppress(OSError):  # the editor is going away, and what it still hears needs no answer
        while data:
            data = data[os.write(pipe, data) :]


def text_of(edits: list[dict[str, Any]], text: str) -> str:
    """A text after an editor's edits; positions count in UTF-16."""
    starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def offset(place: dict[str, int]) -> int:
        if place["line"] >= len(starts):
            return len(text)
        start = starts[place["line"]]
        return start + len(text[start:].encode("utf-16-le")[: 2 * place["character"]].decode("utf-16-le", "ignore"))

    for edit in sorted(edits, key=lambda one: -offset(one["range"]["start"])):
        span = edit["range"]
        text = text[: offset(span["start"])] + edit["newText"] + text[offset(span["end"]) :]
    return text
