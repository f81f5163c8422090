"""The models inside the release of a pipeline, found and checked: the small files that say what the others are.

Owns how a pipeline's release is laid out (:mod:`federation.pipelines` writes it down) and that it holds what its
definition names and nothing else. Pure: ``read`` gives a file of the release whose size and digest were checked, and
``judge`` judges a signature, so that both who has a release in memory and who has it on disk come here.

Rules: the release's version is its definition's; each model is the record that the definition names, under its own
publisher's signature, and the keys that the pipeline's record names for it are keys whose signatures hold, since a
revocation is looked up by them; a model has a graph and is no development release; what the pipeline's record says of a
model's files is what the model's own record says, so their content needs no second look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from federation.documents import DOCUMENT_BYTES_MAX, FileEntry, KeyId, ReleaseRecord, SignedDocument, decode
from federation.errors import MixedParts, WrongDocument, WrongSize
from federation.names import digest_of
from federation.pipelines import (
    DEFINITION_FILE,
    BadPipeline,
    ModelRef,
    PipelineDefinition,
    check_definition,
    member_folder,
    version_of,
)
from query.errors import Problem

DEFINITION_BYTES_MAX: Final = 1024 * 1024
ENVELOPE_BYTES_MAX: Final = 2 * DOCUMENT_BYTES_MAX  # base64 of a record, and its signatures
RECORD_FILE: Final = "release.json"
MANIFEST_FILE: Final = "manifest.json"
FILES_FOLDER: Final = "files"
DEVELOPMENT_PREFIX: Final = "dev+"


class Judged(NamedTuple):
    """A record whose signature holds, the key under which, the name of its publisher, and every key whose does."""

    record: ReleaseRecord
    keyid: KeyId
    signer: str
    valid: frozenset[KeyId]


@dataclass(frozen=True, slots=True)
class MemberParts:
    """One model of a pipeline. ``paths``: path in the model's own release → path in the pipeline's."""

    document: SignedDocument
    judged: Judged
    paths: dict[str, str]


def pipeline_version(definition: PipelineDefinition, *, development: bool) -> str:
    """What the release of a definition is called."""
    version = version_of(definition)
    return f"{DEVELOPMENT_PREFIX}{version[:8]}" if development else version


def parts_of(
    record: ReleaseRecord, read: Callable[[str], bytes], judge: Callable[[SignedDocument], Judged]
) -> tuple[PipelineDefinition, tuple[MemberParts, ...]]:
    """The definition and the models of a pipeline's release.

    Raises :class:`WrongDocument`, :class:`WrongSize`, :class:`MixedParts`, and for a model what ``judge`` raises, with
    the model's name before it.
    """
    entries = {entry.path: entry for entry in record.files}
    definition = _definition(record, _small(record, entries, DEFINITION_FILE, DEFINITION_BYTES_MAX, read))
    refs = tuple(definition.models())
    if tuple((m.name, m.version, m.record) for m in record.members) != tuple(
        (m.name, m.version, m.record) for m in refs
    ):
        told, named = ", ".join(m.label for m in record.members), ", ".join(m.label for m in refs)
        raise MixedParts(f"the record of {record.label} names the models {told}; its {DEFINITION_FILE} {named}")
    members = []
    expected = {DEFINITION_FILE}
    for ref, entry in zip(refs, record.members, strict=True):
        member = _member(record, entries, ref, read, judge)
        if not {member.judged.keyid} <= set(entry.keys) <= member.judged.valid:
            raise MixedParts(f"the record of {record.label} names other keys of {ref.label} than signed it")
        folder = member_folder(ref)
        expected |= {f"{folder}/{RECORD_FILE}", f"{folder}/{MANIFEST_FILE}", *member.paths.values()}
        members.append(member)
    if expected != entries.keys():
        strange = ", ".join(sorted(entries.keys() - expected)[:4])
        raise MixedParts(f"{record.label} has files that none of its models has: {strange}")
    return definition, tuple(members)


def member_entries(ref: ModelRef, record: ReleaseRecord, envelope: FileEntry) -> tuple[FileEntry, ...]:
    """The files by which a model stands in the release of a pipeline, its ``envelope`` first."""
    folder = member_folder(ref)
    manifest = FileEntry(f"{folder}/{MANIFEST_FILE}", "weight.config", record.manifest, record.manifest_size)
    files = (msgspec.structs.replace(one, path=f"{folder}/{FILES_FOLDER}/{one.path}") for one in record.files)
    return (envelope, manifest, *files)


def _definition(record: ReleaseRecord, raw: bytes) -> PipelineDefinition:
    try:
        definition = decode(raw, PipelineDefinition)
        check_definition(definition)
    except (msgspec.MsgspecError, BadPipeline) as error:
        raise WrongDocument(f"{DEFINITION_FILE} of {record.label} is no definition: {error}") from error
    found = pipeline_version(definition, development=record.development)
    if (definition.name, found) != (record.name, record.version):
        raise MixedParts(f"{DEFINITION_FILE} of {record.label} is that of {definition.name}@{found}")
    return definition


def _member(
    record: ReleaseRecord,
    entries: dict[str, FileEntry],
    ref: ModelRef,
    read: Callable[[str], bytes],
    judge: Callable[[SignedDocument], Judged],
) -> MemberParts:
    folder = member_folder(ref)
    raw = _small(record, entries, f"{folder}/{RECORD_FILE}", ENVELOPE_BYTES_MAX, read)
    try:
        document = decode(raw, SignedDocument)
    except msgspec.MsgspecError as error:
        raise WrongDocument(f"{folder}/{RECORD_FILE} of {record.label} is no signed record: {error}") from error
    if digest_of(document.payload) != ref.record:
        raise MixedParts(f"{record.label} carries another record of {ref.label} than its definition names")
    try:
        judged = judge(document)
    except Problem as problem:
        raise type(problem)(f"{ref.label} in {record.label}: {problem.message}", hint=problem.hint) from problem
    told = judged.record
    if told.label != ref.label:
        raise MixedParts(f"{record.label} names {ref.label}, whose record is that of {told.label}")
    if told.development or told.kind != "onnx":
        kind = "a development release" if told.development else f"of kind {told.kind}"
        raise WrongDocument(f"{ref.label} in {record.label} is {kind}: expected a released model with a graph")
    for expected in member_entries(ref, told, entries[f"{folder}/{RECORD_FILE}"]):
        found = entries.get(expected.path)
        if found != expected:
            what = "is missing" if found is None else "is another than its own record names"
            raise MixedParts(f"{expected.path} of {record.label} {what}")
    paths = {one.path: f"{folder}/{FILES_FOLDER}/{one.path}" for one in told.files}
    return MemberParts(document, judged, paths)


def _small(
    record: ReleaseRecord, entries: dict[str, FileEntry], path: str, bytes_max: int, read: Callable[[str], bytes]
) -> bytes:
    entry = entries.get(path)
    if entry is None:
        raise MixedParts(f"{record.label} has no {path}")
    if entry.size > bytes_max:
        raise WrongSize(f"{path} of {record.label} has {entry.size} bytes, expected at most {bytes_max}")
    return read(path)
