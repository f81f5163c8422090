"""A terminal around a session: what colour its background has, as it tells when it is asked (OSC 11), and its echo.

Rules: a terminal that knows no such question answers the next one, which all know (DA1), and nobody waits longer than
:data:`ANSWER_S_MAX`; what a person typed meanwhile is not lost.
"""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from peers.palettes import background_of

ANSWER_S_MAX: Final = 0.3
ANSWER_BYTES_MAX: Final = 4096
_QUESTION: Final = b"\x1b]11;?\x1b\\\x1b[c"
_ATTRIBUTES: Final = re.compile(rb"\x1b\[\?[\d;]*c")
_COLOUR: Final = re.compile(rb"\x1b\]11;[^\x07\x1b]*(?:\x07|\x1b\\)")
_SILENT: Final = ("dumb", "linux", "cons25", "emacs")


def ask_background(environment: Mapping[str, str]) -> tuple[tuple[int, int, int] | None, str]:
    """The colour, or None where it is not told; and what was typed meanwhile."""
    if environment.get("COLORFGBG") or environment.get("NO_COLOR") or environment.get("TERM", "dumb") in _SILENT:
        return None, ""
    try:
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (OSError, ValueError, termios.error):
        return None, ""
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        os.write(sys.stdout.fileno(), _QUESTION)
        answer = _answer(descriptor)
    except OSError:
        return None, ""
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
    found = _COLOUR.search(answer)
    typed = _ATTRIBUTES.sub(b"", _COLOUR.sub(b"", answer))
    colour = background_of(found[0].decode("ascii", errors="replace")) if found else None
    return colour, typed.decode("utf-8", errors="replace")


@contextmanager
def without_marks() -> Iterator[None]:
    """Ctrl-C while a statement runs leaves no ``^C`` in its answer."""
    try:
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (OSError, ValueError, termios.error):
        yield
        return
    wanted = list(before)
    wanted[3] &= ~termios.ECHOCTL
    termios.tcsetattr(descriptor, termios.TCSANOW, wanted)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _answer(descriptor: int) -> bytes:
    answer = b""
    ends = time.monotonic() + ANSWER_S_MAX
    while (left := ends - time.monotonic()) > 0 and len(answer) < ANSWER_BYTES_MAX:
        ready, _, _ = select.select([descriptor], [], [], left)
        if not ready:
            break
        answer += os.read(descriptor, 1024)
        if _ATTRIBUTES.search(answer):
            break
    return answer
