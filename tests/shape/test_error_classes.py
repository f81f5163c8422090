"""Every error is read as the class that was raised, in a program that has imported nothing of where it was raised."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers.error_classes import CODES

ROOT = Path(__file__).parents[2]
PACKAGES = ("query", "federation", "engine", "peers")


def codes_in(path: Path) -> Iterator[tuple[str, str]]:
    """Each code that a module gives to a class, with the class's name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                match line:
                    case ast.Assign(targets=[ast.Name(id="code")], value=ast.Constant(value=str(code))):
                        yield code, node.name


def declared() -> dict[str, dict[str, str]]:
    """Module → code → class."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): dict(codes_in(path))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    return {module: codes for module, codes in modules.items() if codes and module != "query.errors"}


def test_the_table_names_every_code() -> None:
    """Whoever adds a code adds it to the table in :mod:`peers.error_classes`."""
    wanted = {module: set(codes) for module, codes in declared().items()}
    assert {module: set(codes) for module, codes in CODES.items()} == wanted


def test_a_fresh_program_reads_every_code_as_its_class() -> None:
    wanted = {code: [module, name, code] for module, codes in declared().items() for code, name in codes.items()}
    newer = {"of_a_newer_peer": ["query.errors", "ForeignProblem", "of_a_newer_peer"]}
    assert read_fresh([*wanted, *newer]) == {**wanted, **newer}
    for first in ("token_reused", "bad_vectors", "bad_setting", "not_supported"):  # one a package
        assert read_fresh([first]) == {first: wanted[first]}


def read_fresh(codes: list[str]) -> Any:
    """What a program that only has the client makes of each code."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        cwd=ROOT,
        input=json.dumps(codes),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


PROGRAM = """
import json, sys
import peers
from query.errors import ErrorRecord, Problem
peers.connect
read = {}
for code in json.load(sys.stdin):
    problem = Problem.from_record(ErrorRecord(code, "m"))
    read[code] = [type(problem).__module__, type(problem).__qualname__, problem.code]
json.dump(read, sys.stdout)
"""
