"""The place where the mistakes of docs/mistakes.md are made: a small federation, as a newcomer has one after a day.

ns, ns-admin, ns-root    the nameserver that runs, the first admin, the root key
line-1                   an edge that runs, in the group staging, with thermometer@1.0
line-2                   an edge that was registered and never joined; its bundle is line-2.bundle
ada                      a publisher, endorsed; eve, one who is not; bob, an operator without a key
line-1.bundle            used; late.bundle of line-3 is two days old; cut.bundle ends in the middle
notes                    a folder with something else in it
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import shlex
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peers.cli import main
from tests.demo.terminal import Terminal, terminal

FAKETIME = shutil.which("faketime")
FEDERATION = f"mine-{secrets.token_hex(4)}"  # one of its own, so that nobody else's is discovered
NAMESERVER = f"peerage nameserver --home ns --federation {FEDERATION} --poll-interval 1s &"
IN_PROCESS = ("query", "join", "register")
ASKED_MAX = 200  # whether a model has come to the edge


@contextmanager
def prepared(folder: Path) -> Iterator[Terminal]:
    if FAKETIME is not None:
        with terminal(folder) as before:
            before.run(f"{FAKETIME} -f -2d {NAMESERVER}")
            _done(before, "peerage register line-3 --home ns-admin --out late.bundle")
            # faketime waits for what it started, and would end without it
            os.kill(json.loads((folder / "ns" / "run.json").read_text("utf-8"))["pid"], signal.SIGTERM)
    with terminal(folder) as place:
        place.run(NAMESERVER)
        _done(place, *_member("line-1"), _member("line-2")[0])
        (folder / "cut.bundle").write_text((folder / "line-2.bundle").read_text("ascii")[:300], "ascii")
        place.run("peerage edge --home line-1 &")
        for name, options in (("ada", "--publisher"), ("eve", "--publisher"), ("bob", "")):
            _done(place, *_member(name, f"--role operator {options}"))
        _done(
            place,
            "peerage keys endorse ada --root-home ns-root --home ns-admin",
            """peerage query --home ada 'models:create("thermometer"); models:create_release("thermometer", "1.0")'""",
            """peerage query --home ada 'models:publish("thermometer", "1.0")'""",
            """peerage query --home bob 'models:create("fan")'""",
            """peerage query --home eve 'models:create("pump"); models:create_release("pump", "1.0")'""",
            """peerage query --home ns-admin 'edge:add_group("line-1", "staging")'""",
            "peerage query --home ns-admin "
            """'edge:set_group_models("staging", [{"name": "thermometer", "version": "1.0"}])'""",
            "peerage poll --home line-1",
        )
        (folder / "notes").mkdir()
        (folder / "notes" / "todo.txt").write_text("hello", "ascii")
        _loaded(place)
        yield place


def application_address(folder: Path) -> str:
    """Where the nameserver's application face listens."""
    return str(json.loads((folder / "ns" / "run.json").read_text("utf-8"))["application"])


def _member(name: str, options: str = "") -> tuple[str, str]:
    register = f"peerage register {name} {options} --home ns-admin --out {name}.bundle"
    return register, f"peerage join --home {name} {name}.bundle"


def said(place: Terminal, command: str) -> list[str]:
    """What a command prints, on both its outputs.

    A plain command runs in this process, by the function that ``peerage`` calls; what needs a shell is given to one.
    """
    words = shlex.split(command) if command.startswith("peerage ") else []
    if len(words) < 2 or words[1] not in IN_PROCESS or "$" in command:
        return place.run(command)
    return _typed(place, words[1:])[1]


def _typed(place: Terminal, words: list[str]) -> tuple[int, list[str]]:
    """The status of a command, and what it prints."""
    out = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        patch.chdir(place.folder)
        for name in [name for name in os.environ if name.startswith("PEERAGE_")]:
            patch.delenv(name)
        for name, value in place.environment.items():
            patch.setenv(name, value)
        try:
            status = main(words)
        except SystemExit as left:  # a command line that makes no sense
            status = int(left.code or 0)
    return status, out.getvalue().splitlines()


def _done(place: Terminal, *commands: str) -> None:
    for command in commands:
        status, printed = _typed(place, shlex.split(command)[1:])
        assert status == 0, "\n".join([command, *printed])


def _loaded(place: Terminal) -> None:
    for _ in range(ASKED_MAX):
        if said(place, "peerage query --home line-1 'models:loaded()'") == ["['thermometer@1.0']"]:
            return
        time.sleep(0.05)  # a poll of a real process, bounded above
    raise AssertionError("line-1 did not load thermometer@1.0")
