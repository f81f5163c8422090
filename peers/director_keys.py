"""The director keys in a nameserver's home: which one signs now, and how another takes its place.

    director.key         the one that signs
    director.next.key    made for the next root record, which does not name it yet

Owns both files. A private key never leaves the home: of a new one the public half is told, the owner of a root key
signs a root record that names it, and from that record on it signs.

Rules: the root record in force decides, at every signature anew, so that a nameserver that stopped at any point of a
replacement signs with the right key when it is back. ``director.next.key`` takes the place of ``director.key`` once the
root record names it and no longer the other; until then both are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from federation.documents import RootRecord
from federation.keys import PrivateKey, read_key, write_key
from peers.failpoints import reach
from peers.homes import Home, take_place
from query.errors import PeerProblem

log = logging.getLogger("peerage.nameserver")


class DirectorKeyMissing(PeerProblem):
    """The home has none of the director keys that the root record names."""

    code = "director_key_missing"


class DirectorKeys:
    """The keys of one home. ``root`` gives the root record in force."""

    def __init__(self, home: Home, root: Callable[[], RootRecord]) -> None:
        self._home = home
        self._root = root
        files = (home.director_next_key, home.director_key)
        self._keys = {key.keyid: key for key in (read_key(path) for path in files if path.exists())}

    def current(self) -> PrivateKey:
        """The key that signs now. Raises :class:`DirectorKeyMissing`."""
        root = self._root()
        for keyid, key in self._keys.items():
            if keyid in root.directors:
                return key
        told = ", ".join(keyid[:16] for keyid in root.directors)
        have = ", ".join(keyid[:16] for keyid in self._keys) or "none"
        raise DirectorKeyMissing(
            f"the director key is missing: root record {root.version} of {root.federation} names {told},"
            f" and {self._home.director_key} holds {have}",
            hint=f"put the file back, or make a new key with the root folder: peerage keys rotate director"
            f" --home {self._home} --root-home DIR",
        )

    def names_one(self, record: RootRecord) -> bool:
        """Whether this home could sign under ``record``."""
        return bool(self._keys.keys() & record.directors.keys())

    def prepare(self) -> bytes:
        """The public half of the key to be named next; the same one until the root record names it."""
        self.settle()
        if not self._home.director_next_key.exists():
            write_key(self._home.director_next_key, PrivateKey.generate())
            reach("key.made")
        key = read_key(self._home.director_next_key)
        self._keys = {key.keyid: key, **self._keys}
        return key.public

    def settle(self) -> None:
        """Let the next key take its place when the root record names it."""
        path = self._home.director_next_key
        if not path.exists():
            return
        key = read_key(path)
        if key.keyid not in self._root().directors:
            return
        reach("key.named")
        take_place(path, self._home.director_key)
        reach("key.settled")
        self._keys = {key.keyid: key}
        log.info("director_key_replaced", extra={"key": key.keyid[:16]})
