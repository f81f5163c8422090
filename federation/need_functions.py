"""The function of the language that tells what a published release needs; at home on the nameserver, which chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from federation.assignments import needed_by
from query.declarations import Call, Example, Home, function

if TYPE_CHECKING:
    from federation.store import FederationStore


class NeedFunctions:
    """Bind on the nameserver, beside :class:`federation.group_functions.GroupFunctions`."""

    def __init__(self, store: FederationStore) -> None:
        self._store = store

    @function(
        "models:needs(String name, String version) -> Vector of Record",
        home=Home.NAMESERVER,
        example=Example('models:needs("my-sa-model", "5.3")'),
    )
    def needs(self, call: Call, name: str, version: str) -> list[dict[str, str]]:
        """What a published release needs, directly or through others, as it would be chosen now for an edge that has
        nothing: the newest that fits, what others need first. An error with the chain when that cannot be met.
        """
        release = self._store.state.find_release(name, version)
        return [
            {"name": pin.name, "version": pin.version, "digest": pin.record}
            for pin in needed_by(self._store.state, release)
        ]
