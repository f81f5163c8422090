"""What callers may change about keys: state and arguments in, events out; by the rules of
:mod:`federation.commands`.
"""

from __future__ import annotations

from federation.commands import NotAllowed
from federation.events import Event, PublisherKeyOffered
from federation.names import PeerId
from federation.revocation import check_offer
from federation.state import FederationState


def offer_publisher_key(state: FederationState, uuid: PeerId, *, key: bytes, proof: bytes) -> tuple[Event, ...]:
    """A publisher has made another key, which waits for the root record. The same key once more changes nothing.

    Raises :class:`NotAllowed` for who is no publisher, :class:`~federation.errors.BadProof` and
    :class:`~federation.errors.BadKeyChange` for a key that was not proven, was revoked, or has a part already.
    """
    member = state.member(uuid)
    if member is None or member.removed or not member.publisher:
        who = f'"{member.name}"' if member is not None else "who asks"
        raise NotAllowed(f"{who} is not registered as a publisher: only a publisher offers a key")
    check_offer(key, proof, member=member, root=state.root)
    return () if member.publisher_key == key else (PublisherKeyOffered(uuid, key),)
