"""The director's word on a caller is given again for a while, and never after the roster or the key has changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from federation.envelopes import vouched
from federation.events import Joined, Registered, Removed
from federation.names import PeerId
from federation.store import FederationStore
from peers.vouching import FRESH_S, Vouching
from tests.trust.material import DIRECTOR, NOW, ROOT_RECORD, key

ANN = PeerId("33333333-3333-4333-8333-333333333333")
ANNS_KEY = key(102)


@dataclass
class Roster:
    store: FederationStore
    now: float = NOW
    key: object = field(default=DIRECTOR)

    def add(self, *events: object) -> None:
        self.store.append(list(events), caller="test", now=self.now)  # type: ignore[arg-type]

    @property
    def vouching(self) -> Vouching:
        return Vouching(self.store, key=lambda: self.key, clock=lambda: self.now)  # type: ignore[arg-type, return-value]


@pytest.fixture
def roster() -> Iterator[Roster]:
    store = FederationStore.open(None)
    roster = Roster(store)
    roster.add(Registered(uuid=ANN, name="Ann", kind="client", role="operator"))
    yield roster
    store.close()


def test_a_word_is_given_again_while_it_is_fresh(roster: Roster) -> None:
    roster.add(Joined(ANN, ANNS_KEY.public))
    vouch = roster.vouching
    first = vouch(ANN)
    assert first is not None
    roster.now += FRESH_S - 0.5
    assert vouch(ANN) is first
    roster.now += 1
    second = vouch(ANN)
    assert second is not None
    assert second is not first
    roster.now -= 100  # a clock that was put back
    assert vouch(ANN) not in (first, second)


def test_nobody_vouches_for_whom_the_roster_does_not_know(roster: Roster) -> None:
    vouch = roster.vouching
    assert vouch("nobody") is None
    assert vouch(ANN) is None  # has not joined
    roster.add(Joined(ANN, ANNS_KEY.public))
    assert vouch(ANN) is not None
    roster.add(Removed(ANN))
    assert vouch(ANN) is None


def test_a_new_key_of_the_member_or_of_the_director_holds_at_once(roster: Roster) -> None:
    roster.add(Joined(ANN, ANNS_KEY.public))
    vouch = roster.vouching
    first = vouch(ANN)
    roster.add(Joined(ANN, key(103).public))
    second = vouch(ANN)
    assert second is not None
    assert second != first
    roster.key = key(104)
    third = vouch(ANN)
    assert third is not None
    assert third.signatures[0].keyid == key(104).keyid
    roster.key = DIRECTOR
    again = vouch(ANN)
    assert again is not None
    said = vouched(again, root=ROOT_RECORD, federation=roster.store.state.federation, now=NOW)
    assert (said.name, said.role, said.key) == ("Ann", "operator", key(103).public)
