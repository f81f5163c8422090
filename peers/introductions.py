"""The introductions that a peer holds: fetched from the nameserver ahead, kept in its home, used while they are good.

    HOME/introductions.json     {"NAME": {"own": …, "peer": …}}     no secret; of no use without the identity key

Rules: what is good and half over is fetched anew when the nameserver answers, and still used when it does not; what has
ended is never used. What the file holds is checked as what the nameserver sends is, and everything anew under another
root record: the word of a director whose key was taken back ends there. At most :data:`INTRODUCTIONS_MAX` are held,
those that were used last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from federation.documents import DOCUMENT_BYTES_MAX, RootRecord, decode
from federation.errors import UnknownKey
from federation.introductions import INTRODUCTION_LIFETIME_S, Introduced, Introduction, checked
from federation.names import PeerId, fold
from peers.federation_client import BadAnswer, FederationClient
from peers.homes import write_whole
from query.errors import Problem

FILE: Final = "introductions.json"
INTRODUCTIONS_MAX: Final = 64
INTRODUCTION_BYTES_MAX: Final = 64 * 1024
ASK_TIMEOUT_S: Final = 10.0
FETCH_TIMEOUT_S: Final = 3.0  # when one that still serves is half over
AHEAD_S: Final = INTRODUCTION_LIFETIME_S / 4  # between two looks at whether some are half over

log = logging.getLogger("peerage.direct")


class Introductions:
    """One peer's."""

    def __init__(
        self,
        folder: Path,
        *,
        federation: str,
        uuid: PeerId,
        client: FederationClient,
        root: Callable[[], RootRecord],
        follow_root: Callable[[], Awaitable[object]],
    ) -> None:
        """``uuid``: this peer's. ``folder``: its home."""
        self._path = folder / FILE
        self._federation = federation
        self._uuid = uuid
        self._client = client
        self._root = root
        self._follow_root = follow_root
        self._held: dict[str, Introduced] | None = None
        self._believed_by: RootRecord | None = None

    def held(self, name: str) -> Introduced | None:
        """The introduction to a peer that can be used now."""
        found = self._all().get(fold(name))
        return found if found is not None and found.holds(self._client.federation_time()) else None

    async def obtain(self, name: str) -> Introduced:
        """An introduction to a peer, from the nameserver where there is none. Raises what keeps it from being had."""
        held = self.held(name)
        if held is not None and not held.due(self._client.federation_time()):
            return held
        try:
            async with asyncio.timeout(None if held is None else FETCH_TIMEOUT_S):
                return await self._fetch(name)
        except (Problem, TimeoutError) as problem:
            if held is None:
                raise
            log.info("introduction_kept", extra={"peer_name": name, "reason": str(problem)})
            return held

    def forget(self, name: str) -> None:
        """One that was refused is used no more."""
        if self._all().pop(fold(name), None) is not None:
            self._write()

    async def keep(self, names: Callable[[], Sequence[str]]) -> None:
        """Fetch ahead what will be needed, until cancelled."""
        while True:
            for name in names():
                try:
                    await self.obtain(name)
                except Problem as problem:
                    log.info("not_introduced", extra={"peer_name": name, "reason": problem.message})
            await asyncio.sleep(AHEAD_S)

    async def _fetch(self, name: str) -> Introduced:
        introduction = await self._asked(name)
        try:
            found = self._checked(introduction)
        except UnknownKey:  # the director has a newer key
            await self._follow_root()
            found = self._checked(introduction)
        held = self._all()
        held.pop(fold(name), None)
        while len(held) >= INTRODUCTIONS_MAX:
            del held[next(iter(held))]
        held[fold(name)] = found
        self._write()
        return found

    async def _asked(self, name: str) -> Introduction:
        path = f"/v1/introductions/{quote(name, safe='')}"
        raw = bytearray()
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S), self._client.stream(path) as response:
                async for chunk in response.content.iter_any():
                    raw += chunk
                    if len(raw) > INTRODUCTION_BYTES_MAX:
                        raise BadAnswer(f"an introduction of more than {INTRODUCTION_BYTES_MAX} bytes")
        except TimeoutError as error:
            raise BadAnswer("the nameserver's introduction did not come in time") from error
        try:
            return decode(bytes(raw), Introduction)
        except msgspec.MsgspecError as error:
            raise BadAnswer(f"expected an introduction, found {bytes(raw[:80])!r}: {error}") from error

    def _checked(self, introduction: Introduction) -> Introduced:
        now = self._client.federation_time()
        return checked(introduction, caller=self._uuid, root=self._root(), federation=self._federation, now=now)

    def _all(self) -> dict[str, Introduced]:
        root = self._root()
        if self._held is None:
            self._held = self._read()
        elif self._believed_by is not root:
            self._held = self._believed({name: one.introduction for name, one in self._held.items()})
        self._believed_by = root
        return self._held

    def _read(self) -> dict[str, Introduced]:
        try:
            with self._path.open("rb") as file:
                kept = decode(file.read(DOCUMENT_BYTES_MAX + 1), dict[str, Introduction])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("introductions_unread", extra={"reason": str(error)})
            return {}
        return self._believed(kept)

    def _believed(self, kept: Mapping[str, Introduction]) -> dict[str, Introduced]:
        """Those that hold under the root record that is in force."""
        found = {}
        for name, introduction in kept.items():
            try:
                found[name] = self._checked(introduction)
            except Problem:  # it has ended, or the director has another key
                continue
        return found

    def _write(self) -> None:
        kept = {name: one.introduction for name, one in self._all().items()}
        try:
            write_whole(self._path, msgspec.json.encode(kept))
        except Problem as problem:  # it serves without, until the next start
            log.warning("introductions_not_kept", extra={"reason": problem.message})
