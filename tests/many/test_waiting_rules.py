"""The rules of statements that wait, without a network: bounds, late answers, times, restarts, and who may see what."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from federation.documents import SignedDocument
from federation.envelopes import credential, seal
from federation.keys import PrivateKey
from federation.members import Member
from federation.names import PeerId, shown
from peers import waiting as rules
from peers.federation_client import BadAnswer
from peers.requests import Origin, StatementRequest, encode_request
from peers.statements import HERE, Errand
from peers.waiting import WaitingStatements
from peers.waiting_intake import AnswerIntake
from peers.waiting_room import AnswerRoom
from peers.waiting_store import WaitingStore, WaitingStoreDamaged, WaitingStoreFailed
from peers.whole_frames import BadWholeAnswer, WholeFrames, outcome_in, read_whole
from query.declarations import Caller, Role
from query.errors import Forbidden, LimitExceeded, Problem, UnknownName
from query.frames import Column, EndFrame, ErrorFrame, ProgressFrame, RowFrame, SchemaFrame, encode_frame
from query.ledger import Ledger, Outcome, State
from query.parsing import parse_statement
from tests.trust.material import DIRECTOR, FEDERATION, NOW, key, member

ANNS_KEY = key(102)
ANN = member(
    uuid=PeerId("33333333-3333-4333-8333-333333333333"), name="ann", kind="client", role="viewer", key=ANNS_KEY.public
)
EDGES = tuple(
    member(uuid=PeerId(f"edge-{number}"), name=f"e{number}", kind="edge", key=key(number).public)
    for number in range(1, 4)
)
CALLER = Caller("ann", Role.VIEWER, ANN.uuid, ANNS_KEY.public)
BOB = Caller("bob", Role.VIEWER, "bob")
OLGA = Caller("olga", Role.OPERATOR, "olga")


@dataclass
class World:
    """A roster and a clock."""

    now: float = NOW
    members: dict[str, Member] = field(default_factory=lambda: {one.uuid: one for one in (ANN, *EDGES)})
    director: PrivateKey = DIRECTOR
    delivered: list[str] = field(default_factory=list)
    finished: list[tuple[str, str]] = field(default_factory=list)

    def member(self, uuid: str) -> Member | None:
        return self.members.get(uuid)

    def member_named(self, name: str) -> Member:
        return next(one for one in self.members.values() if one.name == name)

    def away(self, peer: Member) -> Outcome:
        return Outcome(shown(peer.name), State.UNREACHABLE, "never")

    def vouch(self, uuid: str) -> SignedDocument | None:
        return credential(self.members[uuid], director=self.director, federation=FEDERATION, now=self.now)

    def deliver(self, uuid: PeerId) -> None:
        self.delivered.append(uuid)

    def done(self, uuid: PeerId, statement: str) -> None:
        self.finished.append((uuid, statement))

    def waiting(self, store: WaitingStore, **parts: Any) -> WaitingStatements:
        made = WaitingStatements(
            store, federation=FEDERATION, roster=self, vouch=self.vouch, clock=lambda: self.now, **parts
        )
        made.deliverer = self
        return made


def errand(query: str = "q-1", *, lifetime_s: float = 7200.0, nonce: str | None = None, **fields: Any) -> Errand:
    body = encode_request(StatementRequest(text="//wait: 1h\n1", params=fields.pop("params", {})))
    signed = fields.pop("signed", True)
    envelope = seal(
        body,
        key=ANNS_KEY,
        federation=FEDERATION,
        caller=ANN.uuid,
        now=NOW,
        lifetime_s=lifetime_s,
        nonce=nonce,
        waits=fields.pop("waits", True),
    )
    given: dict[str, Any] = {
        "statement": parse_statement("//wait: 1h\n1"),
        "index": 0,
        "alone": True,
        "route": HERE,
        "request": StatementRequest(text="//wait: 1h\n1"),
        "body": body,
        "origin": Origin(CALLER, envelope if signed else None),
        "variables": {},
        "deadline": None,
        "targets": tuple(edge.name for edge in EDGES),
        "query": query,
    }
    return Errand(**{**given, **fields})


def begin(waiting: WaitingStatements, query: str = "q-1", *, wait_s: float = 3600.0, **fields: Any) -> str:
    return waiting.begin(errand(query, **fields), wait_s=wait_s, variables={})[0]


def whole(value: Any = 1, *, state: State = State.ROWS, detail: str | None = None) -> bytes:
    made = WholeFrames()
    made.take(SchemaFrame(0, (Column("x", "Object"),)))
    made.take(RowFrame(0, (value,)))
    made.take(EndFrame(0, Ledger((Outcome("LIAR", state, detail, rows=1),)), 1, 1.0))
    return made.written("LIAR", index=0)


def states(waiting: WaitingStatements, store: WaitingStore, query: str = "q-1") -> list[str]:
    return [str(target.outcome) if target.outcome else "waiting" for target in store.targets(query)]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def store() -> WaitingStore:
    return WaitingStore.open()


def test_it_waits_and_is_settled_once(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store)
    begin(waiting)
    assert world.delivered == [edge.uuid for edge in EDGES]
    assert waiting.waits_for(EDGES[0].uuid)
    message = waiting.message(EDGES[0].uuid, "q-1")
    assert (message.errand, message.until, message.time_left_s) == ("q-1", NOW + 3600, 60.0)
    waiting.answered(EDGES[0].uuid, "q-1", whole(5))
    waiting.answered(EDGES[0].uuid, "q-1", whole(6))  # again: nothing changes
    assert not waiting.waits_for(EDGES[0].uuid)
    assert states(waiting, store) == ["rows", "waiting", "waiting"]
    (given,) = store.settled("q-1", after=0)
    assert given.outcome is not None
    assert given.answer is not None
    assert given.outcome.peer == "E1"  # whatever the edge says it is called
    assert [frame.values for frame in read_whole(given.answer) if isinstance(frame, RowFrame)] == [(5,)]
    with pytest.raises(UnknownName):
        waiting.message(EDGES[0].uuid, "q-1")


def test_a_run_takes_an_hour_at_most(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store)
    begin(waiting, deadline=time.monotonic() + 7200)
    assert waiting.message(EDGES[0].uuid, "q-1").time_left_s == rules.RUN_S_MAX
    world.now += 3500
    assert waiting.message(EDGES[0].uuid, "q-1").time_left_s == 100.0


def test_an_edge_gets_and_answers_what_is_for_it_alone(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store)
    begin(waiting, targets=("e1",))
    for call in (
        lambda: waiting.message(EDGES[1].uuid, "q-1"),
        lambda: waiting.answered(EDGES[1].uuid, "q-1", whole()),
        lambda: waiting.answered(EDGES[0].uuid, "q-2", whole()),
    ):
        with pytest.raises(UnknownName):
            call()
    assert waiting.open_for(EDGES[1].uuid) == ()
    assert states(waiting, store) == ["waiting"]


def test_the_end_of_the_wait_and_a_late_answer(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store)
    begin(waiting)
    waiting.message(EDGES[0].uuid, "q-1")
    world.now += 3600
    waiting.look()
    assert states(waiting, store) == ["timeout", "unreachable(never)", "unreachable(never)"]
    assert world.finished == [(EDGES[0].uuid, "q-1")]
    assert waiting.waits_for(EDGES[0].uuid)  # it may still run it, and is told to look
    waiting.looked(EDGES[0].uuid)
    assert not waiting.waits_for(EDGES[0].uuid)
    waiting.answered(EDGES[0].uuid, "q-1", whole())
    assert states(waiting, store) == ["rows", "unreachable(never)", "unreachable(never)"]
    assert [target.late for target in store.targets("q-1")] == [True, False, False]
    waiting.answered(EDGES[0].uuid, "q-1", whole(state=State.CANCELLED))
    assert states(waiting, store)[0] == "rows"


def test_what_ended_is_kept_for_a_day_and_bounded_in_number(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store)
    for number in range(3):
        begin(waiting, f"q-{number}", targets=("e1",))
        waiting.answered(EDGES[0].uuid, f"q-{number}", whole())
        world.now += 1
    assert store.forget(ended_before=0.0, keep=2) == ["q-0"]
    world.now += rules.KEPT_S
    waiting.look()
    assert store.all() == []
    with pytest.raises(UnknownName):
        waiting.answered(EDGES[0].uuid, "q-2", whole())


def test_a_restart_changes_nothing(world: World, tmp_path: Path) -> None:
    store = WaitingStore.open(tmp_path / "waiting.db")
    waiting = world.waiting(store)
    begin(waiting)
    waiting.answered(EDGES[1].uuid, "q-1", whole())
    store.close()
    again = WaitingStore.open(tmp_path / "waiting.db")
    waiting = world.waiting(again)
    assert waiting.open_for(EDGES[0].uuid) == ("q-1",)
    assert waiting.open_for(EDGES[1].uuid) == ()
    assert waiting.message(EDGES[0].uuid, "q-1").body == errand().body
    waiting.answered(EDGES[0].uuid, "q-1", whole())
    assert [target.seq for target in again.settled("q-1", after=0)] == [1, 2]
    again.close()


def test_the_same_envelope_is_the_same_statement(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store)
    first = waiting.begin(errand("q-1", nonce="n1"), wait_s=3600, variables={})
    again = waiting.begin(errand("q-2", nonce="n1"), wait_s=3600, variables={})
    assert (first, again) == (("q-1", True), ("q-1", False))
    assert waiting.begin(errand("q-3", nonce="n2"), wait_s=3600, variables={}) == ("q-3", True)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"waits": False, "lifetime_s": 600.0}, "its envelope says that it does not"),
        ({"lifetime_s": 600.0}, "expected at least the 3600 s of the wait"),
        ({"body": b"{}"}, "the request is not the one"),
    ],
)
def test_an_envelope_that_would_not_hold_later_is_refused_now(
    world: World, store: WaitingStore, fields: dict[str, Any], words: str
) -> None:
    waiting = world.waiting(store)
    with pytest.raises(Problem, match=words):
        begin(waiting, **fields)
    assert store.all() == []


def test_statements_are_bounded(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store)
    for number in range(rules.WAITING_PER_CALLER_MAX):
        begin(waiting, f"q-{number}", targets=("e1",))
    with pytest.raises(LimitExceeded, match='65 statements of "ann" that wait: expected at most 64'):
        begin(waiting, "q-x", targets=("e1",))
    waiting.answered(EDGES[0].uuid, "q-0", whole())
    begin(waiting, "q-x", targets=("e1",))
    for count in range(rules.WAITING_MAX - rules.WAITING_PER_CALLER_MAX):
        world.members[f"c{count}"] = ANN
        begin(
            waiting, f"q-c{count}", targets=("e1",), signed=False, origin=Origin(Caller("c", Role.VIEWER, f"c{count}"))
        )
    with pytest.raises(LimitExceeded, match="513 statements that wait here: expected at most 512"):
        begin(waiting, "q-y", targets=("e1",), signed=False, origin=Origin(OLGA))


def test_a_request_and_its_answers_are_bounded(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store)
    with pytest.raises(LimitExceeded, match="bytes of a statement that waits: expected at most 131072"):
        begin(waiting, params={"long": "x" * 131072})
    with pytest.raises(LimitExceeded, match="500001 targets that are waited for"):
        begin(waiting, targets=("e1",) * (rules.TARGETS_MAX + 1))
    assert store.all() == []


def test_answers_that_find_no_room_say_so_and_old_ones_make_some(world: World, store: WaitingStore) -> None:
    size = len(whole())
    waiting = world.waiting(store, room=AnswerRoom(store, statement_bytes_max=2 * size, bytes_max=4 * size))
    begin(waiting, "q-1")
    for edge in EDGES:
        waiting.answered(edge.uuid, "q-1", whole())
    assert states(waiting, store) == ["rows", "rows", "error(limit)"]
    begin(waiting, "q-2", targets=("e1",))
    waiting.answered(EDGES[0].uuid, "q-2", whole())
    assert (states(waiting, store, "q-2"), store.find("q-1")) == (["rows"], None)


def test_one_caller_takes_half_of_the_targets_at_most(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store)
    with pytest.raises(LimitExceeded, match='250001 targets that "ann" waits for: expected at most 250000'):
        begin(waiting, targets=("e1",) * (rules.TARGETS_PER_CALLER_MAX + 1))


def test_statements_that_ended_make_room_for_the_targets_of_new_ones(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store, room=AnswerRoom(store, targets_max=5))
    begin(waiting, "q-1")
    waiting.cancel("q-1", caller=OLGA)
    begin(waiting, "q-2")
    assert [standing.id for standing in store.all()] == ["q-2"]
    begin(waiting, "q-3")  # what waits is not forgotten
    assert [standing.id for standing in store.all()] == ["q-2", "q-3"]


def test_a_caller_who_is_gone_is_refused_by_name_at_delivery(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store)
    begin(waiting)
    world.members[ANN.uuid] = member(uuid=ANN.uuid, name="ann", kind="client", role="viewer", key=key(103).public)
    with pytest.raises(UnknownName):
        waiting.message(EDGES[0].uuid, "q-1")
    assert states(waiting, store) == ["refused(caller_gone)"] * 3
    (first, *_) = store.targets("q-1")
    assert first.answer is not None
    assert [frame.error.message for frame in read_whole(first.answer) if isinstance(frame, ErrorFrame)] == [
        '"ann" has another key, and its statement waits no more'
    ]


def test_who_may_cancel(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store)
    begin(waiting, "q-1")
    begin(waiting, "q-2")
    with pytest.raises(Forbidden):
        waiting.cancel("q-1", caller=BOB)
    namesake = Caller("ann", Role.VIEWER, "another-ann")
    with pytest.raises(Forbidden):
        waiting.cancel("q-1", caller=namesake)
    assert waiting.cancel("q-1", caller=CALLER) is True
    assert waiting.cancel("q-1", caller=CALLER) is False
    assert waiting.cancel("q-2", caller=OLGA) is True
    assert states(waiting, store, "q-2") == ["cancelled"] * 3


def frames_of(*frames: Any) -> bytes:
    return b"\n".join(map(encode_frame, frames))


END = EndFrame(0, Ledger((Outcome("E1", State.EMPTY),)), 0, 0.0)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"[" * 5000,
        frames_of(END),
        frames_of(SchemaFrame(0, ())),
        frames_of(SchemaFrame(0, ()), SchemaFrame(0, ()), END),
        frames_of(SchemaFrame(0, ()), ProgressFrame(0, "x", 1), END),
        frames_of(SchemaFrame(0, ()), EndFrame(0, Ledger(()), 0, 0.0)),
        frames_of(SchemaFrame(0, ()), END, END),
        b" " * (1024 * 1024 + 1),
    ],
)
def test_what_is_no_whole_answer_settles_nothing(world: World, store: WaitingStore, raw: bytes) -> None:
    waiting = world.waiting(store)
    begin(waiting)
    with pytest.raises(BadWholeAnswer):
        waiting.answered(EDGES[0].uuid, "q-1", raw)
    assert states(waiting, store) == ["waiting"] * 3


@pytest.mark.parametrize("value", [{"$what": 1}, [{"$tensor": 1}], {"$time": "no"}])
def test_an_answer_with_what_is_no_value_settles_nothing(world: World, store: WaitingStore, value: Any) -> None:
    """Or nobody could read the answers of the others."""
    waiting = world.waiting(store)
    begin(waiting)
    with pytest.raises(BadAnswer):
        waiting.answered(EDGES[0].uuid, "q-1", whole(value))
    assert states(waiting, store) == ["waiting"] * 3


def test_a_member_lists_its_own_without_a_look_at_others(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store)
    begin(waiting)
    assert [one.id for one in store.all(caller=ANN.uuid)] == ["q-1"]
    assert store.all(caller=PeerId("bob")) == []
    found = store.target("q-1", EDGES[1].uuid)
    assert found is not None
    assert (found.name, found.outcome) == ("e2", None)
    assert store.target("q-1", PeerId("bob")) is None


def test_details_of_an_edge_are_cut(world: World, store: WaitingStore) -> None:
    waiting = world.waiting(store)
    begin(waiting)
    waiting.answered(EDGES[0].uuid, "q-1", whole(state=State.ERROR, detail="x" * 1000))
    assert states(waiting, store)[0] == f"error({'x' * 200})"


def test_an_answer_is_cut_where_it_is_full() -> None:
    made = WholeFrames(bytes_max=20_000)
    made.take(SchemaFrame(0, ()))
    for number in range(1000):
        made.take(RowFrame(0, (number,)))
    made.take(END)
    raw = made.written("E1", index=0)
    assert len(raw) <= 20_000
    assert str(outcome_in(read_whole(raw))) == "error(limit)"


def test_a_full_or_damaged_file_says_so(world: World, tmp_path: Path) -> None:
    store = WaitingStore.open(tmp_path / "waiting.db", pages_max=40)
    waiting = world.waiting(store)

    def fill() -> None:
        for number in range(60):
            begin(waiting, f"q-{number}", params={"x": "y" * 10_000})

    with pytest.raises(WaitingStoreFailed, match="nothing was changed"):
        fill()
    assert all(standing.targets == 3 for standing in store.all())
    store.close()
    (tmp_path / "waiting.db").write_bytes(b"no database at all, " * 500)
    with pytest.raises(WaitingStoreDamaged, match="is damaged"):
        WaitingStore.open(tmp_path / "waiting.db")


async def test_answers_that_come_at_once_are_one_commit_and_each_is_told_its_end(
    world: World, store: WaitingStore
) -> None:
    waiting = world.waiting(store)
    begin(waiting)
    intake = AnswerIntake(waiting, store)
    ends = await asyncio.gather(
        intake.take(EDGES[0].uuid, "q-1", whole()),
        intake.take(EDGES[1].uuid, "q-1", b"garbage"),
        intake.take(EDGES[2].uuid, "q-2", whole()),
        intake.take(EDGES[2].uuid, "q-1", whole(state=State.ERROR)),
        return_exceptions=True,
    )
    assert [type(end) for end in ends] == [type(None), BadWholeAnswer, UnknownName, type(None)]
    assert states(waiting, store) == ["rows", "waiting", "error"]


async def test_who_brought_an_answer_is_told_when_the_disk_is_gone(world: World, tmp_path: Path) -> None:
    """Neither writing nor reading: nobody waits for ever, and nothing is forgotten that was known."""
    store = WaitingStore.open(tmp_path / "waiting.db")
    waiting = world.waiting(store)
    begin(waiting)
    intake = AnswerIntake(waiting, store)
    store._connection.execute("ALTER TABLE targets RENAME TO gone")
    async with asyncio.timeout(5):
        ends = await asyncio.gather(*(intake.take(edge.uuid, "q-1", whole()) for edge in EDGES), return_exceptions=True)
    assert [type(end) for end in ends] == [WaitingStoreFailed] * 3
    assert waiting.open_for(EDGES[0].uuid) == ("q-1",)
    store.close()


async def test_what_the_disk_refused_waits_on(world: World, tmp_path: Path) -> None:
    store = WaitingStore.open(tmp_path / "waiting.db", pages_max=80)
    waiting = world.waiting(store)
    begin(waiting, "q-1")
    begin(waiting, "q-2", targets=("e1",))
    intake = AnswerIntake(waiting, store)
    ends = await asyncio.gather(
        intake.take(EDGES[0].uuid, "q-2", whole()),
        intake.take(EDGES[0].uuid, "q-1", whole("x" * 500_000)),
        return_exceptions=True,
    )
    assert [type(end) for end in ends] == [WaitingStoreFailed] * 2
    assert states(waiting, store) == ["waiting"] * 3
    assert waiting.open_for(EDGES[0].uuid) == ("q-1", "q-2")
    await intake.take(EDGES[0].uuid, "q-2", whole())
    assert states(waiting, store, "q-2") == ["rows"]
    store.close()
