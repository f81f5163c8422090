"""What the nameserver tells of a pipeline on many edges, by assignments and last reports; in memory."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from federation.documents import RELEASE_TYPE, FileEntry, LoadError, ReleaseRecord, SignedDocument, decode, encode
from federation.names import PeerId, digest_of
from federation.pipelines import DEFINITION_FILE
from federation.record_shape import NameOfAnother
from federation.release_commands import publish_release
from federation.signing import sign
from peers.pipeline_standings import EDGES_AT_ONCE, FederationStandings
from query.declarations import Call, Caller, Role
from query.errors import UnknownName
from tests.membership.small import PUBLISHER, Small, release_document


class Unseen:
    """Nobody was heard of since the start."""

    def last_seen(self, uuid: PeerId) -> float | None:
        return None

    def connected(self, uuid: PeerId) -> bool:
        return False

    def next_poll_at(self, uuid: PeerId) -> float | None:
        return None


def pipeline(label: str) -> SignedDocument:
    record = decode(release_document(label, content=label.encode()).payload, ReleaseRecord)
    files = (FileEntry(DEFINITION_FILE, "weight.config", digest_of(b"{}"), 2),)
    return sign(encode(msgspec.structs.replace(record, kind="pipeline", files=files)), RELEASE_TYPE, PUBLISHER)


@pytest.fixture
def fleet() -> Small:
    """``pipe@v1`` and ``pipe@v2`` are released, the second is assigned to the group ``lab`` of three edges."""
    small = Small()
    for name in ("a", "b", "c"):
        small.edge(name, "lab")
    small.edge("d")
    for label in ("pipe@v1", "pipe@v2"):
        small.write(publish_release(small.state, pipeline(label)))
    small.assign("lab", "pipe@v2")
    return small


async def status(small: Small, name: str = "pipe") -> dict[str, Any]:
    call = Call(Caller("ada", Role.VIEWER), datetime.fromtimestamp(small.now, UTC), "ns")
    return await FederationStandings(small.store, Unseen()).status(name, call)


async def test_each_edge_that_has_it_or_should(fleet: Small) -> None:
    fleet.report("a", "pipe@v2")
    failed = LoadError("pipe@v2", "over_memory", "needs more", 7)
    fleet.report("b", "pipe@v1", errors=(failed,))
    fleet.report("d", "pipe@v1", origin="manual")
    told = await status(fleet)
    assert (told["status"], told["counts"]) == ("Error", {"Error": 1, "Starting": 1, "Running": 2})
    assert [(edge["edge"], edge["status"], edge["version"], edge["code"]) for edge in told["edges"]] == [
        ("B", "Error", "v1", "over_memory"),
        ("C", "Starting", None, "no_report"),
        ("A", "Running", "v2", None),
        ("D", "Running", "v1", None),
    ]


async def test_what_ended_is_told_until_the_edge_has_let_go(fleet: Small) -> None:
    fleet.report("a", "pipe@v2")
    fleet.unassign("lab", "pipe")
    told = await status(fleet)
    assert [(edge["edge"], edge["status"], edge["code"]) for edge in told["edges"]] == [("A", "Stopping", "not_polled")]
    fleet.report("a")
    assert (await status(fleet))["status"] == "Undeployed"


async def test_names_that_no_pipeline_has(fleet: Small) -> None:
    with pytest.raises(UnknownName, match='no pipeline "pipes" — did you mean "pipe"'):
        await status(fleet, "pipes")
    with pytest.raises(NameOfAnother):
        publish_release(fleet.state, release_document("pipe@3.0"))
    fleet.publish("model@1.0")
    with pytest.raises(NameOfAnother):
        publish_release(fleet.state, pipeline("model@v1"))


async def test_all_means_every_edge_and_many_are_read_a_few_at_a_time(fleet: Small) -> None:
    for number in range(EDGES_AT_ONCE + 1):
        fleet.edge(f"e{number}", joined=False)
    fleet.assign("all", "pipe@v1")
    told = await status(fleet)
    assert told["counts"] == {"Starting": EDGES_AT_ONCE + 5}
    assert {edge["wanted"] for edge in told["edges"]} == {"v1"}
