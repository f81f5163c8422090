"""An editor's positions, and its pipes when it does not read."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lsprotocol.types import Position

from peers.lsp.pipes import MESSAGE_BYTES_MAX, WAITING_BYTES_MAX, Input, opened
from peers.lsp.positions import Lines
from peers.lsp.running import Running, _Asked
from peers.lsp.scripts import workspace_scripts
from query.errors import Span

TEXTS = st.lists(st.sampled_from(["a", "é", "\U0001f600", "\n", "\r\n", "\r", "\u2028", "\x0b", " "]), max_size=30).map(
    "".join
)


@given(TEXTS, st.sampled_from(["utf-8", "utf-16", "utf-32"]))
def test_every_offset_has_its_position(text: str, encoding: str) -> None:
    lines = Lines(text, encoding)
    for offset in range(len(text) + 1):
        if text[offset - 1 : offset + 1] != "\r\n":  # nobody stands between these two
            assert lines.offset(lines.position(offset)) == offset
    assert lines.whole.start == Position(0, 0)
    assert lines.offset(lines.whole.end) == len(text)


def test_units_and_line_ends() -> None:
    text = "é😀x\r\n\u2028y\rz"
    assert [Lines(text, encoding).offset(Position(0, 3)) for encoding in ("utf-8", "utf-16", "utf-32")] == [1, 2, 3]
    assert Lines(text).position(text.index("x")) == Position(0, 3)
    assert Lines(text).position(text.index("y")) == Position(1, 1)
    assert Lines(text).position(text.index("z")) == Position(2, 0)


@pytest.mark.parametrize(
    ("span", "found"),
    [
        (Span(1, 2, 1, 3), ((0, 1), (0, 2))),
        (Span(2, 1, 2, 99), ((1, 0), (1, 2))),
        (Span(1, -5, 1, 1), ((0, 0), (0, 0))),
        (Span(1, 1, 10**12, 1), None),
        (Span(10**12, 1, 10**12, 1), None),
        (Span(-3, 1, 1, 1), None),
        (Span(2, 1, 1, 1), None),
    ],
)
def test_a_place_that_a_peer_made_up_is_none(span: Span, found: object) -> None:
    """An error's place comes from whoever made the error."""
    text = "ab\ncd"
    place = Running._place(_Asked(text, "file:///a.pql", Lines(text), 0), span)
    told = place and ((place.start.line, place.start.character), (place.end.line, place.end.character))
    assert told == found


def test_a_pipe_in_a_workspace_is_no_script(tmp_path: Path) -> None:
    (tmp_path / "a.pql").write_text("1")
    os.mkfifo(tmp_path / "b.pql")
    (script,) = workspace_scripts([tmp_path], {}, "utf-16")
    assert script.uri.endswith("/a.pql")


def test_what_lies_outside() -> None:
    lines = Lines("ab\ncd")
    assert [lines.offset(Position(*place)) for place in ((0, 99), (1, 99), (99, 0))] == [2, 5, 5]


async def test_who_streams_waits_for_an_editor_that_does_not_read() -> None:
    to_server, from_editor = os.pipe()
    to_editor, from_server = os.pipe()
    reader, output = await opened(os.fdopen(to_server, "rb", 0), os.fdopen(from_server, "wb", 0))  # type: ignore[arg-type]
    output.write(b"x" * (2 * WAITING_BYTES_MAX))
    waiting = asyncio.create_task(output.drained())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    output.write(b"answer")  # which waits for nobody
    os.set_blocking(to_editor, False)
    while not waiting.done():
        with suppress(BlockingIOError):
            os.read(to_editor, 65536)
        await asyncio.sleep(0)
    reader.close()
    output.close()
    os.close(to_editor)
    os.close(from_editor)
    for _ in range(20):
        await asyncio.sleep(0)
    output.write(b"after the end")
    await output.drained()


@pytest.mark.parametrize(
    "said", [b"x" * 100_000 + b"\r\n", b"Content-Length: 5\r\n\r\nab"], ids=["a header without end", "cut off"]
)
async def test_what_is_no_message_ends_the_reading(said: bytes) -> None:
    reader = asyncio.StreamReader(limit=64 * 1024)
    reader.feed_data(said)
    reader.feed_eof()
    found = Input(reader)
    while line := await found.readline():
        assert len(line) < 65536
    assert await found.readexactly(5) == b""
    assert await found.readexactly(MESSAGE_BYTES_MAX + 1) == b""
