"""Packing a version of a pipeline: its definition and the signed records of its models become a signed release.

Pure. The models' files are not looked at: they are in the repository that the release is kept in, and the release names
the same blobs. So a pipeline costs as much room as its definition, and :meth:`federation.layout.ImageLayout.install`
refuses one whose models are not there.

Rules: those of :mod:`federation.packing`. The version is the definition's; a development release is called ``dev+`` and
the first eight digits of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from federation import manifests
from federation.documents import (
    RELEASE_TYPE,
    FileEntry,
    MemberEntry,
    Needs,
    ReleaseRecord,
    SignedDocument,
    TensorSpec,
    decode,
    encode,
)
from federation.keys import PrivateKey
from federation.names import Digest, digest_of
from federation.packing import PackedRelease
from federation.pipeline_members import RECORD_FILE, member_entries, pipeline_version
from federation.pipelines import (
    DEFINITION_FILE,
    BadPipeline,
    PipelineDefinition,
    check_definition,
    encode_definition,
    member_folder,
)
from federation.record_shape import FILES_PER_RELEASE_MAX, check_record
from federation.signing import sign


def pack_pipeline(
    definition: PipelineDefinition,
    *,
    members: Mapping[Digest, SignedDocument],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    publisher: PrivateKey,
    now: float,
    development: bool = False,
) -> PackedRelease:
    """The definition as a release signed by ``publisher``. ``members``: the signed record of each model, by its digest,
    with no signature that does not hold: such a release is refused.

    ``inputs`` and ``outputs`` are what clients see of the pipeline. Raises :class:`BadPipeline`, and
    :class:`~federation.errors.Untrusted` for one that no release can hold.
    """
    check_definition(definition)
    files = {DEFINITION_FILE: encode_definition(definition)}
    entries = [_entry(DEFINITION_FILE, files[DEFINITION_FILE])]
    told = []
    records = []
    for ref in definition.models():
        document = members[ref.record]
        record = decode(document.payload, ReleaseRecord)
        path = f"{member_folder(ref)}/{RECORD_FILE}"
        files[path] = encode(document)
        entries += member_entries(ref, record, _entry(path, files[path]))
        keys = tuple(dict.fromkeys(signature.keyid for signature in document.signatures))
        told.append(MemberEntry(ref.name, ref.version, ref.record, keys))
        records.append(record)
    if len(entries) > FILES_PER_RELEASE_MAX:
        raise BadPipeline(
            f'pipeline "{definition.name}" has {len(entries)} files with those of its models, expected at most '
            f"{FILES_PER_RELEASE_MAX}"
        )
    version = pipeline_version(definition, development=development)
    licenses = tuple(sorted({one for record in records for one in record.licenses}))
    config = manifests.model_config(
        name=definition.name, version=version, onnx=False, files=entries, description="", licenses=licenses
    )
    manifest = manifests.model_manifest(
        config=config, files=entries, annotations=_annotations(inputs, outputs, [member.label for member in told])
    )
    needed = [record.needs.memory_bytes for record in records if record.needs.memory_bytes is not None]
    made = ReleaseRecord(
        name=definition.name,
        version=version,
        manifest=digest_of(manifest),
        manifest_size=len(manifest),
        kind="pipeline",
        files=tuple(entries),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        opset=_opset(records),
        needs=Needs(memory_bytes=sum(needed) if needed else None),
        licenses=licenses,
        created=int(now),
        development=development,
        members=tuple(told),
    )
    check_record(made)
    return PackedRelease(
        record=made,
        signed=sign(encode(made), RELEASE_TYPE, publisher),
        manifest=manifest,
        config=config,
        files=files,
    )


def _entry(path: str, content: bytes) -> FileEntry:
    return FileEntry(path, "weight.config", digest_of(content), len(content))


def _opset(records: Sequence[ReleaseRecord]) -> dict[str, int]:
    """The highest version of each operator set that one of the models asks for."""
    found: dict[str, int] = {}
    for record in records:
        for domain, version in record.opset.items():
            found[domain] = max(version, found.get(domain, 0))
    return dict(sorted(found.items()))


def _annotations(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], models: Sequence[str]) -> dict[str, str]:
    told = {
        "peerage.inputs": manifests.shown_tensors(inputs),
        "peerage.outputs": manifests.shown_tensors(outputs),
        "peerage.models": ", ".join(models),
    }
    return {key: text for key, text in told.items() if text}
