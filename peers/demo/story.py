"""The story: from a folder to a release, to groups of edges, to answers; back again, and through failures.

Each function is a step; :data:`STORY` is their order. A step does what a person would do, with the statement or command
that does it, and checks what came of it. The federation, its groups and the models:

    nameserver          line-1  in staging             digits 1.0, 2.0 and a broken 3.0: examples/digits
    publisher           line-2  in production          file-types: Magika, from its package: examples/file-types
                        line-3  in production          house prices, as a pipeline: examples/house-price
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from peers.client import Answer
from peers.demo.houses import price_houses
from peers.demo.performance import ADMIN, Performance, by_peer
from peers.demo.stage import Stage
from peers.demo.telling import Telling

EDGES: Final = ("line-1", "line-2", "line-3")
SHOWN: Final = ("LINE-1", "LINE-2", "LINE-3")
GROUPS: Final = {"line-1": "staging", "line-2": "production", "line-3": "production"}
LOCAL: Final = ("--application-port", "0", "--zeroconf-interface", "127.0.0.1")
NAMESERVER: Final = ("nameserver", "--federation-host", "127.0.0.1", "--federation-port", "0", *LOCAL)
FOUNDING: Final = ("--federation", "demo", "--poll-interval", "1s~10%")
EDGE: Final = ("edge", *LOCAL)
FILE_TYPES_VERSION: Final = "3.3"

LOADED: Final = "//peer: all\nmodels:loaded()"
RIGHT: Final = "//peer: all\nright(:images, :labels)"


def perform(stage: Stage, telling: Telling, *, go_on: Callable[[], None]) -> None:
    """Play all steps. Raises the problem that ends the story early, or what ``go_on`` raises before a step."""
    with Performance(stage, telling) as play:
        for title, step in STORY:
            go_on()
            with telling.step(title):
                step(play)


# --- the federation -------------------------------------------------------------------------------------------------


def found_federation(play: Performance) -> None:
    play.start("nameserver", *NAMESERVER, *FOUNDING)
    _register(play, "publisher", "--role", "operator", "--publisher")
    for edge in EDGES:
        _register(play, edge)
    _at_once(lambda name: _join(play, name), ("publisher", *EDGES))
    root, admin = play.stage.home("nameserver-root"), play.stage.home(ADMIN)
    play.command("keys", "endorse", "publisher", "--root-home", str(root), "--home", str(admin))
    _at_once(lambda edge: play.start(edge, *EDGE), EDGES)
    peers = play.until("//peer: all\nthis_peer()", lambda answer: len(answer) == len(EDGES))
    play.check("three edges joined and answer over TLS", sorted(by_peer(peers).values()), list(SHOWN))


def _register(play: Performance, name: str, *role: str) -> None:
    play.command("register", name, *role, "--home", str(play.stage.home(ADMIN)), "--out", str(_bundle(play, name)))


def _join(play: Performance, name: str) -> None:
    play.command("join", str(_bundle(play, name)), "--home", str(play.stage.home(name)))
    _bundle(play, name).unlink()


def _bundle(play: Performance, name: str) -> Path:
    return play.stage.folder / f"{name}.bundle"


def _at_once(do: Callable[[str], None], names: Sequence[str]) -> None:
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(do, names))


def make_groups(play: Performance) -> None:
    for edge, group in GROUPS.items():
        play.ask(f'//peer: nameserver\nedge:add_group("{edge}", "{group}")')
    groups = play.value('//peer: nameserver\nedge:groups("line-2")')
    play.check("line-2 is in production", groups, ["production"])
    problem = play.refusal('edge:add_group("line-4", "staging")')
    play.check("an edge that does not exist is named, with the nearest", problem and problem.code, "unknown_name")


# --- releases -------------------------------------------------------------------------------------------------------


def publish_first(play: Performance) -> None:
    _publish_digits(play, "1.0")
    play.stage.script(play.stage.examples / "file-types" / "folder.py", str(_model_folder(play, "file-types")))
    play.ask(f'models:create_release("file-types", "{FILE_TYPES_VERSION}")', home="publisher")
    play.ask(f'models:publish("file-types", "{FILE_TYPES_VERSION}")', home="publisher")
    installed = play.value("//peer: nameserver\nmodels:installed()")
    play.check("both releases are in the repository", installed, ["digits@1.0", f"file-types@{FILE_TYPES_VERSION}"])


def deploy_first(play: Performance) -> None:
    for group in ("staging", "production"):
        play.ask(
            f'edge:set_group_models("{group}",\n  [{{"name": "digits", "version": "1.0"}},'
            f'\n   {{"name": "file-types", "version": "{FILE_TYPES_VERSION}"}}])'
        )
    wanted = ["digits@1.0", f"file-types@{FILE_TYPES_VERSION}"]
    _converge(play, dict.fromkeys(SHOWN, wanted))


def measure_first(play: Performance) -> None:
    right = _accuracies(play)
    play.fact("right", right)
    play.check_that(
        "every edge reads the held-out digits equally well", held=len(set(right.values())) == 1, found=right
    )
    play.check_that("the linear model reads 75 % to 90 %", held=0.75 < right["LINE-1"] < 0.90, found=right)


def name_files(play: Performance) -> None:
    files = {
        play.stage.examples / "digits" / "train.py": "python",
        play.stage.examples / "digits" / "README.md": "markdown",
        play.stage.examples / "digits" / "1.0" / "model.onnx": "onnx",
        Path(sys.executable).resolve(): "elf",
    }
    home = str(play.stage.home(ADMIN))
    ask = play.stage.examples / "file-types" / "ask.py"
    told = json.loads(play.stage.script(ask, "--home", home, "--peer", "line-3", "--json", *map(str, files)))
    shown = [f'"{kind}"  {Path(name).name}' for name, kind in told.items()]
    play.telling.statement("//peer: line-3\nfile_types(:features)", peer="line-3", shown=shown)
    play.fact("types", {Path(name).name: kind for name, kind in told.items()})
    play.check("a pre-trained model names the types of real files", list(told.values()), list(files.values()))


# --- up and down ----------------------------------------------------------------------------------------------------


def stage_second(play: Performance) -> None:
    _publish_digits(play, "2.0")
    _assign(play, "staging", "2.0")
    _converge_digits(play, {"LINE-1": "2.0", "LINE-2": "1.0", "LINE-3": "1.0"})
    right = _accuracies(play)
    play.fact("right", right)
    better = right["LINE-1"] > right["LINE-2"] + 0.05
    play.check_that("2.0 in staging reads measurably better than 1.0 in production", held=better, found=right)


def deploy_second(play: Performance) -> None:
    overtaken = _assign(play, "all", "2.0")
    play.fact("overtaken", overtaken)
    _converge_digits(play, dict.fromkeys(SHOWN, "2.0"))
    right = _accuracies(play)
    play.fact("right", right)
    play.check_that("every edge reads more than 95 %", held=min(right.values()) > 0.95, found=right)


def downgrade(play: Performance) -> None:
    _assign(play, "production", "1.0")
    play.ask('//peer: nameserver\nedge:explain("line-2", "digits")')
    _converge_digits(play, {"LINE-1": "2.0", "LINE-2": "1.0", "LINE-3": "1.0"})


def import_by_hand(play: Performance) -> None:
    play.ask('edge:set_poll_interval("line-3", "600s")')
    play.command("poll", "--home", str(play.stage.home("line-3")))
    play.ask('//peer: line-3\nmodels:import("digits", "2.0")')
    loaded = play.value("//peer: line-3\nmodels:loaded()")
    play.check("the import by hand takes effect at once", _digits(loaded), "digits@2.0")
    play.command("poll", "--home", str(play.stage.home("line-3")))
    after = play.until("//peer: line-3\nmodels:loaded()", lambda a: _digits(a.rows[0].value) == "digits@1.0")
    play.check("the next answered poll puts back what the group says", _digits(after.rows[0].value), "digits@1.0")
    play.ask('edge:set_poll_interval("line-3", "1s~10%")')
    play.command("poll", "--home", str(play.stage.home("line-3")))


# --- failures -------------------------------------------------------------------------------------------------------


def refuse_broken(play: Performance) -> None:
    _place_digits(play, "3.0-broken")
    problem = play.refusal('models:create_release("digits", "3.0")', home="publisher")
    play.check("making the release runs its vectors and refuses", problem and problem.code, "failed_vectors")
    play.ask('models:create_release("digits", "3.0", {"test": false})', home="publisher")
    play.ask('models:publish("digits", "3.0")', home="publisher")
    _assign(play, "staging", "3.0")
    state = play.until('//peer: nameserver\nedge:actual_state("line-1")', lambda answer: bool(_errors(answer)))
    (error,) = _errors(state)
    play.fact("error", error)
    play.check(
        "published all the same, the edge refuses it",
        [error["model"], error["error"]],
        ["digits@3.0", "failed_vectors"],
    )
    loaded = play.value("//peer: line-1\nmodels:loaded()")
    play.check("the release before stays loaded", _digits(loaded), "digits@2.0")
    right = _accuracies(play)
    play.fact("right", right)
    play.check_that("and answers as before", held=right["LINE-1"] > 0.95, found=right)


def lose_nameserver(play: Performance) -> None:
    for name in ("nameserver", "line-2"):
        play.hang_up(name)
    play.hang_up(ADMIN)
    play.fact("killed", {name: play.stage.kill(name) for name in ("nameserver", "line-2")})
    play.start("line-2", *EDGE)
    loaded = play.value("models:loaded()", home="line-2")
    play.check("restarted alone, it has loaded what it ran", _digits(loaded), "digits@1.0")
    held_out = _held_out(play)
    right = play.value("right(:images, :labels)", home="line-2", params=held_out)
    play.fact("right", right)
    play.check_that("and still reads digits", held=0.75 < right < 0.90, found=right)


def return_nameserver(play: Performance) -> None:
    before = play.stage.records["nameserver"]["federation"]
    play.start("nameserver", *NAMESERVER)
    after = play.stage.records["nameserver"]["federation"]
    play.fact("addresses", [before, after])
    peers = play.until("//peer: all\nthis_peer()", lambda answer: len(answer) == len(EDGES))
    play.check("the edges found it at its new port by zeroconf", sorted(by_peer(peers).values()), list(SHOWN))


def show_final_state(play: Performance) -> None:
    wanted = {"line-1": "digits@2.0", "line-2": "digits@1.0", "line-3": "digits@1.0"}
    states = {}
    for edge, release in wanted.items():
        state = play.value(f'//peer: nameserver\nedge:actual_state("{edge}")')
        states[edge] = state
        play.check(
            f"{edge} runs what its groups say, or the best it could verify", _digits(state["models:loaded"]), release
        )
    play.fact("states", states)
    play.ask('//peer: nameserver\nedge:explain("line-1", "digits")')


# --- what steps share -----------------------------------------------------------------------------------------------


def _model_folder(play: Performance, name: str) -> Path:
    return play.stage.home("publisher") / "models" / name


def _publish_digits(play: Performance, version: str) -> None:
    _place_digits(play, version)
    play.ask(f'models:create_release("digits", "{version}")', home="publisher")
    play.ask(f'models:publish("digits", "{version}")', home="publisher")


def _place_digits(play: Performance, example: str) -> None:
    """Put an example in the place of the publisher's folder."""
    target = _model_folder(play, "digits")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(play.stage.examples / "digits" / example, target)


def _assign(play: Performance, group: str, version: str) -> Any:
    return play.value(f'edge:set_group_models("{group}", [{{"name": "digits", "version": "{version}"}}])')


def _converge_digits(play: Performance, wanted: dict[str, str]) -> None:
    _converge(
        play, {edge: [f"digits@{version}", f"file-types@{FILE_TYPES_VERSION}"] for edge, version in wanted.items()}
    )


def _converge(play: Performance, wanted: dict[str, list[str]]) -> None:
    def as_wanted(answer: Answer) -> bool:
        return {edge: sorted(loaded) for edge, loaded in by_peer(answer).items()} == wanted

    loaded = by_peer(play.until(LOADED, as_wanted))
    play.fact("loaded", loaded)
    play.check_that("every edge runs what its groups say", held=True)


def _accuracies(play: Performance) -> dict[str, float]:
    """The part of the held-out digits that each edge reads rightly."""
    return by_peer(play.ask(RIGHT, params=_held_out(play)))


def _held_out(play: Performance) -> dict[str, Any]:
    import numpy as np

    rows = json.loads((play.stage.examples / "digits" / "held-out.json").read_text("utf-8"))
    return {
        "images": np.array([row["image"] for row in rows], dtype=np.float32),
        "labels": np.array([row["label"] for row in rows], dtype=np.int64),
    }


def _digits(loaded: list[str]) -> str | None:
    return next((release for release in loaded if release.startswith("digits@")), None)


def _errors(answer: Answer) -> list[dict[str, Any]]:
    return list(answer.rows[0].value["last_load_errors"])


STORY: Final[tuple[tuple[str, Callable[[Performance], None]], ...]] = (
    ("a nameserver founds a federation; a publisher and three edges join it with bundles", found_federation),
    ("three edges in two groups", make_groups),
    ("a publisher signs and publishes two models", publish_first),
    ("digits 1.0 and file-types for both groups", deploy_first),
    ("how many held-out digits each edge reads rightly", measure_first),
    ("a pre-trained model names the types of files on this machine", name_files),
    ("digits 2.0 for staging only", stage_second),
    ("digits 2.0 for all", deploy_second),
    ("a pipeline of house prices in production, swapped in place while a program asks it", price_houses),
    ("back to 1.0 in production: the latest assignment wins, not the highest version", downgrade),
    ("2.0 imported by hand on line-3, until its next poll", import_by_hand),
    ("digits 3.0, published although its test vectors fail, is refused on the edge", refuse_broken),
    ("the nameserver and line-2 killed with -9; line-2 restarted alone", lose_nameserver),
    ("the nameserver started again, at another port", return_nameserver),
    ("the final state of every edge", show_final_state),
)
