"""What may stand at a cursor, what is called there, and what a word means: pure, on texts that are not finished."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.catalogues import every_declaration
from peers.record_keys import KEYS
from query import limits
from query.catalogue import Catalogue, user_function
from query.completion import COMPLETIONS_MAX, Completion, Shape, completions
from query.diagnosis import diagnose, with_script
from query.knowledge import (
    FUNCTIONS_MAX,
    BadCatalogue,
    Kind,
    Knowledge,
    catalogue_of,
    key_paths,
    kind_of,
    read_told,
    told,
)
from query.outline import function_at, made_in, pieces, places_of
from query.parsing import parse_statement
from query.pointing import hover_at, signature_at
from query.syntax import CreateFunction
from query.unfinished import read_unfinished

CURSOR = "¦"
KNOWN = Knowledge(
    Catalogue(every_declaration()),
    names={
        Kind.EDGE: ("MY-EDGE-1", "E2"),
        Kind.GROUP: ("staging-area-edges", "all"),
        Kind.PEER: ("NAMESERVER", "E2", "MY-EDGE-1"),
        Kind.MODEL: ("my-sa-model", "other"),
        Kind.RELEASE: ("my-sa-model@5.3",),
        Kind.REPOSITORY: ("default", "hub"),
        Kind.PIPELINE: ("prices",),
        Kind.PROPERTY: ("arch", "site"),
        Kind.QUERY: ("q-1",),
    },
    versions={"my-sa-model": ("5.3", "5.2")},
    keys={**KEYS, "inputs my-sa-model": ("celsius", "site")},
    peer="",
).with_variables({"state": {"models:loaded": [], "mode": {"since": 1}}, "n": 3})


def at_cursor(marked: str, knowledge: Knowledge = KNOWN) -> tuple[str, list[Completion]]:
    before, _, after = marked.partition(CURSOR)
    return before + after, completions(before + after, len(before), knowledge)


def labels(marked: str) -> list[str]:
    return [one.label for one in at_cursor(marked)[1]]


def taken(marked: str, label: str) -> str:
    """The text once that completion was taken."""
    text, found = at_cursor(marked)
    one = next(one for one in found if one.label == label)
    return text[: one.start] + one.insert + text[one.end :]


@pytest.mark.parametrize(
    ("marked", "wanted"),
    [
        ("edge:add_¦", ["edge:add_group"]),
        ("add_gr¦", ["edge:add_group"]),  # a part of the name, behind the colon
        ("EDGE:ADD_G¦", ["edge:add_group"]),
        ("sel¦", ["select"]),
        ("select 1 li¦", ["like", "limit"]),
        ("edge:set_mode(¦", ['"MY-EDGE-1"', '"E2"']),  # and functions behind them
        ('edge:groups("¦', ["MY-EDGE-1", "E2"]),
        ('edge:groups("m¦', ["MY-EDGE-1"]),
        ("edge:groups('¦'", ["MY-EDGE-1", "E2"]),
        ('edge:add_group("E2", "¦")', ["staging-area-edges", "all"]),
        ('edge:set_mode("E2", "¦', ["INTERACTIVE", "ONLINE", "AUTONOMOUS"]),
        ('edge:set_poll_interval("¦', ["MY-EDGE-1", "E2", "staging-area-edges", "all"]),
        ('models:load("my-sa-model", "¦', ["5.3", "5.2"]),
        ('models:load("MY-SA-MODEL", "5.2¦', ["5.2"]),
        ('models:import("hub", "my-sa-model", "¦', ["5.3", "5.2"]),
        ('models:load("other", "¦', []),
        ('models:available("¦', ["default", "hub"]),
        ('models:deploy(["E2", "¦', ["MY-EDGE-1", "E2"]),
        ('edge:remove_group_models("g", ["¦', ["my-sa-model", "other"]),
        ('pipeline:deploy("¦', ["prices"]),
        ('pipeline:add_random_split("prices", [{"weight": 1, "model": "¦', ["my-sa-model@5.3"]),
        ('peer:register("ada", {"¦', ["role", "publisher", "kind", "tags"]),
        ('peer:register("ada", {"role": "¦', ["viewer", "operator", "admin"]),
        ('query:cancel("¦', ["q-1"]),
        ('edge_query("¦', ["E2", "MY-EDGE-1", "nameserver"]),
        ('doc("edge:add¦', ["edge:add_group"]),
        ('edge:register("¦', []),  # a name that is new
        ('edge:set_group_models("g", [{"¦', ["repo", "name", "version"]),
        ('edge:set_group_models("g", [{"repo":"hub","¦', ["name", "version"]),
        ('edge:set_group_models("g", [{"repo":"¦', ["default", "hub"]),
        ('edge:set_group_models("g", [{"name":"my-sa-model","version":"¦', ["5.3", "5.2"]),
        ('edge:set_group_models("g", [{"name":"my-sa-model"},{"name":"other","version":"¦', []),
        ('models:infer("my-sa-model", {"¦', ["celsius", "site"]),
        ('edge:set_property("E2", "¦', ["arch", "site"]),
        ('edge:actual_state("E2").¦', ["models:loaded", "last_load_errors", "edge_mode"]),
        ('edge:actual_state("E2")["¦', ["models:loaded", "last_load_errors", "edge_mode"]),
        ('edge:actual_state("E2").last_load_errors[1].¦', ["model", "error", "message", "since"]),
        ("select s.lag, s.conv¦ from s in edge:status()", ["converged"]),
        (":state.¦", ["models:loaded", "mode"]),
        (":state.mode.¦", ["since"]),
        (':state["mode"].¦', ["since"]),
        (":¦", [":n", ":state"]),
        ("1 + :s¦", [":state"]),
        ("//¦", ["peer", "plot", "timeout", "wait", "budget"]),
        ("1;\n// t¦", ["timeout"]),
        ("//plot: ¦", ["line", "bar", "scatter", "histogram"]),
        ("//peer: ¦", ["E2", "MY-EDGE-1", "nameserver", "all", "group", "where"]),
        ("//peer: e2, m¦\n1", ["MY-EDGE-1"]),
        ("//peer: group ¦", ["staging-area-edges", "all"]),
        ("//peer: where a¦", ["arch", "and"]),
        ('//peer: where arch = "arm¦', []),
        ("create function f(¦", ["Object", "Number", "Integer"]),
        ("cast(1 as Int¦", ["Integer"]),
        ("create function f(Integer counted) -> Integer as count¦", ["counted", "count"]),
        ("edge:list() a¦", ["as of", "and"]),
        ("edge:list() as of |2026-01-01T00:00:00Z| ¦", ["and", "between"]),
        ("peers() as¦", []),
        ("1 -- edge:¦", []),
        ("/* edge:¦", []),
        ("1 // peer: ¦", []),  # a remark
        ("12¦", []),
        ('"edge:¦', []),
    ],
)
def test_what_may_stand_there(marked: str, wanted: list[str]) -> None:
    assert labels(marked)[: len(wanted)] == wanted
    if not wanted:
        assert labels(marked) == []


def test_a_completion_brings_the_quotes_that_its_place_lacks() -> None:
    assert taken("edge:groups(¦", '"E2"') == 'edge:groups("E2"'
    assert taken('edge:groups("¦', "E2") == 'edge:groups("E2"'
    assert taken('edge:groups("¦")', "E2") == 'edge:groups("E2")'
    assert taken("edge:groups('M¦Y-EDGE-1')", "MY-EDGE-1") == "edge:groups('MY-EDGE-1')"
    assert taken('edge:groups("¦);\nf("x")', "E2") == 'edge:groups("E2");\nf("x")'


def test_a_completion_takes_the_place_of_the_whole_word() -> None:
    assert taken("add¦_gr(1)", "edge:add_group") == "edge:add_group(1)"
    assert taken("edge:ad¦d_gr(1)", "edge:add_group") == "edge:add_group(1)"
    assert taken("//peer: ¦all\n1", "E2") == "//peer: E2\n1"
    assert taken("//peer: M¦, E2\n1", "MY-EDGE-1") == "//peer: MY-EDGE-1, E2\n1"


def test_a_key_that_is_no_name_takes_the_place_of_the_dot() -> None:
    assert taken(":state.mod¦", "models:loaded") == ':state["models:loaded"]'
    assert taken(":state.¦", "mode") == ":state.mode"


def test_only_what_the_grammar_allows_is_a_keyword_there() -> None:
    assert "from" in labels("select a ¦")
    assert "from" not in labels("select ¦")
    assert "where" not in labels("¦")


def test_the_script_s_own_functions_and_variables() -> None:
    text = "create function warm(Number c) -> Boolean as c > 25;\nset :limit = 3;\nwa"
    known = with_script(text, KNOWN)
    assert [one.label for one in completions(text, len(text), known)][:1] == ["warm"]
    assert "limit" in known.variables
    hover = hover_at(text + "rm(1)", len(text), known)
    assert hover is not None
    assert hover.markdown.startswith("```pql\nwarm(Number c) -> Boolean\n```")
    assert with_script("create function abs(Number c) -> Number as c", KNOWN) is KNOWN  # a built-in stays


def test_the_number_of_completions_is_bounded() -> None:
    many = Knowledge(KNOWN.catalogue, names={Kind.EDGE: tuple(f"E{number}" for number in range(5_000))})
    assert len(completions('edge:groups("', 13, many)) == COMPLETIONS_MAX


def test_a_text_that_is_too_long_is_not_read() -> None:
    assert completions("a" * (limits.TEXT_BYTES_LOCAL_MAX + 1), 5, KNOWN) == []


@pytest.mark.parametrize(
    ("marked", "signature", "parameter"),
    [
        ("edge:add_group(¦", "edge:add_group(String edge, String group) -> Boolean", 0),
        ('edge:add_group("a,b", ¦', "edge:add_group(String edge, String group) -> Boolean", 1),
        (
            'edge:set_group_models("g", [{"na¦me": 1}])',
            "edge:set_group_models(String group, Vector models) -> Record",
            1,
        ),
        ('edge:status(¦"E1")', "edge:status(String edge) -> Record", 0),
        ("abs(sqrt(¦", "sqrt(Number x) -> Real", 0),
    ],
)
def test_the_signature_of_the_call_under_way(marked: str, signature: str, parameter: int) -> None:
    before, _, after = marked.partition(CURSOR)
    found = signature_at(before + after, len(before), KNOWN)
    assert found is not None
    assert (found.overloads[found.active].signature, found.parameter) == (signature, parameter)


@pytest.mark.parametrize("marked", ["¦", "1 + (2 ¦", "nosuch(¦", "// f(¦", 'abs(1); "(¦'])
def test_no_signature_outside_of_known_calls(marked: str) -> None:
    before, _, after = marked.partition(CURSOR)
    assert signature_at(before + after, len(before), KNOWN) is None


@pytest.mark.parametrize(
    ("marked", "word", "says"),
    [
        ("edge:¦add_group()", "edge:add_group", "for role operator; changes something"),
        ("¦edge:add_group()", "edge:add_group", "at home on the nameserver"),
        ("this_peer¦id()", "this_peerid", "also called `this_peerid`"),
        ('edge:groups("my-¦edge-1")', "my-edge-1", "`my-edge-1` edge"),
        ('models:load("my-sa-mo¦del", "5.3")', "my-sa-model", "versions: `5.3`, `5.2`"),
        (":sta¦te", ":state", "keys: `models:loaded`, `mode`"),
        ("//ti¦meout: 5s\n1", "//timeout: 5s", "longest time"),
    ],
)
def test_what_a_word_means(marked: str, word: str, says: str) -> None:
    before, _, after = marked.partition(CURSOR)
    found = hover_at(before + after, len(before), KNOWN)
    assert found is not None
    assert (before + after)[found.start : found.end] == word
    assert says in found.markdown


@pytest.mark.parametrize(
    "marked", ["1¦2", "no¦such()", '"edge:¦add_group"', "r.co¦unt", "// a rem¦ark", "/* edge:gro¦ups */"]
)
def test_nothing_to_say(marked: str) -> None:
    before, _, after = marked.partition(CURSOR)
    assert hover_at(before + after, len(before), KNOWN) is None


SIGNS = """" ' ( ) [ { } : ; , . -- | /* */ \\ é \U0001f600 5 E2 //peer: select in from where edge:groups"""
WORDS = [*SIGNS.split(), "\n", " ", "edge:set_group_models", "create function f"]


@given(st.lists(st.sampled_from(WORDS), max_size=25).map("".join), st.integers(0, 200))
@settings(max_examples=400)
def test_no_text_is_too_broken(text: str, offset: int) -> None:
    """Nothing raises, every edit lies in the text and ends where or behind the cursor stands."""
    at = min(offset, len(text))
    for one in completions(text, offset, KNOWN):
        assert 0 <= one.start <= at <= one.end <= len(text)
    signature_at(text, offset, KNOWN)
    hover = hover_at(text, offset, KNOWN)
    assert hover is None or 0 <= hover.start <= hover.end <= len(text)
    moment = read_unfinished(text, offset)
    assert moment.text[moment.start : moment.offset] == moment.word
    found = pieces(text)
    made_in(text, found)
    function_at(found, offset)
    for one in diagnose(text, KNOWN):
        assert 0 <= one.start <= one.end <= len(text)


# --- what functions() tells ---------------------------------------------------------------------------------------


def test_a_catalogue_is_told_and_read_again() -> None:
    body = parse_statement("create function f(Integer x) -> Integer /* one more */ as x + 1").body
    assert isinstance(body, CreateFunction)
    catalogue = Catalogue(every_declaration()).with_functions("model m", [user_function(body)])
    again = catalogue_of([told(declared, catalogue.owner(declared.name) or "") for declared in catalogue])
    assert [str(one.signature) for one in again] == [str(one.signature) for one in catalogue]
    assert again.owner("f") == "model m"
    assert again.lookup("f")[0].documentation == "one more"
    for before, after in zip(catalogue, again, strict=True):
        assert (before.home, before.role, before.effect, before.past) == (
            after.home,
            after.role,
            after.effect,
            after.past,
        )
        assert [one.text for one in before.examples] == [one.text for one in after.examples]


GOOD = told(next(iter(Catalogue(every_declaration()))), "built-in")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "no name"},
        {"name": 3},
        {"parameters": [{"name": "a"}]},
        {"parameters": "a"},
        {"result": "Nonsense"},
        {"home": "elsewhere"},
        {"role": "king"},
        {"examples": [1]},
        {"documentation": None},
    ],
)
def test_what_is_no_function_is_left_out(change: dict[str, object]) -> None:
    with pytest.raises(BadCatalogue):
        read_told({**GOOD, **change})
    assert list(catalogue_of([{**GOOD, **change}])) == []


def test_a_peer_cannot_tell_without_end() -> None:
    one = {**GOOD, "name": "f"}
    assert (
        len(list(catalogue_of({**one, "name": f"f{number}"} for number in range(FUNCTIONS_MAX + 10)))) == FUNCTIONS_MAX
    )


def test_a_peer_s_model_cannot_take_a_built_in_name() -> None:
    found = catalogue_of([GOOD, {**GOOD, "owner": "model m", "documentation": "mine"}])
    assert [one.documentation for one in found] == [GOOD["documentation"]]


def test_keys_by_path_are_bounded_in_depth_and_number() -> None:
    assert key_paths("f", [{"a": {"b": {"c": {"d": 1}}}}]) == {"f": ("a",), "f.a": ("b",), "f.a.b": ("c",)}
    assert len(key_paths("f", {str(number): 1 for number in range(1_000)})["f"]) == 200


def test_every_parameter_that_names_something_has_a_kind() -> None:
    """A new function's parameter by one of these names is completed, or said to be new."""
    named = {"edge", "group", "model", "version", "repo", "mode"}
    without = {
        (declared.name, parameter.name)
        for declared in every_declaration()
        for parameter in declared.parameters
        if parameter.name in named and kind_of(declared.name, parameter) is None
    }
    assert without == {("edge:register", "edge"), ("models:create_release", "version")}


# --- outlines -----------------------------------------------------------------------------------------------------

SCRIPT = """create function sq(Integer x) -> Integer /* square */ as x * x;
sq(2); r.sq; "sq(1)"; // sq(3)
select SQ (a) from a in [1];
delete function sq"""


def test_the_functions_of_a_script_and_their_places() -> None:
    found = pieces(SCRIPT)
    (made,) = made_in(SCRIPT, found)
    assert made.head == "sq(Integer x) -> Integer /* square */"
    assert [SCRIPT[start:end] for start, end in places_of(found, "Sq")] == ["sq", "sq", "SQ", "sq"]
    at = function_at(found, SCRIPT.index("SQ") + 1)
    assert at is not None
    assert (at[0], SCRIPT[slice(*at[1])]) == ("SQ", "SQ")
    assert function_at(found, SCRIPT.index("r.sq") + 2) is None


def test_only_functions_and_shapes() -> None:
    assert {one.shape for one in at_cursor("edge:¦")[1]} == {Shape.FUNCTION}
