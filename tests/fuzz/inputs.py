"""What strangers may send: texts that parse or nearly do, noise, extremes; frames and requests, whole and hurt.

Every input comes from a random source of its own, so its seed and number are all that is needed to see it again.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from random import Random
from typing import Any

from tests.language.texts import KEYWORDS, STRAY, Texts

ROOT = Path(__file__).parents[2]
NOISE = "()[]{}'\"|;:,.-/*<>=+%^ \n\t\r\\0123456789eExX_selctfromwhin\x00\x85\u2028é☃\U0001f600\ud800"
SIZES = (10, 63, 64, 65, 127, 128, 129, 300, 1_000)


def text_of(draw: Random, functions: tuple[str, ...] | None = None) -> str:
    """A text for the parser and all that come after it."""
    kind = draw.random()
    texts = _texts(draw, functions)
    if kind < 0.45:
        return texts.script()
    if kind < 0.75:
        return texts.broken()
    if kind < 0.85:
        return _hurt(draw, draw.choice(_corpus()))
    if kind < 0.93:
        words = [
            draw.choice((*sorted(KEYWORDS), *STRAY, "x", "1", "'a'", "f(", ")", "//peer: E1\n")) for _ in range(30)
        ]
        return draw.choice(("", " ")).join(words[: draw.randint(0, 30)])
    if kind < 0.99:
        return "".join(draw.choice(NOISE) for _ in range(draw.randint(0, 80)))
    return _extreme(draw)


def _texts(draw: Random, functions: tuple[str, ...] | None) -> Texts:
    depth = draw.choice((1, 2, 2, 3))
    return Texts(draw, depth=depth) if functions is None else Texts(draw, depth=depth, functions=functions)


def _extreme(draw: Random) -> str:
    """One thing too often: nesting, chains, elements, digits, statements, comments."""
    count = draw.choice(SIZES)
    opening, closing = draw.choice((("(", ")"), ("[", "]"), ("f(", ")"), ('{"a":', "}"), ("case when ", " then 1 end")))
    return draw.choice(
        (
            opening * count + "1" + closing * draw.choice((0, count, count + 1)),
            draw.choice(("1+", "-", "not ", "x.y ", "x[1]", "explain ", "a^", "1 between ", "x in ")) * count + "1",
            f"[{','.join(['1'] * count)}]",
            "9" * count,
            "1;" * count,
            "/*" * count + "*/",
            "//\n" * count + "1",
            "//peer: E1\n" * draw.choice((1, 2)) + "1",
            f"//peer: {'a,' * count}b\n1",
            f"//{draw.choice(('timeout', 'wait', 'budget'))}: {'9' * count}{draw.choice(('s', 'h', ' rows', ''))}\n1",
            "'" + "''" * count,
            '"' + "\\" * count,
            f"select {'x,' * count}x from {'x in y,' * draw.choice((1, 17))}z in z",
            f"f({'select x from x in (' * min(count, 130)}1{')' * min(count, 130)})",
        )
    )


@functools.cache
def _corpus() -> tuple[str, ...]:
    """The statements of our own documentation."""
    found = []
    for page in ("docs/language.md", "docs/functions.md", "docs/object-stream.md"):
        fences = re.findall(r"```pql\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)
        found += [fence for fence in fences if len(fence) < 2_000]
    return tuple(found)


def _hurt(draw: Random, text: str) -> str:
    for _ in range(draw.choice((0, 1, 1, 2, 5))):
        at = draw.randrange(len(text) + 1)
        text = text[:at] + draw.choice((*STRAY, "", draw.choice(NOISE))) + text[at + draw.choice((0, 1, 1, 4)) :]
    return text


# --- what stands on the wire ----------------------------------------------------------------------------------------


def wire_of(draw: Random) -> bytes:
    """A line for whoever reads frames, messages of an uplink, or requests."""
    kind = draw.random()
    if kind < 0.05:
        return draw.randbytes(draw.randint(0, 60))
    if kind < 0.06:
        count = draw.choice((100, 1_000, 100_000))
        return draw.choice((b"[", b'{"frame":', b'{"a":')) * count
    line = json.dumps(draw.choice((_frame, _message, _request, _value))(draw), ensure_ascii=draw.random() < 0.5)
    raw = line.encode("utf-8", "surrogatepass")
    return raw if kind < 0.5 else _hurt_bytes(draw, raw)


def _hurt_bytes(draw: Random, raw: bytes) -> bytes:
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(raw) + 1)
        stray = draw.choice((b"", b"", b"0", b"-", b'"', b"}", b"[", b"null", b"1e999", b"\xff", b"\\ud800", b"NaN"))
        raw = raw[:at] + stray + raw[at + draw.choice((0, 1, 1, 6)) :]
    return raw


def _frame(draw: Random) -> dict[str, Any]:
    number = _number(draw)
    frames: tuple[dict[str, Any], ...] = (
        {
            "frame": "schema",
            "columns": [{"name": _word(draw), "type": _word(draw)}],
            "plot": _word(draw),
            "query": "q1",
        },
        {"frame": "row", "values": [_value(draw) for _ in range(draw.randint(0, 3))], "peer": _word(draw)},
        {"frame": "progress", "label": _word(draw), "done": number, "total": _number(draw), "unit": "B"},
        {"frame": "error", "error": {"code": _word(draw), "message": _word(draw), "span": _span(draw), "hint": None}},
        {"frame": "end", "ledger": {"outcomes": [_outcome(draw)]}, "rows": number, "elapsed_ms": _number(draw)},
    )
    return {"statement": _number(draw), **draw.choice(frames), **_extra(draw)}


def _outcome(draw: Random) -> dict[str, Any]:
    state = draw.choice(("rows", "empty", "error", "refused", "timeout", "unreachable", "cancelled", "lost"))
    return {"peer": _word(draw), "state": state, "detail": draw.choice((None, _word(draw))), "rows": _number(draw)}


def _span(draw: Random) -> Any:
    return draw.choice((None, {"line": 1, "column": _number(draw), "end_line": 1, "end_column": 2}))


def _message(draw: Random) -> dict[str, Any]:
    signed = {"payload": "e30=", "payloadType": _word(draw), "signatures": [{"keyid": "k", "sig": "AA=="}]}
    messages: tuple[dict[str, Any], ...] = (
        {"message": "statement", "body": "e30=", "index": 0, "time_left_s": _number(draw), "envelope": signed},
        {"message": "credit", "frames": _number(draw)},
        {"message": "cancel"},
        {"message": "nudge"},
        {"message": "frame", "frame": _frame(draw)},
    )
    return {"id": _number(draw), **draw.choice(messages), **_extra(draw)}


def _request(draw: Random) -> dict[str, Any]:
    body = {
        "text": _word(draw),
        "params": {_word(draw): _value(draw)},
        "targets": draw.choice((None, "all", ["E1", "E2"], 3)),
        "timeout": draw.choice((None, 5, -1, 1e300)),
        "budget": draw.choice((None, "5 rows", "1e9 MiB, 4 s", _word(draw))),
    }
    return {name: value for name, value in body.items() if draw.random() < 0.8} | _extra(draw)


def _value(draw: Random, depth: int = 3) -> Any:
    if depth and draw.random() < 0.3:
        inner = [_value(draw, depth - 1) for _ in range(draw.randint(0, 3))]
        return inner if draw.random() < 0.5 else {_word(draw): value for value in inner}
    shape = [draw.choice((0, 1, 2, -1, 2**40)) for _ in range(draw.randint(0, 3))]
    tensor = {"dtype": draw.choice(("<f4", "<i8", "|b1", "<U4", "O", "x")), "shape": shape, "data": "AACAPw=="}
    return draw.choice(
        (
            None,
            True,
            _number(draw),
            _word(draw),
            {"$time": draw.choice(("2026-01-31T12:00:00+00:00", "2026-13-01", _word(draw), 5))},
            {"$tensor": draw.choice((tensor, {}, _word(draw)))},
            {"$number": draw.choice(("NaN", "Infinity", "-Infinity", "1", 1))},
            {"$record": {"$time": 1}},
            {f"${_word(draw)}": 1},
        )
    )


def _word(draw: Random) -> str:
    if draw.random() < 0.8:
        return draw.choice(("x", "E1", "line-1", "1 + 1"))
    return draw.choice(("", "x", "E1", "a b", "é☃", "\x00", "edge:list()", "1 + 1", "x" * 300, "\ud800", '"', "\\"))


def _number(draw: Random) -> Any:
    if draw.random() < 0.8:
        return draw.randint(0, 9)
    return draw.choice((0, 1, 2, -1, 255, 2**31, 2**63, 2**64, 10**40, 0.5, -0.0, 1e308, None, "1"))


def _extra(draw: Random) -> dict[str, Any]:
    return {} if draw.random() < 0.9 else {_word(draw): _value(draw)}
