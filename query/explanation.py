"""``explain``: the stages of a statement as rows of a stage's name and what it shows, without running the statement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from query.catalogue import Catalogue
from query.errors import Problem
from query.formatting import format_body
from query.placement import place, route
from query.plan import Plan
from query.resolution import resolve
from query.session import Session
from query.splitting import Split, TopRows, split
from query.syntax import Body, Statement

PEERS_SHOWN: Final = 100


def explain(body: Body, statement: Statement, catalogue: Catalogue, *, session: Session) -> Iterator[tuple[str, str]]:
    """The stages of ``body`` under the directives of ``statement``, the ``explain`` it stands in.

    A stage that fails shows its error; the next ones that can still be shown are.
    """
    meant = Statement(body, statement.directives, statement.source, place=statement.place)
    yield "parse", format_body(body)
    try:
        plan = resolve(meant, catalogue, session.variables)
    except Problem as problem:
        yield "resolve", _failed(problem)
    else:
        yield from _resolved(plan)
    try:
        going = route(meant, catalogue, default=session.default)
        yield "route", str(going)
        if session.directory is not None:
            placed = place(going, session.directory)
            targets = placed.targets
            shown = ", ".join(name.upper() for name in targets[:PEERS_SHOWN])
            more = f" and {len(targets) - PEERS_SHOWN} more" if len(targets) > PEERS_SHOWN else ""
            verb = "does" if placed.unmatched == 1 else "do"
            beside = f"; {placed.unmatched} {verb} not meet the condition" if placed.unmatched else ""
            yield "targets", f"{len(targets)}: {shown}{more}{beside}"
            if len(targets) > 1:
                yield from _together(meant, catalogue, session, peers=len(targets))
        way = session.way(going) if session.way is not None and statement.directives.wait_s is None else None
        if way is not None:
            yield "way", way
    except Problem as problem:
        yield "route", _failed(problem)
    if statement.directives.timeout_s is not None:
        yield "timeout", f"{statement.directives.timeout_s:g}s"
    if statement.directives.wait_s is not None:
        yield "wait", f"up to {statement.directives.wait_s:g}s for edges that are away"
    if statement.directives.budget is not None:
        yield "budget", f"{statement.directives.budget} on each peer"


def _together(meant: Statement, catalogue: Catalogue, session: Session, *, peers: int) -> Iterator[tuple[str, str]]:
    """How several peers answer: each for itself, or together, and then about what would travel."""
    try:
        splitting = split(meant, catalogue, session.variables)
    except Problem as problem:
        yield "split", _failed(problem)
        return
    match splitting:
        case None:
            yield "split", "no: it runs whole at each, and each row carries its peer"
        case TopRows():
            yield (
                "split",
                "each gives its first rows with what they are sorted by; the first of them all are the answer",
            )
            yield "travels", f"the rows of limit from each of {peers} peers"
        case Split(texts=parts, group=keys):
            of = f" for each {', '.join(keys)}" if keys else ""
            given = f"a part of {', '.join(parts)}" if parts else "each group once"
            yield "split", f"each gives {given}{of}; the parts are merged, and the rows are of all peers together"
            yield "travels", _travels(splitting, peers)


def _travels(splitting: Split, peers: int) -> str:
    groups = "" if splitting.one_group else " and group"
    about = splitting.group_bytes_about
    if about is None:
        return f"every value from each of {peers} peers: median, vectorof and count_distinct need them"
    total = f", {about * peers / 1000:,.1f} kB in all" + ("" if splitting.one_group else " for each group")
    return f"estimated: about {about} bytes a peer{groups}{total}"


def _failed(problem: Problem) -> str:
    return f"error {problem.code}: {problem.message}"


def _resolved(plan: Plan) -> Iterator[tuple[str, str]]:
    for declared in plan.functions:
        notes = f"home {declared.home.value}, role {declared.role.name.lower()}, {declared.effect.value}"
        yield "function", f"{declared.signature} ({notes})"
    if plan.columns:
        yield "columns", ", ".join(f"{name} {kind}" for name, kind in plan.columns)
    yield "needs", f"role {plan.role.name.lower()}, {plan.effect.value}"
