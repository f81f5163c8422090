"""Reading the answers of statements that wait: while they come, and afterwards, by whom their roles allow.

Rules: a follower is given every answer once, in the order in which they came to the disk, whatever it missed; leaving
changes nothing. A member sees its own statements, an operator everybody's.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from federation.names import PeerId, shown
from peers.answering import Answering
from peers.merging import Merging, Part
from peers.requests import decode_request
from peers.waiting import WaitingStatements
from peers.waiting_store import Kept, Standing, Target, WaitingStore
from peers.whole_frames import errors_in, read_whole
from query.declarations import Call, Caller, Role
from query.errors import Forbidden, unknown
from query.evaluation import CurrentCatalogue
from query.frames import ErrorFrame, RowFrame, SchemaFrame
from query.parsing import parse
from query.values import decode_value

TOLD_S: Final = 15.0  # at most, between two signs of life to who follows


class WaitingAnswers:
    """What may be read of the statements that wait, and of those that are kept after their end."""

    def __init__(self, waiting: WaitingStatements, store: WaitingStore, catalogue: CurrentCatalogue) -> None:
        self._waiting = waiting
        self._store = store
        self._catalogue = catalogue

    def find(self, statement: str, *, caller: Caller) -> Standing:
        """How one stands. Raises for one that is not kept, and for another's unless the caller is an operator."""
        standing = self._store.find(statement)
        if standing is None:
            raise unknown("query", statement, (one.id for one in self.all(caller=caller)))
        if caller.role < Role.OPERATOR and caller.uuid != standing.caller:
            raise Forbidden(f'query "{statement}" is of "{standing.name}"; its results need the role operator')
        return standing

    def all(self, *, caller: Caller) -> list[Standing]:
        """Those that a caller may see, the oldest first."""
        return self._store.all(caller=None if caller.role >= Role.OPERATOR else PeerId(caller.uuid))

    def listed(self, *, caller: Caller, now: float) -> list[dict[str, Any]]:
        """As ``query:list`` shows them."""
        return [
            {
                "id": one.id,
                "caller": one.name,
                "text": one.text,
                "state": "waiting" if one.ended is None else one.how,
                "running_s": round(max(0.0, (now if one.ended is None else one.ended) - one.begun), 3),
                "waits_s": round(max(0.0, one.until - now), 3) if one.ended is None else 0.0,
                "settled": one.settled,
                "targets": one.targets,
            }
            for one in self.all(caller=caller)
        ]

    async def results(self, statement: str, *, call: Call) -> list[dict[str, Any]]:
        """One record for each target: its state, ``waiting`` while it has none, and what it gave. Of a statement that
        was split, the rows of the whole as far as they came stand before them, and no target has any.
        """
        self.find(statement, caller=call.caller)
        kept = self._store.kept(statement)
        targets = self._store.targets(statement)
        told = [_record(target, partial=kept.partial) for target in targets]
        return told if not kept.partial else [await self._merged(kept, targets, call), *told]

    async def _merged(self, kept: Kept, targets: list[Target], call: Call) -> dict[str, Any]:
        request = decode_request(kept.body)
        variables = {name: decode_value(value) for name, value in {**request.params, **kept.variables}.items()}
        asked = parse(request.text).statements[kept.index]
        rows: list[Any] = []
        merging = await Merging.of(asked, call=call, variables=variables, catalogue=self._catalogue)
        if merging is not None:
            for target in targets:
                if target.answer is not None:
                    merging.take(target.name, read_whole(target.answer))
            async for values, _ in merging.rows():
                rows.append([decode_value(value) for value in values])
        settled = sum(target.outcome is not None for target in targets)
        detail = f"{settled} of {len(targets)} peers have a state"
        return _told(None, "rows" if rows else "empty", detail, rows)

    def settle(self, statement: str, answering: Answering) -> None:
        """Give an answer the states that its targets have, and nothing else."""
        for target in self._store.targets(statement):
            if target.outcome is not None:
                answering.settle(target.outcome)

    async def follow(self, statement: str, answering: Answering, *, merging: Merging | None = None) -> None:
        """Give what was answered and what still comes, until every target has a state; through a merging, if any."""
        standing = self._store.find(statement)
        if standing is None:
            return
        after = given = 0
        while True:
            changed = self._waiting.changed(statement)  # before reading: what comes meanwhile sets it
            while settled := self._store.settled(statement, after=after):
                for target in settled:
                    await _give(target, answering if merging is None else merging.part(target.name, answering))
                    assert target.seq is not None
                    after = target.seq
                    given += 1
            if changed is None:
                return
            await answering.waits(statement, given, standing.targets)
            try:
                async with asyncio.timeout(TOLD_S):
                    await changed.wait()
            except TimeoutError:
                continue


async def _give(target: Target, answering: Answering | Part) -> None:
    """One peer's whole answer into the answer of all."""
    assert target.outcome is not None
    for frame in read_whole(target.answer) if target.answer else ():
        match frame:
            case SchemaFrame(columns=columns) if columns:
                await answering.schema(columns)
            case RowFrame(values=values):
                await answering.row(values, peer=target.name)
            case ErrorFrame(error=error):
                await answering.error(msgspec.structs.replace(error, peer=shown(target.name)))
    answering.settle(target.outcome)
    if isinstance(answering, Part):
        await answering.end()


def _record(target: Target, *, partial: bool) -> dict[str, Any]:
    frames = read_whole(target.answer) if target.answer else ()
    rows = [[decode_value(value) for value in frame.values] for frame in frames if isinstance(frame, RowFrame)]
    outcome = target.outcome
    state, detail = (outcome.state.value, outcome.detail) if outcome is not None else ("waiting", None)
    record = _told(shown(target.name), state, detail, [] if partial else rows)
    errors = [{"code": error.code, "message": error.message} for error in errors_in(frames)]
    return {**record, "errors": errors, "late": target.late}


def _told(peer: str | None, state: str, detail: str | None, rows: list[list[Any]]) -> dict[str, Any]:
    values = [row[0] if len(row) == 1 else row for row in rows]
    return {"peer": peer, "state": state, "detail": detail, "rows": values, "errors": [], "late": False}
