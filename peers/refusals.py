"""The callers that a nameserver refused: counted all, and logged once in a while for each.

Owns the count, and who was told of when. Decides nothing: :func:`federation.admission.admit` refuses.

Rules: a caller is a certificate's uuid, or without one the host it called from; each caller and class is logged at
most once in :data:`AGAIN_S`; of more than :data:`CALLERS_MAX` in that time the count alone tells.
"""

from __future__ import annotations

import logging
from typing import Final

from query.errors import Problem

AGAIN_S: Final = 60.0
CALLERS_MAX: Final = 1024
PATH_SHOWN: Final = 100

log = logging.getLogger("peerage.federation")


class Refusals:
    """``count`` is of all since the start."""

    def __init__(self) -> None:
        self.count = 0
        self._told: dict[tuple[str, str], float] = {}  # when, by caller and class; the longest ago first

    def note(
        self, problem: Problem, *, name: str | None, uuid: str | None, address: str, path: str, now: float
    ) -> None:
        """``address`` is ``host:port``; name and uuid as far as a proven certificate tells them."""
        self.count += 1
        while self._told and abs(now - next(iter(self._told.values()))) >= AGAIN_S:  # also after a clock was set
            del self._told[next(iter(self._told))]
        caller = (uuid or address.rpartition(":")[0], problem.code)
        if caller in self._told or len(self._told) >= CALLERS_MAX:
            return
        self._told[caller] = now
        about = {"peer_name": name, "uuid": uuid, "address": address, "path": path[:PATH_SHOWN]}
        known = {key: value for key, value in about.items() if value is not None}
        log.warning("refused", extra={"code": problem.code, **known})
