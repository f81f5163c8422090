"""What lasts from one statement of a request to the next: the variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any

from query import limits
from query.limits import over
from query.values import measured, normal

if TYPE_CHECKING:
    from query.placement import Directory, Route


class Variables(MutableMapping[str, Any]):
    """Session variables and parameters by name without case; bounded in number, each value in size.

    ``lasting``: what lies below these, and is read where these have nothing.
    """

    def __init__(self, lasting: Variables | None = None) -> None:
        self._values: dict[str, Any] = {}
        self._lasting = lasting

    def __getitem__(self, name: str) -> Any:
        folded = name.casefold()
        if self._lasting is not None and folded not in self._values:
            return self._lasting[folded]
        return self._values[folded]

    def __setitem__(self, name: str, value: Any) -> None:
        folded = name.casefold()
        if folded not in self and len(self) >= limits.VARIABLES_MAX:
            raise over("the session", limits.VARIABLES_MAX, "more", "variables")
        checked = normal(value)
        measured(checked, what=f":{name}")
        self._values[folded] = checked

    def __delitem__(self, name: str) -> None:
        del self._values[name.casefold()]

    def __contains__(self, name: object) -> bool:
        folded = name.casefold() if isinstance(name, str) else name
        return folded in self._values or (self._lasting is not None and folded in self._lasting)

    def __iter__(self) -> Iterator[str]:
        yield from self._values
        if self._lasting is not None:
            yield from (name for name in self._lasting if name not in self._values)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Session:
    """One request's or one front end's session. ``directory`` and ``default`` let ``explain`` say who would answer,
    ``way`` how a peer would be reached without the nameserver.

    ``lasting``: the session that this one is a request of: its variables are read here, and what is set here lasts
    there. Parameters of a request, set among :attr:`variables`, do not.
    """

    def __init__(
        self,
        *,
        directory: Directory | None = None,
        default: str | None = None,
        way: Callable[[Route], str | None] | None = None,
        lasting: Session | None = None,
    ) -> None:
        self.variables: Variables = Variables(lasting.variables if lasting is not None else None)
        self.directory = directory
        self.way = way
        self.default = default
        self._lasting = lasting

    def set(self, name: str, value: Any) -> None:
        self.variables[name] = value
        if self._lasting is not None:
            self._lasting.set(name, self.variables[name])
