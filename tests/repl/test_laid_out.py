"""Values over several lines, their colours, and what cannot do harm in a terminal."""

import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from peers.highlighting import HIGHLIGHTED_MAX, pieces
from peers.laid_out import laid_out
from peers.rendering import amount, duration, visible
from query.text_form import from_text

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text("ab'\"\n\\é ", max_size=12),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text("abc:", max_size=5), inner, max_size=5),
    max_leaves=20,
)


@given(VALUES, st.integers(1, 60))
def test_a_value_laid_out_is_that_value(value: Any, width: int) -> None:
    assert from_text("\n".join(laid_out(value, width))) == value


def test_short_ones_stay_in_a_line() -> None:
    assert laid_out({"a": [1, 2]}, 20) == ['{"a":[1,2]}']
    assert laid_out({"a": ["x" * 15, 2, 3], "b": 1}, 20) == [
        "{", '  "a":[', "    'xxxxxxxxxxxxxxx',", "    2,3", "  ],", '  "b":1', "}",
    ]  # fmt: skip


@given(st.text("ab1 '\"/*|\n\\:;{}[]().é§-\x1b", max_size=60))
def test_pieces_join_to_the_text(text: str) -> None:
    found = list(pieces(text))
    assert "".join(piece for _, piece in found) == text
    assert all(piece for _, piece in found)


def test_what_words_are() -> None:
    text = '//peer: all\nselect f(:v), "s" from a in {"k":null} -- r'
    assert [(kind, piece) for kind, piece in pieces(text) if kind not in ("blank", "sign")] == [
        ("directive", "//peer: all"),
        ("keyword", "select"),
        ("function", "f"),
        ("variable", ":v"),
        ("string", '"s"'),
        ("keyword", "from"),
        ("name", "a"),
        ("keyword", "in"),
        ("key", '"k"'),
        ("constant", "null"),
        ("comment", "-- r"),
    ]


def test_colours_take_no_longer_for_nonsense() -> None:
    began = time.process_time()
    for text in ("§" * HIGHLIGHTED_MAX, '{"a":null,' * 20_000, " " * HIGHLIGHTED_MAX, "'" * HIGHLIGHTED_MAX):
        list(pieces(text[:HIGHLIGHTED_MAX]))
    assert time.process_time() - began < 10
    assert next(iter(pieces("§" * (HIGHLIGHTED_MAX + 1))))[0] == "plain"


def test_a_terminal_obeys_no_value() -> None:
    assert visible("a\x1b[2J\x07b\u202ec\n") == "a\\u001b[2J\\u0007b\\u202ec\\u000a"
    assert visible("a\nb\x00", lines=True) == "a\nb\\u0000"


def test_amounts_and_times() -> None:
    assert amount(3, 5, "edges") == "3 of 5 edges"
    assert amount(3, None, "") == "3"
    assert amount(1536, 3 * 1024**2, "bytes") == "0.0 of 3.0 MiB"
    assert amount(10, None, "bytes") == "10 bytes"
    assert [duration(s) for s in (0.0004, 0.012, 3.44, 125)] == ["0.4 ms", "12 ms", "3.4 s", "2 min 5 s"]
