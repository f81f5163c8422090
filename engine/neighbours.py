"""What a release needs of the models beside it in memory: that they are there, and the functions that it may call.

Pure. Refuses, as a thing that may pass (:class:`NeedsNotMet`), a release whose needs memory does not meet, and one
whose functions call what the needed versions do not have: the release did not change, its neighbours may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from engine.errors import BadFunctions, NeedsNotMet
from federation.documents import ReleaseRecord
from federation.needs import satisfies

if TYPE_CHECKING:
    from engine.servables import Servable
    from query.syntax import CreateFunction

CheckFunctions = Callable[[Sequence["CreateFunction"], Sequence["CreateFunction"]], None]
"""Raises :class:`~engine.errors.BadFunctions` for functions that could not be called beside the others."""


def any_functions(functions: Sequence[CreateFunction], beside: Sequence[CreateFunction]) -> None:
    """The :data:`CheckFunctions` of an engine without a catalogue: what parses may be."""


def needed_models(record: ReleaseRecord, models: Mapping[str, Servable]) -> tuple[Servable, ...]:
    """The models that a release needs, as they are in memory. Raises :class:`NeedsNotMet` when one is not."""
    found = []
    for name, condition in record.needs.releases.items():
        model = models.get(name)
        if model is None or not satisfies(model.version, condition):
            there = f"there is {model.label}" if model is not None else f"no {name} is loaded here"
            raise NeedsNotMet(f"{record.label} needs {name}{condition}: {there}")
        found.append(model)
    return tuple(found)


def check_beside(
    record: ReleaseRecord,
    functions: Sequence[CreateFunction],
    models: Sequence[Servable],
    check: CheckFunctions,
) -> None:
    """That a release's functions can be called beside the models that it needs. Raises :class:`NeedsNotMet`, or
    ``BadFunctions`` for a release that needs none.
    """
    try:
        check(functions, [function for model in models for function in model.contents.functions])
    except BadFunctions as problem:
        if not models:
            raise
        beside = ", ".join(model.label for model in models)
        raise NeedsNotMet(f"{record.label} does not fit {beside}: {problem.message}", hint=problem.hint) from problem
