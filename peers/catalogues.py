"""The catalogue of one running peer: every declaration, this peer's implementations, models' and users' functions.

Owns the one reference to the current :class:`~query.catalogue.Catalogue`; a change replaces it. Rules: every peer knows
every declaration, so that it can route, explain and complete; only composed functions have implementations here. A
model's functions come and go with the model; :func:`check_functions` is asked before a model is loaded.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from query import resolution
from query.catalogue import USER, Catalogue, user_function
from query.declarations import Declaration, bind, declarations
from query.errors import Problem

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.servables import Servable
    from query.syntax import CreateFunction

DECLARING: Final = (
    ("federation.functions", "NAMESERVER_FUNCTIONS"),
    ("peers.key_functions", "KeyFunctions"),
    ("peers.peer_functions", "RosterFunctions"),
    ("peers.waiting_functions", "WaitingFunctions"),
    ("peers.peer_functions", "PeerFunctions"),
    ("peers.edge_functions", "OwnEdgeFunctions"),
    ("peers.device_functions", "DeviceFunctions"),
    ("peers.model_functions", "ReleaseFunctions"),
    ("peers.release_lifecycle", "ReleaseLifecycle"),
    ("peers.release_lifecycle", "ReleaseDeprecation"),
    ("peers.repository_functions", "RepositoryFunctions"),
    ("peers.development_functions", "DevelopmentFunctions"),
    ("peers.pipeline_functions", "PipelineFunctions"),
    ("peers.pipeline_deployment", "PipelineDeployment"),
    ("engine.functions", "ModelFunctions"),
    ("engine.inference_log_functions", "LogFunctions"),
    ("engine.pipeline_functions", "PipelineInference"),
    ("query.functions", "FUNCTIONS"),
)
"""Where the program's functions are declared: a class, or a tuple of classes or instances, in a module."""


def every_declaration() -> tuple[Declaration, ...]:
    """All functions of the program without implementations, but for the language's own, which need none."""
    found: list[Declaration] = []
    for module, name in DECLARING:
        declared = getattr(importlib.import_module(module), name)
        for owner in declared if isinstance(declared, tuple) else (declared,):
            found.extend(declarations(owner) if isinstance(owner, type) else bind(owner))
    return tuple(found)


@functools.cache
def _declared() -> Catalogue:
    return Catalogue(every_declaration())


def check_functions(functions: Sequence[CreateFunction], beside: Sequence[CreateFunction] = ()) -> None:
    """That a model's functions may be: they call the program's functions, each other, and those ``beside`` them, of the
    models that it needs; and take no name of the program's. Raises :class:`~engine.errors.BadFunctions`.
    """
    from engine.errors import BadFunctions

    try:
        known = _declared()
        if beside:
            known = known.with_functions("needed", map(user_function, beside))
        resolution.check_functions(functions, known)
    except Problem as problem:
        raise BadFunctions(problem.message, hint=problem.hint) from problem


class PeerCatalogue:
    """The holder; :meth:`compose` once, then :attr:`current` is what statements see."""

    def __init__(self) -> None:
        self._current = Catalogue()

    @property
    def current(self) -> Catalogue:
        return self._current

    def compose(self, *instances: object) -> None:
        """Know every declaration, and implement those of ``instances`` here."""
        bound = [declared for instance in instances for declared in bind(instance)]
        self._current = Catalogue((*every_declaration(), *bound))

    def follow(self, engine: Engine) -> None:
        """Take up the functions of each model that is loaded, and drop those of one that is unloaded."""
        engine.subscribe(self._model_changed)

    def set_user_functions(self, functions: Iterable[Declaration]) -> None:
        """What ``create function`` and ``delete function`` leave. Raises :class:`~query.catalogue.NameTaken`."""
        self._current = self._current.with_functions(USER, functions)

    def _model_changed(self, name: str, model: Servable | None) -> None:
        owner = f"model {name}"
        if model is None:
            self._current = self._current.without(owner)
            return
        functions = [user_function(statement) for statement in model.contents.functions]
        self._current = self._current.with_functions(owner, functions)
