"""OCI manifests of releases in CNCF ModelPack form, and of what is attached to them.

Owns the media types, the JSON that is written, and the reading of manifests that others wrote. A release is one image
manifest with a config blob and one raw layer a file; its signed record is an artifact manifest of its own whose
``subject`` is the release's manifest. The digest of the manifest covers config, annotations and every layer.

Refuses what is no manifest or passes a bound; whether a manifest is the package that a record describes is decided by
:mod:`federation.verification`. Reads foreign manifests leniently (unknown keys and layer types are nobody's error);
writes deterministically: the same content gives the same bytes, so no time of making is in a manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from federation.documents import RELEASE_TYPE, FileEntry, TensorSpec
from federation.names import BadName, Digest, checked_digest, digest_of
from query.errors import PeerProblem

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
MODEL_TYPE: Final = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.cncf.model.config.v1+json"
EMPTY_TYPE: Final = "application/vnd.oci.empty.v1+json"
DSSE_TYPE: Final = "application/vnd.dsse.envelope.v1+json"
BLOB_TYPE: Final = "application/octet-stream"
EMPTY_CONFIG: Final = b"{}"

TITLE: Final = "org.opencontainers.image.title"
FILEPATH: Final = "org.cncf.model.filepath"
REF_NAME: Final = "org.opencontainers.image.ref.name"

MANIFEST_BYTES_MAX: Final = 4 * 1024 * 1024
LAYERS_MAX: Final = 1024


class BadManifest(PeerProblem):
    """Bytes that are not an OCI manifest."""

    code = "bad_manifest"


class Descriptor(Struct, frozen=True, rename="camel", kw_only=True):
    """What OCI calls a descriptor: the type, digest and size of content that lies elsewhere."""

    media_type: str
    digest: str
    size: int
    artifact_type: str | UnsetType = UNSET
    annotations: dict[str, str] | UnsetType = UNSET


class Manifest(Struct, frozen=True, rename="camel", kw_only=True):
    """An image or artifact manifest, as far as anybody here looks at it."""

    schema_version: int
    media_type: str | UnsetType = UNSET
    artifact_type: str | UnsetType = UNSET
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | UnsetType = UNSET
    annotations: dict[str, str] | UnsetType = UNSET


class Index(Struct, frozen=True, rename="camel", kw_only=True):
    """An image index: a layout's list of manifests, or an answer to a question for referrers."""

    schema_version: int = 2
    media_type: str | UnsetType = UNSET
    artifact_type: str | UnsetType = UNSET
    manifests: tuple[Descriptor, ...] = ()
    subject: Descriptor | UnsetType = UNSET
    annotations: dict[str, str] | UnsetType = UNSET


class _ModelDescriptor(Struct, frozen=True, kw_only=True, omit_defaults=True):
    name: str
    version: str
    description: str = ""
    licenses: tuple[str, ...] = ()


class _ModelConfig(Struct, frozen=True, kw_only=True, omit_defaults=True):
    format: str = ""


class _ModelFiles(Struct, frozen=True, kw_only=True, rename="camel"):
    type: str
    diff_ids: tuple[str, ...]


class _Config(Struct, frozen=True, kw_only=True):
    descriptor: _ModelDescriptor
    config: _ModelConfig
    modelfs: _ModelFiles


_ENCODER: Final = msgspec.json.Encoder(order="sorted")


def layer_type(kind: str) -> str:
    """The media type of a raw layer of ``kind``: the only form that is written and accepted."""
    return f"application/vnd.cncf.model.{kind}.v1.raw"


def model_config(
    *, name: str, version: str, onnx: bool, files: Sequence[FileEntry], description: str, licenses: tuple[str, ...]
) -> bytes:
    """The config blob of a release."""
    config = _Config(
        descriptor=_ModelDescriptor(name=name, version=version, description=description, licenses=licenses),
        config=_ModelConfig(format="onnx" if onnx else ""),
        modelfs=_ModelFiles(type="layers", diff_ids=tuple(entry.digest for entry in files)),
    )
    return _ENCODER.encode(config)


def model_manifest(*, config: bytes, files: Sequence[FileEntry], annotations: Mapping[str, str]) -> bytes:
    """The manifest of a release: one layer a file, in their order."""
    layers = tuple(
        Descriptor(
            media_type=layer_type(entry.kind),
            digest=entry.digest,
            size=entry.size,
            annotations={TITLE: entry.path, FILEPATH: entry.path},
        )
        for entry in files
    )
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=MODEL_TYPE,
        config=Descriptor(media_type=CONFIG_TYPE, digest=digest_of(config), size=len(config)),
        layers=layers,
        annotations=dict(annotations),
    )
    return _ENCODER.encode(manifest)


def record_attachment(signed: bytes, *, subject: Digest, subject_size: int) -> bytes:
    """The artifact manifest that attaches a signed release record (its envelope's bytes) to a release's manifest."""
    manifest = Manifest(
        schema_version=2,
        media_type=MANIFEST_TYPE,
        artifact_type=RELEASE_TYPE,
        config=Descriptor(media_type=EMPTY_TYPE, digest=digest_of(EMPTY_CONFIG), size=len(EMPTY_CONFIG)),
        layers=(Descriptor(media_type=DSSE_TYPE, digest=digest_of(signed), size=len(signed)),),
        subject=Descriptor(media_type=MANIFEST_TYPE, digest=subject, size=subject_size),
    )
    return _ENCODER.encode(manifest)


def shown_tensors(tensors: Sequence[TensorSpec]) -> str:
    """``image FP32[-1,64]``: signatures as annotations show them to people."""
    return ", ".join(f"{spec.name} {spec.datatype}[{','.join(map(str, spec.shape))}]" for spec in tensors)


def read_manifest(raw: bytes) -> Manifest:
    """Raises :class:`BadManifest` on anything but an image or artifact manifest within bounds."""
    if len(raw) > MANIFEST_BYTES_MAX:
        raise BadManifest(f"a manifest of {len(raw)} bytes, expected at most {MANIFEST_BYTES_MAX}")
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadManifest(f"expected an OCI manifest, found {raw[:60]!r}: {error}") from error
    if manifest.schema_version != 2 or len(manifest.layers) > LAYERS_MAX:
        raise BadManifest(
            f"expected schema version 2 and at most {LAYERS_MAX} layers, "
            f"found version {manifest.schema_version} and {len(manifest.layers)} layers"
        )
    subject = () if manifest.subject is UNSET else (manifest.subject,)
    check_descriptors((manifest.config, *manifest.layers, *subject))
    return manifest


def check_descriptors(descriptors: Iterable[Descriptor]) -> None:
    """Raises :class:`BadManifest` for a digest or a size that is none."""
    for descriptor in descriptors:
        try:
            checked_digest(descriptor.digest)
        except BadName as error:
            raise BadManifest(error.message) from error
        if descriptor.size < 0:
            raise BadManifest(f"a size of {descriptor.size} bytes for {descriptor.digest}")


def read_index(raw: bytes, *, bytes_max: int = MANIFEST_BYTES_MAX) -> Index:
    """Raises :class:`BadManifest` on anything but an image index."""
    if len(raw) > bytes_max:
        raise BadManifest(f"an index of {len(raw)} bytes, expected at most {bytes_max}")
    try:
        return msgspec.json.decode(raw, type=Index)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadManifest(f"expected an OCI index, found {raw[:60]!r}: {error}") from error


def encode_index(index: Index) -> bytes:
    return _ENCODER.encode(index)
