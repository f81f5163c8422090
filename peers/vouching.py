"""The director's word on callers: signed once for all the peers that one statement goes to, and for the next ones.

Owns the words given lately. Rules: a word is given again for :data:`FRESH_S` at most, and only as long as the roster
says the same of the member and the same key signs; so a removal, a new role and a new key hold at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from federation.documents import SignedDocument
from federation.envelopes import credential
from federation.keys import PrivateKey
from federation.members import Member
from federation.store import FederationStore

FRESH_S: Final = 10.0  # of a word that is good for two minutes
WORDS_MAX: Final = 1_024


class Vouching:
    """``key`` gives the director's key that signs now; ``clock`` federation time."""

    def __init__(self, store: FederationStore, *, key: Callable[[], PrivateKey], clock: Callable[[], float]) -> None:
        self._store = store
        self._key = key
        self._clock = clock
        self._given: dict[str, tuple[Member, PrivateKey, float, SignedDocument]] = {}

    def __call__(self, uuid: str) -> SignedDocument | None:
        """The word on a member; None for one that is none, or has no key."""
        state = self._store.state
        member = state.member(uuid)
        if member is None or member.removed or member.key is None:
            return None
        key, now = self._key(), self._clock()
        given = self._given.get(uuid)
        if given is not None and given[:2] == (member, key) and 0 <= now - given[2] < FRESH_S:
            return given[3]
        word = credential(member, director=key, federation=state.federation, now=now)
        if len(self._given) >= WORDS_MAX:
            self._given.clear()
        self._given[uuid] = (member, key, now, word)
        return word
