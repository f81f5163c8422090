"""Functions of the language about releases that are there: list, tell, deprecate, delete, collect garbage.

At home everywhere, over one port: on the nameserver they speak of the federation's releases
(:mod:`peers.federation_releases`), on an edge or a client of that peer's own repository (:mod:`peers.own_releases`).
Deprecating is a word to the whole federation and at home on the nameserver alone. Reads arguments; decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from federation.names import checked_model, checked_version
from query.declarations import Call, Effect, Example, Home, Role, function
from query.errors import WrongArguments, suggestion

UNNAMED_LIFE_S: Final = 24 * 3600.0
"""How long a blob that nothing names is kept: a push may take that long from its first blob to its manifest."""

_OPTIONS: Final = ("deprecated", "dry_run", "unnamed_s")


@dataclass(frozen=True, slots=True)
class GarbageOptions:
    """``deprecated``: also releases that are deprecated and held by nobody. ``dry_run``: tell, and remove nothing."""

    deprecated: bool = False
    dry_run: bool = False
    unnamed_s: float = UNNAMED_LIFE_S


class Releases(Protocol):
    """The releases of one peer. All may take a while; ``call`` says who asks and hears of the progress."""

    def listed(self, name: str | None, call: Call) -> AsyncIterator[dict[str, Any]]: ...

    async def told(self, name: str, version: str, call: Call) -> dict[str, Any]: ...

    async def delete(self, name: str, version: str, call: Call) -> None: ...

    async def collect_garbage(self, options: GarbageOptions, call: Call) -> dict[str, Any]: ...


class DeprecatedReleases(Protocol):
    """The federation's releases, as far as they can be deprecated; a reason of None takes that back."""

    def deprecate(self, name: str, version: str, reason: str | None, call: Call) -> None: ...


class ReleaseLifecycle:
    """Bind on every peer, over its own :class:`Releases`."""

    def __init__(self, releases: Releases) -> None:
        self._releases = releases

    @function("models:releases() -> Bag of Record", example="models:releases()")
    def releases(self, call: Call) -> AsyncIterator[dict[str, Any]]:
        """The releases here, a record each: what it is, its digests and size, who signed it and when, what it needs. On
        the nameserver, the federation's, with when and by whom they were published, why they are deprecated, and how
        many edges run them; on other peers, those in the peer's own repository.
        """
        return self._releases.listed(None, call)

    @function("models:releases(String name) -> Bag of Record", example=Example('models:releases("my-model")'))
    def releases_of(self, call: Call, name: str) -> AsyncIterator[dict[str, Any]]:
        """The releases of one model, as `models:releases()` shows them."""
        return self._releases.listed(checked_model(name), call)

    @function("models:info(String name, String version) -> Record", example=Example('models:info("my-model", "1.0")'))
    async def info(self, call: Call, name: str, version: str) -> dict[str, Any]:
        """Everything that is known of a release: its files, inputs, outputs, operator sets, licences and needs, under
        which digests a registry has it, who signed it and whether that key is endorsed, retired or revoked; where it is
        loaded, what it brings there. On the nameserver also who holds it: groups, what they had before, desired states
        and edges.
        """
        return await self._releases.told(checked_model(name), version, call)

    @function(
        "models:delete(String name, String version) -> Boolean",
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:delete("my-model", "0.9")'),
    )
    async def delete(self, call: Call, name: str, version: str) -> bool:
        """Delete a release. On the nameserver it is gone from the federation, unless somebody holds it, who is named
        then: a group, now or before; a desired state that may be valid still; an edge that has it. Its version stays
        taken: the same bytes may be published again, others not. On other peers only their own copy goes, unless it is
        loaded.
        """
        await self._releases.delete(checked_model(name), checked_version(version), call)
        return True

    @function(
        "models:collect_garbage(Record options?) -> Record",
        role=Role.ADMIN,
        effect=Effect.CHANGES,
        example=Example('models:collect_garbage({"dry_run": true})'),
    )
    async def collect_garbage(self, call: Call, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Remove what nothing in this peer's repository names: what interrupted work left, and the files of deleted
        releases. Options: `deprecated` (also delete deprecated releases that nobody holds; on the nameserver),
        `dry_run` (only tell), `unnamed_s` (how long what nothing names is kept: a day, as a push may take that long).
        """
        return await self._releases.collect_garbage(read_options(options or {}), call)


class ReleaseDeprecation:
    """Bind on the nameserver."""

    def __init__(self, releases: DeprecatedReleases) -> None:
        self._releases = releases

    @function(
        "models:deprecate(String name, String version, String reason) -> Boolean",
        home=Home.NAMESERVER,
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:deprecate("my-model", "1.0", "superseded by 2.0")'),
    )
    def deprecate(self, call: Call, name: str, version: str, reason: str) -> bool:
        """Say that a release should not be chosen any more, and why. What runs goes on, and it can still be assigned:
        the answer then says so. `peerage gc --deprecated` deletes it once nobody holds it.
        """
        self._releases.deprecate(checked_model(name), checked_version(version), reason, call)
        return True

    @function(
        "models:undeprecate(String name, String version) -> Boolean",
        home=Home.NAMESERVER,
        role=Role.OPERATOR,
        effect=Effect.CHANGES,
        example=Example('models:undeprecate("my-model", "1.0")'),
    )
    def undeprecate(self, call: Call, name: str, version: str) -> bool:
        """Take a deprecation back."""
        self._releases.deprecate(checked_model(name), checked_version(version), None, call)
        return True


def read_options(options: Mapping[str, Any]) -> GarbageOptions:
    """Raises :class:`WrongArguments` for any other option or value."""
    for key, value in options.items():
        if key not in _OPTIONS:
            tail = suggestion(key, _OPTIONS, otherwise=f": expected one of {', '.join(_OPTIONS)}")
            raise WrongArguments(f'no option "{key}"{tail}')
        if key == "unnamed_s":
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise WrongArguments(f'expected "unnamed_s" as a number of seconds, found {value!r:.40}')
        elif not isinstance(value, bool):
            raise WrongArguments(f'expected "{key}" as true or false, found {value!r:.40}')
    return GarbageOptions(**options)
