"""One answer from the partial answers of several peers, whole peers at a time.

Owns the merged groups and first rows of one split statement. Pure; rows are lists of values. Rules: what a peer gave is
added when it has come to its end, all of it or nothing: a problem leaves what was merged before as it was. Groups stand
in the order in which they came first. Both are bounded; who would pass the bound is left out, and told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from query.limits import over
from query.part_functions import Held
from query.partials import BadPartial, same_key
from query.selection import comes_last, in_order
from query.splitting import Split, TopRows

GROUPS_MAX: Final = 100_000
FIRST_ROWS_MAX: Final = 100_000


class MergedGroups:
    """The groups of all peers that were added."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._groups: dict[Any, tuple[list[Any], tuple[Any, ...]]] = {}

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, target: str, rows: Sequence[Sequence[Any]]) -> None:
        """Take what one peer gave. Raises for what is no partial result, or does not go with what is there."""
        kinds, keys = self._split.aggregates, self._split.keys
        changed: dict[Any, tuple[list[Any], tuple[Any, ...]]] = {}
        for row in rows:
            if len(row) != keys + len(kinds):
                raise BadPartial(f"expected rows of {keys + len(kinds)} values, found one of {len(row)}")
            parts = tuple(kind.read(wire) for kind, wire in zip(kinds, row[keys:], strict=True))
            key = same_key(row[:keys])
            known = changed.get(key) or self._groups.get(key)
            if known is None:
                changed[key] = (list(row[:keys]), parts)
            else:
                merged = zip(kinds, known[1], parts, strict=True)
                changed[key] = (known[0], tuple(kind.merge(one, other) for kind, one, other in merged))
        if len(self._groups) + sum(key not in self._groups for key in changed) > GROUPS_MAX:
            raise over("an answer of several peers", GROUPS_MAX, "more", "groups", hint="group by fewer values")
        self._groups.update(changed)

    def rows(self) -> list[list[Any]]:
        """A row a group for the final statement: its keys and its merged parts."""
        return [[*keys, *map(Held, parts)] for keys, parts in self._groups.values()]


class MergedRows:
    """The first ``limit`` rows of all peers that were added; null: all of them."""

    def __init__(self, top: TopRows, *, limit: int | None) -> None:
        self._top = top
        self._limit = limit
        self._directions = [descending for _, descending in top.order]
        self._held: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = []
        self._samples: dict[int, tuple[tuple[Any, ...], tuple[Any, ...]]] = {}  # by sort key: a row that has it

    def __len__(self) -> int:
        return len(self._held)

    def add(self, target: str, rows: Sequence[Sequence[Any]]) -> None:
        """Take what one peer gave. Raises for rows that are none, or cannot be ordered among those that are there."""
        top = self._top
        made = []
        for row in rows:
            if len(row) != len(top.columns):
                raise BadPartial(f"expected rows of {len(top.columns)} values, found one of {len(row)}")
            made.append(((target, *row[: top.items]), tuple(row[column] for column, _ in top.order)))
        in_order([*self._samples.values(), *made], self._directions)  # raises where they do not go together
        if len(self._held) + len(made) > FIRST_ROWS_MAX:
            self._held = self._first()
            if len(self._held) + len(made) > FIRST_ROWS_MAX:
                raise over("an answer of several peers", FIRST_ROWS_MAX, "more", "rows", hint="write a smaller limit")
        self._held += made
        for entry in made:
            for position, key in enumerate(entry[1]):
                if not comes_last(key):
                    self._samples.setdefault(position, entry)

    def rows(self) -> list[tuple[str, list[Any]]]:
        """The rows in their order, each with who gave it; of equal ones the first when ``distinct``."""
        return [(target, values) for (target, *values), _ in self._first()]

    def _first(self) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        found: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = []
        seen: set[Any] = set()
        for entry in in_order(self._held, self._directions):
            if self._limit is not None and len(found) >= self._limit:
                break
            if self._top.distinct:
                key = same_key(entry[0][1:])
                if key in seen:
                    continue
                seen.add(key)
            found.append(entry)
        return found
