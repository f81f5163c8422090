"""When an edge polls, and what it makes of how a poll ended.

Owns the pace: the nameserver's ``Poll-After``, nudges, back-off, slow retries after a refusal, the stable offset of a
boot; the renewal of the certificate; and :class:`Contact`, what is known of the nameserver.

Rules: a poll that fails, for whatever reason, changes neither cursor nor goals. A nameserver that refuses this edge
leaves everything running, is logged once, and is asked again slowly. Successes are paced by a token bucket, so that no
answer makes a hot loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from federation.actual import alarmed
from federation.documents import Mode
from federation.errors import CertificateExpired, Untrusted
from federation.intervals import DEFAULT_INTERVAL, Interval, parse_interval
from federation.names import PeerId
from peers.backoff import Backoff, Pace, boot_offset_s
from peers.device_mode import autonomous
from peers.edge_polling import Answer, Poller
from peers.edge_state import EdgeState
from query.errors import ErrorRecord, PeerProblem, Problem

BACKOFF_BASE_S: Final = 1.0
BACKOFF_CAP_S: Final = 300.0
BACKOFF_CAP_LEAST_S: Final = 15.0
REFUSED_RETRY_S: Final = 300.0
SKEW_NAMED_S: Final = 30.0  # that a device's clock may be off before people are told

Reached = Literal["never", "answered", "unreachable", "refused", "untrusted"]

log = logging.getLogger("peerage.agent")


class Clock(Protocol):
    """Federation time, and waiting."""

    def now(self) -> float: ...

    def offset_s(self) -> float:
        """What is added to this device's clock to make federation time."""
        ...

    async def wait(self, wake: asyncio.Event, seconds: float | None) -> None:
        """Return once ``wake`` is set or after ``seconds``; None waits for ``wake`` alone."""
        ...


class Certificate(Protocol):
    """This peer's certificate."""

    def renew_at(self) -> float:
        """When two thirds of its life are over, in federation time."""
        ...

    async def renew(self) -> None:
        """Get, store and use a new one. Raises the refusal's class or a world problem."""
        ...


def skew_of(offset_s: float) -> str | None:
    """How a device's clock differs from the nameserver's, in words; None while that does not matter."""
    if abs(offset_s) < SKEW_NAMED_S:
        return None
    return f"{abs(offset_s):.0f} s {'behind' if offset_s > 0 else 'ahead of'} the nameserver's clock"


@dataclass(frozen=True, slots=True)
class Contact:
    """How the last poll ended, since when polls end so, and when the next one is due."""

    state: Reached
    since: float
    problem: ErrorRecord | None = None
    next_poll_at: float | None = None


class Rhythm:
    """Polls until cancelled. ``changed`` is called after every answered poll.

    ``answers_again`` is set when a poll is answered after one that was not; whoever waits for that clears it.
    """

    def __init__(
        self,
        state: EdgeState,
        poller: Poller,
        *,
        identity: PeerId,
        clock: Clock,
        random: Callable[[], float],
        certificate: Certificate | None,
        free_bytes: Callable[[], int],
        changed: Callable[[], None],
        mode_changed: Callable[[Mode], None],
    ) -> None:
        self._state = state
        self._poller = poller
        self._identity = identity
        self._clock = clock
        self._random = random
        self._certificate = certificate
        self._free_bytes = free_bytes
        self._changed = changed
        self._mode_changed = mode_changed
        self._backoff = Backoff(random, base_s=BACKOFF_BASE_S, cap_s=BACKOFF_CAP_S)
        self._pace = Pace()
        self._wake = asyncio.Event()
        self._askers: list[asyncio.Future[None]] = []
        self._skew: str | None = None
        self.contact = Contact("never", clock.now())
        self.answers_again = asyncio.Event()

    def nudge(self) -> None:
        """Poll as soon as the pace allows."""
        self._wake.set()

    async def poll_now(self) -> None:
        """Poll and return once it was answered. Raises why it was not."""
        if self._state.mode == "AUTONOMOUS":
            raise autonomous()
        asker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._askers.append(asker)
        self._wake.set()
        await asker

    def status(self) -> str:
        """The ``Peerage-Status`` of a poll: generation, digest of the report, clock, free disk; at most 200 bytes."""
        desired = self._state.desired
        digest = self._state.report_digest().removeprefix("sha256:")[:16]
        generation = desired.generation if desired else 0
        return f"generation={generation};report={digest};clock={self._clock.now():.0f};free={self._free_bytes()}"

    async def run(self) -> None:
        """Poll until cancelled. An AUTONOMOUS edge does not poll."""
        pause_s: float | None = self._boot_pause_s()
        never = asyncio.Event()
        while True:
            await self._clock.wait(self._wake, None if self._state.mode == "AUTONOMOUS" else pause_s)
            while (held_s := self._pace.wait_s(self._clock.now())) > 0:
                await self._clock.wait(never, held_s)
            self._wake.clear()
            askers, self._askers = self._askers, []
            if self._state.mode == "AUTONOMOUS":
                problem: Problem | None = autonomous()
            else:
                self._pace.spend(self._clock.now())
                problem, pause_s = await self._poll()
            for asker in askers:
                if not asker.done():
                    if problem is None:
                        asker.set_result(None)
                    else:
                        asker.set_exception(problem)

    def _boot_pause_s(self) -> float:
        """ONLINE edges keep their place in the interval over restarts; after a join, nobody waits."""
        if self._state.mode == "INTERACTIVE" or self._state.cursor is None:
            return 0.0
        return boot_offset_s(self._identity, self._interval().seconds)

    def _interval(self) -> Interval:
        desired = self._state.desired
        return parse_interval(desired.poll_interval if desired else DEFAULT_INTERVAL)

    async def _poll(self) -> tuple[Problem | None, float]:
        """Why the poll was not answered, None when it was; and the seconds until the next one."""
        try:
            answer = await self._ask()
            self._accept(answer)
        except Problem as problem:
            return problem, self._unanswered(problem)
        self._backoff.succeeded()
        pause_s = answer.poll_after_s
        if pause_s is None:
            pause_s = self._interval().wait_s(self._random())
        self._touch("answered", None, pause_s)
        return None, pause_s

    async def _ask(self) -> Answer:
        await self._renew_when_due()
        try:
            return await self._poller.ask(self._state.cursor, status=self.status(), now=self._clock.now)
        except CertificateExpired:
            if self._certificate is None:
                raise
            await self._certificate.renew()
            log.info("certificate_renewed")
            return await self._poller.ask(self._state.cursor, status=self.status(), now=self._clock.now)

    async def _renew_when_due(self) -> None:
        if self._certificate is None or self._clock.now() < self._certificate.renew_at():
            return
        try:
            await self._certificate.renew()
            log.info("certificate_renewed")
        except Problem as problem:  # the present one may serve for a while yet; the poll itself will tell
            log.warning("renewal_failed", extra={"code": problem.code, "reason": problem.message})

    def _accept(self, answer: Answer) -> None:
        """Compare with what the director wants, and keep both in one transaction."""
        state = self._state
        state.accept(answer, now=self._clock.now())
        state.keep_clock(self._clock.offset_s())
        self._name_clock()
        self.follow_desired_mode()
        self._changed()

    def _name_clock(self) -> None:
        """Say once that this device's clock is far from federation time, and once that it is not any more."""
        skew = skew_of(self._clock.offset_s())
        if (skew is None) != (self._skew is None):
            if skew is not None:
                log.warning("clock_differs", extra={"clock": skew})
            else:
                log.info("clock_agrees")
        self._skew = skew

    def follow_desired_mode(self) -> None:
        """Take up the mode that the nameserver wants. AUTONOMOUS is the device's own, and stays until it is left."""
        state = self._state
        if state.desired is not None and state.mode not in ("AUTONOMOUS", state.desired_mode):
            log.info("mode_changed", extra={"was": state.mode, "mode": state.desired_mode})
            self.set_mode(state.desired_mode)

    def set_mode(self, mode: Mode) -> None:
        """Be in a mode from now on, by the nameserver's word or the device's."""
        self._state.mode = mode
        self._mode_changed(mode)

    def _unanswered(self, problem: Problem) -> float:
        """Note why a poll was not answered; the seconds until the next one."""
        cap_s = min(BACKOFF_CAP_S, max(BACKOFF_CAP_LEAST_S, 4 * self._interval().seconds))
        pause_s = min(cap_s, self._backoff.failed())
        match problem:
            case Untrusted():
                self._state.become(alarmed(self._state.actual, f"{problem.code}: {problem.message}"))
                self._changed()
                self._touch("untrusted", problem, pause_s)
            case PeerProblem():
                pause_s = REFUSED_RETRY_S * (0.5 + self._random())
                self._touch("refused", problem, pause_s)
            case _:
                self._touch("unreachable", problem, pause_s)
        return pause_s

    def _touch(self, reached: Reached, problem: Problem | None, pause_s: float) -> None:
        now = self._clock.now()
        record = problem.record() if problem else None
        before = self.contact
        same = before.state == reached and (before.problem and before.problem.code) == (record and record.code)
        self.contact = Contact(reached, before.since if same else now, record, now + pause_s)
        if same:
            return
        if record is None:
            log.info("nameserver_answers")
            self.answers_again.set()
        else:
            log.warning("poll_failed", extra={"contact": reached, "code": record.code, "reason": record.message})
