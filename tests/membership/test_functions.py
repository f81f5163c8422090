"""The language's functions about edges and groups: their records, shapes and errors."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from federation import bundles
from federation.assignments import WantedModel
from federation.documents import LoadError
from federation.functions import NAMESERVER_FUNCTIONS, nameserver_functions
from federation.group_functions import Then
from federation.members import Member
from federation.names import PeerId
from federation.reports import NoReport
from federation.store import FederationStore
from query.declarations import Call, Declaration, Effect, Home, Role, bind, declarations
from query.errors import Problem, UnknownName, WorldProblem, WrongArguments
from query.parsing import parse
from query.text_form import to_text
from query.values import checked
from tests.membership.small import NOW, Small, identity

Ask = Callable[..., Any]


class Seen:
    """Presence as a test says it is."""

    def __init__(self) -> None:
        self.seen: dict[PeerId, float] = {}
        self.linked: set[PeerId] = set()
        self.next: dict[PeerId, float] = {}

    def last_seen(self, uuid: PeerId) -> float | None:
        return self.seen.get(uuid)

    def connected(self, uuid: PeerId) -> bool:
        return uuid in self.linked

    def next_poll_at(self, uuid: PeerId) -> float | None:
        return self.next.get(uuid)


@pytest.fixture
def small() -> Small:
    small = Small()
    small.publish("my-sa-model@5.3", "my-sa-model@5.4", "n@1.0")
    small.edge("My-Edge-1")
    small.edge("edge2")
    return small


class NotToBeHad(WorldProblem):
    code = "not_to_be_had_in_a_twin"


@dataclass
class Elsewhere:
    """Other repositories: ``hub`` has every release."""

    store: FederationStore

    async def bring(self, models: Sequence[WantedModel], *, call: Call, then: Then) -> None:
        for model in models:
            if model.repo != "hub":
                raise NotToBeHad(f"no {model.repo}")
        self.store.append(then(self.store.state), caller=call.caller.name, now=call.now.timestamp())


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def ask(small: Small, seen: Seen) -> Ask:
    """Calls a function of the language as an admin, finding the overload by the number of arguments."""

    def make_bundle(member: Member, token: str) -> str:
        return f"bundle for {member.name} with {token}"

    parts = nameserver_functions(
        small.store, small.director, seen, make_bundle=make_bundle, imports=Elsewhere(small.store)
    )
    known = [declared for part in parts for declared in bind(part)]

    def call(name: str, *arguments: Any) -> Any:
        fitting = [d for d in known if name in (d.name, *d.aliases) and len(arguments) in d.arity]
        assert len(fitting) == 1
        (chosen,) = fitting
        assert chosen.implementation is not None
        small.now = next(small.clock)
        result = chosen.implementation(small.call(), *arguments)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        if chosen.result.name != "Bag":
            return checked(result, chosen.result, name)
        assert isinstance(result, Iterable)
        assert chosen.result.element is not None
        return [checked(row, chosen.result.element, name) for row in result]

    return call


def raises(kind: type[Problem], text: str) -> Any:
    return pytest.raises(kind, match=re.escape(text))


def test_the_statements_of_the_reference(ask: Ask, small: Small) -> None:
    assert ask("edge:add_group", "MY-EDGE-1", "staging-area-edges") is True
    assert ask("edge:groups", "MY-EDGE-1") == ["staging-area-edges"]
    models = [{"repo": "default", "name": "my-sa-model", "version": "5.3"}]
    assert ask("edge:set_group_models", "staging-area-edges", models) == {
        "group": "staging-area-edges",
        "assigned": ["my-sa-model@5.3"],
        "needed": [],
        "overtaken": [],
    }
    assert [model["version"] for model in ask("edge:get_config", "my-edge-1")["models"]] == ["5.3"]
    small.report("My-Edge-1", "my-sa-model@5.3")
    state = ask("edge:actual_state", "MY-EDGE-1")
    assert list(state.items()) == [
        ("models:loaded", ["my-sa-model@5.3"]),
        ("last_load_errors", []),
        ("edge_mode", "INTERACTIVE"),
    ]
    assert to_text(state) == (
        """{"models:loaded":['my-sa-model@5.3'],"last_load_errors":[],"edge_mode":'INTERACTIVE'}"""
    )
    assert to_text(ask("edge:groups", "MY-EDGE-1")) == "['staging-area-edges']"
    assert ask("edge:remove_group", "MY-EDGE-1", "staging-area-edges") is True
    assert ask("edge:groups", "MY-EDGE-1") == []
    assert ask("edge:all_groups") == ["all", "staging-area-edges"]


def test_groups_and_their_members(ask: Ask) -> None:
    ask("edge:add_group", "edge2", "Lab")
    ask("edge:add_group", "my-edge-1", "LAB")
    assert ask("edge:groups", "edge2", True) == ["Lab", "all"]
    assert ask("edge:groups", "edge2", False) == ["Lab"]
    assert ask("edge:group_members", "lab") == ["EDGE2", "MY-EDGE-1"]
    assert ask("edge:group_members", "all") == ["EDGE2", "MY-EDGE-1"]
    assert ask("edge:delete_group", "lab") is True
    with raises(UnknownName, 'no group "lab"'):
        ask("edge:group_members", "lab")


def test_assigned_models_come_back_in_the_form_they_were_given(ask: Ask) -> None:
    models = [{"repo": "default", "name": "n", "version": "1.0"}]
    ask("edge:set_group_models", "all", [{"name": "n", "version": "1.0"}])
    assert ask("edge:group_models", "all") == models
    assert ask("edge:set_group_models", "all", models)["overtaken"] == []
    assert ask("edge:remove_group_models", "all", ["n"]) is True
    assert ask("edge:group_models", "all") == []


def test_the_answer_names_what_was_overtaken(ask: Ask, small: Small) -> None:
    ask("edge:add_group", "edge2", "lab")
    ask("edge:set_group_models", "lab", [{"name": "my-sa-model", "version": "5.3"}])
    then = datetime.fromtimestamp(small.now, UTC)
    answer = ask("edge:set_group_models", "all", [{"name": "my-sa-model", "version": "5.4"}])
    assert answer == {
        "group": "all",
        "assigned": ["my-sa-model@5.4"],
        "needed": [],
        "overtaken": [
            {"group": "lab", "model": "my-sa-model@5.3", "edges": 1, "replaced": False, "time": then, "by": "ada"}
        ],
    }


def test_the_config_names_the_group_and_assignment_that_decided(ask: Ask, small: Small) -> None:
    small.assign("all", "n@1.0")
    then = datetime.fromtimestamp(small.now, UTC)
    config = ask("edge:get_config", "edge2")
    assert config == {
        "edge": "EDGE2",
        "generation": small.state.seq,
        "epoch": small.state.epoch,
        "mode": "INTERACTIVE",
        "poll_interval": "60s~10%",
        "models": [
            {
                "name": "n",
                "version": "1.0",
                "digest": small.release("n@1.0").digest,
                "group": "all",
                "assignment": small.state.seq,
                "assigned": then,
                "by": "ada",
                "needed_by": None,
            }
        ],
    }


def test_an_edge_that_never_reported(ask: Ask) -> None:
    with raises(NoReport, 'no report yet from "EDGE2"'):
        ask("edge:actual_state", "edge2")


def test_load_errors_are_records(ask: Ask, small: Small) -> None:
    error = LoadError("n@1.0", "vectors_failed", "vector 1: expected 3, found 4", int(NOW))
    small.report("edge2", errors=(error,), mode="ONLINE")
    assert ask("edge:actual_state", "EDGE2") == {
        "models:loaded": [],
        "last_load_errors": [
            {
                "model": "n@1.0",
                "error": "vectors_failed",
                "message": "vector 1: expected 3, found 4",
                "since": datetime.fromtimestamp(NOW, UTC),
            }
        ],
        "edge_mode": "ONLINE",
    }


def test_status_has_the_rest(ask: Ask, small: Small, seen: Seen) -> None:
    small.assign("all", "n@1.0")
    assigned = small.now
    small.report("edge2", generation=1)
    seen.linked.add(identity("edge2"))
    seen.seen[identity("edge2")] = assigned
    ask("edge:list")
    behind = ask("edge:status", "edge2")
    assert (behind["id"], behind["connected"], behind["converged"]) == ("EDGE2", True, False)
    assert (behind["generation"], behind["reported_generation"]) == (small.state.seq, 1)
    assert behind["lag"] == small.now - assigned
    assert behind["last_seen"] == datetime.fromtimestamp(assigned, UTC)
    small.report("edge2", "n@1.0")
    done = ask("edge:status", "edge2")
    assert (done["lag"], done["converged"], done["models:loaded"]) == (0.0, True, ["n@1.0"])
    everybody = ask("edge:status")
    assert [record["id"] for record in everybody] == ["MY-EDGE-1", "EDGE2"]
    assert [record["reported_at"] is None for record in everybody] == [True, False]
    assert [record["id"] for record in ask("edge_status")] == ["MY-EDGE-1", "EDGE2"]


def test_listings_are_in_upper_case_with_the_references_aliases(ask: Ask, seen: Seen) -> None:
    assert ask("edge:list") == ["MY-EDGE-1", "EDGE2"]
    seen.linked.add(identity("edge2"))
    assert ask("listening_edges") == ask("edge:listening") == ["EDGE2"]
    assert [ask("edge_listening", name) for name in ("EDGE2", "my-edge-1")] == [True, False]
    assert [(record["name"], record["kind"], record["role"]) for record in ask("peer:list")] == [
        ("HUB", "nameserver", "viewer"),
        ("ROOT-ADMIN", "client", "admin"),
        ("MY-EDGE-1", "edge", "viewer"),
        ("EDGE2", "edge", "viewer"),
    ]


def test_modes_intervals_and_properties(ask: Ask, small: Small) -> None:
    small.report("edge2")
    assert ask("edge:set_mode", "EDGE2", "online") is True
    assert ask("edge:set_poll_interval", "EDGE2", "5s~20%") is True
    config = ask("edge:get_config", "edge2")
    assert (config["mode"], config["poll_interval"]) == ("ONLINE", "5s~20%")
    assert ask("edge:set_property", "EDGE2", "site", "lab") is True
    always = {"name": "EDGE2", "mode": "INTERACTIVE", "tags": [], "groups": []}
    assert ask("edge:properties", "edge2") == {"site": "lab", **always}
    ask("edge:set_property", "EDGE2", "site", None)
    ask("edge:add_group", "EDGE2", "Staging")
    assert ask("edge:properties", "edge2") == {**always, "groups": ["Staging"]}


def test_registering_gives_a_bundle_and_the_log_only_its_hash(ask: Ask, small: Small) -> None:
    text = ask("edge:register", "E3", ["lab", "arm"])
    token = text.removeprefix("bundle for E3 with ")
    member = small.member("e3")
    assert (member.token_hash, member.tags, member.role) == (bundles.token_hash(token), ("lab", "arm"), "viewer")
    assert token not in repr(list(small.store.read_from(1)))
    again = ask("edge:register", "e3")
    assert again != text
    assert small.member("e3").uuid == member.uuid
    assert ask("edge:remove", "E3") is True
    assert "E3" not in ask("edge:list")


def test_people_and_publishers_are_registered(ask: Ask, small: Small) -> None:
    ask("peer:register", "ann", {"role": "operator", "publisher": True})
    member = small.member("ANN")
    assert (member.kind, member.role, member.publisher) == ("client", "operator", True)
    ask("peer:register", "bob")
    assert (small.member("bob").kind, small.member("bob").role) == ("client", "viewer")
    with raises(WrongArguments, 'no option "publsher" — did you mean "publisher"?'):
        ask("peer:register", "eve", {"publsher": True})
    with raises(UnknownName, 'no role "root"'):
        ask("peer:register", "eve", {"role": "root"})
    with raises(Problem, '"ann" is a client, expected an edge'):
        ask("edge:remove", "ann")
    assert ask("peer:remove", "ann") is True


def test_removing_an_edge_drops_its_reports(ask: Ask, small: Small) -> None:
    small.report("edge2")
    ask("edge:remove", "edge2")
    assert small.store.reports.latest(identity("edge2")) is None


@pytest.mark.parametrize(
    "name", ["actual_state", "get_config", "groups", "status", "explain", "properties", "listening", "remove"]
)
def test_an_unknown_edge_is_told_with_the_nearest(ask: Ask, name: str) -> None:
    with raises(UnknownName, 'no edge "EDGE3" — did you mean "edge2"?'):
        ask(f"edge:{name}", "EDGE3")


def test_changes_name_their_caller(ask: Ask, small: Small) -> None:
    ask("edge:add_group", "edge2", "lab")
    *_, last = small.store.read_from(1)
    assert (last.caller, last.time) == ("ada", small.now)


def declared() -> list[Declaration]:
    return [declaration for owner in NAMESERVER_FUNCTIONS for declaration in declarations(owner)]


@pytest.mark.parametrize("declaration", declared(), ids=lambda declaration: declaration.signature)
def test_every_function_says_what_it_is(declaration: Declaration) -> None:
    assert declaration.documentation
    assert declaration.examples
    assert declaration.home is Home.NAMESERVER
    assert (declaration.effect is Effect.CHANGES) == (declaration.role >= Role.OPERATOR)
    for example in declaration.examples:
        assert example.text.startswith(declaration.name)
        parse(example.text)


def test_models_of_another_repository_are_brought_first_or_nothing_is_assigned(ask: Ask, small: Small) -> None:
    before = small.state.seq
    gone = [{"repo": "hub", "name": "n", "version": "1.0"}, {"repo": "gone", "name": "my-sa-model", "version": "5.3"}]
    with raises(NotToBeHad, "no gone"):
        ask("edge:set_group_models", "all", gone)
    with raises(UnknownName, 'no group "nowhere"'):
        ask("edge:set_group_models", "nowhere", gone)
    assert small.state.seq == before
    ask("edge:set_group_models", "all", gone[:1])
    assert ask("edge:group_models", "all") == gone[:1]
