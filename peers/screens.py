"""A terminal as an answer is written to it: lines, a part at the end that moves, and a pager for what is too long.

Owns the terminal between two prompts. A moving part (bars, a plot that grows) is taken away before a line is written.
Rules: lines appear as they are written. When more of them than the screen is high come within :data:`PAGE_WITHIN_S`,
the pager opens, gets them all from the first on, and goes on filling; a slow stream is never taken from the screen.
Who leaves the pager has read enough: :attr:`Screen.left` says so. What was marked to stay is repeated below it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TextIO, cast

from peers.palettes import NONE, Palette

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

PAGE_WITHIN_S: Final = 1.0
REDRAW_S: Final = 0.1
STAYING_MAX: Final = 50
PAGERS: Final = ("less", "more")


def pager_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The pager that a person wants, as its words: ``PAGER``, else one that is there; nothing for none."""
    wanted = environment.get("PAGER")
    if wanted is not None:
        with suppress(ValueError):
            return tuple(shlex.split(wanted))
        return ()
    return next(((name,) for name in PAGERS if shutil.which(name)), ())


class Screen:
    """``pager``: its words, or nothing for none. ``size``: columns and lines, where the terminal is not asked."""

    def __init__(
        self,
        stdout: TextIO,
        *,
        palette: Palette,
        pager: Sequence[str] = (),
        size: tuple[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.palette = palette
        self.pager = tuple(pager)
        self.left = False
        self._stdout = stdout
        self._clock = clock
        self._console = self._console_on(stdout, size=size)
        self._live: Live | None = None
        self._drawn = 0.0
        self._first: float | None = None
        self._written = 0
        self._held: list[Text] | None = None
        self._staying: list[Text] = []
        self._paging: subprocess.Popen[str] | None = None
        self._paged: Console | None = None

    @property
    def width(self) -> int:
        return self._console.width

    @property
    def height(self) -> int:
        return self._console.height

    # --- lines --------------------------------------------------------------------------------------------------

    def begin(self, *, paged: bool) -> None:
        """The lines of one answer follow."""
        self.left = False
        self._first = None
        self._written = 0
        self._staying = []
        self._held = [] if paged and self.pager else None

    def line(self, text: Text | str, *, stays: bool = False) -> None:
        """Write a line. ``stays``: it is seen below the pager too."""
        from rich.text import Text as RichText

        self.clear()
        one = RichText(text) if isinstance(text, str) else text
        if stays and len(self._staying) < STAYING_MAX:
            self._staying.append(one)
        if self._paged is not None:
            self._to_pager(one)
            return
        self._print(self._console, one)
        if self._held is None:
            return
        now = self._clock()
        self._first = now if self._first is None else self._first
        self._held.append(one)
        self._written += max(1, -(-one.cell_len // max(1, self.width)))
        if now - self._first > PAGE_WITHIN_S:
            self._held = None
        elif self._written > self.height - 2:
            self._open_pager(self._held)
            self._held = None

    def end(self) -> None:
        """The answer is over: let a pager be read to its end, and repeat what stays."""
        self.clear()
        self._held = None
        if self._paging is None:
            return
        with suppress(BrokenPipeError):
            cast(TextIO, self._paging.stdin).close()
        while True:
            with suppress(KeyboardInterrupt):  # which the pager takes as a key
                self._paging.wait()
                break
        self._paging = self._paged = None
        for one in self._staying:
            self._print(self._console, one)

    def _open_pager(self, lines: Sequence[Text]) -> None:
        environment = {"LESS": "R", **os.environ}
        try:
            self._paging = subprocess.Popen(
                self.pager, stdin=subprocess.PIPE, text=True, env=environment, errors="backslashreplace"
            )
        except OSError:
            self.pager = ()  # there is none, after all
            return
        self._paged = self._console_on(cast(TextIO, self._paging.stdin), size=(self.width, self.height))
        for one in lines:
            self._to_pager(one)

    def _to_pager(self, one: Text) -> None:
        if self.left or self._paged is None:
            return
        try:
            self._print(self._paged, one)
            cast(TextIO, self._paged.file).flush()
        except BrokenPipeError:
            self.left = True

    @staticmethod
    def _print(console: Console, one: Text) -> None:
        console.print(one, soft_wrap=True, highlight=False, markup=False, emoji=False)

    # --- what moves ---------------------------------------------------------------------------------------------

    def move(self, drawn: Callable[[], RenderableType], *, at_once: bool = False) -> None:
        """Draw the moving part anew, not more often than every :data:`REDRAW_S`."""
        from rich.live import Live

        now = self._clock()
        if self._paged is not None or (self._live is not None and not at_once and now - self._drawn < REDRAW_S):
            return
        self._drawn = now
        if self._live is None:
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        self._live.update(drawn(), refresh=True)

    def clear(self) -> None:
        """Take the moving part away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    # --- consoles -----------------------------------------------------------------------------------------------

    def _console_on(self, file: TextIO, *, size: tuple[int, int] | None = None) -> Console:
        from rich.console import Console as RichConsole

        class OwnConsole(RichConsole):
            def on_broken_pipe(self) -> None:
                raise BrokenPipeError  # rich would end the program

        plain = self.palette.name == NONE.name
        system: Any = None if plain else "standard"
        width, height = size or (None, None)
        return OwnConsole(
            file=file, force_terminal=True, color_system=system, no_color=plain, width=width, height=height,
            highlight=False, markup=False, emoji=False, legacy_windows=False,
        )  # fmt: skip
