"""A first session at the prompt, as a person types it: what docs/repl.md shows, and what its recording plays.

The federation is the one that docs/getting-started.md leaves: a nameserver, the edges line-1 and line-2, and a
publisher's thermometer 1.0 in the repository. Each step says what has to be on the screen after it.
"""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.repl.recording import Typist, typist
from tests.shell.running import NAMESERVER, Federation, environment

ROOT = Path(__file__).parents[2]
RECORDING = ROOT / "docs" / "recordings" / "first-session.cast"
TITLE = "A first session at the prompt of Peerage"
REPL = (sys.executable, "-m", "peers.cli", "repl")
ENDLESS = "select a from Integer a, Integer b where a in iota(1, 99999) and b in iota(1, 99999) and a + b < 0"
BAR = "converged: staging"


@contextmanager
def prepared(folder: Path) -> Iterator[Federation]:
    made = Federation(folder)
    try:
        made.start("ns", "nameserver", *NAMESERVER, "--federation", "mine", "--no-zeroconf")
        for name in ("line-1", "line-2"):
            assert made.member(name).status == 0
            made.start(name, "edge")
        assert made.member("ada", "--role", "operator", "--publisher").status == 0
        endorsed = made.peerage("keys", "endorse", "ada", "--root-home", "ns-root", "--home", "ns-admin")
        assert endorsed.status == 0, endorsed.err
        text = 'models:create("thermometer"); models:create_release("thermometer", "1.0"); '
        text += 'models:publish("thermometer", "1.0")'
        published = made.peerage("query", "--home", "ada", text)
        assert published.status == 0, published.err
        yield made
    finally:
        for name in list(made.running):
            made.stop(name, by=signal.SIGKILL)


def surroundings(folder: Path) -> Mapping[str, str]:
    """The environment of a person who has never been here, whose terminal is dark."""
    usual = {
        name: value for name, value in environment().items() if name not in ("PAGER", "NO_COLOR", "EDITOR", "VISUAL")
    }
    own = {"XDG_STATE_HOME": str(folder / "state"), "XDG_CONFIG_HOME": str(folder / "config"), "COLORFGBG": "15;0"}
    return {**usual, **own}


def played(made: Federation, *, burst: int = 1) -> Typist:
    """Type the session to its end."""
    for name in ("LINES", "COLUMNS"):
        os.environ.pop(name, None)
    person = typist([*REPL, "--home", "ns-admin"], folder=made.folder, environment=surroundings(made.folder))
    person.burst = burst
    person.until(r"ADMIN client │ [\w-]+ │ emacs │ \\help")  # the names of the federation are known by then

    ask(person, "edge:list()", r"\['LINE-1','LINE-2'\]")
    person.type("//peer: all\r")
    ask(person, "models:loaded()", r"2 peers: 2 rows")

    person.type("edge:add_gr\t")
    person.until(r"edge:add_group", prompt=False)
    person.type('("li')
    person.until(r"LINE-2 +edge", prompt=False)  # the menu
    person.type('ne-1", "staging"')
    person.until(r"edge:add_group\(String edge, String group\) -> Boolean", prompt=False)  # the toolbar
    ask(person, ")", r"true\n")

    person.type('edge:set_group_models("st\t, [{"name": "th\t, "version": "')
    person.until(r"1\.0 +version", prompt=False)
    ask(person, '1.0"}])', r"staging: 1 of 1 edge runs what it should")

    ask(person, "\\peer line-1", r"default peer: LINE-1[\s\S]*LINE-1 INTERACTIVE │")
    ask(person, 'models:infer("thermometer", [0, 100])["fahrenheit"]', r"tensor\('float32',\[32\.0,212\.0\]\)")
    ask(person, "models:infre(1)", r'no function "models:infre" — did you mean "models:infer"')

    ask(person, "set :degrees = [18.5, 21, 19.5, 24, 22]", r"done · ")
    person.type("select i, :degrees[i] as celsius, :degrees[i] * 9 / 5 + 32 as fahrenheit\r")
    ask(person, "from Integer i where i in iota(1, 5)", r"5 rows · ")
    ask(person, "\\export csv degrees.csv", r"5 rows in ")

    person.type("//plot: line\r")
    ask(person, "select x, sin(x / 8) from Integer x where x in iota(1, 100)", r"100 rows · ")

    ask(person, "\\explain //peer: group staging\rcount(models:loaded())", r"targets.*1: LINE-1")
    ask(person, "\\doc count", r"example: ")

    person.type(ENDLESS + "\r")
    person.interrupt()
    person.until(r"cancelled — LINE-1: cancelled")
    person.press("\x04")
    return person


def ask(person: Typist, text: str, wanted: str) -> str:
    person.type(text)
    person.press("\r")
    return person.until(wanted)
