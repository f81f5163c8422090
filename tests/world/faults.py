"""Who wants harm: answers to polls that are not for this edge or of another time, and registries that lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import replace as changed
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from federation.documents import DESIRED_TYPE, DesiredModel, PollAnswer, decode, encode
from federation.polling import PollReply, desired_state, window_of
from federation.signing import sign
from query.errors import Problem, WorldProblem
from tests.world.releases import MODELS, ROGUE, made

if TYPE_CHECKING:
    from tests.world.edge import Edge
    from tests.world.world import World

CHUNK_BYTES = 64
ENDLESS_CHUNKS = 4096  # enough that nobody takes them all by mistake
LIES = 0.25  # of the answers of a registry
ATTACKS = 0.06  # of the answers to polls


@dataclass(frozen=True, slots=True)
class Blob:
    """A registry's answer: what it says of the content from ``offset`` on, and the content. ``page``: a text."""

    offset: int
    length: int
    chunks: Iterable[bytes]
    page: bool = False


def blob(content: bytes, offset: int) -> Blob:
    rest = content[offset:]
    return Blob(offset, len(rest), [rest[at : at + CHUNK_BYTES] for at in range(0, len(rest), CHUNK_BYTES)])


class Strangers:
    """Between an edge and its nameserver."""

    def __init__(self, world: World) -> None:
        self.world = world

    # --- registries ---------------------------------------------------------------------------------------------

    def fetched(self, edge: Edge, reply: Any) -> Any:
        """Altered, cut, another's, too long, endless, nothing, an error, a page, a manifest that names other sizes."""
        random = self.world.random
        if not self.world.faulty or not isinstance(reply, Blob) or random.random() > LIES:
            return reply
        told = b"".join(reply.chunks)
        lie = random.randrange(9)
        self.world.trace(f"the registry lies to {edge.name} ({lie})")
        match lie:
            case 0 if told:
                at = random.randrange(len(told))
                told = told[:at] + bytes([told[at] ^ 1 << random.randrange(8)]) + told[at + 1 :]
            case 1:
                cut = blob(told[: random.randrange(len(told) + 1)], 0)
                return Blob(reply.offset, random.choice((reply.length, cut.length)), cut.chunks)
            case 2:
                other = random.choice([*self.world.blobs.values()])
                return changed(blob(other, 0), offset=reply.offset)
            case 3:
                return Blob(reply.offset, reply.length, chain([told], [b"more"]))
            case 4:
                return Blob(reply.offset, 2**40, chain([told], repeat(b"and so on", ENDLESS_CHUNKS)))
            case 5:
                return Blob(reply.offset, 0, ())
            case 6:
                return WorldProblem("500 from the registry")
            case 7:
                return Blob(reply.offset, 6, [b"<html>"], page=True)
            case _:
                told = told.replace(b'"size":', b'"size":1')
        return Blob(reply.offset, len(told), [told])

    # --- directors ----------------------------------------------------------------------------------------------

    def polled(self, edge: Edge, reply: Any) -> Any:
        """An old answer, another's answer, an altered one, or one from a nameserver that was taken over."""
        random = self.world.random
        if not self.world.faulty or isinstance(reply, Problem) or random.random() > ATTACKS:
            return reply
        replies = self.world.answers.get(edge.uuid) or [reply]
        match random.randrange(4):
            case 0:
                return random.choice(replies)
            case 1:
                others = self.world.answers.get(random.choice(self.world.edges).uuid)
                return random.choice(others) if others else reply
            case 2 if reply.body is not None:
                answer = decode(reply.body, PollAnswer)
                payload = answer.desired.payload.replace(b'"generation":', b'"generation":9')
                forged = replace(answer, desired=replace(answer.desired, payload=payload))
                return replace(reply, body=encode(forged))
            case _:
                return self._taken_over(edge, reply)

    def _taken_over(self, edge: Edge, reply: PollReply) -> PollReply:
        """A director's key, of now or of before, is the attacker's: still no model runs that no publisher signed."""
        world = self.world
        state = world.nameserver.state
        if state.entry(edge.uuid) is None:
            return reply
        rogue = made(world.random.choice(MODELS), "6.6.6", ROGUE)
        world.know(rogue)
        wanted = desired_state(state, edge.uuid, window=window_of(edge.uuid, world.now))
        model = DesiredModel(rogue.name, rogue.version, rogue.record, "all", 1)
        key = world.random.choice((world.people.directors[-1], world.random.choice(world.people.directors)))
        signed = sign(encode(replace(wanted, models=(model,))), DESIRED_TYPE, key)
        forged = PollReply(200, wanted.etag, encode(PollAnswer(signed, (rogue.packed.signed,))), 10.0)
        world.answers.setdefault(edge.uuid, []).append(forged)
        world.trace(f"{edge.name} is told to run {rogue.label} of a rogue by {key.keyid[:8]}")
        return forged
