"""Answers in text, one rendering for ``peerage query`` and ``peerage repl``: what a frame says, and the plain view.

Where standard output is no terminal an answer is text: a row a line in the text form (``E1: value`` where several peers
were asked), errors with their place underlined, progress and the ledger to standard error. The ledger is told where it
matters: when several peers were asked, when some were looked at and not meant, or when one did not answer.
:mod:`peers.terminal_view` shows the same in a terminal, with tables, colours, bars and plots.

Owns the words for rows, ledgers, progress and errors. Pure, but for the views, which write to the console that they
are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

from query.frames import EndFrame, ErrorFrame, Frame, ProgressFrame, RowFrame, encode_frame
from query.ledger import COMPLETE, Ledger, Outcome

if TYPE_CHECKING:
    from query.errors import ErrorRecord

DONE: Final = 0
FAILED: Final = 1
PARTIAL: Final = 3
PEERS_TOLD_MAX: Final = 10
PROGRESS_LENGTH_MAX: Final = 78
_SIZES: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")


class Outside(Protocol):
    """Where a plain view writes: :class:`peers.cli.console.Console`."""

    stderr: TextIO

    def data(self, line: str) -> None: ...

    def tell(self, line: str) -> None: ...

    def problem(self, record: ErrorRecord, *, text: str | None = None) -> None: ...


class View:
    """How the statements of an answer ended, and from that the exit status."""

    def __init__(self) -> None:
        self._ledgers: list[Ledger] = []
        self._waits = ""  # the id of the statement that waits

    @property
    def status(self) -> int:
        """Done when every target of every statement answered, partial when of each some did, else failed."""
        if not self._ledgers or any(not _answered(ledger) for ledger in self._ledgers):
            return FAILED
        return DONE if all(ledger.complete for ledger in self._ledgers) else PARTIAL

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        return tuple(self._ledgers)

    def show(self, frame: Frame) -> None:
        match frame:
            case EndFrame():
                self._ledgers.append(frame.ledger)
            case ProgressFrame(query=query) if query not in ("", self._waits):
                self._waits = query
                self.note(f'waits as {query}: query:results("{query}") reads it later too')

    def problem(self, record: ErrorRecord) -> None:
        """Tell an error that is no frame."""

    def note(self, text: str, *, style: str = "dim") -> None:
        """Tell what is no part of the answer."""

    def close(self) -> None:
        """Nothing more comes: take away what moves, and let what was held be seen."""


class JsonView(View):
    """The frames themselves, one a line."""

    def __init__(self, console: Outside) -> None:
        super().__init__()
        self._console = console

    def show(self, frame: Frame) -> None:
        super().show(frame)
        self._console.data(encode_frame(frame).decode("utf-8"))


class TextView(View):
    """``E1: value`` for a row of several peers' answers, ``value`` for one's."""

    def __init__(self, console: Outside, text: str) -> None:
        super().__init__()
        self._console = console
        self._text = text
        self._line = 0  # characters of progress on the terminal's last line
        self._live = console.stderr.isatty()

    def show(self, frame: Frame) -> None:
        super().show(frame)
        match frame:
            case RowFrame():
                self.close()
                self._console.data(row_text(frame))
            case ErrorFrame(error=error):
                self.problem(error)
            case ProgressFrame() if self._live:
                self._progress(frame)
            case EndFrame(ledger=ledger):
                self.close()
                if ledger_matters(ledger):
                    self._console.tell(ledger_text(ledger))

    def problem(self, record: ErrorRecord) -> None:
        self.close()
        self._console.problem(record, text=self._text)

    def note(self, text: str, *, style: str = "dim") -> None:
        self.close()
        self._console.tell(text)

    def close(self) -> None:
        if self._line:
            self._console.stderr.write("\r" + " " * self._line + "\r")
            self._console.stderr.flush()
            self._line = 0

    def _progress(self, frame: ProgressFrame) -> None:
        line = visible(progress_text(frame))[:PROGRESS_LENGTH_MAX]
        self._console.stderr.write("\r" + line + " " * max(0, self._line - len(line)))
        self._console.stderr.flush()
        self._line = len(line)


def row_text(frame: RowFrame) -> str:
    values = ", ".join(value_texts(frame))
    return f"{frame.peer}: {values}" if frame.peer else values


def value_texts(frame: RowFrame) -> list[str]:
    """The text form of each value of a row."""
    from query.text_form import to_text

    return [to_text(value) for value in decoded(frame)]


def decoded(frame: RowFrame) -> tuple[Any, ...]:
    from query.values import decode_value

    return tuple(decode_value(value) for value in frame.values)


def progress_text(frame: ProgressFrame) -> str:
    peer = f"{frame.peer}: " if frame.peer else ""
    unit = f" {frame.unit}" if frame.unit else ""
    of = f" of {frame.total}" if frame.total is not None else ""
    return f"{peer}{frame.label} {frame.done}{of}{unit}"


def ledger_text(ledger: Ledger) -> str:
    """``3 peers: 2 rows, 1 unreachable — E3: unreachable(never)``, and who used how much of a budget."""
    counts = ", ".join(f"{count} {state}" for state, count in ledger.counts.items())
    missing = [one for one in ledger.outcomes if one.state not in COMPLETE or one.allowed]
    missing.sort(key=lambda one: one.state in COMPLETE)
    named = ", ".join(map(_outcome_text, missing[:PEERS_TOLD_MAX]))
    more = f" and {len(missing) - PEERS_TOLD_MAX} more" if len(missing) > PEERS_TOLD_MAX else ""
    beside = f"; {ledger.unmatched} not meant" if ledger.unmatched else ""
    return f"{counted(len(ledger.outcomes), 'peer')}: {counts or 'nobody asked'}{beside}" + (
        f" — {named}{more}" if named else ""
    )


def _outcome_text(outcome: Outcome) -> str:
    """``E1: error(over_budget_rows) directly, used 4 of 4 rows``"""
    way = " directly" if outcome.way == "direct" else ""
    return f"{outcome.peer}: {outcome}{way}" + (f", used {outcome.used}" if outcome.used else "")


def ledger_matters(ledger: Ledger) -> bool:
    """Whether people have to be told: not of one peer that answered without a budget, or whose error was told."""
    if len(ledger.outcomes) != 1 or ledger.unmatched or ledger.outcomes[0].allowed:
        return True
    return not ledger.complete and ledger.outcomes[0].state.value != "error"


def counted(count: int, thing: str) -> str:
    """``1 peer``, ``3 peers``"""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def amount(done: int, total: int | None, unit: str) -> str:
    """``3.1 of 12.4 MiB``, ``3 of 5 edges``"""
    if unit == "bytes":
        most = max(done, total or 0)
        power = min(len(_SIZES) - 1, max(0, (most.bit_length() - 1) // 10))
        digits = 1 if power else 0
        shown = [f"{value / 1024**power:.{digits}f}" for value in ([done] if total is None else [done, total])]
        return f"{' of '.join(shown)} {_SIZES[power]}"
    return f"{done}{'' if total is None else f' of {total}'}{f' {unit}' if unit else ''}"


def duration(seconds: float) -> str:
    """``0.8 ms``, ``12 ms``, ``3.4 s``, ``2 min 5 s``"""
    if seconds < 0.0095:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def visible(text: str, *, lines: bool = False) -> str:
    """``text`` with what would move a terminal's cursor or colours written out; ``lines`` keeps new lines."""
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        letter if letter in kept or letter.isprintable() or letter == " " else f"\\u{ord(letter):04x}"
        for letter in text
    )


def _answered(ledger: Ledger) -> bool:
    """Whether somebody answered, or nobody was asked."""
    return not ledger.outcomes or any(outcome.state in COMPLETE for outcome in ledger.outcomes)
