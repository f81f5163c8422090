"""The documentation shows what happens: its sessions, statements and programs are run, and its links lead somewhere."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import peers
from peers.catalogues import every_declaration
from peers.cli.arguments import command_parser
from query.catalogue import Catalogue
from query.frames import ErrorFrame, RowFrame, SchemaFrame
from query.text_form import to_text
from query.values import decode_value
from tests.demo.sessions import as_shown, asked, console, fences
from tests.demo.terminal import Terminal, terminal

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
PROGRAMS = ("python-client.md", "query-api.md")


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """The federation of docs/getting-started.md, as the page leaves it."""
    with terminal(tmp_path_factory.mktemp("docs")) as place:
        place.play(DOCS / "getting-started.md")
        yield place


def test_the_first_session_of_the_readme(tmp_path: Path) -> None:
    with terminal(tmp_path) as place:
        place.play(ROOT / "README.md")


def test_getting_started(started: Terminal) -> None:
    assert console(DOCS / "getting-started.md")


def test_an_edge_without_a_model_stays_small(started: Terminal) -> None:
    """What the edge that got no model has mapped into its memory: no model runtime, no second crypto library."""
    pid = json.loads((started.folder / "line-2" / "run.json").read_text("utf-8"))["pid"]
    maps = Path(f"/proc/{pid}/maps").read_text("utf-8")
    assert "nacl" in maps
    assert [library for library in ("cryptography", "onnxruntime", "numpy") if f"/{library}/" in maps] == []


@pytest.mark.parametrize("page", PROGRAMS)
def test_programs_run_and_print_what_the_page_says(started: Terminal, page: str) -> None:
    found = fences(DOCS / page)
    programs = [(at, fence) for at, fence in enumerate(found) if fence.language == "python"]
    assert programs
    for at, program in programs:
        done = subprocess.run(
            [sys.executable, "-c", program.text],
            cwd=started.folder,
            env=started.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{page}, line {program.line}: {done.stderr}"
        shown = found[at + 1] if at + 1 < len(found) and found[at + 1].language == "text" else None
        if shown is not None:
            assert as_shown(shown.text.splitlines(), done.stdout.splitlines()), done.stdout


def test_statements_of_the_language_page(started: Terminal) -> None:
    with peers.connect(started.folder / "line-1") as peer:
        for fence in fences(DOCS / "language.md"):
            if fence.language == "pql":
                shown = [one.shown for one in asked(fence)]
                found = answers(peer, fence.text)
                differ = [pair for pair in zip(shown, found, strict=False) if not as_shown(*pair)]
                assert (len(found), differ) == (len(shown), []), fence.text


def answers(peer: peers.Connection, script: str) -> list[list[str]]:
    """What each statement of a script shows: its rows as text, or its error."""
    found: list[list[str]] = []
    for frame in peer.frames(script):
        match frame:
            case SchemaFrame():
                found.append([])
            case RowFrame(values=values):
                found[-1].append("  ".join(to_text(decode_value(value)) for value in values))
            case ErrorFrame(error=error):
                found[-1].append(f"error({error.code}): {error.message}")
    return found


def test_examples_of_commands_can_be_typed() -> None:
    lines = [
        line for fence in fences(DOCS / "commands.md") if fence.language == "sh" for line in commands_in(fence.text)
    ]
    assert len(lines) > 15
    for line in lines:
        command_parser().parse_args(shlex.split(line)[1:])


def commands_in(text: str) -> Iterator[str]:
    """The `peerage` commands of a shell text, also behind a pipe; a quoted text may span lines."""
    whole = re.sub(r"'[^']*'", lambda quoted: quoted[0].replace("\n", " ").replace("|", " "), text)
    for line in whole.splitlines():
        for part in line.split("|"):
            if part.strip().startswith("peerage "):
                yield part.strip()


def test_every_command_has_a_section() -> None:
    headings = re.findall(r"^#+ peerage (.+)$", (DOCS / "commands.md").read_text("utf-8"), re.MULTILINE)
    wanted = {"nameserver", "edge", "register", "join", "query", "demo", "keys", "certs", "poll"}
    assert wanted | {"mode", "export", "import"} <= set(headings)
    assert {"keys show", "keys make", "keys endorse"} <= set(headings)


def test_the_names_of_object_stream_sql_that_are_said_to_work() -> None:
    table = (DOCS / "object-stream.md").read_text("utf-8").partition("## Names that work")[2].partition("## ")[0]
    names = [name for row in table.splitlines() for name in re.findall(r"`([\w:]+)`", row.partition(" | ")[0])]
    assert len(names) > 30
    catalogue = Catalogue(every_declaration())
    assert [name for name in names if not catalogue.lookup(name)] == []


def test_the_refusals_that_the_page_on_trust_names_exist() -> None:
    table = (DOCS / "trust.md").read_text("utf-8").partition("| refused as ")[2].partition("## ")[0]
    codes = re.findall(r"`([a-z_]+)`", table)
    known = set(re.findall(r"^\| `([a-z_]+)` \|", (DOCS / "query-api.md").read_text("utf-8"), re.MULTILINE))
    assert len(codes) >= 10
    assert set(codes) <= known


def test_the_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "docs.build", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    assert [target for target in targets if not (page.parent / target.partition("#")[0]).exists()] == []


def test_every_decision_is_listed() -> None:
    listed = (DOCS / "decisions" / "README.md").read_text("utf-8")
    assert all(path.name in listed for path in (DOCS / "decisions").glob("[0-9]*.md"))
