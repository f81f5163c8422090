"""What a federation's log is told when it goes on from a backup: pure.

    newer root records → a new epoch, with the reason → unused bundles end

Rules: nothing that the backup does not know is made up. Root records that a root folder or an admin's home kept since
the backup are signed one by the other, so they are taken up: a key that was revoked after the backup stays revoked. The
epoch is beyond every epoch that is known to have been, so that edges take what they are told now, and refuse what a
nameserver that still runs from before tells them. A bundle that nobody had used when the backup was made may have been
used, and lain about, since: its token ends, and a new bundle is made in a moment.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from federation.commands import start_epoch
from federation.documents import RootRecord, SignedDocument, decode
from federation.errors import WrongRoot
from federation.events import Event, RootSet, TokenIssued
from federation.members import Member
from federation.roots import advance
from federation.state import FederationState


def begin_again(
    state: FederationState, *, roots: Sequence[SignedDocument], now: float, draw: float, beyond: int, reason: str
) -> tuple[Event, ...]:
    """The events, to be appended as one. ``roots`` are newer root records, from :func:`newer_roots`."""
    ended: list[Event] = [
        TokenIssued(member.uuid, member.token_hash, now)
        for member in unused_bundles(state, now=now)
        if member.token_hash is not None
    ]
    epoch = start_epoch(state, now=now, draw=draw, beyond=beyond, reason=reason)
    return (*(RootSet(document) for document in roots), *epoch, *ended)


def unused_bundles(state: FederationState, *, now: float) -> tuple[Member, ...]:
    """Members that had a bundle and had not joined, and whose bundle would still be good."""
    return tuple(
        member
        for member in state.members()
        if not member.joined and member.token_hash is not None and (member.token_expires or 0.0) > now
    )


def newer_roots(
    known: Sequence[SignedDocument], told: Sequence[SignedDocument], *, where: str
) -> tuple[SignedDocument, ...]:
    """The documents of ``told`` that go on from the last one ``known``, each verified by the one before.

    ``where`` names the file they are from. Raises subclasses of ``Untrusted``; also for a chain that differs from the
    known one, which is another federation's, or a root key used behind somebody's back.
    """
    by_version: dict[int, SignedDocument] = {}
    for document in told:
        try:
            by_version[decode(document.payload, RootRecord).version] = document
        except msgspec.MsgspecError as error:
            raise WrongRoot(f"{where} holds something that is no root record: {error}") from error
    for version, document in enumerate(known, start=1):
        if version in by_version and by_version[version].payload != document.payload:
            raise WrongRoot(
                f"root record {version} in {where} is not the one in the backup: expected the same up to "
                f"version {len(known)}",
                hint="is it of another federation? else somebody has signed with the root key twice: find out first",
            )
    record = decode(known[-1].payload, RootRecord)
    newer: list[SignedDocument] = []
    while (document := by_version.get(record.version + 1)) is not None:  # type: ignore[assignment]
        record = advance(record, document)
        newer.append(document)
    return tuple(newer)
