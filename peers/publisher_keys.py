"""The publisher keys in a home: which one signs, and how another takes its place.

    publisher.key         the one that signs
    publisher.next.key    made to replace it, until the root record endorses it

Rules: the old key signs until the root record endorses the new one, so that nothing stands still meanwhile. Then the
new one takes the place of the old, which is retired and good for nothing any more. Each step can be done again: a kill
in between loses no key.
"""

from __future__ import annotations

import logging

from federation.documents import RootRecord
from federation.keys import PrivateKey, read_key, write_key
from peers.failpoints import reach
from peers.homes import Home, take_place
from query.errors import PeerProblem

log = logging.getLogger("peerage.models")


class NotAPublisher(PeerProblem):
    """A home that signs no releases."""

    code = "not_a_publisher"


def publisher_key(home: Home, root: RootRecord) -> PrivateKey:
    """The key that signs what this home publishes. Raises :class:`NotAPublisher`."""
    settle(home, root)
    if not home.publisher_key.exists():
        raise NotAPublisher(
            f"{home} has no publisher key, so it signs no releases",
            hint="register with --publisher, join in a new home, and have the key endorsed: peerage keys endorse NAME",
        )
    return read_key(home.publisher_key)


def next_key(home: Home) -> PrivateKey:
    """The key that is to replace the present one; made when there is none. Raises :class:`NotAPublisher`."""
    if not home.publisher_key.exists():
        raise NotAPublisher(f"{home} has no publisher key: there is none to replace")
    if not home.publisher_next_key.exists():
        write_key(home.publisher_next_key, PrivateKey.generate())
        reach("key.made")
    return read_key(home.publisher_next_key)


def settle(home: Home, root: RootRecord) -> bool:
    """Let the next key take its place when ``root`` endorses it; whether it did."""
    if not home.publisher_next_key.exists():
        return False
    key = read_key(home.publisher_next_key)
    endorsed = root.publishers.get(key.keyid)
    if endorsed is None or endorsed.retired is not None:
        return False
    reach("key.named")
    take_place(home.publisher_next_key, home.publisher_key)
    reach("key.settled")
    log.info("publisher_key_replaced", extra={"key": key.keyid[:16]})
    return True
