"""What people do at the nameserver: releases, groups, keys. Whoever is refused is told, and nothing has changed.

The root folder is theirs: it keeps every root record and the private root keys, whatever becomes of the nameserver.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from federation import commands, release_commands
from federation.assignments import WantedModel, remove_group_models, set_group_models
from federation.documents import RootRecord, SignedDocument
from federation.keys import PrivateKey
from federation.names import Digest
from federation.restoration import newer_roots
from federation.revocation import (
    Running,
    replace_director,
    replace_publisher,
    replace_root,
    revocation_of,
    revoke,
    sign_following,
)
from federation.roots import active_key, endorse, first_root
from query.errors import Problem
from tests.world.releases import FAILS, GOOD, MODELS, PIPELINE, Made, made, made_pipeline

if TYPE_CHECKING:
    from tests.world.world import World

GROUPS = ("north", "south", "staging")
PUBLISHERS = ("p0", "p1", "p2")


def director(number: int) -> PrivateKey:
    """The director's keys, one after another."""
    return _key(f"director {number}")


def _key(seed: str) -> PrivateKey:
    return PrivateKey(hashlib.sha256(seed.encode()).digest())


class People:
    """``keys``: every publisher key that there was, by id. ``directors`` and ``roots``: all there were, in order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.keys: dict[str, PrivateKey] = {}
        self.directors = [director(0)]
        self.roots = [_key("root 0")]
        publisher = _key("p0 0")
        self.keys[publisher.keyid] = publisher
        root = first_root(
            "f",
            roots=self.roots,
            director=self.directors[0].public,
            now=world.now,
            publishers={"p0": publisher.public},
        )
        self.folder: list[SignedDocument] = [root]

    # --- what they do now and then ------------------------------------------------------------------------------

    def act(self) -> None:
        server, random = self.world.nameserver, self.world.random
        edge, group = random.choice(self.world.edges), random.choice(GROUPS)
        self.mend_director()
        match random.randrange(11):
            case 0 | 1:
                self.publish(random.choice(MODELS), content=FAILS if random.random() < 0.3 else GOOD)
            case 2 | 3:
                known = server.state.releases()
                if known:
                    self.assign(random.choice(known).digest, random.choice((*GROUPS, "all")))
            case 4:
                present = [*server.state.find_group(group).assignments] or MODELS
                server.append(remove_group_models(server.state, group, [random.choice(present)]))
            case 5 | 6:
                server.append(commands.add_group(server.state, edge.name, group))
            case 7:
                server.append(commands.remove_group(server.state, edge.name, group))
            case 8 | 10:
                self.change_keys()
            case 9 if random.random() < 0.1 and server.state.edge_count > len(self.world.edges) - 2:
                self.world.trace(f"{edge.name} is removed")
                server.append(commands.remove(server.state, edge.name))

    def assign(self, record: Digest, group: str) -> None:
        server = self.world.nameserver
        release = next(release for release in server.state.releases() if release.digest == record)
        label = release.record.label
        self.world.trace(f"{group} shall run {label}")
        wanted = [WantedModel(release.record.name, release.record.version)]
        events = set_group_models(server.state, group, wanted).events
        gone = revocation_of(release.document, server.state.root)
        self.world.expect(gone is None, f"{label} of a revoked key was assigned")
        server.append(events)

    def publish(self, name: str, *, content: str, signer: PrivateKey | None = None) -> Made:
        """Mostly with a key that may."""
        server, random = self.world.nameserver, self.world.random
        keys = [signer] if signer is not None else [*self.keys.values()]
        signer = signer or (self.signer() if random.random() < 0.9 else random.choice(keys))
        root = server.state.root
        refused = signer.keyid not in root.publishers or root.publishers[signer.keyid].retired is not None
        number = len(self.world.releases)
        if name == PIPELINE:
            parts = [signer, signer if random.random() < 0.5 else random.choice(keys)]
            release = made_pipeline(number, signer, content=content, signers=parts)
            refused = refused or any(key.keyid in root.revoked for key in parts)
        else:
            release = made(name, f"{number}.0", signer, content=content, needs=self._needs(name))
        try:
            events = release_commands.publish_release(server.state, release.packed.signed)
        except Problem as problem:
            self.world.expect(refused, f"{release.label} of an endorsed key was refused: {problem}")
            raise
        self.world.expect(not refused, f"{release.label} of a key that may not publish was taken")
        self.world.know(release)
        self.world.endorsed[release.record] = release
        server.append(events)
        self.world.trace(f"published {release.label}, {content}, needs {dict(release.needs)}")
        return release

    def signer(self) -> PrivateKey:
        """A key that may publish; the first publisher gets one where there is none."""
        root = self.world.nameserver.state.root
        active = [keyid for keyid, key in root.publishers.items() if key.retired is None and keyid in self.keys]
        if not active:
            self.endorse(PUBLISHERS[0])
            return self.signer()
        return self.keys[self.world.random.choice(active)]

    def _needs(self, name: str) -> dict[str, str]:
        """Of most releases nothing; else of a model before it in the row, so that there are no circles."""
        random = self.world.random
        before = MODELS[: MODELS.index(name)]
        if not before or random.random() < 0.4:
            return {}
        number = random.randrange(len(self.world.releases) + 1)
        return {random.choice(before): random.choice((">=0", f">={number}", f"<{number + 1}"))}

    # --- keys ---------------------------------------------------------------------------------------------------

    def change_keys(self) -> None:
        random = self.world.random
        root = self.world.nameserver.state.root
        known = sorted({key.name for key in (*root.publishers.values(), *root.revoked.values())})
        publisher = random.choice(known)
        match random.randrange(9):
            case 0 | 1 if absent := [name for name in PUBLISHERS if active_key(root, name) is None]:
                self.endorse(absent[0])
            case 0 | 1 | 8:
                self.rotate(publisher)
            case 2 | 3:
                self.revoke(publisher, "keep")
            case 4 | 5:
                self.revoke(publisher, "stop")
            case 6:
                self.replace_director()
            case 7:
                key = _key(f"root {len(self.roots)}")
                root = self._root()
                following = replace_root(root, old=next(iter(root.roots)), key=key.public, now=self.world.now)
                self.roots.append(key)
                self._publish_root(following, "another root key")

    def _root(self) -> RootRecord:
        """The record to go on from: a nameserver that was restored is given what it lacks first."""
        server = self.world.nameserver
        for document in newer_roots(server.state.root_documents, self.folder, where="the root folder"):
            server.append(commands.set_root(server.state, document))
        return server.state.root

    def _publish_root(self, following: RootRecord, what: str) -> None:
        server = self.world.nameserver
        signed = sign_following(server.state.root, following, self.roots)
        self.folder.append(signed)
        self.world.trace(f"root record {following.version}: {what}")
        server.append(commands.set_root(server.state, signed))

    def endorse(self, publisher: str) -> None:
        key = _key(f"{publisher} {len(self.keys)}")
        following = endorse(self._root(), publisher=publisher, key=key.public, now=self.world.now)
        self.keys[key.keyid] = key
        self._publish_root(following, f"{publisher} is endorsed")

    def rotate(self, publisher: str) -> None:
        key = _key(f"{publisher} {len(self.keys)}")
        following = replace_publisher(self._root(), publisher=publisher, key=key.public, now=self.world.now)
        self.keys[key.keyid] = key
        self._publish_root(following, f"{publisher} has a new key")

    def revoke(self, publisher: str, running: Running) -> None:
        root = self._root()
        mine: Sequence[str] = [keyid for keyid, key in root.publishers.items() if key.name == publisher]
        mine = mine or [keyid for keyid, key in root.revoked.items() if key.name == publisher]
        following = revoke(root, mine, running=running, now=self.world.now)
        self._publish_root(following, f"the keys of {publisher} are revoked: {running}")

    def replace_director(self) -> None:
        """The nameserver makes a key and keeps it, then the root record names it."""
        server = self.world.nameserver
        key = director(len(self.directors))
        following = replace_director(self._root(), key=key.public, now=self.world.now)
        self.directors.append(key)
        server.commit(directors=(*server.disk.read("directors"), key))
        self._publish_root(following, "another director")

    # --- backups ------------------------------------------------------------------------------------------------

    def restore(self) -> None:
        """From the last backup, with the root folder. A director key that is lost with the disk is replaced."""
        server = self.world.nameserver
        assert self.world.backup is not None
        server.restore_backup(self.world.backup, roots=self.folder)
        self.mend_director()

    def mend_director(self) -> None:
        server = self.world.nameserver
        known = {key.keyid for key in server.disk.read("directors")}
        if not known & server.state.root.directors.keys():
            self.replace_director()
