"""The line below the prompt: the signature of the call under the cursor, whom statements go to, and the last ledger.

Pure: values → fragments of ``(class, text)``, whose classes are those of :mod:`peers.palettes`.
"""

from __future__ import annotations

from dataclasses import dataclass

from query.declarations import Declaration
from query.knowledge import Knowledge
from query.pointing import signature_at

Fragment = tuple[str, str]
SEPARATOR = " │ "


@dataclass(frozen=True, slots=True)
class Standing:
    """What the toolbar tells beside a signature. ``mode`` of who is asked, ``editing`` of the keys."""

    federation: str
    name: str
    default: str | None
    mode: str | None
    ledger: str
    editing: str
    learned: bool


def toolbar(text: str, offset: int, knowledge: Knowledge, standing: Standing, *, width: int) -> list[Fragment]:
    """The signature on a line of its own, where there is one; then the standing."""
    fragments: list[Fragment] = []
    if not text.lstrip().startswith("\\"):
        found = signature_at(text, offset, knowledge)
        if found is not None:
            more = f"  {found.active + 1} of {len(found.overloads)}" if len(found.overloads) > 1 else ""
            fragments += signature(found.overloads[found.active], found.parameter, more, width=width)
            fragments.append(("", "\n"))
    hint = "an empty line runs it" if "\n" in text else "\\help"
    return fragments + status(standing, hint, width=width)


def signature(declared: Declaration, active: int, more: str, *, width: int) -> list[Fragment]:
    """``name(Type a, **Type b**) -> Type  what it does``, as far as there is room."""
    parts: list[Fragment] = [("function", declared.name), ("", "(")]
    for number, parameter in enumerate(declared.parameters):
        if number:
            parts.append(("", ", "))
        named = f"{parameter.type} {parameter.name}{'?' if parameter.optional else ''}"
        parts.append(("active" if number == active else "", named))
    parts += [("", f") -> {declared.result}"), ("dim", more)]
    room = width - sum(len(text) for _, text in parts) - 3
    first = " ".join(declared.documentation.split("\n\n")[0].split())
    if room > 12 and first:
        parts.append(("dim", f"  {first if len(first) <= room else first[: room - 1] + '…'}"))
    return parts


def status(standing: Standing, hint: str, *, width: int) -> list[Fragment]:
    """``E1 INTERACTIVE │ mine: ADMIN │ last ledger │ keys``; what there is no room for is left out, from the end."""
    target = standing.default or standing.name
    known: list[Fragment] = [("peer", f" {target}")]
    if standing.mode:
        known.append(("", f" {standing.mode}"))
    rest = []
    if standing.default is not None:
        rest.append(("", f"{standing.federation}: as {standing.name}"))
    else:
        rest.append(("", standing.federation))
    if standing.ledger:
        rest.append(("", standing.ledger))
    rest.append(("dim", standing.editing if standing.learned else f"{standing.editing} · learning names…"))
    rest.append(("dim", hint))
    for one in rest:
        if sum(len(text) for _, text in known) + len(SEPARATOR) + len(one[1]) > width:
            break
        known += [("dim", SEPARATOR), one]
    return known
