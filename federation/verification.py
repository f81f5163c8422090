"""What must hold before an edge acts: a release that a publisher signed, a desired state that the director signed for
it.

Owns :class:`VerifiedRelease`, which only :func:`verify` makes, and the order of the checks:
signature → record → manifest size, then hash → each file's size, then hash → shape of the package → the models of a
pipeline; and for a desired state
signature → federation → edge → epoch → generation → window → validity. Each refusal has a class of its own in
:mod:`federation.errors`. Refuses to read a byte of a document before its signature holds, and of a file before its
size does.

Rules: a development release is admitted only under the development key that the caller passes, which it does where
the device's own configuration accepts such releases; and that key signs nothing else. A retired key verifies as an
endorsed one; a revoked one verifies nothing but, where its revocation says ``keep``, what the device runs already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Never, NoReturn, final

import msgspec

from federation.documents import (
    DESIRED_TYPE,
    RELEASE_TYPE,
    DesiredState,
    FileEntry,
    KeyId,
    ReleaseRecord,
    RootRecord,
    SignedDocument,
    decode,
)
from federation.errors import (
    DevelopmentRefused,
    Expired,
    Fork,
    KeyRevoked,
    MixedParts,
    NotYetValid,
    OldEpoch,
    Replay,
    UnknownKey,
    WrongDocument,
    WrongHash,
    WrongRecipient,
    WrongSize,
)
from federation.keys import keyid_of
from federation.names import Digest, PeerId, digest_of
from federation.pipeline_members import Judged, parts_of
from federation.record_shape import check_record
from federation.roots import public_keys, signing_keys
from federation.signing import signers, verified

DEVELOPMENT_SIGNER: Final = "development"
_ENDORSE: Final = "peerage keys endorse NAME, by an admin with the root folder, lets a publisher's releases run"
_ACCEPT_DEVELOPMENT: Final = "accept_development = true in this device's own configuration admits it"

MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
PATH_ANNOTATION: Final = "org.cncf.model.filepath"
_LAYER_TYPE: Final = re.compile(r"application/vnd\.cncf\.model\.(?P<kind>[a-z.]+)\.v1\.raw")


# --- releases -------------------------------------------------------------------------------------------------------


@final
class VerifiedRelease:
    """A release that may be loaded: what its signed record says, and bytes that are what the record says.

    There is no constructor: :func:`verify` makes it, nothing else does, and it does not change, copy or pickle.
    ``files`` maps each relative path to its content. ``signer`` is the name under which the root endorses the
    publisher. ``members``: the models of a pipeline, each a release of its own, in the order in which its steps name
    them.
    """

    __slots__ = ("development", "files", "keyid", "members", "record", "record_digest", "signer")

    record: ReleaseRecord
    record_digest: Digest
    signer: str
    keyid: KeyId
    files: Mapping[str, bytes]
    development: bool
    members: tuple[VerifiedRelease, ...]

    def __init__(self, never: Never) -> None:
        raise TypeError("a VerifiedRelease is made by verify() alone")

    def __init_subclass__(cls) -> None:
        raise TypeError("VerifiedRelease has no subclasses")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a VerifiedRelease does not change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a VerifiedRelease does not change")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a VerifiedRelease is not copied or pickled; verify again")

    def __repr__(self) -> str:
        return f"VerifiedRelease({self.record.label}, signed by {self.signer})"

    @property
    def label(self) -> str:
        """``name@version``."""
        return self.record.label


def verify(
    doc: SignedDocument,
    *,
    root: RootRecord,
    manifest: bytes,
    files: Mapping[str, bytes],
    development_key: bytes | None = None,
    running: Container[Digest] = frozenset(),
) -> VerifiedRelease:
    """The release that ``doc``, ``manifest`` and ``files`` (path → content) are, or the class of what is wrong with
    them.

    ``development_key`` (public) admits development releases signed with it; None admits none. ``running``: the records
    of what this device runs, which goes on after its publisher's key was revoked where the revocation says ``keep``.
    Beyond the classes of :func:`verify_record` raises :class:`WrongSize`, :class:`WrongHash`, :class:`MixedParts`.
    """
    judged = _signed_record(doc, root, development_key, running)
    record = judged.record
    check_content(manifest, f"the manifest of {record.label}", digest=record.manifest, size=record.manifest_size)
    expected = {entry.path for entry in record.files}
    if files.keys() != expected:
        raise MixedParts(f"expected the files {_listed(expected)} of {record.label}, found {_listed(set(files))}")
    kept: dict[str, bytes] = {}
    for entry in record.files:
        given = files[entry.path]
        # What is hashed is what is kept, also when the caller's buffer changes meanwhile.
        content = bytes(given) if len(given) == entry.size else given
        check_content(content, f"{entry.path} of {record.label}", digest=entry.digest, size=entry.size)
        kept[entry.path] = content
    check_manifest(manifest, record)
    digest = digest_of(doc.payload)
    members: tuple[VerifiedRelease, ...] = ()
    if record.kind == "pipeline":
        _, parts = parts_of(record, kept.__getitem__, judge_of_members(record, digest, root, running))
        members = tuple(
            _made(
                part.judged,
                digest_of(part.document.payload),
                {path: kept[place] for path, place in part.paths.items()},
            )
            for part in parts
        )
    return _made(judged, digest, kept, members)


def _made(
    judged: Judged, digest: Digest, files: dict[str, bytes], members: tuple[VerifiedRelease, ...] = ()
) -> VerifiedRelease:
    record, keyid, signer, _ = judged
    release = object.__new__(VerifiedRelease)
    for name, value in (
        ("record", record),
        ("record_digest", digest),
        ("signer", signer),
        ("keyid", keyid),
        ("files", MappingProxyType(files)),
        ("development", record.development),
        ("members", members),
    ):
        object.__setattr__(release, name, value)
    return release


def judge_of_members(
    record: ReleaseRecord, digest: Digest, root: RootRecord, running: Container[Digest] = frozenset()
) -> Callable[[SignedDocument], Judged]:
    """How the models of a pipeline are judged: as released ones; where the pipeline goes on, so do they. One that goes
    on by itself does not go on in another pipeline.
    """
    going_on = frozenset(member.record for member in record.members if digest in running)
    return lambda document: _signed_record(document, root, None, going_on)


def verify_record(doc: SignedDocument, root: RootRecord, *, development_key: bytes | None = None) -> ReleaseRecord:
    """What a release's record says, before anything of the release is fetched.

    Raises :class:`~federation.errors.BadSignature`, :class:`UnknownKey`, :class:`KeyRevoked`, :class:`WrongDocument`,
    :class:`DevelopmentRefused`, and :class:`WrongSize` for a release over our limits.
    """
    return _signed_record(doc, root, development_key, frozenset()).record


def with_what_holds(doc: SignedDocument, root: RootRecord) -> SignedDocument:
    """A release's record with those of its signatures alone that hold under ``root``. Raises as :func:`verify_record`
    does of signatures.
    """
    _, valid = signers(doc, RELEASE_TYPE, signing_keys(root))
    return msgspec.structs.replace(doc, signatures=tuple(one for one in doc.signatures if one.keyid in valid))


def check_content(content: bytes, what: str, *, digest: Digest, size: int) -> None:
    """Raises :class:`WrongSize` or, for bytes of the right size, :class:`WrongHash`."""
    if len(content) != size:
        raise WrongSize(f"{what}: expected {size} bytes, found {len(content)}")
    found = digest_of(content)
    if found != digest:
        raise WrongHash(f"{what}: expected {digest}, found {found}")


def _signed_record(
    doc: SignedDocument, root: RootRecord, development_key: bytes | None, running: Container[Digest]
) -> Judged:
    keys = signing_keys(root)
    development_id = None if development_key is None else keyid_of(development_key)
    if development_key is not None and development_id is not None:
        keys[development_id] = development_key
    try:
        payload, valid = signers(doc, RELEASE_TYPE, keys)
    except UnknownKey as error:
        if development_id is None and _claims_development(doc):
            raise DevelopmentRefused(
                "a development release, which this peer does not accept", hint=_ACCEPT_DEVELOPMENT
            ) from error
        signed = ", ".join(f"key {signature.keyid[:16]}" for signature in doc.signatures) or "no key"
        raise UnknownKey(
            f"expected a release signed by a publisher that the root record endorses, found {signed}", hint=_ENDORSE
        ) from error
    try:
        record = decode(payload, ReleaseRecord)
    except msgspec.MsgspecError as error:
        raise WrongDocument(f"expected a release record: {error}") from error
    if record.development:
        if development_id is None:
            raise DevelopmentRefused(
                f"{record.label} is a development release, which this peer does not accept",
                hint=_ACCEPT_DEVELOPMENT,
            )
        if development_id not in valid:
            raise UnknownKey(f"{record.label} is a development release that this peer's own key did not sign")
        keyid, signer = development_id, DEVELOPMENT_SIGNER
    else:
        keyid, signer = _publisher(record.label, digest_of(payload), valid, root, running)
    check_record(record)
    return Judged(record, keyid, signer, valid)


def _publisher(
    label: str, digest: Digest, valid: frozenset[KeyId], root: RootRecord, running: Container[Digest]
) -> tuple[KeyId, str]:
    """Whose release it is: one endorsed signer is enough, a revoked one only for what goes on."""
    endorsed = sorted(valid & root.publishers.keys(), key=lambda keyid: (root.publishers[keyid].retired or 0, keyid))
    if endorsed:
        return endorsed[0], root.publishers[endorsed[0]].name
    for keyid in sorted(valid & root.revoked.keys()):
        revoked = root.revoked[keyid]
        if revoked.running == "keep" and digest in running:
            return keyid, revoked.name
        raise KeyRevoked(
            f'{label} is signed with key {keyid[:16]} of publisher "{revoked.name}", which was revoked',
            hint="what it published must be made anew with a good key",
        )
    raise UnknownKey(f"{label} is signed with a development key but is not a development release")


def _claims_development(doc: SignedDocument) -> bool:
    """What a payload that nobody known signed says of itself: for the class of its refusal alone."""
    try:
        return decode(doc.payload, ReleaseRecord).development
    except msgspec.MsgspecError:
        return False


class _Layer(msgspec.Struct, frozen=True, rename={"media_type": "mediaType"}):
    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}


class _Manifest(msgspec.Struct, frozen=True, rename={"media_type": "mediaType"}):
    """What is looked at of an OCI image manifest; annotations for people are not."""

    media_type: str
    layers: tuple[_Layer, ...]


def check_manifest(raw: bytes, record: ReleaseRecord) -> None:
    """The manifest's ModelPack layers are the record's files, or :class:`MixedParts`."""
    try:
        manifest = msgspec.json.decode(raw, type=_Manifest)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise MixedParts(f"the manifest of {record.label} is not an OCI manifest: {error}") from error
    if manifest.media_type != MANIFEST_TYPE:
        raise MixedParts(f"expected a manifest of type {MANIFEST_TYPE}, found {manifest.media_type[:100]!r}")
    found = []
    for layer in manifest.layers:
        form = _LAYER_TYPE.fullmatch(layer.media_type)
        if form is None:
            continue  # a layer that ModelPack does not know is nobody's file
        path = layer.annotations.get(PATH_ANNOTATION, "")
        found.append(FileEntry(path, form["kind"], Digest(layer.digest), layer.size))
    if sorted(found, key=_by_path) != sorted(record.files, key=_by_path):
        raise MixedParts(
            f"the manifest and the record of {record.label} name different files: "
            f"{_listed({entry.path for entry in found})} and {_listed({entry.path for entry in record.files})}"
        )


def _by_path(entry: FileEntry) -> str:
    return entry.path


def _listed(paths: set[str]) -> str:
    shown = ", ".join(sorted(paths)[:8]) or "none"
    return f"{shown}, …" if len(paths) > 8 else shown


# --- desired state --------------------------------------------------------------------------------------------------


class Cursor(NamedTuple):
    """How far an edge has followed its director. ``digest`` is of the payload of the desired state it stands at."""

    epoch: int
    generation: int
    window: int
    digest: Digest


def cursor_of(doc: SignedDocument, state: DesiredState) -> Cursor:
    """Where an edge stands once it has taken ``state``, the content of ``doc``."""
    return Cursor(state.epoch, state.generation, state.window, digest_of(doc.payload))


def verify_desired(
    doc: SignedDocument,
    *,
    root: RootRecord,
    federation: str,
    edge: PeerId,
    cursor: Cursor | tuple[int, int, int, Digest] | None,
    now: float,
) -> DesiredState | None:
    """The state that the director wants of ``edge``; None for a genuine one that changes nothing: a lower window of the
    generation at which the edge stands.

    ``now`` is federation time. Raises :class:`~federation.errors.BadSignature`, :class:`UnknownKey`,
    :class:`WrongDocument`, :class:`WrongRecipient`, :class:`OldEpoch`, :class:`Replay`, :class:`Fork`,
    :class:`NotYetValid`, :class:`Expired`. A state whose ``root_version`` is above ``root.version`` is still
    returned: the caller fetches the roots between before it verifies releases.
    """
    payload = verified(doc, DESIRED_TYPE, public_keys(root.directors))
    try:
        state = decode(payload, DesiredState)
    except msgspec.MsgspecError as error:
        raise WrongDocument(f"expected a desired state: {error}") from error
    if state.federation != federation:
        raise WrongRecipient(f"expected a desired state of federation {federation}, found {state.federation[:64]}")
    if state.edge != edge:
        raise WrongRecipient(f"expected a desired state for edge {edge}, found {state.edge[:64]}")
    if cursor is not None and not _follows(state, digest_of(payload), Cursor(*cursor)):
        return None
    if now < state.not_before:
        raise NotYetValid(
            f"the desired state {state.etag} is valid in {state.not_before - now:.0f} s: check this clock"
        )
    if now >= state.expires:
        raise Expired(f"the desired state {state.etag} expired {now - state.expires:.0f} s ago")
    return state


def _follows(state: DesiredState, digest: Digest, cursor: Cursor) -> bool:
    """Whether ``state`` is at or after ``cursor``; False for a lower window of the same generation."""
    if state.epoch < cursor.epoch:
        raise OldEpoch(f"expected epoch {cursor.epoch} or a later one, found {state.epoch}, which was left for good")
    if state.epoch > cursor.epoch:
        return True
    if state.generation < cursor.generation:
        raise Replay(f"expected generation {cursor.generation} or a later one, found {state.generation}")
    if state.generation > cursor.generation or state.window > cursor.window:
        return True
    if state.window < cursor.window:
        return False
    if digest != cursor.digest:
        raise Fork(
            f"two desired states under {state.etag}: {cursor.digest} and {digest}",
            hint="the director signed both: its key is used twice, or its store was restored without a new epoch",
        )
    return True
