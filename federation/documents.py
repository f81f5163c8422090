"""The documents that peers sign or send, as frozen structures with their wire form.

Signed documents travel as DSSE envelopes (https://github.com/secure-systems-lab/dsse, protocol.md): the exact payload
bytes, their type, and signatures over ``PAE(type, payload)``. Whoever needs the content parses the verified bytes;
nothing is ever re-serialised to be checked. Times are whole seconds since the epoch, UTC, by federation time.

Decoding is strict: unknown fields are errors, so that a document cannot say more than its reader understands.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from federation.names import Digest, PeerId

DOCUMENT_BYTES_MAX: Final = 4 * 1024 * 1024
ROOTS_BYTES_MAX: Final = 32 * 1024 * 1024  # of all root records together, each of which names every key
MODELS_PER_EDGE_MAX: Final = 256

Mode = Literal["INTERACTIVE", "ONLINE", "AUTONOMOUS"]
Kind = Literal["edge", "nameserver", "client"]
RoleName = Literal["viewer", "operator", "admin"]
KeyId = str  # hex sha256 of the 32 bytes of the public key
Count = Annotated[int, Meta(ge=0)]


class Signature(Struct, frozen=True, forbid_unknown_fields=True):
    keyid: KeyId
    sig: bytes  # base64 on the wire, as msgspec writes bytes


class SignedDocument(Struct, frozen=True, forbid_unknown_fields=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope. Its content is not to be looked at before a signature was verified."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]


RELEASE_TYPE: Final = "application/vnd.peerage.release.v1+json"
DESIRED_TYPE: Final = "application/vnd.peerage.desired.v1+json"
ROOT_TYPE: Final = "application/vnd.peerage.root.v1+json"
STATEMENT_TYPE: Final = "application/vnd.peerage.statement.v1+json"
CREDENTIAL_TYPE: Final = "application/vnd.peerage.credential.v1+json"


# --- releases -------------------------------------------------------------------------------------------------------


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a release. ``kind``, of its layer: ``weight``, ``weight.config``, ``code``, ``dataset`` or ``doc``."""

    path: str
    kind: str
    digest: Digest
    size: Count


class TensorSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output: Open Inference Protocol datatype (``FP32`` …) and shape, -1 for a variable dimension.

    ``RECORD``, for outputs alone: each element is a record (a map of the runtime), as of classes and their scores.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


class StateSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a model carries from one call of a stream to the next: ``input`` gets what ``output`` gave, zeros at first;
    or, without ``output``, the last ``tail`` elements along its last dimension are put before the next call's.
    """

    input: str
    output: str | None = None
    tail: Count = 0


class Needs(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a peer must have to run a release. Releases needed by name map to a version condition."""

    memory_bytes: Count | None = None
    releases: dict[str, str] = {}


class MemberEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A model inside the release of a pipeline. ``record``: digest of the payload of its release record; ``keys``: the
    ids of the publisher keys that signed that.
    """

    name: str
    version: str
    record: Digest
    keys: tuple[KeyId, ...]

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class ReleaseRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What a publisher signs. ``manifest`` is the digest of the OCI manifest, which covers every file.

    ``kind``: ``onnx`` (one ONNX weight, functions optional), ``functions`` (a ``.pql`` alone) or ``pipeline``
    (:mod:`federation.pipelines`). ``states``: what a stateful model carries along a stream of calls. ``members``: the
    models of a pipeline.
    ``opset``: operator domain → version; the standard domain is ``ai.onnx``.
    ``development``: an ephemeral release ``name@dev+<digest8>`` signed by the key of who loads a folder.
    """

    name: str
    version: str
    manifest: Digest
    manifest_size: Count
    kind: Literal["onnx", "functions", "pipeline"]
    files: tuple[FileEntry, ...]
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    opset: dict[str, int] = {}
    needs: Needs = Needs()
    licenses: tuple[str, ...] = ()
    created: int = 0
    development: bool = False
    states: tuple[StateSpec, ...] = ()
    members: tuple[MemberEntry, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)


# --- desired and actual state ---------------------------------------------------------------------------------------


class DesiredModel(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A release that an edge should run. ``record`` is the digest of the payload bytes of its release record.

    ``needs`` are the records of the releases that must be in memory before it, each of them desired too.
    """

    name: str
    version: str
    record: Digest
    group: str
    assignment: int  # sequence number in the log of the assignment that decided
    needs: tuple[Digest, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class DesiredState(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the director signs for one edge. See architecture, "The poll", for generation, window and epoch."""

    federation: str
    edge: PeerId
    name: str
    epoch: int
    generation: int
    window: int
    not_before: int
    expires: int
    mode: Mode
    poll_interval: str
    root_version: int
    models: Annotated[tuple[DesiredModel, ...], Meta(max_length=MODELS_PER_EDGE_MAX)]

    @property
    def etag(self) -> str:
        return f'"{self.epoch}.{self.generation}.{self.window}"'


class PollAnswer(Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a 200 to a poll: the desired state and the release records that it names, all signed."""

    desired: SignedDocument
    releases: tuple[SignedDocument, ...]


class LoadError(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a model that should run does not: ``model`` is ``name@version``, ``error`` a code."""

    model: str
    error: str
    message: str
    since: int


class LoadedEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """A model in an edge's memory. ``origin``: a group's assignment, a person's call, or a development release."""

    name: str
    version: str
    record: Digest
    origin: Literal["group", "manual", "development"]
    since: int

    @property
    def label(self) -> str:
        return f"{self.name}@{self.version}"


class HistoryEntry(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an edge did while nobody watched: ``event`` is a word as ``loaded``, ``detail`` what it was done to."""

    time: int
    event: str
    detail: str = ""


class ExceededLimit(Struct, frozen=True, forbid_unknown_fields=True):
    """A limit that something loaded ran into: ``model`` is ``name@version``, ``resource`` one of ``memory``, ``time``
    and ``cpus``.
    """

    model: str
    resource: str


class ActualState(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What an edge reports: bounded by the nameserver to REPORT_BYTES_MAX.

    ``history`` is what it did since it was last heard of, where it was AUTONOMOUS; the oldest first.
    """

    edge: PeerId
    epoch: int
    generation: int
    mode: Mode
    loaded: tuple[LoadedEntry, ...]
    errors: tuple[LoadError, ...] = ()
    installed: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    properties: dict[str, str | int | float | bool] = {}
    reported: int = 0
    history: tuple[HistoryEntry, ...] = ()
    exceeded: tuple[ExceededLimit, ...] = ()


REPORT_BYTES_MAX: Final = 256 * 1024


# --- trust ----------------------------------------------------------------------------------------------------------


class TrustedKey(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A public key in the root record, with the name that people know it by.

    ``retired``: when a publisher's key was replaced. What it signed stays good; nothing new is published with it.
    """

    key: bytes  # 32 bytes
    name: str
    retired: int | None = None


class RevokedKey(Struct, frozen=True, forbid_unknown_fields=True):
    """A publisher's key that is trusted no more. ``running``: what becomes of releases of it that an edge runs."""

    key: bytes
    name: str
    revoked: int
    running: Literal["keep", "stop"]


class RootRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Which keys speak for the federation. Version n+1 carries valid signatures by the threshold of n and its own."""

    federation: str
    version: int
    threshold: Annotated[int, Meta(ge=1)]
    roots: dict[KeyId, TrustedKey]
    directors: dict[KeyId, TrustedKey]
    publishers: dict[KeyId, TrustedKey]
    created: int
    revoked: dict[KeyId, RevokedKey] = {}


class Bundle(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a new peer is handed, once: base64 of this as JSON. ``token`` is one-time; the private key never travels.

    ``root`` is the digest of the payload of the root record in force when the bundle was made: the pin.
    """

    federation: str
    addresses: tuple[str, ...]  # "host:port"
    ca: str  # PEM
    root: Digest
    name: str
    kind: Kind
    role: RoleName
    publisher: bool
    token: str
    expires: int


class JoinRequest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``proof`` is the Ed25519 signature of the peer's key over PAE(JOIN_TYPE, token + public key + publisher key)."""

    name: str
    token: str
    key: bytes
    publisher_key: bytes | None = None
    proof: bytes


JOIN_TYPE: Final = "application/vnd.peerage.join.v1"


class Admission(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The answer to join and renew. ``roots`` are all root records, version 1 first, so that the pin is found."""

    federation: str
    uuid: PeerId
    name: str
    kind: Kind
    role: RoleName
    certificate: str  # PEM
    ca: str  # PEM
    not_after: int
    roots: tuple[SignedDocument, ...]
    addresses: tuple[str, ...]
    time: float  # federation time at the answer


class StatementEnvelope(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """What a caller signs so that other peers run its statement under its own role.

    ``body`` is the digest of the exact bytes of the request (text, params, targets, timeout). ``waits``: it may reach
    executors long after it was signed, so each remembers it on its disk before anything runs.
    """

    federation: str
    caller: PeerId
    body: Digest
    issued: float
    lifetime_s: float
    nonce: str
    waits: bool = False


class Credential(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The director's word on a caller, short-lived, sent beside a forwarded statement."""

    federation: str
    uuid: PeerId
    name: str
    role: RoleName
    key: bytes
    issued: float
    expires: float


_T = TypeVar("_T")


def encode(document: Struct) -> bytes:
    """The JSON bytes of a document; what is signed and sent."""
    return msgspec.json.encode(document)


def decode(raw: bytes, kind: type[_T], *, bytes_max: int = DOCUMENT_BYTES_MAX) -> _T:
    """Raises ``msgspec.MsgspecError`` on anything else; callers translate with the name of what they read."""
    if len(raw) > bytes_max:
        raise msgspec.DecodeError(f"{len(raw)} bytes, expected at most {bytes_max}")
    try:
        return msgspec.json.decode(raw, type=kind)
    except (RecursionError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(f"nested too deep, or not UTF-8: {error}") from error
