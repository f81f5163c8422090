"""The editor server over pipes, against a living federation and without any: requests, notifications, runs."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from peers.client import AsyncConnection, connect_async
from peers.lsp.runs import RUNS_MAX
from peers.workspace import FILE
from tests.editor.talking import Editor, Refused, editing, text_of
from tests.shell.running import PEERAGE, environment
from tests.wire.living import Living, living

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = "//peer: E1\nselect a + b + c from a in range(1, 60), b in range(1, 60), c in range(1, 60)"
INCOMPLETE = "textDocument/completion"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def federation(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Living]:
    async with living(tmp_path_factory.mktemp("federation"), "E1", "E2") as made:
        await made.value('edge:add_group("E1", "lab")')
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def editor(federation: Living, tmp_path: Path) -> AsyncIterator[Editor]:
    """An editor on a workspace of its own, whose server has heard the federation's catalogue."""
    async with editing(lambda: connect_async(federation.admin.path)) as made:
        await made.start(tmp_path)
        await made.until("peerage/state", lambda state: state["catalogue"] == "ADMIN")
        yield made


def nowhere(folder: Path) -> AsyncConnection:
    return connect_async(folder / "nobody")


def uri_in(folder: Path, name: str = "a.pql") -> str:
    return (folder / name).as_uri()


def labels(completions: dict[str, Any]) -> list[str]:
    return [item["label"] for item in completions["items"]]


def frames(editor: Editor, run: str) -> list[dict[str, Any]]:
    return [one["params"] for one in editor.told if one["method"] == "peerage/frame" and one["params"]["id"] == run]


async def lenses(editor: Editor, uri: str) -> list[str]:
    found = await editor.ask("textDocument/codeLens", {"textDocument": {"uri": uri}})
    return [lens["command"]["title"] for lens in found]


async def test_it_works_without_a_peer(tmp_path: Path) -> None:
    async with editing(lambda: nowhere(tmp_path)) as editor:
        capabilities = await editor.start(tmp_path)
        assert capabilities["textDocumentSync"]["change"] == 1
        state = await editor.until("peerage/state")
        assert (state["connected"], state["catalogue"]) == (None, None)
        assert "nobody" in state["reason"]
        uri = uri_in(tmp_path)
        editor.open(uri, "")
        assert labels(await editor.at(INCOMPLETE, uri, "edge:add_¦")) == ["edge:add_group"]
        assert labels(await editor.at(INCOMPLETE, uri, 'edge:set_group_models("g", [{"¦'))[:1] == ["repo"]
        (problem,) = await editor.problems(uri, "1;\nedge:grops()")
        assert problem["range"]["start"] == {"line": 1, "character": 0}
        assert await lenses(editor, uri) == ["default peer: none", "run on this peer", "run on this peer"]
        formatting = {"textDocument": {"uri": uri}, "options": {"tabSize": 4, "insertSpaces": True}}
        edits = await editor.ask("textDocument/formatting", formatting)
        assert text_of(edits, "1;\nedge:grops()") == "1;\nedge:grops();\n"
        with pytest.raises(Refused, match="nobody"):
            await editor.ask("peerage/run", {"id": "a", "text": "1 + 1"})


async def test_it_goes_on_with_a_peer_once_one_answers(federation: Living, tmp_path: Path) -> None:
    """The home appears while the editor is open; the next thing that is asked finds it."""
    reachable = False

    def connect() -> AsyncConnection:
        return connect_async(federation.admin.path) if reachable else nowhere(tmp_path)

    async with editing(connect) as editor:
        await editor.start(tmp_path)
        await editor.until("peerage/state", lambda state: state["connected"] is None)
        reachable = True
        ran = await editor.ask("peerage/run", {"id": "a", "text": "1 + 1"})
        assert ran["complete"]
        await editor.until("peerage/state", lambda state: state["catalogue"] == "ADMIN")


async def test_names_come_from_the_federation(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    editor.open(uri, "")
    assert labels(await editor.at(INCOMPLETE, uri, 'edge:groups("¦')) == ["E1", "E2"]
    assert labels(await editor.at(INCOMPLETE, uri, "//peer: e¦")) == ["E1", "E2", "where"][:2]
    assert "lab" in labels(await editor.at(INCOMPLETE, uri, "//peer: group ¦"))
    (warning,) = await editor.problems(uri, "//peer: E3\n1")
    assert (warning["severity"], warning["message"].partition(" — ")[0]) == (2, 'no peer "E3"')


async def test_places_count_in_utf_16(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    editor.open(uri, "")
    (problem,) = await editor.problems(uri, "'😀' || nosuch_at_all(1)")
    assert (problem["range"]["start"]["character"], problem["range"]["end"]["character"]) == (8, 21)
    item = (await editor.at(INCOMPLETE, uri, "'😀' || edge:add_g¦"))["items"][0]
    assert item["textEdit"]["range"]["start"]["character"] == 8


async def test_a_function_that_the_peer_s_user_made_is_known(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    editor.open(uri, "")
    text = "create function of_the_house(Integer x) -> Integer /* ours */ as x"
    assert (await editor.ask("peerage/run", {"id": "a", "text": text}))["complete"]
    found: list[str] = []
    while found != ["of_the_house"]:  # it is fetched beside the work
        found = labels(await editor.at(INCOMPLETE, uri, "of_the¦"))
    hover = await editor.at("textDocument/hover", uri, "of_the_ho¦use(1)")
    assert "ours" in hover["contents"]["value"]
    assert "of user" in hover["contents"]["value"]
    await editor.ask("peerage/run", {"id": "a", "text": "delete function of_the_house"})


async def test_frames_come_before_the_result(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    editor.open(uri, "//peer: all\nthis_peer();\nset :a = 40;\n :a + 2;\n nosuch_at_all(:a);\n")
    result = await editor.ask("peerage/run", {"id": "a", "uri": uri})
    told = frames(editor, "a")
    kinds = [one["frame"]["frame"] for one in told]
    assert kinds == ["schema", "row", "row", "end", "schema", "end", "schema", "row", "end", "schema", "error", "end"]
    assert sorted(one["text"] for one in told[1:3]) == ['E1: "E1"', 'E2: "E2"']
    assert told[7]["text"] == "42"
    assert told[10]["range"]["start"] == {"line": 4, "character": 1}
    shown = {name: result[name] for name in ("id", "complete", "cancelled", "statements", "rows", "told", "errors")}
    assert shown == {
        "id": "a",
        "complete": False,
        "cancelled": False,
        "statements": 4,
        "rows": 3,
        "told": 3,
        "errors": 1,
    }


async def test_the_session_s_variables_last_and_are_completed(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    editor.open(uri, "")
    await editor.ask("peerage/run", {"id": "a", "text": 'set :state = {"one": 1, "two": {"three": 3}}'})
    assert labels(await editor.at(INCOMPLETE, uri, ":state.two.¦")) == ["three"]
    assert await editor.problems(uri, ":state.one") == []
    await editor.ask("peerage/run", {"id": "a", "text": ":state.two.three + :more", "params": {"more": 4}})
    assert [one["text"] for one in frames(editor, "a") if one["frame"]["frame"] == "row"] == ["7"]


async def test_an_editor_on_the_home_of_a_peer_that_runs(federation: Living, tmp_path: Path) -> None:
    """Over the socket of an edge: its catalogue, a session that lasts, and cancelling one run of several."""
    async with editing(lambda: connect_async(federation.home("E1").path)) as editor:
        await editor.start(tmp_path)
        await editor.until("peerage/state", lambda state: state["catalogue"] == "E1")
        uri = "untitled:Untitled-1"  # a text that was never saved
        editor.open(uri, "")
        assert labels(await editor.at(INCOMPLETE, uri, 'edge:groups("¦')) == ["E1", "E2"]
        assert (await editor.ask("peerage/run", {"id": "a", "text": 'set :state = {"one": 1}'}))["complete"]
        assert labels(await editor.at(INCOMPLETE, uri, ":state.¦")) == ["one"]
        editor.change(uri, ":state")
        assert await lenses(editor, uri) == ["default peer: E1", "run on E1"]
        begun = {run: editor.begin("peerage/run", {"id": run, "text": LONG})[1] for run in ("long", "other")}
        for run in begun:
            await editor.until(
                "peerage/frame", lambda told, run=run: told["id"] == run and told["frame"]["frame"] == "row"
            )
        assert await editor.ask("peerage/cancel", {"id": "long"})
        assert (await begun["long"])["result"]["cancelled"]
        assert frames(editor, "long")[-1]["frame"]["ledger"]["outcomes"][0]["state"] == "cancelled"
        assert not begun["other"].done()


async def test_a_default_peer_that_does_not_answer(federation: Living, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('default_peer = "E9"\n')
    async with editing(lambda: connect_async(federation.admin.path)) as editor:
        await editor.start(tmp_path)
        state = await editor.until("peerage/state", lambda state: state["connected"] and state["reason"])
        assert state == {
            "connected": "ADMIN",
            "reason": "E9 does not tell its functions",
            "defaultPeer": "E9",
            "catalogue": None,
        }
        uri = uri_in(tmp_path)
        editor.open(uri, "")
        assert "E1" in labels(await editor.at(INCOMPLETE, uri, 'edge:groups("¦'))
        (warning,) = await editor.problems(uri, "their_function(1)")
        assert warning["severity"] == 2


async def test_a_statement_by_its_place_or_range(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    editor.open(uri, "1;\n\n//peer: E2\nthis_peer(\n);\n3 +")
    for place, answer in ((0, "1"), (1, "1"), (2, '"E2"'), (3, '"E2"'), (4, '"E2"')):
        await editor.ask("peerage/run", {"id": "a", "uri": uri, "position": {"line": place, "character": 0}})
        assert [one["text"] for one in frames(editor, "a") if one["frame"]["frame"] == "row"][-1] == answer
    part = {"start": {"line": 3, "character": 0}, "end": {"line": 4, "character": 1}}
    await editor.ask("peerage/run", {"id": "a", "uri": uri, "range": part, "peer": "E1"})
    assert [one["text"] for one in frames(editor, "a") if one["frame"]["frame"] == "row"][-1] == '"E1"'


async def test_rows_beyond_what_is_wanted_are_counted(editor: Editor) -> None:
    request = {"id": "a", "text": "select x from x in range(1, 50)", "rowsMax": 10}
    result = await editor.ask("peerage/run", request)
    assert (result["rows"], result["told"], result["complete"]) == (50, 10, True)


async def test_cancelling_ends_with_a_ledger_and_leaves_nothing_running(editor: Editor, federation: Living) -> None:
    _, answer = editor.begin("peerage/run", {"id": "long", "text": LONG})
    _, other = editor.begin("peerage/run", {"id": "other", "text": LONG})
    for run in ("long", "other"):
        await editor.until("peerage/frame", lambda told, run=run: told["id"] == run and told["frame"]["frame"] == "row")
    assert await editor.ask("peerage/cancel", {"id": "long"}) is True
    result = (await answer)["result"]
    assert (result["cancelled"], result["complete"]) == (True, False)
    end = frames(editor, "long")[-1]["frame"]
    assert [outcome["state"] for outcome in end["ledger"]["outcomes"]] == ["cancelled"]
    assert not other.done()  # the one that was named, no other
    assert await editor.ask("peerage/cancel", {"id": "other"}) is True
    assert (await other)["result"]["cancelled"]
    assert await editor.ask("peerage/cancel", {"id": "other"}) is False
    await federation.until("//peer: E1\ncount(query:list())", 1)


async def test_a_request_that_is_taken_back_stops_everywhere(editor: Editor, federation: Living) -> None:
    number, answer = editor.begin("peerage/run", {"id": "long", "text": LONG})
    await editor.until("peerage/frame", lambda told: told["frame"]["frame"] == "row")
    editor.notify("$/cancelRequest", {"id": number})
    assert (await answer)["error"]["code"] == -32800
    await federation.until("//peer: E1\ncount(query:list())", 1)
    assert (await editor.ask("peerage/run", {"id": "long", "text": "1"}))["complete"]  # its id is free again


async def test_an_editor_that_goes_away_leaves_nothing_running(federation: Living, tmp_path: Path) -> None:
    async with editing(lambda: connect_async(federation.admin.path)) as editor:
        await editor.start(tmp_path)
        editor.begin("peerage/run", {"id": "long", "text": LONG})
        await editor.until("peerage/frame", lambda told: told["frame"]["frame"] == "row")
    await federation.until("//peer: E1\ncount(query:list())", 1)


async def test_more_runs_than_there_may_be(editor: Editor) -> None:
    begun = [editor.begin("peerage/run", {"id": f"{number}", "text": LONG})[1] for number in range(RUNS_MAX)]
    with pytest.raises(Refused, match="16 runs are under way"):
        await editor.ask("peerage/run", {"id": "more", "text": "1"})
    with pytest.raises(Refused, match='a run "0" is under way'):
        await editor.ask("peerage/run", {"id": "0", "text": "1"})
    for number in range(RUNS_MAX):
        await editor.ask("peerage/cancel", {"id": f"{number}"})
    for one in begun:
        assert (await one)["result"]["cancelled"]


NO_REQUESTS: list[tuple[Any, str]] = [
    ({}, "missing required field `id`"),
    ({"id": "a"}, "expected text, or uri"),
    ({"id": "a", "text": "1", "tekst": "1"}, "unknown field `tekst`"),
    ({"id": 1, "text": "1"}, "Expected `str`"),
    ({"id": "", "text": "1"}, "an id of 1 to 128"),
    ({"id": "a" * 129, "text": "1"}, "an id of 1 to 128"),
    ({"id": "a", "text": "1", "rowsMax": -1}, "rowsMax of at least 0"),
    ({"id": "a", "text": "1", "position": {"line": 0, "character": 0}}, "found text"),
    (None, "missing required field"),
    ([1], "Expected `object`"),
]


async def test_what_is_no_request_runs_nothing(editor: Editor) -> None:
    for request, why in NO_REQUESTS:
        with pytest.raises(Refused, match=why) as refused:
            await editor.ask("peerage/run", request)
        assert refused.value.error["data"]["code"] == "bad_editor_message"
    assert frames(editor, "a") == []


async def test_a_run_that_cannot_begin_tells_why_as_a_frame(editor: Editor) -> None:
    result = await editor.ask("peerage/run", {"id": "a", "text": "1", "timeoutS": -1})
    assert (result["complete"], result["errors"]) == (False, 1)
    assert "timeout" in frames(editor, "a")[0]["text"]


async def test_the_default_peer_is_kept_for_the_workspace(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    editor.open(uri, "this_peer();\nedge:list();\n//peer: E2\n1;")
    assert await lenses(editor, uri) == ["default peer: ADMIN", "run on ADMIN", "run on nameserver", "run on E2"]
    kept = await editor.ask("peerage/setDefaultPeer", {"peer": "E1", "uri": uri})
    assert kept == {"defaultPeer": "E1", "file": str(tmp_path / FILE)}
    assert (tmp_path / FILE).read_text() == 'default_peer = "E1"\n'
    await editor.until("peerage/state", lambda state: state["catalogue"] == "E1")
    assert (await lenses(editor, uri))[:2] == ["default peer: E1", "run on E1"]
    await editor.ask("peerage/run", {"id": "a", "uri": uri, "position": {"line": 0, "character": 0}})
    assert [one["text"] for one in frames(editor, "a") if one["frame"]["frame"] == "row"] == ['"E1"']
    assert (await editor.ask("peerage/peers", {}))["peers"][0] == "nameserver"
    with pytest.raises(Refused, match="no name of a peer"):
        await editor.ask("peerage/setDefaultPeer", {"peer": "no peer"})
    assert (await editor.ask("peerage/setDefaultPeer", {"peer": None}))["defaultPeer"] is None
    assert (tmp_path / FILE).read_text() == ""


async def test_another_program_s_choice_is_heard(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    editor.open(uri, "1")
    (tmp_path / FILE).write_text('default_peer = "nameserver"\n')
    changed = {"changes": [{"uri": (tmp_path / FILE).as_uri(), "type": 1}]}
    editor.notify("workspace/didChangeWatchedFiles", changed)
    await editor.until("peerage/state", lambda state: state["defaultPeer"] == "nameserver")
    (tmp_path / FILE).write_text("default_peer = 3\n")
    editor.notify("workspace/didChangeWatchedFiles", changed)
    state = await editor.until("peerage/state", lambda state: state["defaultPeer"] is None)
    assert "expected the name of a peer" in state["reason"]


async def test_choosing_from_the_peers(editor: Editor, tmp_path: Path) -> None:
    editor.chooses = "E2"
    command = {"command": "peerage.chooseDefaultPeer", "arguments": [{"uri": uri_in(tmp_path)}]}
    assert (await editor.ask("workspace/executeCommand", command))["defaultPeer"] == "E2"
    asked = await editor.until("window/showMessageRequest")
    assert asked["actions"][0]["title"] == "nameserver"
    editor.chooses = None
    assert await editor.ask("workspace/executeCommand", command) is None
    command = {"command": "peerage.setDefaultPeer", "arguments": ["E1"]}
    assert (await editor.ask("workspace/executeCommand", command))["defaultPeer"] == "E1"
    with pytest.raises(Refused, match="found 3"):
        await editor.ask("workspace/executeCommand", {"command": "peerage.setDefaultPeer", "arguments": [3]})


async def test_the_peer_of_the_command_line_goes_before_the_workspace_s(federation: Living, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('default_peer = "E1"\n')
    async with editing(lambda: connect_async(federation.admin.path), peer="E2") as editor:
        await editor.start(tmp_path)
        assert (await editor.until("peerage/state", lambda state: state["catalogue"]))["catalogue"] == "E2"
        command = {"command": "peerage.run", "arguments": [{"text": "this_peer()"}]}
        assert (await editor.ask("workspace/executeCommand", command))["text"] == '"E2"'


async def test_the_command_of_a_lens_answers_with_text(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    editor.open(uri, "1 + 1; //\n//peer: all\nthis_peer()")
    found = await editor.ask("textDocument/codeLens", {"textDocument": {"uri": uri}})
    commands = [lens["command"] for lens in found if lens["command"]["command"] == "peerage.run"]
    answered = [
        (await editor.ask("workspace/executeCommand", {key: one[key] for key in ("command", "arguments")}))["text"]
        for one in commands
    ]
    assert answered[0] == "2"
    assert sorted(answered[1].splitlines()) == ["2 peers: 2 rows", 'E1: "E1"', 'E2: "E2"']


MADE = "create function sq(Integer x) -> Integer as x * x;\nsq(2);\n"


async def test_definition_references_and_rename_over_the_workspace(editor: Editor, tmp_path: Path) -> None:
    here, calls, own = (uri_in(tmp_path, name) for name in ("a.pql", "calls.pql", "own.pql"))
    (tmp_path / "calls.pql").write_text("sq(3) + SQ(4); 'sq(1)'")
    (tmp_path / "own.pql").write_text("create function sq(Integer y) -> Integer as y; sq(1)")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "no.pql").write_text("sq(9)")
    editor.open(here, MADE)
    place = {"textDocument": {"uri": here}, "position": {"line": 1, "character": 1}}
    (made,) = await editor.ask("textDocument/definition", place)
    assert (made["uri"], made["range"]["start"]) == (here, {"line": 0, "character": 16})
    found = await editor.ask("textDocument/references", {**place, "context": {"includeDeclaration": True}})
    assert sorted(one["uri"] for one in found) == sorted([here, here, calls, calls])
    assert (await editor.ask("textDocument/prepareRename", place))["end"] == {"line": 1, "character": 2}
    renamed = (await editor.ask("textDocument/rename", {**place, "newName": "square"}))["changes"]
    assert set(renamed) == {here, calls}
    assert text_of(renamed[here], MADE) == MADE.replace("sq", "square")
    assert text_of(renamed[calls], "sq(3) + SQ(4); 'sq(1)'") == "square(3) + square(4); 'sq(1)'"
    editor.open(calls, "sq(5)")  # what is open counts, not its file; and a definition may stand in another script
    renamed = (await editor.ask("textDocument/rename", {**place, "newName": "square"}))["changes"]
    assert text_of(renamed[calls], "sq(5)") == "square(5)"
    elsewhere = {"textDocument": {"uri": calls}, "position": {"line": 0, "character": 0}}
    assert {one["uri"] for one in await editor.ask("textDocument/definition", elsewhere)} == {here, own}
    (symbol,) = await editor.ask("textDocument/documentSymbol", {"textDocument": {"uri": here}})
    assert (symbol["name"], symbol["detail"]) == ("sq", "sq(Integer x) -> Integer")


async def test_a_file_whose_uri_is_quoted(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path, "über uns #1.pql")
    assert "%" in uri
    (tmp_path / "über uns #1.pql").write_text(MADE)
    editor.open(uri, "")
    (problem,) = await editor.problems(uri, "nosuch_at_all(1)")
    assert problem["code"] == "unknown_name"
    assert await editor.problems(uri, MADE) == []
    place = {"textDocument": {"uri": uri}, "position": {"line": 1, "character": 1}}
    found = await editor.ask("textDocument/references", {**place, "context": {"includeDeclaration": True}})
    assert [one["uri"] for one in found] == [uri, uri]


async def test_a_text_that_is_not_open(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path, "none.pql")
    for method, more in (("textDocument/hover", {"position": {"line": 0, "character": 0}}), ("peerage/run", {})):
        params = {"id": "a", "uri": uri} if method == "peerage/run" else {"textDocument": {"uri": uri}, **more}
        with pytest.raises(Refused, match="is not open") as refused:
            await editor.ask(method, params)
        assert refused.value.error["data"]["code"] == "bad_editor_message"


@pytest.mark.parametrize("params", [None, [1], {"textDocument": {"uri": "file:///a.pql"}}])
async def test_a_request_that_cannot_be_read_is_answered(editor: Editor, params: Any) -> None:
    with pytest.raises(Refused) as refused:
        await editor.ask("textDocument/hover", params)
    assert refused.value.error["code"] == -32602
    assert (await editor.ask("peerage/run", {"id": "a", "text": "1"}))["rows"] == 1


NO_NAMES = {
    "abs": "is a built-in function",
    "two words": "is no name of a function",
    "select": "is no name of a function",
    "other": "is a function of this script already",
    "": "is no name of a function",
}


async def test_a_name_that_cannot_be(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    editor.open(uri, MADE + "create function other() -> Integer as 1;")
    place = {"textDocument": {"uri": uri}, "position": {"line": 1, "character": 1}}
    for name, why in NO_NAMES.items():
        with pytest.raises(Refused, match=why):
            await editor.ask("textDocument/rename", {**place, "newName": name})


async def test_a_built_in_function_is_not_renamed(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    editor.open(uri, "abs(1)")
    place = {"textDocument": {"uri": uri}, "position": {"line": 0, "character": 1}}
    assert await editor.ask("textDocument/prepareRename", place) is None
    assert await editor.ask("textDocument/rename", {**place, "newName": "x"}) is None
    assert await editor.ask("textDocument/definition", place) == []


async def test_a_text_that_cannot_be_read_is_not_formatted(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    editor.open(uri, "1 +")
    formatting = {"textDocument": {"uri": uri}, "options": {"tabSize": 4, "insertSpaces": True}}
    with pytest.raises(Refused):
        await editor.ask("textDocument/formatting", formatting)
    text = "select   x // why\nfrom x in [1,2]\n\n\n;// end"
    editor.change(uri, text)
    edits = await editor.ask("textDocument/formatting", formatting)
    formatted = text_of(edits, text)
    assert "// why" in formatted
    assert "// end" in formatted
    editor.change(uri, formatted)
    assert await editor.ask("textDocument/formatting", formatting) == []


async def test_only_the_last_of_many_changes_is_looked_at(editor: Editor, tmp_path: Path) -> None:
    uri = uri_in(tmp_path)
    editor.open(uri, "")
    for number in range(20):
        editor.change(uri, f"nosuch_at_all({number}")
    (problem,) = await editor.problems(uri, "nosuch_at_all(1)")
    assert problem["code"] == "unknown_name"
    editor.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
    cleared = await editor.until("textDocument/publishDiagnostics", lambda told: told["diagnostics"] == [])
    assert cleared["uri"] == uri


# --- as a process ---------------------------------------------------------------------------------------------------


async def ended(*arguments: str, folder: Path, stdin: bytes = b"") -> tuple[int | None, str, str]:
    """How a command ends."""
    process = await asyncio.create_subprocess_exec(
        *PEERAGE,
        *arguments,
        cwd=folder,
        env=environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate(stdin)
    return process.returncode, out.decode(), err.decode()


def message(**members: Any) -> bytes:
    body = json.dumps({"jsonrpc": "2.0", **members}).encode()
    return b"Content-Length: %d\r\n\r\n" % len(body) + body


HELLO = message(id=1, method="initialize", params={"processId": None, "rootUri": None, "capabilities": {}})
BYE = message(id=2, method="shutdown")
EXIT = message(method="exit")


@pytest.mark.parametrize(
    ("said", "status"),
    [(HELLO + BYE + EXIT, 0), (HELLO + EXIT, 1), (HELLO, 0), (b"no protocol\r\n\r\n", 0)],
    ids=["exit", "exit at once", "gone", "noise"],
)
async def test_how_the_process_ends(said: bytes, status: int, tmp_path: Path) -> None:
    found, out, err = await ended("lsp", "--home", "nobody", folder=tmp_path, stdin=said)
    assert (found, err) == (status, "")
    assert out.startswith("Content-Length: ") == said.startswith(HELLO)


async def test_a_command_asks_the_workspace_s_default_peer(federation: Living, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('default_peer = "E2"\n')
    ask = ("query", "--home", str(federation.admin.path))
    assert await ended(*ask, "this_peer()", folder=tmp_path) == (0, '"E2"\n', "")
    assert await ended(*ask, "--peer", "E1", "this_peer()", folder=tmp_path) == (0, '"E1"\n', "")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.pql").write_text("this_peer()")
    assert await ended(*ask, "-f", "inner/a.pql", folder=tmp_path) == (0, '"E2"\n', "")
    (tmp_path / FILE).write_text("default_peer = [")
    status, _, err = await ended(*ask, "this_peer()", folder=tmp_path)
    assert status == 1
    assert "is no TOML" in err
