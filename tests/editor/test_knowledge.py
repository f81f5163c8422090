"""What is fetched from a living peer for completion, and what is left out when it cannot be had."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from engine.inference_log_functions import _OPTIONS as LOG_OPTIONS
from federation.member_functions import _OPTIONS as MEMBER_OPTIONS
from peers.catalogues import every_declaration
from peers.knowledge import CATALOGUE, fetch, means_one, offline
from peers.pipeline_options import _OPTIONS as PIPELINE_OPTIONS
from peers.record_keys import GIVEN, TAKEN
from peers.release_lifecycle import _OPTIONS as GARBAGE_OPTIONS
from peers.remote_settings import KEYS as REPOSITORY_SETTINGS
from query.catalogue import Catalogue
from query.conditions import ALWAYS
from query.errors import WorldProblem
from query.frames import Column, Frame, RowFrame, SchemaFrame
from query.knowledge import NAMES_MAX, Kind, told

FUNCTIONS = [told(declared, "built-in") for declared in every_declaration()[:5]]
ANSWERS: dict[str, list[Any]] = {
    CATALOGUE: FUNCTIONS,
    "peers()": ["NAMESERVER", "E1"],
    "edge:list()": [["E1", "E2"]],
    "edge:all_groups()": [["all", "lab"]],
    "//peer: nameserver\nmodels:installed()": [["thermo@1.0", "thermo@1.10", "thermo@1.9"]],
    "models:installed()": [["thermo@2.0"]],
    "models:list()": [["draft"]],
    "models:loaded()": [["thermo@1.0"]],
    "models:repositories()": [[{"name": "default", "kind": "oci"}, {"kind": "nameless"}, 3]],
    "pipeline:list()": [["prices"]],
    "query:list()": [{"id": "q-1", "text": "1"}],
    "models:info(:name)": [{"model": "thermo@1.0", "inputs": [{"name": "celsius", "datatype": "FP32"}]}],
}


class Told:
    """A peer that answers as written, or with what a function makes of the question."""

    def __init__(
        self, answers: Mapping[str, list[Any]], fails: Callable[[str], Exception | None] = lambda _: None
    ) -> None:
        self._answers = answers
        self._fails = fails
        self.asked: list[tuple[str, str | None]] = []

    async def frames(self, text: str, *, peer: str | None = None, **_: Any) -> AsyncIterator[Frame]:
        self.asked.append((text, peer))
        yield SchemaFrame(0, (Column("value", "Object"),))
        problem = self._fails(text)
        if problem is not None:
            raise problem
        for value in self._answers.get(text, []):
            yield RowFrame(0, (value,))


async def test_names_by_kind() -> None:
    peer = Told(ANSWERS)
    known = await fetch(peer, peer="E1")
    assert known.peer == "E1"
    assert [one.signature for one in known.catalogue] == [one.signature for one in Catalogue(every_declaration()[:5])]
    assert known.of_kind(Kind.PEER) == ("NAMESERVER", "E1")
    assert known.of_kind(Kind.EDGE) == ("E1", "E2")
    assert known.of_kind(Kind.GROUP) == ("all", "lab")
    assert known.of_kind(Kind.EDGE_OR_GROUP) == ("E1", "E2", "all", "lab")
    assert known.of_kind(Kind.MODEL) == ("draft", "thermo")
    assert known.of_kind(Kind.RELEASE) == ("thermo@1.0", "thermo@1.10", "thermo@1.9", "thermo@2.0")
    assert known.of_kind(Kind.REPOSITORY) == ("default",)
    assert known.of_kind(Kind.QUERY) == ("q-1",)
    assert known.versions == {"thermo": ("2.0", "1.10", "1.9", "1.0")}
    assert known.keys["inputs thermo"] == ("celsius",)
    assert {where for _, where in peer.asked} == {"E1"}


async def test_where_several_peers_are_meant_the_connected_one_tells() -> None:
    peer = Told(ANSWERS)
    assert (await fetch(peer, peer="group lab")).peer == ""
    assert {where for _, where in peer.asked} == {None}
    assert [means_one(text) for text in ("E1", "nameserver", "E1, E2", "all", "group g", 'where arch = "x"', "?")] == [
        *(True, True),
        *(False, False, False, False, False),
    ]


@pytest.mark.parametrize("problem", [WorldProblem("away"), OSError("gone"), TimeoutError()])
async def test_what_cannot_be_had_is_left_out(problem: Exception) -> None:
    known = await fetch(Told(ANSWERS, lambda text: problem if text in (CATALOGUE, "edge:list()") else None))
    assert known.peer is None
    assert known.catalogue is offline().catalogue
    assert known.of_kind(Kind.EDGE) == ()
    assert known.of_kind(Kind.GROUP) == ("all", "lab")


async def test_a_peer_that_tells_nonsense() -> None:
    nonsense: list[Any] = [None, 3, "x", [1, [2]], {"a": {}}, {"name": 3}, ["a@b@c", ""]]
    known = await fetch(Told(dict.fromkeys(ANSWERS, nonsense)))
    assert list(known.catalogue) == []
    assert all(isinstance(name, str) for kind in Kind for name in known.of_kind(kind))


async def test_a_peer_that_tells_without_end_is_bounded() -> None:
    known = await fetch(Told({**ANSWERS, "peers()": [f"E{number}" for number in range(NAMES_MAX + 50)]}))
    assert len(known.of_kind(Kind.PEER)) == NAMES_MAX


async def test_a_cancelled_fetch_ends() -> None:
    class Silent(Told):
        async def frames(self, text: str, *, peer: str | None = None, **_: Any) -> AsyncIterator[Frame]:
            await asyncio.Event().wait()
            yield SchemaFrame(0, ())

    fetching = asyncio.create_task(fetch(Silent({})))
    await asyncio.sleep(0)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching


def test_the_keys_that_are_taken_are_those_that_are_read() -> None:
    assert set(TAKEN["logs:local(options)"]) == set(LOG_OPTIONS)
    assert set(TAKEN["peer:register(options)"]) == set(MEMBER_OPTIONS)
    assert set(TAKEN["pipeline:deploy(options)"]) == set(PIPELINE_OPTIONS)
    assert set(TAKEN["models:collect_garbage(options)"]) == set(GARBAGE_OPTIONS)
    assert set(TAKEN["models:set_repository(settings)"]) == set(REPOSITORY_SETTINGS)


def test_keys_belong_to_functions_that_there_are() -> None:
    catalogue = Catalogue(every_declaration())
    for path in (*TAKEN, *GIVEN):
        name = path.partition("(")[0].partition(".")[0]
        assert catalogue.lookup(name), path
        if "(" in path:
            parameters = {one.name for declared in catalogue.lookup(name) for one in declared.parameters}
            assert path.partition("(")[2].rstrip(")") in parameters
    assert set(GIVEN["edge:properties"]) - {"execution_providers"} <= set(ALWAYS)
