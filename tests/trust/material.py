"""A small federation's keys and documents, made anew and the same for every test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from federation.documents import (
    DESIRED_TYPE,
    RELEASE_TYPE,
    DesiredModel,
    DesiredState,
    FileEntry,
    ReleaseRecord,
    RootRecord,
    SignedDocument,
    encode,
)
from federation.keys import PrivateKey
from federation.members import Member
from federation.names import Digest, PeerId, digest_of
from federation.roots import first_root, pin_of, trust_chain
from federation.signing import sign
from federation.verification import MANIFEST_TYPE, PATH_ANNOTATION

NOW = 1_800_000_000.0
DAY = 86_400.0
FEDERATION = "fed-1"
EDGE = PeerId("11111111-1111-4111-8111-111111111111")
OTHER_EDGE = PeerId("22222222-2222-4222-8222-222222222222")


def key(number: int) -> PrivateKey:
    """The same key for the same number."""
    return PrivateKey(number.to_bytes(32, "big"))


ROOT, DIRECTOR, PUBLISHER, AUTHORITY, NAMESERVER, STRANGER, DEVELOPER = (key(n) for n in range(1, 8))

ROOT_DOCUMENT = first_root(
    FEDERATION, roots=[ROOT], director=DIRECTOR.public, publishers={"ann": PUBLISHER.public}, now=NOW
)
ROOT_RECORD: RootRecord = trust_chain([ROOT_DOCUMENT], pin_of(ROOT_DOCUMENT))

FILES: Mapping[str, bytes] = {"model.onnx": b"weights", "functions.pql": b"create function f() -> Integer as 1"}
_KINDS = {"model.onnx": "weight", "functions.pql": "code"}


@dataclass(frozen=True)
class Package:
    """A release as it travels."""

    doc: SignedDocument
    manifest: bytes
    files: Mapping[str, bytes]
    record: ReleaseRecord


def entries_of(files: Mapping[str, bytes]) -> tuple[FileEntry, ...]:
    return tuple(
        FileEntry(path, _KINDS.get(path, "doc"), digest_of(content), len(content)) for path, content in files.items()
    )


def manifest_of(files: Mapping[str, bytes], *, extra: tuple[dict[str, Any], ...] = ()) -> bytes:
    layers: list[dict[str, Any]] = [
        {
            "mediaType": f"application/vnd.cncf.model.{entry.kind}.v1.raw",
            "digest": entry.digest,
            "size": entry.size,
            "annotations": {PATH_ANNOTATION: entry.path, "org.opencontainers.image.title": entry.path},
        }
        for entry in entries_of(files)
    ]
    return msgspec.json.encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": "application/vnd.cncf.model.manifest.v1+json",
            "config": {"mediaType": "application/vnd.cncf.model.config.v1+json", "digest": "sha256:0", "size": 2},
            "layers": [*layers, *extra],
        }
    )


def package(
    *signers: PrivateKey, contents: Mapping[str, bytes] = FILES, packed: bytes | None = None, **fields: Any
) -> Package:
    """A release signed by ``signers`` (the publisher when none is given); ``fields`` replace those of its record."""
    manifest = manifest_of(contents) if packed is None else packed
    record = msgspec.structs.replace(
        ReleaseRecord(
            name="digits",
            version="1.0",
            manifest=digest_of(manifest),
            manifest_size=len(manifest),
            kind="onnx",
            files=entries_of(contents),
            created=int(NOW),
        ),
        **fields,
    )
    return Package(sign(encode(record), RELEASE_TYPE, *(signers or (PUBLISHER,))), manifest, contents, record)


def desired(**fields: Any) -> DesiredState:
    state = DesiredState(
        federation=FEDERATION,
        edge=EDGE,
        name="E1",
        epoch=7,
        generation=40,
        window=3,
        not_before=int(NOW - 2 * DAY),
        expires=int(NOW + 12 * DAY),
        mode="INTERACTIVE",
        poll_interval="60s~10%",
        root_version=1,
        models=(DesiredModel("digits", "1.0", Digest("sha256:" + "0" * 64), "lab", 12),),
    )
    return msgspec.structs.replace(state, **fields)


def signed_desired(*signers: PrivateKey, **fields: Any) -> SignedDocument:
    return sign(encode(desired(**fields)), DESIRED_TYPE, *(signers or (DIRECTOR,)))


def member(**fields: Any) -> Member:
    known = Member(
        uuid=EDGE, name="Edge-1", kind="edge", role="viewer", registered=NOW, key=key(100).public, joined=NOW
    )
    return msgspec.structs.replace(known, **fields)


@dataclass(frozen=True)
class Roster:
    """A roster of a few members."""

    known: tuple[Member, ...] = ()
    federation: str = FEDERATION

    def member(self, uuid: PeerId) -> Member | None:
        return next((member for member in self.known if member.uuid == uuid), None)
