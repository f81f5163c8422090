"""How many threads one run of a graph gets: more than one only where that was measured to pay.

The threads of a run wait for each other at every operator, so small models become slower by them. Measured on zeros,
one row at a time; a graph whose time depends on values, or that does not take zeros, keeps one thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Final

from engine.providers import SessionSettings
from engine.sessions import Session
from engine.warming import SLOW, measured_pace

GAIN_MIN: Final = 1.2  # so many times as quick, or it is not worth the threads
QUICK_US: Final = 150.0  # not looked at below: a hand-over between threads is no shorter than a part of such a run


def pace_us(session: Session) -> float:
    """What a run takes; ``SLOW`` when that cannot be measured."""
    return measured_pace(session, session.run, ()).p99_us


def quickest(graph: bytes, settings: SessionSettings, *, pace: Callable[[Session], float] = pace_us) -> Session:
    """A session with as many threads as the settings allow, or with one. Only one is in memory at a time.

    Raises what building a session raises.
    """
    if settings.threads == 1:
        return Session(graph, settings)
    alone = dataclasses.replace(settings, threads=1)
    session = Session(graph, alone)
    if session.reading.loops:
        return session
    alone_us = pace(session)
    if alone_us == SLOW or alone_us < QUICK_US:
        return session
    del session
    session = Session(graph, settings)
    if pace(session) * GAIN_MIN <= alone_us:
        return session
    del session
    return Session(graph, alone)
