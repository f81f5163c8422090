"""A small federation in one store: keys that are the same in every run, edges and releases by name."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from uuid import UUID

from federation import assignments, commands, release_commands
from federation.bundles import token_hash
from federation.documents import (
    RELEASE_TYPE,
    ActualState,
    FileEntry,
    LoadedEntry,
    LoadError,
    Mode,
    Needs,
    ReleaseRecord,
    SignedDocument,
    encode,
)
from federation.entries import Release
from federation.events import Change, Event
from federation.keys import PrivateKey
from federation.members import Member
from federation.names import PeerId, digest_of
from federation.polling import Director
from federation.roots import first_root
from federation.signing import sign
from federation.state import FederationState
from federation.store import FederationStore
from query.declarations import Call, Caller, Role

NOW = 1_800_000_000.0


def key(label: str) -> PrivateKey:
    return PrivateKey(hashlib.sha256(label.encode()).digest())


def identity(label: str) -> PeerId:
    return PeerId(str(UUID(bytes=hashlib.sha256(label.encode()).digest()[:16], version=4)))


ROOT, DIRECTOR, PUBLISHER = key("root"), key("director"), key("publisher")
ROOT_DOCUMENT = first_root(
    "fed-1", roots=[ROOT], director=DIRECTOR.public, publishers={"ann": PUBLISHER.public}, now=NOW
)


def founding(state: FederationState) -> tuple[Event, ...]:
    return commands.found(
        state,
        "fed-1",
        root=ROOT_DOCUMENT,
        nameserver=commands.Founder(uuid=identity("hub"), name="hub", key=key("hub").public),
        admin=commands.Founder(uuid=identity("root-admin"), name="root-admin", key=key("root-admin").public),
        now=NOW,
        draw=0.25,
    )


def release_document(
    label: str,
    *,
    content: bytes = b"weights",
    signer: PrivateKey = PUBLISHER,
    needs: Mapping[str, str] = MappingProxyType({}),
) -> SignedDocument:
    """The signed record of ``name@version`` whose only file is ``content``."""
    name, version = label.split("@")
    record = ReleaseRecord(
        name=name,
        version=version,
        manifest=digest_of(b"manifest of " + content),
        manifest_size=20,
        kind="onnx",
        files=(FileEntry("model.onnx", "weight", digest_of(content), len(content)),),
        created=int(NOW),
        needs=Needs(releases=dict(needs)),
    )
    return sign(encode(record), RELEASE_TYPE, signer)


class Small:
    """A founded federation. Each change happens a second after the one before."""

    def __init__(self, path: Path | None = None, *, found: bool = True) -> None:
        self.store = FederationStore.open(path)
        self.director = Director(DIRECTOR, self.store)
        self.clock = itertools.count(NOW + 1)
        self.now = NOW
        if found and not self.state.federation:
            self.write(founding(self.state))

    @property
    def state(self) -> FederationState:
        return self.store.state

    def write(self, events: tuple[Event, ...], *, caller: str = "ada") -> tuple[Change, ...]:
        self.now = next(self.clock)
        return self.store.append(events, caller=caller, now=self.now)

    def edge(self, name: str, *groups: str, joined: bool = True) -> PeerId:
        uuid = identity(name)
        hashed = token_hash(f"token-of-{name}")
        self.write(commands.register(self.state, name, uuid=uuid, token_hash=hashed, now=self.now))
        if joined:
            from federation.bundles import join_request

            request = join_request(name=name, token=f"token-of-{name}", key=key(name))
            self.write(commands.join(self.state, request, now=self.now))
        for group in groups:
            self.join(name, group)
        return uuid

    def join(self, edge: str, group: str) -> None:
        self.write(commands.add_group(self.state, edge, group))

    def leave(self, edge: str, group: str) -> None:
        self.write(commands.remove_group(self.state, edge, group))

    def publish(self, *labels: str) -> None:
        for label in labels:
            self.write(release_commands.publish_release(self.state, release_document(label)))

    def publish_needing(self, label: str, **needs: str) -> None:
        document = release_document(label, content=label.encode(), needs=needs)
        self.write(release_commands.publish_release(self.state, document))

    def assign(self, group: str, *labels: str) -> assignments.Assigning:
        wanted = [assignments.WantedModel(*label.split("@")) for label in labels]
        made = assignments.set_group_models(self.state, group, wanted)
        self.write(made.events)
        return made

    def unassign(self, group: str, *names: str) -> None:
        self.write(assignments.remove_group_models(self.state, group, names))

    def release(self, label: str) -> Release:
        return self.state.find_release(*label.split("@"))

    def desired(self, edge: str) -> list[str]:
        """What an edge should run, as labels."""
        return [model.label for model in self.director.desired(identity(edge), now=self.now).models]

    def desired_groups(self, edge: str) -> list[str]:
        """The groups of an edge but ``all``."""
        return [group.name for group in self.state.groups_of(self.member(edge).uuid)][:-1]

    def generation(self, edge: str) -> int:
        return self.state.generation(identity(edge))

    def member(self, name: str) -> Member:
        return self.state.find_member(name)

    def report(
        self,
        edge: str,
        *loaded: str,
        origin: Literal["group", "manual", "development"] = "group",
        errors: tuple[LoadError, ...] = (),
        mode: Mode = "INTERACTIVE",
        generation: int | None = None,
    ) -> ActualState:
        """Keep a report of an edge that knows the latest generation, unless told otherwise."""
        actual = ActualState(
            edge=identity(edge),
            epoch=self.state.epoch,
            generation=self.generation(edge) if generation is None else generation,
            mode=mode,
            loaded=tuple(
                LoadedEntry(label.split("@")[0], label.split("@")[1], self.release(label).digest, origin, int(NOW))
                for label in loaded
            ),
            errors=errors,
        )
        self.store.reports.put(identity(edge), encode(actual), now=self.now)
        return actual

    def call(self, caller: str = "ada") -> Call:
        return Call(Caller(caller, Role.ADMIN), datetime.fromtimestamp(self.now, UTC), "HUB")
