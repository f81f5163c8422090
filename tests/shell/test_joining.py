"""Joining: what of an admission is believed, and what a home holds when it is not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from federation import bundles
from federation.certificates import issue, make_authority
from federation.documents import Admission, Bundle
from federation.errors import BadBundle, Untrusted
from federation.keys import PrivateKey, read_key
from federation.names import PeerId
from federation.roots import first_root, pin_of
from peers.federation_client import Unreachable
from peers.homes import Home, Membership
from peers.joining import AlreadyJoined, BadAdmission, check, join
from query.errors import Problem

NOW = 1_800_000_000.0
UUID = PeerId("11111111-1111-4111-8111-111111111111")


def key(number: int) -> PrivateKey:
    return PrivateKey(bytes([number]) * 32)


@dataclass(frozen=True)
class Authority:
    """A federation's authority and root record."""

    ca_key: PrivateKey
    federation: str = "mine"

    @property
    def ca(self) -> str:
        return make_authority(self.federation, self.ca_key, now=NOW)

    def certificate(self, ca: str, peer: PrivateKey, **changes: Any) -> str:
        given: dict[str, Any] = {"federation": self.federation, "kind": "edge", "uuid": UUID, "now": NOW, **changes}
        return issue(ca_pem=ca, ca_key=self.ca_key, subject_key=peer.public, **given)


MINE = Authority(key(1))
CA = MINE.ca
ROOT = first_root("mine", roots=[key(2)], director=key(3).public, now=NOW)
PEER = key(4)
BUNDLE = Bundle(
    federation="mine",
    addresses=("127.0.0.1:9",),
    ca=CA,
    root=pin_of(ROOT),
    name="E1",
    kind="edge",
    role="viewer",
    publisher=False,
    token="t" * 43,
    expires=int(NOW) + 86_400,
)
ADMISSION = Admission(
    federation="mine",
    uuid=UUID,
    name="E1",
    kind="edge",
    role="viewer",
    certificate=MINE.certificate(CA, PEER),
    ca=CA,
    not_after=int(NOW) + 30 * 86_400,
    roots=(ROOT,),
    addresses=("127.0.0.1:9",),
    time=NOW,
)


def test_an_admission_that_follows_from_the_bundle() -> None:
    check(ADMISSION, BUNDLE, PEER)


STRANGER = Authority(key(9))
OTHER_ROOT = first_root("mine", roots=[key(8)], director=key(3).public, now=NOW)
FOREIGN_ROOT = first_root("other", roots=[key(2)], director=key(3).public, now=NOW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"federation": "other"}, "another federation than the bundle says: expected 'mine', found 'other'"),
        ({"name": "E2"}, "another name than the bundle says: expected 'e1', found 'e2'"),
        ({"kind": "client"}, "another kind"),
        ({"role": "admin"}, "another role"),
        ({"ca": STRANGER.ca}, "another certificate authority than the bundle says"),
        ({"certificate": STRANGER.certificate(STRANGER.ca, PEER)}, "issued by another authority"),
        ({"certificate": MINE.certificate(CA, key(7))}, "is for another key"),
        ({"certificate": MINE.certificate(CA, PEER, kind="client")}, "the certificate names mine/client/"),
        ({"certificate": MINE.certificate(CA, PEER, federation="other")}, "the certificate names other/edge/"),
        ({"certificate": "garbage"}, "the nameserver sent no certificate"),
        ({"uuid": PeerId("2" * 36)}, "the certificate names mine/edge/1111"),
        ({"roots": ()}, "expected 1 to"),
        ({"roots": (OTHER_ROOT,)}, "pinned"),
        ({"roots": (FOREIGN_ROOT,)}, "pinned"),
    ],
)
def test_what_does_not_follow_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((BadAdmission, Untrusted), match=re.escape(message)):
        check(msgspec.structs.replace(ADMISSION, **changes), BUNDLE, PEER)


def test_the_pinned_root_is_of_the_same_federation() -> None:
    bundle = msgspec.structs.replace(BUNDLE, root=pin_of(FOREIGN_ROOT))
    with pytest.raises(BadAdmission, match="the root record is of federation other: expected mine"):
        check(msgspec.structs.replace(ADMISSION, roots=(FOREIGN_ROOT,)), bundle, PEER)


@pytest.mark.parametrize("text", ["", "hello", "\0", "A" * 400, bundles.encode(BUNDLE)[:-40], "=" * 100_000])
async def test_what_is_no_bundle_makes_no_home(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadBundle):
        await join(Home(tmp_path / "e1"), text)
    assert not (tmp_path / "e1").exists()


async def test_a_member_does_not_join_again(tmp_path: Path) -> None:
    home = Home(tmp_path / "e1").prepare()
    home.write_membership(
        Membership(
            federation="first", uuid=UUID, name="E9", kind="edge", role="viewer", addresses=(), not_after=int(NOW)
        )
    )
    with pytest.raises(AlreadyJoined, match="is the home of edge E9 in federation first"):
        await join(home, bundles.encode(BUNDLE))
    assert not home.identity_key.exists()


async def test_unreachable_leaves_keys_alone_and_they_are_taken_up(tmp_path: Path) -> None:
    """Port 9 of loopback is closed. Discovery is asked for the bundle's federation, and what it says is tried."""
    home = Home(tmp_path / "e1")
    asked: list[str] = []

    async def discover(federation: str) -> tuple[str, ...]:
        asked.append(federation)
        return ("127.0.0.1:10",)

    with pytest.raises(Unreachable) as caught:
        await join(home, bundles.encode(BUNDLE), discover=discover)
    assert BUNDLE.token not in str(caught.value)
    assert asked == ["mine"]
    assert [path.name for path in home.path.iterdir()] == ["identity.key"]
    made = read_key(home.identity_key)
    with pytest.raises(Problem):
        await join(home, bundles.encode(msgspec.structs.replace(BUNDLE, publisher=True)))
    assert read_key(home.identity_key) == made
    assert sorted(path.name for path in home.path.iterdir()) == ["identity.key", "publisher.key"]
