"""Releases put into an engine's memory by a verdict that is given, so that no test of running pays for a trial."""

from __future__ import annotations

from typing import Any

from engine.engine import Engine, Verdict
from engine.servables import Servable
from federation.verification import VerifiedRelease
from tests.models.making import release


def accepted(candidate: VerifiedRelease, engine: Engine, *, peak_bytes: int = 1) -> Verdict:
    """A remembered verdict."""
    return Verdict(record=candidate.record_digest, runtime=engine.runtime_version, peak_bytes=peak_bytes)


async def put(engine: Engine, model: bytes | None, *, peak_bytes: int = 1, **about: Any) -> Servable:
    """Loads a release of ``model``; ``about`` as for :func:`tests.models.making.packed`."""
    candidate = release(model, **about)
    return await engine.load(candidate, origin="group", verdict=accepted(candidate, engine, peak_bytes=peak_bytes))
