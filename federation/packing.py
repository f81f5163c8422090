"""Packing: a model folder becomes a signed release. Pure: the folder was read, keys and time are given.

Rules: the same folder and version give the same manifest, byte for byte; only the record says when it was made. The
record names the digest of the manifest, so one signature covers everything. A development release is called
``dev+<8 hex digits of the digest of its content>`` and is signed with the key of who tries it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from federation import manifests
from federation.documents import (
    RELEASE_TYPE,
    FileEntry,
    ReleaseRecord,
    SignedDocument,
    StateSpec,
    TensorSpec,
    encode,
)
from federation.folders import BadFolder, ModelDescription, ModelFolder
from federation.keys import PrivateKey
from federation.names import Digest, checked_model, checked_version, digest_of, model_repository
from federation.signing import sign
from federation.states import shown_signature

DEVELOPMENT_PREFIX: Final = "dev+"


@dataclass(frozen=True, slots=True)
class Inspection:
    """What reading the graph itself has shown; ``opset`` by operator domain, the standard one being ``ai.onnx``."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PackedRelease:
    """Everything that makes a release, in memory. ``files`` by path; ``signed`` carries the record's exact bytes."""

    record: ReleaseRecord
    signed: SignedDocument
    manifest: bytes
    config: bytes
    files: Mapping[str, bytes]

    @property
    def repository(self) -> str:
        return release_repository(self.record)

    @property
    def attachment(self) -> bytes:
        """The manifest that attaches the signed record."""
        return manifests.record_attachment(
            encode(self.signed), subject=self.record.manifest, subject_size=self.record.manifest_size
        )


def development_repository(name: str) -> str:
    """The OCI repository that holds unreleased work on a model."""
    return f"development/{name}"


def release_repository(record: ReleaseRecord) -> str:
    """The OCI repository that holds a release."""
    return development_repository(record.name) if record.development else model_repository(record.name)


def pack(
    folder: ModelFolder,
    *,
    version: str,
    publisher: PrivateKey,
    inspection: Inspection,
    now: float,
    development: bool = False,
) -> PackedRelease:
    """The folder as a release signed by ``publisher``. Raises :class:`BadFolder`, ``BadStates`` or ``BadName``.

    ``version`` of a development release is not looked at: its content names it.
    """
    description = folder.description
    name = checked_model(description.name)
    inputs, outputs = shown_signature(inspection.inputs, inspection.outputs, description.states)
    if not _agree(description.inputs, inputs) or not _agree(description.outputs, outputs):
        raise BadFolder(
            f'the model of "{name}" has inputs {manifests.shown_tensors(inputs)} and outputs '
            f"{manifests.shown_tensors(outputs)}; its model.toml says "
            f"{manifests.shown_tensors(description.inputs)} and {manifests.shown_tensors(description.outputs)}"
        )
    entries = tuple(
        FileEntry(file.path, file.kind, digest_of(file.content), len(file.content)) for file in folder.files.values()
    )
    annotations = _annotations(Inspection(inputs, outputs, inspection.opset), description)
    if development:
        version = development_version(folder, entries)
    else:
        checked_version(version)
    config = manifests.model_config(
        name=name,
        version=version,
        onnx=description.kind == "onnx",
        files=entries,
        description=description.description,
        licenses=description.licenses,
    )
    manifest = manifests.model_manifest(config=config, files=entries, annotations=annotations)
    record = ReleaseRecord(
        name=name,
        version=version,
        manifest=digest_of(manifest),
        manifest_size=len(manifest),
        kind=description.kind,
        files=entries,
        inputs=inputs,
        outputs=outputs,
        opset=dict(sorted(inspection.opset.items())),
        needs=description.needs,
        licenses=description.licenses,
        created=int(now),
        development=development,
        states=description.states,
    )
    return PackedRelease(
        record=record,
        signed=sign(encode(record), RELEASE_TYPE, publisher),
        manifest=manifest,
        config=config,
        files={file.path: file.content for file in folder.files.values()},
    )


def _agree(told: tuple[TensorSpec, ...], found: tuple[TensorSpec, ...]) -> bool:
    """Whether the description leaves the tensors out or names the model's own, in any order."""
    return not told or sorted(told, key=_by_name) == sorted(found, key=_by_name)


def _by_name(spec: TensorSpec) -> str:
    return spec.name


def development_version(folder: ModelFolder, entries: tuple[FileEntry, ...]) -> str:
    """``dev+<digest8>``: the same work has the same name, whoever loads it and when."""
    digest = hashlib.sha256(encode(folder.description))
    for entry in entries:
        digest.update(encode(entry))
    return f"{DEVELOPMENT_PREFIX}{digest.hexdigest()[:8]}"


def record_digest(signed: SignedDocument) -> Digest:
    """The digest that a desired state names a release by: of the payload bytes of its record."""
    return digest_of(signed.payload)


def _annotations(inspection: Inspection, description: ModelDescription) -> dict[str, str]:
    """``peerage.needs`` and ``peerage.states`` also make a release with others another manifest: its version is taken
    then.
    """
    needs = description.needs.releases
    told = {
        "peerage.inputs": manifests.shown_tensors(inspection.inputs),
        "peerage.outputs": manifests.shown_tensors(inspection.outputs),
        "peerage.opset": ", ".join(f"{domain} {version}" for domain, version in sorted(inspection.opset.items())),
        "peerage.needs": ", ".join(f"{name}{condition}" for name, condition in sorted(needs.items())),
        "peerage.states": ", ".join(map(_shown_state, description.states)),
    }
    return {key: text for key, text in told.items() if text}


def _shown_state(state: StateSpec) -> str:
    return (
        f"{state.input} from {state.output}" if state.output is not None else f"{state.input} with {state.tail} before"
    )
