"""The mistakes of docs/mistakes.md, each typed as the page shows it: what is said is what the page says, to the letter.

See :func:`tests.mistakes.place.said`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.sessions import FENCE, Fence, Typed, as_shown, typed
from tests.demo.terminal import Terminal
from tests.mistakes.place import FAKETIME, application_address, prepared, said

PAGE = Path(__file__).parents[2] / "docs" / "mistakes.md"
AREAS = {"The language": 15, "Joining": 10, "Publishing": 6, "Groups and edges": 8, "Models": 6}

pytestmark = pytest.mark.timeout(300)


def mistakes() -> list[tuple[str, str, list[Typed]]]:
    """Area, title and what is typed, of each."""
    found = []
    for area in PAGE.read_text("utf-8").split("\n## ")[1:]:
        name, _, rest = area.partition("\n")
        for section in rest.split("\n### ")[1:]:
            title, _, body = section.partition("\n")
            fences = [Fence(m[1], m[2], 0) for m in FENCE.finditer(body)]
            found.append((name, title, [one for fence in fences for one in typed(fence)]))
    return found


MISTAKES = mistakes()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    folder = tmp_path_factory.mktemp("mistakes")
    with pytest.MonkeyPatch.context() as patch, prepared(folder) as made:
        patch.setenv("APPLICATION", application_address(folder))
        yield made


@pytest.mark.parametrize(("area", "title", "commands"), MISTAKES, ids=[title for _, title, _ in MISTAKES])
def test_what_is_said(place: Terminal, area: str, title: str, commands: list[Typed]) -> None:
    assert commands
    needs_faketime = any("late.bundle" in one.command or "faketime" in one.command for one in commands)
    if needs_faketime and FAKETIME is None and os.environ.get("CI") != "true":
        pytest.skip("faketime is not installed")
    for one in commands:
        found = said(place, one.command)
        assert as_shown(one.shown, found), "\n".join(["", one.command, *found])


def test_there_are_many_of_each_kind() -> None:
    areas = [area for area, _, _ in MISTAKES]
    assert len(MISTAKES) >= 30
    assert {area: areas.count(area) >= least for area, least in AREAS.items()} == dict.fromkeys(AREAS, True)
    assert len({title for _, title, _ in MISTAKES}) == len(MISTAKES)


@pytest.mark.parametrize(("area", "title", "commands"), MISTAKES, ids=[title for _, title, _ in MISTAKES])
def test_messages_are_made_as_messages_are(area: str, title: str, commands: list[Typed]) -> None:
    """A message begins small and ends without a full stop; whatever fails has a message, a place or a next step."""
    shown = [line for one in commands for line in one.shown]
    told = [
        re.sub(r"^.*?error\([a-z_]+\): |^note: ", "", line) for line in shown if re.search(r"error\(|^note: ", line)
    ]
    told += [line.strip().removeprefix("hint: ") for line in shown if line.startswith("  hint: ")]
    assert told or any("unreachable" in line for line in shown)
    for message in told:
        assert not message.endswith("."), message
        first = message.split()[0].strip("\"'(")
        assert not first[:1].isupper() or first.isupper() or not first.isalpha(), message
