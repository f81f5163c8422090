"""Rows → a plot in a terminal, as ``//plot: line``, ``bar``, ``scatter`` or ``histogram`` above a statement asks.

    rows → Chart (series of points, names of what stands along the axis) → lines of text

Pure, but that the drawing library keeps its figure in a module. What the rows of an answer mean:

    one number a row            one series, along the order of the rows; of several peers one series each
    one vector a row            a series for each place in it; of a single row, one series along the vector
    vectors of two, in a bar    a name and its number
    one record a row            a series for each key that holds numbers; a time in it is the axis, a string names a bar
    several columns             the first is the axis (a number, a time, or the names of bars), each other one a series
    histogram                   all numbers of a series, however they came

Rules: null, NaN and numbers beyond 1e300 are left out, smaller ones than 1e-300 are 0; of more than :data:`ROWS_MAX`
rows the newest are drawn, of more than :data:`SERIES_MAX` series or :data:`BARS_MAX` bars the first. What cannot be
drawn is :class:`NoPlot`, and is shown as text.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias
from unicodedata import normalize

from query.errors import UserProblem, suggestion
from query.text_form import to_text
from query.values import is_tensor

Kind: TypeAlias = Literal["line", "bar", "scatter", "histogram"]

KINDS: Final[tuple[Kind, ...]] = ("line", "bar", "scatter", "histogram")
TEXT: Final = frozenset({"text", "automatic"})
ROWS_MAX: Final = 20_000
POINTS_MAX: Final = 100_000
SERIES_MAX: Final = 6
BARS_MAX: Final = 40
BINS_MAX: Final = 30
NUMBER_MAX: Final = 1e300  # beyond, the distance between two is no number any more
HEIGHT_MAX: Final = 20
HEIGHT_MIN: Final = 6
WIDTH_MIN: Final = 20
WIDTH_MAX: Final = 160
LABEL_MAX: Final = 24
TICKS: Final = 5
NUMBER_LARGE: Final = 1e9  # from here on, and below the small one, a number beside the plot has an exponent
NUMBER_SMALL: Final = 1e-3
_SECOND_CELL: Final = "\ue000"  # a private sign that holds the place of a wide one's second half while drawing


class NoPlot(UserProblem):
    """A plot of a kind that there is not, or of rows that no plot can show."""

    code = "no_plot"


@dataclass(slots=True)
class Series:
    label: str
    xs: list[float] = field(default_factory=list)
    ys: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Chart:
    """``names``: what the places 1, 2, … of the axis are called; ``times``: the axis counts seconds since 1970."""

    kind: Kind
    series: list[Series]
    names: list[str] = field(default_factory=list)
    times: bool = False


def kind_of(directive: str) -> Kind | None:
    """What a ``//plot:`` asks for; None for text. Raises :class:`NoPlot` with the nearest kind."""
    words = directive.casefold().removesuffix("plot").strip()
    if words in TEXT or words.startswith("text"):
        return None
    for kind in KINDS:
        if words == kind:
            return kind
    raise NoPlot(
        f'no plot "{directive[:40]}" in a terminal{suggestion(words, KINDS)}',
        hint=f"plots are {', '.join(KINDS)}; the rows are shown as text",
    )


class Plotting:
    """The rows of one statement, as far as they are drawn."""

    def __init__(self, kind: Kind, columns: Sequence[str]) -> None:
        self.kind: Kind = kind
        self._columns = tuple(columns)
        self._rows: deque[tuple[str | None, tuple[Any, ...]]] = deque(maxlen=ROWS_MAX)

    def add(self, values: tuple[Any, ...], *, peer: str | None) -> None:
        self._rows.append((peer, values))

    def __len__(self) -> int:
        return len(self._rows)

    def texts(self) -> Iterator[str]:
        """The rows as text, for what cannot be drawn."""
        for peer, values in self._rows:
            yield _joined(peer and f"{peer}:", ", ".join(map(to_text, values)))

    def chart(self) -> Chart:
        """Raises :class:`NoPlot` when there is nothing to draw."""
        rows = list(self._rows)
        if not rows:
            raise NoPlot("no rows to plot")
        found = _Points(self.kind)
        if any(len(values) != 1 for _, values in rows):
            found.columns(rows, self._columns)
        else:
            found.values(rows, self._columns[0] if self._columns else "")
        return found.chart()


class _Points:
    """The series that the rows make, in the order in which they came."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._series: dict[str, Series] = {}
        self._names: list[str] = []
        self._times = False
        self._count = 0

    def chart(self) -> Chart:
        series = [one for one in self._series.values() if one.ys][:SERIES_MAX]
        if not series:
            raise NoPlot("no numbers to plot", hint="a row is a number, a vector or record of numbers, or columns")
        names = self._names if len(series) == 1 or self._kind == "bar" else []
        return Chart(self._kind, series, names, self._times)

    def columns(self, rows: Sequence[tuple[str | None, tuple[Any, ...]]], columns: Sequence[str]) -> None:
        along = _axis([values[0] if values else None for _, values in rows])
        for row, (peer, values) in enumerate(rows, start=1):
            x: float | None = float(row)
            shown = range(len(values))
            if along is not None and values and self._kind != "histogram":
                x, shown = self._place(along, values[0], row), range(1, len(values))
            for number in shown:
                self._add(
                    _joined(peer, columns[number] if number < len(columns) else str(number + 1)), x, values[number]
                )

    def values(self, rows: Sequence[tuple[str | None, tuple[Any, ...]]], column: str) -> None:
        if len(rows) == 1 and (elements := _elements(rows[0][1][0])) is not None:
            self._along(rows[0][0] or column, elements)
            return
        count: dict[str | None, int] = {}
        one_each = len({peer for peer, _ in rows}) == len(rows) > 1
        for peer, (value,) in rows:
            row = count[peer] = count.get(peer, 0) + 1
            elements = _elements(value)
            if isinstance(value, dict):
                self._record(peer, value, row)
            elif elements is not None:
                for number, element in enumerate(elements, start=1):
                    self._add(_joined(peer, str(number)), float(row), element)
            elif self._kind == "bar" and one_each and peer is not None:
                self._add(column, self._place("names", peer, row), value)
            else:
                self._add(peer or column, float(row), value)

    def _along(self, label: str, elements: Sequence[Any]) -> None:
        """One vector: its elements, pairs of an axis and a number, or records, one after another."""
        pairs = [pair for element in elements if (pair := _elements(element)) is not None and len(pair) == 2]
        if elements and len(pairs) == len(elements) and self._kind != "histogram":
            along = _axis([pair[0] for pair in pairs]) or "numbers"
            for row, (x, y) in enumerate(pairs, start=1):
                self._add(label, self._place(along, x, row), y)
            return
        for row, element in enumerate(elements, start=1):
            if isinstance(element, dict):
                self._record(None, element, row)
            else:
                self._add(label, float(row), element)

    def _record(self, peer: str | None, record: dict[str, Any], row: int) -> None:
        x: float | None = float(row)
        for value in record.values():
            if isinstance(value, datetime):
                x = self._place("times", value, row)
                break
            if isinstance(value, str) and self._kind == "bar":
                x = self._place("names", value, row)
                break
        for key, value in record.items():
            self._add(_joined(peer, key), x, value)

    def _place(self, along: str, value: Any, row: int) -> float | None:
        """Where a row stands on the axis."""
        if along == "names":
            name = str(value)
            if name not in self._names:
                self._names.append(name)
            return float(self._names.index(name) + 1)
        if along == "times":
            self._times = True
            return value.timestamp() if isinstance(value, datetime) else None
        return _number(value)

    def _add(self, label: str, x: float | None, value: Any) -> None:
        number = _number(value)
        if number is None or x is None or self._count >= POINTS_MAX:
            return
        self._count += 1
        series = self._series.setdefault(label, Series(label))
        series.xs.append(x)
        series.ys.append(number)


def _axis(values: Sequence[Any]) -> str | None:
    """What a first column is as an axis."""
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, datetime) for value in known):
        return "times"
    if known and all(isinstance(value, str) for value in known):
        return "names"
    return "numbers" if known and all(_number(value) is not None for value in known) else None


def _elements(value: Any) -> list[Any] | None:
    if is_tensor(value):
        return list(value.tolist()) if value.ndim else None
    return value if isinstance(value, list) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return (number if abs(number) > 1 / NUMBER_MAX else 0.0) if abs(number) <= NUMBER_MAX else None


def _joined(peer: str | None, label: str) -> str:
    return f"{peer} {label}" if peer else label


def draw(chart: Chart, *, width: int, height: int, colours: Sequence[str] = ()) -> list[str]:
    """The plot as lines of at most ``width`` characters; with escapes where there are ``colours``.

    Raises :class:`NoPlot` for numbers that lie too far apart, or too close together, to be told apart.
    """
    import plotext

    try:
        drawn = _built(plotext, chart, width=width, height=height, colours=colours)
    except (OverflowError, ValueError, ZeroDivisionError) as error:
        raise NoPlot(f"the numbers cannot be drawn: {error}") from error
    lines = drawn.rstrip("\n").split("\n")
    return [line.rstrip() for line in lines] if colours else [plotext.uncolorize(line).rstrip() for line in lines]


def _built(plotext: Any, chart: Chart, *, width: int, height: int, colours: Sequence[str]) -> str:
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.plotsize(min(max(width, WIDTH_MIN), WIDTH_MAX), min(max(height, HEIGHT_MIN), HEIGHT_MAX))
    several = len(chart.series) > 1
    drawing = _bars if chart.kind == "bar" else _histogram if chart.kind == "histogram" else _points
    drawing(plotext, chart, colours, several)
    if not several:
        plotext.title(_shortened(chart.series[0].label, width - 10))
    drawn: str = plotext.build()
    plotext.clear_figure()
    return drawn.replace(_SECOND_CELL, "")


def _points(plotext: Any, chart: Chart, colours: Sequence[str], several: bool) -> None:
    for number, series in enumerate(chart.series):
        style = {
            "label": _shortened(series.label, LABEL_MAX) if several else None,
            "marker": "braille",
            "color": _colour(colours, number),
        }
        if chart.kind == "line":
            plotext.plot(series.xs, series.ys, **style)
        else:
            plotext.scatter(series.xs, series.ys, **{**style, "marker": "dot"})
    xs = [x for series in chart.series for x in series.xs]
    if chart.names:
        places = list(_spread(len(chart.names)))
        plotext.xticks([place + 1 for place in places], [_shortened(chart.names[place], 12) for place in places])
    elif chart.times:
        ticks = _steps(min(xs), max(xs))
        plotext.xticks(ticks, _moments(ticks))
    elif all(x == int(x) for x in xs) and max(xs) - min(xs) >= 1:
        ticks = sorted({round(tick) for tick in _steps(min(xs), max(xs))})
        plotext.xticks(ticks, [_short(tick) for tick in ticks])
    _heights(plotext, [y for series in chart.series for y in series.ys])


def _bars(plotext: Any, chart: Chart, colours: Sequence[str], several: bool) -> None:
    places = sorted({x for series in chart.series for x in series.xs})[:BARS_MAX]
    names = chart.names if not chart.times else []
    labels = [_shortened(names[int(x) - 1], 16) if names else f"{x:g}" for x in places]
    if chart.times:
        labels = _moments(places)
    heights = [[dict(zip(series.xs, series.ys, strict=True)).get(x, 0.0) for x in places] for series in chart.series]
    if several:
        plotext.multiple_bar(
            labels, heights, labels=[_shortened(series.label, LABEL_MAX) for series in chart.series],
            color=[_colour(colours, number) for number in range(len(heights))] if colours else None, width=0.7,
        )  # fmt: skip
    else:
        plotext.bar(labels, heights[0], color=_colour(colours, 0), width=0.6)
    _heights(plotext, [0.0, *(y for ys in heights for y in ys)])


def _histogram(plotext: Any, chart: Chart, colours: Sequence[str], several: bool) -> None:
    everything = [y for series in chart.series for y in series.ys]
    low, high = min(everything), max(everything)
    bins = min(BINS_MAX, max(1, math.ceil(math.sqrt(len(everything))))) if high > low else 1
    step = (high - low) / bins or 1.0
    places = [low + step * (number + 0.5) for number in range(bins)]
    for number, series in enumerate(chart.series):
        counts = [0] * bins
        for y in series.ys:
            counts[min(bins - 1, int((y - low) / step))] += 1
        label = _shortened(series.label, LABEL_MAX) if several else None
        plotext.bar(places, counts, label=label, color=_colour(colours, number), width=1.0)
    ticks = _steps(low, low + step * bins)
    plotext.xticks(ticks, [f"{tick:.4g}" for tick in ticks])


def _heights(plotext: Any, ys: Sequence[float]) -> None:
    """Numbers beside the plot in few characters, where the library would write all their digits."""
    most = max(map(abs, ys))
    if most and not NUMBER_SMALL <= most < NUMBER_LARGE:
        ticks = _steps(min(ys), max(ys))
        plotext.yticks(ticks, [_short(tick) for tick in ticks])


def _short(number: float) -> str:
    return str(number) if isinstance(number, int) and abs(number) < NUMBER_LARGE else f"{number:.4g}"


def _colour(colours: Sequence[str], number: int) -> str:
    return colours[number % len(colours)] if colours else "default"


def _spread(count: int) -> Iterator[int]:
    """At most :data:`TICKS` places of ``count``, evenly."""
    if count <= TICKS:
        yield from range(count)
        return
    for number in range(TICKS):
        yield number * (count - 1) // (TICKS - 1)


def _steps(low: float, high: float) -> list[float]:
    return [low + (high - low) * number / (TICKS - 1) for number in range(TICKS)] if high > low else [low]


def _moments(seconds: Iterable[float]) -> list[str]:
    """Times as short as they can be told apart."""
    moments = [datetime.fromtimestamp(second, UTC) for second in seconds]
    days = {moment.date() for moment in moments}
    spread = max(moments) - min(moments)
    form = "%H:%M:%S" if len(days) == 1 else "%m-%d %H:%M" if spread.days < 20 else "%Y-%m-%d"
    return [moment.strftime(form) for moment in moments]


def _shortened(text: str, length: int) -> str:
    """At most ``length`` cells; the library takes every character for one, so that a wide one gets a second."""
    from rich.cells import cell_len

    cells = "".join(sign + _SECOND_CELL * (cell_len(sign) - 1) for sign in normalize("NFC", text))
    return cells if len(cells) <= length else cells[: max(1, length - 1)] + "…"
