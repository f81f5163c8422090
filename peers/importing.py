"""Importing on a device: an export's file is read once, suspiciously, and counts as an answered poll.

    file → documents → checked (the code of a poll) → blobs staged and hashed → kept in one transaction → the turn

Owns the order. Refuses before a blob is written what a poll would refuse: the state of another federation or edge, an
older one, a replay, one that is not valid now, a chain of root records that does not hold. Refuses blobs that nothing
signed names. Until the state is kept the edge is as it was; of a file that was refused later, no blob stays.

:func:`attach` is for a device that belongs to nobody yet: a person types the fingerprint of the root record, and the
device becomes the edge that the signed state is for, without a certificate, once the whole file was read and holds: of
a file that is refused the device belongs to nobody. It writes no state: that is imported next.

Rules: a release whose publisher is unknown or revoked under the newest root record does not keep the state from being
taken, which may be what tells of the revocation; its files are not kept, and the turn shows it as after any poll.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from federation.carried_state import CarriedContents, pinned
from federation.documents import (
    ROOTS_BYTES_MAX,
    DesiredState,
    PollAnswer,
    ReleaseRecord,
    RootRecord,
    SignedDocument,
    decode,
)
from federation.errors import Expired, KeyRevoked, NotYetValid, UnknownKey, WrongRecipient
from federation.layout import ImageLayout
from federation.names import Digest, PeerId, checked_name, digest_of, shown
from federation.reports import moment
from federation.roots import trust_chain
from federation.verification import Cursor, cursor_of, verify_desired, verify_record
from peers.archives import ANSWER, CONTENTS, RELEASES, ROOTS, ArchiveReader, BadArchive, DamagedArchive
from peers.device_mode import autonomous
from peers.edge_parts import own_key
from peers.edge_polling import Answer, Poller, Trust, named
from peers.failpoints import reach
from peers.homes import Home, Membership
from peers.import_staging import Staging
from query.declarations import Progress, silent
from query.errors import Problem, UnknownName, UserProblem

FORM: Final = 1


class BadFile(UserProblem):
    """A file that cannot be read as one that was carried here."""

    code = "bad_file"


class Taking(Protocol):
    """The edge that an import is for (:class:`peers.agent.Agent`, or :class:`peers.stopped_edge.StoppedEdge`)."""

    @property
    def cursor(self) -> Cursor | None: ...

    def note(self, event: str, detail: str = "") -> None: ...

    def bringing(self) -> AbstractAsyncContextManager[None]:
        """Inside it nobody else imports, and the edge takes nothing out of the repository that it can do without."""
        ...

    async def take(self, answer: Answer, *, carried: frozenset[Digest]) -> None:
        """Keep an answered poll, durable on return, and have it acted on."""
        ...

    async def look_again(self) -> None:
        """Releases were put into the repository."""
        ...


@dataclass(frozen=True, slots=True)
class CarriedState:
    """The documents of a file, decoded and no more."""

    contents: CarriedContents
    roots: tuple[SignedDocument, ...]
    body: bytes
    answer: PollAnswer
    further: tuple[SignedDocument, ...]


@dataclass(slots=True)
class Checked:
    """What holds of a file's documents. ``refused``: label and class of releases that may not run here."""

    answer: Answer
    etag: str
    generation: int
    new: bool
    releases: tuple[tuple[SignedDocument, ReleaseRecord], ...]
    roots: list[tuple[SignedDocument, RootRecord]]
    refused: list[tuple[str, str]]


@contextmanager
def opened(path: Path) -> Iterator[ArchiveReader]:
    """Raises :class:`BadFile` for what is no plain file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise BadFile(f"cannot read {path}: {error.strerror}") from error
    looked = os.fstat(descriptor)
    if not stat.S_ISREG(looked.st_mode):
        os.close(descriptor)
        raise BadFile(f"{path} is no plain file: expected one that was carried here")
    with os.fdopen(descriptor, "rb") as stream:
        yield ArchiveReader(stream, size=looked.st_size)


def read_documents(reader: ArchiveReader) -> CarriedState:
    """The documents at the head of a file, held against its own listing."""
    raw = reader.documents()
    try:
        contents = decode(raw[CONTENTS], CarriedContents)
        listed = {ROOTS: contents.roots, ANSWER: contents.answer, RELEASES: contents.releases}
        for name, digest in listed.items():
            if digest_of(raw[name]) != digest:
                raise DamagedArchive(f"{name} is not what the file's contents say", hint="copy it again")
        found = CarriedState(
            contents=contents,
            roots=decode(raw[ROOTS], tuple[SignedDocument, ...], bytes_max=ROOTS_BYTES_MAX),
            body=raw[ANSWER],
            answer=decode(raw[ANSWER], PollAnswer),
            further=decode(raw[RELEASES], tuple[SignedDocument, ...]),
        )
    except msgspec.MsgspecError as error:
        raise BadArchive(f"the file's documents are not as they are written here: {error}") from error
    if contents.form != FORM:
        raise BadArchive(f"a file of form {contents.form}: this version reads form {FORM}")
    return found


# --- belonging to a federation --------------------------------------------------------------------------------------


def attach(
    home: Home, reader: ArchiveReader, *, layout: ImageLayout, fingerprint: str, now: float, progress: Progress = silent
) -> Membership:
    """Make a home that belongs to nobody that of the edge whose state the file carries; durable on return.

    Raises :class:`~federation.carried_state.BadFingerprint`, ``WrongRoot`` for a fingerprint that does not fit, and
    what :func:`check` and :class:`~peers.import_staging.Staging` raise; then the home is as it was.
    """
    documents = read_documents(reader)
    root = trust_chain(documents.roots, pinned(documents.roots, fingerprint))
    try:
        claimed = decode(documents.answer.desired.payload, DesiredState)
    except msgspec.MsgspecError as error:
        raise BadArchive(f"the file carries no desired state: {error}") from error
    with _telling_the_time(now):
        desired = verify_desired(
            documents.answer.desired,
            root=root,
            federation=root.federation,
            edge=claimed.edge,
            cursor=None,
            now=now,
        )
    assert desired is not None
    named(desired, documents.answer.releases)
    _compare(documents, desired)
    releases, refused = _accepted(documents, root)
    Staging(layout.blobs, releases, strict=not refused, progress=progress).stage(reader)
    membership = Membership(
        federation=desired.federation,
        uuid=desired.edge,
        name=checked_name("edge", desired.name),
        kind="edge",
        role="viewer",
        addresses=(),
        not_after=0,
    )
    own_key(home)
    home.write_roots(documents.roots)
    reach("import.rooted")
    home.write_membership(membership)
    reach("import.attached")
    return membership


# --- checking -------------------------------------------------------------------------------------------------------


class _FileAnswers:
    """The nameserver that a file is: it answers one poll, and has the root records that came with it."""

    def __init__(self, documents: CarriedState) -> None:
        self._documents = documents

    async def poll(self, uuid: PeerId, *, etag: str | None, status: str) -> _FileReply:
        return _FileReply(200, self._documents.contents.etag, self._documents.body, None)

    async def report(self, uuid: PeerId, body: bytes) -> None:
        raise autonomous()

    async def root(self, version: int) -> SignedDocument:
        if not 1 <= version <= len(self._documents.roots):
            raise UnknownName(f"no root record {version} in the file")
        return self._documents.roots[version - 1]


@dataclass(frozen=True, slots=True)
class _FileReply:
    status: int
    etag: str
    body: bytes | None
    poll_after_s: float | None


class _Ahead:
    """Trust that goes ahead of the home's, which follows once everything else holds."""

    def __init__(self, root: RootRecord) -> None:
        self.root = root
        self.taken: list[tuple[SignedDocument, RootRecord]] = []

    def extend(self, document: SignedDocument, record: RootRecord) -> None:
        self.taken.append((document, record))
        self.root = record


async def check(
    documents: CarriedState, *, membership: Membership, root: RootRecord, cursor: Cursor | None, now: float
) -> Checked:
    """Hold the documents against what this edge knows, as a poll does. Raises the class of what does not hold."""
    contents = documents.contents
    if (contents.federation, contents.edge) != (membership.federation, membership.uuid):
        raise WrongRecipient(
            f"the file is for edge {shown(contents.name[:64])} of federation {contents.federation[:64]}: this is "
            f"{shown(membership.name)} of {membership.federation}",
            hint=f'export one for this edge: "peerage export --edge {membership.name} FILE"',
        )
    ahead = _Ahead(root)
    poller = Poller(_FileAnswers(documents), ahead, federation=membership.federation, edge=membership.uuid)
    with _telling_the_time(now):
        answer = await poller.ask(cursor, status="", now=lambda: now)
    state = decode(documents.answer.desired.payload, DesiredState)
    _compare(documents, state)
    releases, refused = _accepted(documents, ahead.root)
    checked = Checked(
        answer=answer,
        etag=state.etag,
        generation=state.generation,
        new=answer.desired is not None and cursor != cursor_of(*answer.desired),
        releases=releases,
        roots=ahead.taken,
        refused=refused,
    )
    reach("import.checked")
    return checked


def _accepted(
    documents: CarriedState, root: RootRecord
) -> tuple[tuple[tuple[SignedDocument, ReleaseRecord], ...], list[tuple[str, str]]]:
    """The releases of a file that may run here, and label and class of the others."""
    accepted: dict[Digest, tuple[SignedDocument, ReleaseRecord]] = {}
    refused: list[tuple[str, str]] = []
    for signed in (*documents.answer.releases, *documents.further):
        try:
            accepted[digest_of(signed.payload)] = (signed, verify_record(signed, root))
        except (UnknownKey, KeyRevoked) as problem:
            refused.append((_label(signed), problem.code))
    return tuple(accepted.values()), refused


def _compare(documents: CarriedState, state: DesiredState) -> None:
    contents = documents.contents
    told = (contents.federation, contents.edge, contents.name, contents.etag)
    if told != (state.federation, state.edge, state.name, state.etag):
        raise DamagedArchive("the file's contents do not tell what its signed state says")


def _label(signed: SignedDocument) -> str:
    try:
        return decode(signed.payload, ReleaseRecord).label[:200]
    except msgspec.MsgspecError:
        return "a release"


@contextmanager
def _telling_the_time(now: float) -> Iterator[None]:
    """What is wrong with a time is mostly this device's clock: the hint says what it shows."""
    clock = moment(now)
    try:
        yield
    except NotYetValid as problem:
        problem.hint = f"this device's clock says {clock:%Y-%m-%d %H:%M} UTC: set it, and import again"
        raise
    except Expired as problem:
        problem.hint = (
            f"export it again; this device's clock says {clock:%Y-%m-%d %H:%M} UTC. What runs here goes on running"
        )
        raise


# --- all of it ------------------------------------------------------------------------------------------------------


async def import_file(
    path: Path,
    *,
    membership: Membership,
    trust: Trust,
    layout: ImageLayout,
    taking: Taking,
    now: Callable[[], float],
    progress: Progress = silent,
) -> dict[str, Any]:
    """Read a file and take its state; what it brought, as ``peerage import`` shows it.

    Raises the class of what is wrong; then the edge is as it was, and the refusal stands in its history.
    """
    async with taking.bringing():
        try:
            with opened(path) as reader:
                documents = await asyncio.to_thread(read_documents, reader)
                checked = await check(
                    documents, membership=membership, root=trust.root, cursor=taking.cursor, now=now()
                )
                staging = await asyncio.to_thread(
                    Staging, layout.blobs, checked.releases, strict=not checked.refused, progress=progress
                )
                await asyncio.to_thread(staging.stage, reader)
        except Problem as problem:
            taking.note("refused", f"{path.name}: {problem.code}")
            raise
        reach("import.staged")
        for document, record in checked.roots:
            if record.version == trust.root.version + 1:  # else a poll was here first
                trust.extend(document, record)
        carried = frozenset(digest_of(signed.payload) for signed, _ in checked.releases)
        await taking.take(checked.answer, carried=carried)
        for signed, _ in checked.releases:
            await asyncio.to_thread(layout.attach, signed)
        reach("import.listed")
        await taking.look_again()
        if checked.new:
            taking.note("imported", f"{path.name}: generation {checked.generation}")
        models = checked.answer.desired[1].models if checked.answer.desired else ()
        return {
            "edge": shown(membership.name),
            "federation": membership.federation,
            "generation": checked.generation,
            "new": checked.new,
            "models": [model.label for model in models],
            "releases": [record.label for _, record in checked.releases],
            "refused": [{"release": label, "error": code} for label, code in checked.refused],
        }
