"""Where a peer dials its nameserver: the addresses it knows, in the order to try, and looking for it elsewhere.

Owns the list. Whoever answers at an address proves by TLS that it is the nameserver; an address is a hint.

Rules: the address that worked last is tried first; ``look`` is asked once all known ones failed, and not again for
:data:`LOOK_AGAIN_S`; an address is told to ``remember`` when it works for the first time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, TypeAlias

LOOK_AGAIN_S: Final = 30.0
HINT: Final = (
    'is it running? where it moved, say so: PEERAGE_NAMESERVER=HOST:PORT, or nameserver = "HOST:PORT" '
    "in the home's peerage.toml"
)

NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE"})
"""OpenSSL's reasons for a handshake with a server that speaks something else."""

Look: TypeAlias = Callable[[], Awaitable[Sequence[str]]]
Remember: TypeAlias = Callable[[str], None]


class Addresses:
    """``known`` are ``host:port``. ``clock`` counts seconds for :data:`LOOK_AGAIN_S`."""

    def __init__(
        self,
        known: Sequence[str],
        *,
        look: Look | None = None,
        remember: Remember | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known = list(dict.fromkeys(known))
        self._told: set[str] = set()
        self._look = look
        self._remember = remember
        self._clock = clock
        self._look_from: float | None = None

    @property
    def known(self) -> tuple[str, ...]:
        return tuple(self._known)

    def put_first(self, addresses: Sequence[str]) -> None:
        self._known = list(dict.fromkeys((*addresses, *self._known)))

    def to_try(self) -> AsyncIterator[str]:
        """The known ones, then, when the caller asks for more, what is found elsewhere."""
        return _Trying(self._known, self._found)

    def worked(self, address: str) -> None:
        self.put_first((address,))
        if self._remember is not None and address not in self._told:
            self._told.add(address)
            self._remember(address)

    async def _found(self) -> Sequence[str]:
        now = self._clock()
        if self._look is None or (self._look_from is not None and now < self._look_from):
            return ()
        self._look_from = now + LOOK_AGAIN_S
        return [address for address in await self._look() if address not in self._known]


class _Trying:
    """An iterator without anything to close: who finds an address that answers leaves it."""

    def __init__(self, known: Sequence[str], more: Look) -> None:
        self._left = deque(known)
        self._more: Look | None = more

    def __aiter__(self) -> _Trying:
        return self

    async def __anext__(self) -> str:
        if not self._left and self._more is not None:
            more, self._more = self._more, None
            self._left.extend(await more())
        if not self._left:
            raise StopAsyncIteration
        return self._left.popleft()


def words_of_tls(address: str, reason: str | None, said: str) -> tuple[str, str]:
    """Message and hint of a handshake that failed at an address, by OpenSSL's name of the reason and its words."""
    if reason in NOT_TLS:
        return (
            f"{address} does not speak TLS, so no nameserver listens there",
            "the federation's port is 35021 unless set otherwise, and not the application's; \"peerage doctor\" looks "
            "closer",
        )
    if said in ("certificate has expired", "certificate is not yet valid"):
        return (
            f"by this device's clock the {said.replace('certificate', f'certificate of {address}')}",
            'is the clock right? "timedatectl set-ntp true" sets it, "peerage doctor" says by how much it is off',
        )
    return (
        f"{address} is not a nameserver that this home and its federation trust: {said}",
        "another federation's nameserver listens there, or this home's certificate is of another one; \"peerage "
        'doctor" looks closer',
    )
