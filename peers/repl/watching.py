r"""``\watch``: a statement asked again and again, its answer drawn over the one before.

In a terminal the answer has a screen of its own, cut to its height; the last one stays when it ends. Elsewhere each
answer is written below the other. Ctrl-C ends it; so does a first answer that failed, while later ones may.
"""

from __future__ import annotations

import io
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Final

from peers.rendering import FAILED
from peers.repl.kept import KeptAnswer

if TYPE_CHECKING:
    from peers.repl.shell import Shell

EVERY_S: Final = 2.0
EVERY_S_MIN: Final = 0.1
EVERY_S_MAX: Final = 86_400.0
_OWN_SCREEN: Final = "\x1b[?1049h\x1b[H"
_BACK: Final = "\x1b[?1049l"
_TO_TOP: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST_OF_SCREEN: Final = "\x1b[J"


def watch(shell: Shell, text: str, *, every_s: float, times: int | None = None) -> None:
    """Ask ``text`` every ``every_s`` seconds, ``times`` times or until Ctrl-C."""
    if shell.screen is None:
        _watch_plain(shell, text, every_s=every_s, times=times)
        return
    drawn: list[str] = []
    out = sys.stdout
    out.write(_OWN_SCREEN)
    try:
        asked = 0
        while times is None or asked < times:
            asked += 1
            began = time.monotonic()
            drawn, stopped = _drawn(shell, text)
            stopped = stopped or (asked == 1 and shell.status == FAILED)
            head = f"every {every_s:g} s · {datetime.now().astimezone():%H:%M:%S} · Ctrl-C ends"
            height = max(1, shell.screen.height - 2)
            lines = [head, "", *drawn[: height - 1]]
            if len(drawn) > height - 1:
                lines[-1] = f"… and {len(drawn) - height + 2} more lines"
            out.write(_TO_TOP + "".join(f"{line}{_REST_OF_LINE}\r\n" for line in lines) + _REST_OF_SCREEN)
            out.flush()
            if stopped:
                break
            if times is None or asked < times:
                time.sleep(max(0.0, every_s - (time.monotonic() - began)))
    except KeyboardInterrupt:
        pass
    finally:
        out.write(_BACK)
        out.flush()
    for line in drawn:
        out.write(line + "\n")
    out.flush()


def _drawn(shell: Shell, text: str) -> tuple[list[str], bool]:
    """The lines of one answer as the terminal would show them, and whether it was stopped."""
    from peers.screens import Screen
    from peers.terminal_view import TerminalView

    assert shell.screen is not None
    paper = io.StringIO()
    screen = Screen(paper, palette=shell.screen.palette, size=(shell.screen.width, shell.screen.height))
    wanted = shell.preferences
    view = TerminalView(shell.console, screen, text, footer=wanted.time, tables=wanted.table, whole=True, moving=False)
    shell.answer = KeptAnswer(text)
    stopped = shell.frames(text, view, kept=shell.answer)
    shell.status = view.status
    return paper.getvalue().rstrip("\n").split("\n"), stopped


def _watch_plain(shell: Shell, text: str, *, every_s: float, times: int | None) -> None:
    asked = 0
    while times is None or asked < times:
        asked += 1
        began = time.monotonic()
        shell.answer = KeptAnswer(text)
        view = shell.view(text)
        stopped = shell.frames(text, view, kept=shell.answer)
        shell.status = view.status
        if stopped or (asked == 1 and view.status == FAILED):
            return
        if times is None or asked < times:
            time.sleep(max(0.0, every_s - (time.monotonic() - began)))
