"""Completion at the prompt, the toolbar below it, colours, preferences."""

from pathlib import Path

import pytest

from peers.knowledge import offline
from peers.palettes import DARK, LIGHT, NEUTRAL, NONE, background_of, chosen_palette
from peers.repl.commands import BY_NAME, COMMANDS, help_text
from peers.repl.completing import offers
from peers.repl.documentation import described, filled
from peers.repl.preferences import BadPreferences, Preferences, preferences_file, read_preferences, write_preferences
from peers.repl.toolbar import Standing, toolbar
from query.knowledge import Kind, Knowledge


@pytest.fixture(scope="module")
def known() -> Knowledge:
    names = {Kind.PEER: ("LINE-1", "LINE-2", "ADMIN"), Kind.EDGE: ("LINE-1", "LINE-2"), Kind.GROUP: ("staging", "all")}
    more = {Kind.MODEL: ("thermometer",), **names}
    bare = offline()
    return Knowledge(bare.catalogue, more, {"thermometer": ("2.0", "1.0")}, bare.keys).with_variables({"limits": [1]})


def offered(text: str, known: Knowledge, folder: Path = Path("/")) -> list[str]:
    """What the text becomes, for each offer."""
    return [text[: len(text) - one.length] + one.text for one in offers(text, len(text), known, folder=folder)]


def test_statements_are_completed_from_what_is_known(known: Knowledge) -> None:
    assert 'edge:add_group("line-1' not in offered('edge:add_group("li', known)
    assert offered('edge:add_group("li', known)[:2] == ['edge:add_group("LINE-1"', 'edge:add_group("LINE-2"']
    assert offered('edge:add_group("LINE-1", "st', known) == ['edge:add_group("LINE-1", "staging"']
    assert offered('edge:set_group_models("all", [{"name": "thermometer", "version": "', known)[:2] == [
        'edge:set_group_models("all", [{"name": "thermometer", "version": "2.0"',
        'edge:set_group_models("all", [{"name": "thermometer", "version": "1.0"',
    ]
    assert "edge:status(:e).joined" in offered("edge:status(:e).jo", known)
    assert offered(":lim", known) == [":limits"]
    assert "//peer: LINE-1" in offered("//peer: li", known)
    assert "//plot: histogram" in offered("//plot: h", known)
    assert "edge:add_group" in offered("edge:add_", known)


def test_commands_are_completed_and_their_statements_too(known: Knowledge, tmp_path: Path) -> None:
    assert offered("\\wa", known) == ["\\watch"]
    assert len(offered("\\", known)) == len(COMMANDS)
    assert offered("\\peer line", known) == ["\\peer LINE-1", "\\peer LINE-2"]
    assert offered("\\doc edge:add_g", known) == ["\\doc edge:add_group"]
    assert offered("\\export c", known) == ["\\export csv"]
    assert offered("\\keys v", known) == ["\\keys vi"]
    assert offered('\\explain edge:add_group("line-1', known) == ['\\explain edge:add_group("LINE-1"']
    assert offered('\\watch 2s x3 edge:groups("line-2', known) == ['\\watch 2s x3 edge:groups("LINE-2"']
    (tmp_path / "story.pql").touch()
    (tmp_path / "stores").mkdir()
    assert offered("\\run sto", known, tmp_path) == ["\\run stores/", "\\run story.pql"]
    assert offered('< "sto', known, tmp_path) == ['< "stores/', '< "story.pql']
    assert offered("\\export csv st", known, tmp_path) == ["\\export csv stores/", "\\export csv story.pql"]
    assert offered("\\nonsense x", known) == []


def test_what_stands_behind_the_cursor_is_not_said_twice(known: Knowledge) -> None:
    text = 'edge:groups("LI")'
    found = next(offers(text, text.index(")") - 1, known, folder=Path("/")))
    assert (found.text, found.length) == ("LINE-1", 2)


def standing(**more: object) -> Standing:
    usual = {
        "federation": "mine", "name": "ADMIN", "default": None, "mode": "client", "ledger": "", "editing": "emacs",
        "learned": True,
    }  # fmt: skip
    return Standing(**{**usual, **more})  # type: ignore[arg-type]


def bar(text: str, known: Knowledge, *, width: int = 100, **more: object) -> list[str]:
    found = toolbar(text, len(text), known, standing(**more), width=width)
    return "".join(piece for _, piece in found).split("\n")


def test_the_toolbar_says_whom_mode_and_ledger(known: Knowledge) -> None:
    assert bar("", known) == [" ADMIN client │ mine │ emacs │ \\help"]
    assert bar("1", known, default="LINE-1", mode="INTERACTIVE", ledger="2 peers: 1 rows, 1 timeout · 5 ms") == [
        " LINE-1 INTERACTIVE │ mine: as ADMIN │ 2 peers: 1 rows, 1 timeout · 5 ms │ emacs │ \\help"
    ]
    assert bar("", known, width=30, ledger="x" * 40) == [" ADMIN client │ mine"]
    assert bar("select a\n", known) == [" ADMIN client │ mine │ emacs │ an empty line runs it"]
    assert bar("", known, learned=False) == [" ADMIN client │ mine │ emacs · learning names… │ \\help"]


def test_the_toolbar_has_the_signature_with_the_parameter_under_way(known: Knowledge) -> None:
    text = 'edge:add_group("a", '
    signature, _ = bar(text, known)
    assert signature.startswith("edge:add_group(String edge, String group) -> Boolean  ")
    assert len(signature) <= 100
    fragments = toolbar(text, len(text), known, standing(), width=100)
    assert ("active", "String group") in fragments
    assert bar("\\peer edge:add_group(", known) == bar("", known)


def test_every_command_is_documented_once() -> None:
    text = help_text(80)
    assert all(command.form in text for command in COMMANDS)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert len(BY_NAME) == sum(1 + len(command.also) for command in COMMANDS)
    assert {"peer", "help", "doc", "explain", "export", "edit", "watch", "time"} <= set(BY_NAME)


def test_palettes_follow_the_person_then_the_terminal() -> None:
    assert chosen_palette({}, theme="light", background=(0, 0, 0)) is LIGHT
    assert chosen_palette({"NO_COLOR": "1"}, background=(0, 0, 0)) is NONE
    assert chosen_palette({"NO_COLOR": "1"}, theme="dark") is DARK
    assert chosen_palette({"TERM": "dumb"}) is NONE
    assert chosen_palette({}, background=(20, 20, 40)) is DARK
    assert chosen_palette({}, background=(250, 250, 240)) is LIGHT
    assert chosen_palette({"COLORFGBG": "15;0"}) is DARK
    assert chosen_palette({"COLORFGBG": "0;default;15"}) is LIGHT
    assert chosen_palette({}) is NEUTRAL
    assert "bright" not in "".join(LIGHT.styles.values())
    assert DARK.prompt_style("keyword") == "bold ansibrightblue"


def test_a_terminal_tells_its_background() -> None:
    assert background_of("\x1b]11;rgb:ffff/8080/0000\x1b\\") == (255, 128, 0)
    assert background_of("\x1b]11;rgb:f/8/0\x07") == (255, 136, 0)
    assert background_of("\x1b[?6c") is None


def test_preferences_are_kept_and_checked(tmp_path: Path) -> None:
    path = preferences_file({"XDG_CONFIG_HOME": str(tmp_path)})
    assert path == tmp_path / "peerage" / "repl.toml"
    assert read_preferences(path) == Preferences()
    wanted = Preferences(keys="vi", time=False, pager="less -S", converge=0.0)
    write_preferences(path, wanted)
    assert read_preferences(path) == wanted
    assert "theme" not in path.read_text()
    for wrong in ('keys = "vim"', "colour = 1", "keys = ", "converge = -1.0"):
        path.write_text(wrong)
        with pytest.raises(BadPreferences) as problem:
            read_preferences(path)
        assert str(path) in problem.value.message


def test_documentation_fills_the_screen(known: Knowledge) -> None:
    declared = known.catalogue.lookup("edge:converged")
    lines = ["".join(text for _, text in line) for line in described(declared, width=60)]
    assert lines[0] == "edge:converged(String edge_or_group, Number seconds?) -> Record"
    assert lines[1] == "  at home at the nameserver; role viewer; reads"
    assert all(len(line) <= 60 for line in lines[1:])
    assert "`" not in "".join(lines)
    assert lines[-1].startswith("  example: edge:converged(")
    parts = [part for line in described(declared, width=60) for part, _ in line]
    assert {"function", "dim", "string"} <= set(parts)
    assert list(filled("one\ntwo\n\n    code  as it is\n\n- a\n- b", 40)) == [
        "one two", "", "    code  as it is", "", "- a", "- b",
    ]  # fmt: skip


def test_every_function_can_be_shown(known: Knowledge) -> None:
    for name in known.catalogue.names():
        for line in described(known.catalogue.lookup(name), width=80):
            assert "\n" not in "".join(text for _, text in line)
