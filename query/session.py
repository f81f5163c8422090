"""What lasts from one statement of a request to the next: the variables."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from query import limits
from query.limits import over
from query.values import measured, normal

if TYPE_CHECKING:
    from query.placement import Directory


class Variables(MutableMapping[str, Any]):
    """Session variables and parameters by name without case; bounded in number, each value in size."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        return self._values[name.casefold()]

    def __setitem__(self, name: str, value: Any) -> None:
        folded = name.casefold()
        if folded not in self._values and len(self._values) >= limits.VARIABLES_MAX:
            raise over("the session", limits.VARIABLES_MAX, "more", "variables")
        checked = normal(value)
        measured(checked, what=f":{name}")
        self._values[folded] = checked

    def __delitem__(self, name: str) -> None:
        del self._values[name.casefold()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Session:
    """One request's or one front end's session. ``directory`` and ``default`` let ``explain`` say who would answer."""

    def __init__(self, *, directory: Directory | None = None, default: str | None = None) -> None:
        self.variables = Variables()
        self.directory = directory
        self.default = default

    def set(self, name: str, value: Any) -> None:
        self.variables[name] = value
