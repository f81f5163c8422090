"""The serving benchmark for the documentation: a table, ``docs/benchmarks/serving.md``, and its plot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.measurement import Measurement

FOLDER: Final = Path(__file__).parents[1] / "docs" / "benchmarks"
RATES: Final = "answers/s"

INTRODUCTION: Final = """\
# Inference over HTTP

What `python -m benchmarks serving --report` measured on {day}: answers a second of a peer and of what it is compared
with, in one run, the pair whose ratio is the median. The bare aiohttp handler wraps the same session and checks
nothing; the peer checks every input against the signed signature, holds every run to a deadline and counts it.
MLServer, LitServe and BentoML run the same ONNX file with one worker, as their documentation shows it, each in an
environment of its own.

Absolute figures are of one machine on one day; only the ratios say something.

![Answers a second, by case](serving.svg)

"""
NEXT_LIMIT: Final = """
What bounds it next is what bounds the bare handler: of a small model's request, asyncio's loop and its system calls and
aiohttp's parser and writer take most of the time, checking and counting take a few µs, the model itself about 10. Of
Magika's, nearly all is the model. On one connection its way through the thread pool and back is to be seen, which
keeps the peer answering others meanwhile; over 16 connections the pool uses both cores where the bare handler runs
one request after the other.
"""


def write(found: Sequence[Measurement]) -> None:
    """Both files, from the measurements of one run."""
    FOLDER.mkdir(exist_ok=True)
    compared = [one for one in found if one.unit == RATES]
    lines = [INTRODUCTION.format(day=datetime.now(UTC).date().isoformat())]
    lines += ["| case | peerage | other | ratio | conditions |\n", "|---|---|---|---|---|\n"]
    for one in found:
        other = "" if one.limit is None else f"{one.limit:,g}"
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        lines.append(f"| {one.case} | {one.ours:,g} {one.unit} | {other} | {ratio} | {one.conditions} |\n")
    lines.append(NEXT_LIMIT)
    (FOLDER / "serving.md").write_text("".join(lines), "utf-8")
    _plot(compared)


def _plot(compared: Sequence[Measurement]) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "peerage"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(compared) + 1.2), layout="constrained")
    places = range(len(compared))
    axes.barh([at - 0.2 for at in places], [one.ours for one in compared], 0.38, label="peerage", color="#2b6cb0")
    axes.barh([at + 0.2 for at in places], [one.limit or 0 for one in compared], 0.38, label="other", color="#cbd5e0")
    for at, one in zip(places, compared, strict=True):
        axes.annotate(f" {one.ratio:.2f}x", (max(one.ours, one.limit or 0), at), va="center", fontsize=8)
    axes.set_yticks(list(places), [one.case for one in compared], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("answers a second")
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(FOLDER / "serving.svg", metadata={"Date": None})
    pyplot.close(figure)
