"""Statements that another peer carried here: who signed them decides under which role they run.

Rules: with an envelope that holds, and nothing beside it that it does not cover, the signer's role, as the director
vouches for it; in every other case the carrier's own, which on an edge is ``viewer``. An envelope that does not hold
is refused with its class: it is never silently lowered. A director's key that is not known here may be a newer one: the
root record is followed before its word is refused.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from federation.documents import RootRecord
from federation.envelopes import NonceMemory, check
from federation.errors import UnknownKey
from federation.names import shown
from peers.requests import decode_request
from peers.statements import Statements
from peers.uplink_messages import StatementMessage
from query.declarations import Caller, Role
from query.errors import Problem
from query.frames import EndFrame, ErrorFrame, Frame, SchemaFrame
from query.ledger import Ledger, Outcome, State
from query.values import decode_value


async def _nothing_newer() -> bool:
    return False


CARRIER = Caller(name="nameserver", role=Role.VIEWER)


class CarriedStatements:
    """The edge's executor of what comes down its uplink."""

    def __init__(
        self,
        *,
        name: str,
        federation: str,
        root: Callable[[], RootRecord],
        statements: Statements,
        federation_time: Callable[[], float],
        follow_root: Callable[[], Awaitable[bool]] = _nothing_newer,
    ) -> None:
        """``follow_root`` takes up newer root records and says whether there were any."""
        self._name = name
        self._federation = federation
        self._root = root
        self._statements = statements
        self._now = federation_time
        self._follow_root = follow_root
        self._nonces = NonceMemory()
        self._began = time.monotonic()

    async def carried(self, message: StatementMessage) -> AsyncGenerator[Frame, None]:
        """The frames of the statement; a refusal is an answer too."""
        try:
            caller = await self._vouched(message)
            request = decode_request(message.body)
            variables = {name: decode_value(value) for name, value in message.variables.items()}
        except Problem as problem:
            yield SchemaFrame(message.index, ())
            yield ErrorFrame(message.index, problem.record(peer=shown(self._name)))
            outcome = Outcome(shown(self._name), State.REFUSED, problem.code)
            yield EndFrame(message.index, Ledger((outcome,)), 0, 0.0)
            return
        running = self._statements.run_carried(
            request,
            message.index,
            caller=caller,
            sender="nameserver",
            variables=variables,
            time_left_s=message.time_left_s,
        )
        async with aclosing(running) as frames:
            async for frame in frames:
                yield frame

    async def _vouched(self, message: StatementMessage) -> Caller:
        try:
            return self._caller(message)
        except UnknownKey:
            if not await self._follow_root():
                raise
        return self._caller(message)

    def _caller(self, message: StatementMessage) -> Caller:
        if message.envelope is None or message.credential is None:
            return CARRIER
        # What this peer takes for federation time may have been corrected since it began.
        self._nonces.since = self._now() - (time.monotonic() - self._began)
        caller = check(
            message.envelope,
            message.credential,
            message.body,
            use=str(message.index),
            root=self._root(),
            federation=self._federation,
            now=self._now(),
            nonces=self._nonces,
        )
        return CARRIER if message.variables else caller
