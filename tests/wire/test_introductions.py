"""Introductions that a peer holds: believed under the root record that is in force, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec

from federation.documents import RootRecord, TrustedKey, encode
from federation.introductions import INTRODUCTION_LIFETIME_S, Introduction, introduce
from federation.keys import PrivateKey, keyid_of
from federation.members import Member
from peers.federation_client import FederationClient
from peers.introductions import FILE, Introductions
from tests.trust.material import DIRECTOR, FEDERATION, NOW, OTHER_EDGE, ROOT_RECORD, key, member

ONE = member(key=key(41).public)
TWO = member(uuid=OTHER_EDGE, name="two", key=key(42).public)


class NoClient:
    """Knows the time, and reaches nobody."""

    now = NOW

    def federation_time(self) -> float:
        return self.now


def introductions(folder: Path, client: NoClient, roots: list[RootRecord]) -> Introductions:
    async def follow() -> None:
        return None

    return Introductions(
        folder,
        federation=FEDERATION,
        uuid=ONE.uuid,
        client=cast(FederationClient, client),
        root=lambda: roots[-1],
        follow_root=follow,
    )


def made(director: PrivateKey = DIRECTOR, peer: Member = TWO) -> Introduction:
    return introduce(ONE, peer, director=director, federation=FEDERATION, now=NOW)


def test_what_is_held_ends_with_its_time_and_with_its_directors_key(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(msgspec.json.encode({"two": made()}))
    client, roots = NoClient(), [ROOT_RECORD]
    held = introductions(tmp_path, client, roots)
    assert held.held("TWO") is not None
    client.now = NOW + INTRODUCTION_LIFETIME_S
    assert held.held("two") is None
    client.now = NOW
    roots.append(msgspec.structs.replace(ROOT_RECORD, version=ROOT_RECORD.version + 1))  # the same keys
    assert held.held("two") is not None
    other = {keyid_of(key(43).public): TrustedKey(key(43).public, "director")}
    roots.append(msgspec.structs.replace(ROOT_RECORD, version=ROOT_RECORD.version + 2, directors=other))
    assert held.held("two") is None


def test_what_another_signed_or_is_anothers_is_not_held(tmp_path: Path) -> None:
    own = introduce(TWO, ONE, director=DIRECTOR, federation=FEDERATION, now=NOW)
    (tmp_path / FILE).write_bytes(encode({"two": made(key(44)), "one": own}))
    assert introductions(tmp_path, NoClient(), [ROOT_RECORD]).held("two") is None
    assert introductions(tmp_path, NoClient(), [ROOT_RECORD]).held("one") is None
