"""A nameserver's home that was founded but does not run: store, repository and a publisher, for backups of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from federation import commands, release_commands
from federation.bundles import token_hash
from federation.documents import SignedDocument
from federation.events import Event, ReleaseDeleted
from federation.keys import PrivateKey, read_key
from federation.layout import ImageLayout
from federation.names import PeerId
from federation.packing import PackedRelease
from federation.roots import endorse, sign_root
from federation.store import FederationStore
from peers.backups import Taken, take_backup
from peers.founding import found
from peers.homes import Home
from peers.restoring import Restored, Wishes, restore
from peers.settings import NameserverSettings
from tests.membership.small import identity, key
from tests.repository.site import packed, write_model

NOW = 1_750_000_000.0  # before the tests run
ADA = PrivateKey(b"a" * 32)


class Ground:
    """Opens the store of a founded home; :meth:`close` lets a nameserver, or the next, have it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = Home(folder / "ns")
        self.root_home = Home(folder / "ns-root")
        self.admin_home = Home(folder / "ns-admin")
        self.backup = folder / "backup"
        if not self.home.joined:
            settings = NameserverSettings(federation="mine", zeroconf=False)
            found(self.home, settings, now=NOW, host_name="here")
        self.store = FederationStore.open(self.home.state_db)
        self.layout = ImageLayout(self.home.releases)
        self.now = NOW

    def close(self) -> None:
        self.store.close()

    def write(self, events: tuple[Event, ...]) -> None:
        self.now += 1.0
        self.store.append(events, caller="admin", now=self.now)

    def endorse(self, name: str, signer: PrivateKey) -> SignedDocument:
        """Take up a publisher; the root folder keeps the chain, as ``peerage keys endorse`` does."""
        following = endorse(self.store.state.root, publisher=name, key=signer.public, now=self.now)
        signed = sign_root(following, read_key(self.root_home.root_key))
        self.write(commands.set_root(self.store.state, signed))
        self.root_home.write_roots(self.store.state.root_documents)
        return signed

    def release(self, name: str, version: str, content: str) -> PackedRelease:
        folder = write_model(self.folder / "models" / f"{name}-{version}", name=name, code=content)
        return packed(folder, version=version, publisher=ADA)

    def publish(self, name: str, version: str, *, content: str | None = None) -> None:
        """As a push does: stored and listed first, then in the log."""
        text = content or f"create function {name}() -> Text as '{version}';\n"
        release = self.release(name, version, text)
        self.layout.install(release)
        self.write(release_commands.publish_release(self.store.state, release.signed))

    def delete(self, name: str, version: str) -> None:
        """As it is done: in the log first, then off the list, then from the disk."""
        release = self.store.state.find_release(name, version)
        self.write((ReleaseDeleted(name, version, release.record.manifest),))
        self.layout.remove(self.layout.installed(name, version))

    def register(self, name: str, *, joined: bool = True) -> PeerId:
        from federation.bundles import join_request

        hashed = token_hash(token_of(name))
        state = self.store.state
        self.write(commands.register(state, name, uuid=identity(name), token_hash=hashed, now=self.now))
        if joined:
            request = join_request(name=name, token=token_of(name), key=key(name))
            self.write(commands.join(state, request, now=self.now))
        return identity(name)

    # --- backups ----------------------------------------------------------------------------------------------------

    def take(self, **options: bool | int) -> Taken:
        return take_backup(self.home, self.backup, clock=lambda: self.now, **options)  # type: ignore[arg-type]

    def restore(self, name: str = "ns2", **wishes: object) -> Restored:
        """To a home beside the old one, an hour later."""
        return restore(
            self.backup,
            Home(self.folder / name),
            Wishes(**wishes),  # type: ignore[arg-type]
            clock=lambda: self.now + 3600.0,
        )


def token_of(name: str) -> str:
    return f"token-of-{name}"


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """A home with one publisher, one release and one edge."""
    made = Ground(folder)
    try:
        made.endorse("ada", ADA)
        made.publish("m", "1.0")
        made.register("E1")
        yield made
    finally:
        made.close()


def check_whole(home: Home) -> list[str]:
    """A home is consistent: log and tables agree, the repository lists what the log has, each release verifies."""
    store = FederationStore.open(home.state_db)
    try:
        before = {table: store.rows(table) for table in ("facts", "members", "releases", "deleted_releases", "roots")}
        store.rebuild()
        assert {table: store.rows(table) for table in before} == before
        layout = ImageLayout(home.releases)
        labels = [release.record.label for release in store.state.releases()]
        assert sorted(entry.label for entry in layout.releases()) == sorted(labels)
        for release in store.state.releases():
            assert layout.verified(release.document, root=store.state.root).label == release.record.label
        layout.collect_garbage()  # raises where a listed manifest is not whole
        return labels
    finally:
        store.close()
