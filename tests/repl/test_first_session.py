"""A whole first session at the real prompt in a terminal, against real processes; and its recording in the docs."""

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.repl.commands import COMMANDS
from tests.repl.first_session import BAR, ENDLESS, RECORDING, REPL, ROOT, ask, played, prepared, surroundings
from tests.repl.recording import Typist, replayed, told, typist
from tests.shell.running import Federation

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with prepared(tmp_path_factory.mktemp("federation")) as federation:
        yield federation


@pytest.fixture(scope="module")
def person(made: Federation) -> Typist:
    return played(made, burst=16)


def lines(found: list[str]) -> list[str]:
    return [line for line in told(found) if line]


def test_a_first_session(person: Typist, made: Federation) -> None:
    assert person.ended() == 0
    text = "\n".join(person.screen.everything)
    assert "\x1b[" in person.raw
    assert BAR in person.raw  # a bar, while the edge loaded
    assert BAR not in text  # which went
    assert "━" not in text
    assert (made.folder / "degrees.csv").read_text().splitlines()[:2] == ["i,celsius,fahrenheit", "1,18.5,65.3"]
    running = made.peerage("query", "--home", "line-1", "select q.text from q in query:list()")
    assert ENDLESS[:20] not in running.out  # cancelled where it ran, not only here


def test_its_history_is_kept_for_this_person(person: Typist, made: Federation) -> None:
    (kept,) = (made.folder / "state" / "peerage" / "history").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    text = kept.read_text()
    assert "+//peer: all\n+models:loaded()\n" in text
    assert "+\\peer line-1\n" in text


def test_its_recording_is_current(person: Typist) -> None:
    cast = RECORDING.read_text("utf-8")
    assert lines(replayed(cast)) == lines(person.screen.everything), "python -m tests.repl records it anew"
    head = json.loads(cast.splitlines()[0])
    assert (head["version"], head["width"], head["height"]) == (2, 90, 28)
    times = [json.loads(line)[0] for line in cast.splitlines()[1:]]
    assert times == sorted(times)


def test_the_page_shows_the_recording() -> None:
    page = (ROOT / "docs" / "repl.md").read_text("utf-8")
    shown = re.search(r"<!-- recorded: first-session -->\n+```text\n(.*?)```", page, re.DOTALL)
    assert shown, "docs/repl.md does not show the session"
    assert shown[1].splitlines() == replayed(RECORDING.read_text("utf-8")), "python -m tests.repl writes it anew"


def test_the_page_names_every_command() -> None:
    page = (ROOT / "docs" / "repl.md").read_text("utf-8")
    assert [command.form for command in COMMANDS if f"`{command.form}`".replace("|", "\\|") not in page] == []


def test_more_of_a_session(made: Federation, tmp_path: Path) -> None:
    """What the first session leaves out: keys of vi, an editor, watching, the pager, what Ctrl-C does at the prompt."""
    (tmp_path / "editor").write_text('#!/bin/sh\nsed -i "s/1 + 1/40 + 2/" "$1"\n')
    (tmp_path / "editor").chmod(0o755)
    (made.folder / "story.pql").write_text('set :name = "story";\n\\time on\n"from a " + :name;\n')
    own = {"EDITOR": str(tmp_path / "editor"), "PAGER": "head -n 3", "XDG_STATE_HOME": str(tmp_path)}
    person = typist([*REPL, "--home", "line-1"], folder=made.folder, environment={**surroundings(made.folder), **own})
    person.burst = 16
    person.until(r"LINE-1 INTERACTIVE │ [\w-]+ │ emacs │ \\help")
    ask(person, "1 + 1", r"\n2\n1 row")
    person.type("\\edit\r")
    person.until(r"> 40 \+ 2", prompt=False)
    person.press("\r")
    person.until(r"\n42\n")
    ask(person, '< "story.pql"', r'"from a story"')
    ask(person, "\\vars", r":name = \"story\"")
    ask(person, '\\watch 100ms x3 this_peer() + "!"', r'"LINE-1!"')
    ask(person, "select n from Integer n where n in iota(1, 5000)", r"1 cancelled|5000 rows")
    person.type(f"//peer: all\r{ENDLESS}\r")
    person.interrupt()
    person.until(r"2 peers: 2 cancelled — LINE-[12]: cancelled, LINE-[12]: cancelled")
    person.type("thrown away")
    person.press("\x03")
    person.until(r"thrown away")
    ask(person, "\\keys vi", r"vi insert │")
    person.type("2 * 3")
    person.press("\x1b")
    person.until(r"vi navigation │", prompt=False)
    person.type("0")
    person.type("x")
    person.type("i5")
    person.press("\r")
    person.until(r"\n15\n")
    ask(person, "\\nonsens", r'no command "\\nonsens"')
    ask(person, "\\theme light", r"theme: light")
    person.type("quit\r")
    assert person.ended() == 0


def test_a_query_draws_in_a_terminal(made: Federation) -> None:
    text = '//plot: bar\nbag([{"name": "first", "n": 3}, {"name": "second", "n": 5}])'
    query = [*REPL[:-1], "query", "--home", "ns-admin", text]
    person = typist(query, folder=made.folder, environment=surroundings(made.folder))
    assert person.ended() == 0
    assert re.search(r"first +second", "\n".join(person.screen.everything))
    assert "█" in person.raw
    plain = typist(query, folder=made.folder, environment={**surroundings(made.folder), "NO_COLOR": "1"})
    assert plain.ended() == 0
    assert "█" in plain.raw
    assert "\x1b[3" not in plain.raw


def test_no_prompt_without_a_terminal(made: Federation) -> None:
    script = '//peer: all\nmodels:loaded();\nset :v = 20;\n\\export csv\n:v + 1;\nnonsense();\n\\quit\n"not asked"'
    ran = made.peerage("repl", "--home", "ns-admin", stdin=script)
    assert ran.status == 1
    assert sorted(ran.out.splitlines()[:2])[0].startswith("LINE-1: [")
    assert ran.out.splitlines()[2:][-1] == "21"
    assert "\x1b" not in ran.out + ran.err
    assert ran.err.splitlines() == [
        "2 peers: 2 rows",
        'ADMIN: error(unknown_name): no function "nonsense" — did you mean "ones"?',
        "  nonsense();",
        "  ^^^^^^^^",
    ]
