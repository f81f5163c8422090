"""The page on the doctor: its session is typed, and its table names everything that can be found."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from peers.doctor.looking import CHECKS
from tests.demo.terminal import terminal

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "doctor.md"
OF_HOMES = {"not_joined", "bad_setting", "autonomous", "removed"}  # of other modules, and named all the same


def codes() -> set[str]:
    """The second argument of every finding in the package."""
    found = set()
    for path in (ROOT / "peers" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="Finding" | "_about"), args=[_, ast.Constant(value=str(code)), *_]):
                    found.add(code)
    return found


@pytest.mark.timeout(300)
def test_the_session(tmp_path: Path) -> None:
    with terminal(tmp_path) as place:
        place.play(PAGE)


def test_the_table_names_what_can_be_found() -> None:
    text = PAGE.read_text("utf-8")
    named = set(re.findall(r"`([a-z_]+)`", text))
    assert len(codes()) > 30
    assert codes() - named == set()
    assert named >= OF_HOMES
    rows = re.findall(r"^\| ([a-z ]+) \| ", text, re.MULTILINE)
    assert [name for name, _ in CHECKS] == [row for row in rows if row != "check"]
