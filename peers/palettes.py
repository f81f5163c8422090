"""Colours of what front ends show in a terminal: for a dark and for a light background, for an unknown one, or none.

Pure. Colours are the terminal's own sixteen, so that they follow whoever set the terminal up; a palette only avoids
those that cannot be read on its background. ``NO_COLOR`` in the environment means none, ``COLORFGBG`` tells what the
background is where a terminal sets it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

THEMES: Final = ("auto", "dark", "light", "none")


@dataclass(frozen=True, slots=True)
class Palette:
    """Styles by what they are for, in the words of rich: ``bold cyan``."""

    name: str
    styles: Mapping[str, str]

    def style(self, part: str) -> str:
        """The style of a class of :mod:`peers.highlighting`, or of a part of an answer; nothing for one without."""
        return self.styles.get(part, "")

    def prompt_style(self, part: str) -> str:
        """The same in the words of prompt_toolkit: ``bold ansicyan``."""
        return " ".join(_PROMPT_WORDS.get(word, f"ansi{word.replace('_', '')}") for word in self.style(part).split())

    @property
    def series(self) -> tuple[str, ...]:
        """Colours of the series of a plot, one after another, in the words of plotext."""
        return tuple(self.styles.get("series", "").split())


_PROMPT_WORDS: Final = {"bold": "bold", "dim": "ansibrightblack", "underline": "underline", "italic": "italic"}


def _palette(name: str, *, blue: str, cyan: str, green: str, yellow: str, magenta: str, red: str) -> Palette:
    plain = {
        colour: colour.replace("yellow", "orange").replace("bright_", "") + "+" * colour.startswith("bright_")
        for colour in (blue, cyan, green, yellow, magenta, red)
    }
    return Palette(
        name,
        {
            "keyword": f"bold {blue}",
            "function": cyan,
            "variable": magenta,
            "string": green,
            "key": blue,
            "number": cyan,
            "constant": magenta,
            "time": yellow,
            "comment": "dim",
            "directive": f"bold {magenta}",
            "wrong": f"bold {red}",
            "peer": f"bold {yellow}",
            "heading": "bold",
            "dim": "dim",
            "error": f"bold {red}",
            "marks": f"bold {red}",
            "hint": yellow,
            "partial": f"bold {yellow}",
            "prompt": f"bold {green}",
            "bar": cyan,
            "series": " ".join(plain[colour] for colour in (cyan, magenta, green, yellow, blue, red)),
        },
    )


DARK: Final = _palette(
    "dark", blue="bright_blue", cyan="bright_cyan", green="bright_green", yellow="bright_yellow",
    magenta="bright_magenta", red="bright_red",
)  # fmt: skip
LIGHT: Final = _palette(
    "light", blue="blue", cyan="blue", green="green", yellow="red", magenta="magenta", red="red"
)  # fmt: skip
NEUTRAL: Final = _palette(
    "auto", blue="cyan", cyan="cyan", green="green", yellow="magenta", magenta="magenta", red="red"
)  # fmt: skip
NONE: Final = Palette("none", {})
_BY_NAME: Final = {"dark": DARK, "light": LIGHT, "none": NONE}


def chosen_palette(
    environment: Mapping[str, str], *, theme: str = "auto", background: tuple[int, int, int] | None = None
) -> Palette:
    """The palette that a person asked for, else that the environment and the terminal suggest."""
    if theme in _BY_NAME:
        return _BY_NAME[theme]
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return NONE
    if background is not None:
        red, green, blue = background
        return LIGHT if 0.299 * red + 0.587 * green + 0.114 * blue > 127 else DARK
    told = environment.get("COLORFGBG", "").rpartition(";")[2]
    if told.isdigit():
        return LIGHT if int(told) in (7, 15) else DARK
    return NEUTRAL


_COLOUR = re.compile(r"rgb:([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})")


def background_of(answer: str) -> tuple[int, int, int] | None:
    """The colour in a terminal's answer to ``OSC 11 ?``, each part of 255; None where there is none."""
    found = _COLOUR.search(answer)
    if found is None:
        return None
    red, green, blue = (int(part, 16) * 255 // (16 ** len(part) - 1) for part in found.groups())
    return red, green, blue
