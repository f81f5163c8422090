"""A file is taken whole, as an answered poll, or refused in the class of what is wrong with it, and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from federation import commands
from federation.actual import Run
from federation.blobs import StorageFull
from federation.carried_state import CarriedContents
from federation.documents import DESIRED_TYPE, PollAnswer, ReleaseRecord, SignedDocument, decode, encode
from federation.errors import (
    BadSignature,
    Expired,
    Fork,
    MixedParts,
    NotYetValid,
    OldEpoch,
    Replay,
    UnknownKey,
    Untrusted,
    WrongHash,
    WrongRecipient,
    WrongRoot,
    WrongSize,
)
from federation.keys import PrivateKey
from federation.names import PeerId, digest_of
from federation.signing import sign
from peers.archives import ANSWER, CONTENTS, RELEASES, ROOTS, BadArchive, DamagedArchive, TruncatedArchive, blob_name
from peers.importing import BadFile
from peers.stopped_edge import stopped_edge
from query.errors import Problem
from tests.carrying.side import Device, Side, importing, members_of, rewritten
from tests.turn.bench import DIRECTOR, EDGE, PUBLISHER

DAY_S = 86_400.0


@pytest.fixture
def side(tmp_path: Path) -> Side:
    (tmp_path / "ns").mkdir()
    made = Side(tmp_path / "ns")
    made.director.assign(made.published("m", "1.0"))
    return made


@pytest.fixture
def device(tmp_path: Path, side: Side) -> Device:
    return Device(tmp_path / "e1", side.clock).attached(side)


async def refused(device: Device, path: Path, kind: type[Problem], match: str | None = None) -> Problem:
    """Imported and refused: nothing of the device is other than before."""
    before = device.standing()
    with pytest.raises(kind, match=match) as raised:
        await device.take(path)
    assert device.standing() == before
    return raised.value


class TestTaking:
    async def test_a_file_counts_as_an_answered_poll(self, side: Side, device: Device) -> None:
        told = await device.take(await side.file("e1.tar"))
        assert told == {
            "edge": "E1",
            "federation": "f",
            "generation": side.director.store.state.generation(EDGE),
            "new": True,
            "models": ["m@1.0"],
            "releases": ["m@1.0"],
            "refused": [],
        }
        with stopped_edge(device.home, clock=device.clock.now) as edge:
            stored = edge.store.read()
            assert stored.desired is not None
            assert stored.desired.etag == side.told()["state"]
            goal = stored.saved.goals["m"]
            assert isinstance(goal, Run)
            assert (goal.label, goal.origin) == ("m@1.0", "group")
            assert {goal.record} == stored.saved.fetched == stored.saved.carried
            assert [release.label for release in edge.layout.releases()] == ["m@1.0"]
        assert device.events() == [("imported", f"e1.tar: generation {told['generation']}")]

    async def test_the_same_again_says_nothing_new(self, side: Side, device: Device) -> None:
        path = await side.file("e1.tar")
        await device.take(path)
        before = device.standing()
        told = await device.take(path)
        assert (told["new"], told["models"]) == (False, ["m@1.0"])
        assert device.standing() == before

    async def test_an_older_window_of_the_same_state_says_nothing_new(self, side: Side, device: Device) -> None:
        path = await side.file("old.tar")
        side.clock.advance(8 * DAY_S)
        await device.take(await side.file("new.tar"))
        before = device.standing()
        assert (await device.take(path))["new"] is False
        assert device.standing() == before

    async def test_a_newer_file_brings_only_what_is_new(self, side: Side, device: Device) -> None:
        await device.take(await side.file("1.tar"))
        side.director.assign(side.published("m", "2.0"))
        told = await device.take(await side.file("2.tar"))
        assert (told["new"], told["models"]) == (True, ["m@2.0"])

    async def test_with_groups_what_was_overtaken_comes_too(self, side: Side, device: Device) -> None:
        side.director.assign(side.published("m", "2.0"))
        side.director.assign(side.published("n", "1.0"), group="all")
        alone = await side.bytes()
        told = await device.take(await side.file("e1.tar", groups=True))
        assert told["models"] == ["m@2.0", "n@1.0"]
        assert told["releases"] == ["m@2.0", "n@1.0", "m@1.0"]
        with stopped_edge(device.home, clock=device.clock.now) as edge:
            assert [release.label for release in edge.layout.releases()] == ["m@1.0", "m@2.0", "n@1.0"]
            assert len(edge.store.read().saved.carried) == 3
        assert len(alone) < len(await side.bytes(groups=True))

    async def test_a_file_of_another_time_takes_the_place_of_what_the_one_before_held(
        self, side: Side, device: Device
    ) -> None:
        first = side.director.store.state.release("m", "1.0")
        assert first is not None
        side.director.assign(side.published("m", "2.0"))
        await device.take(await side.file("1.tar", groups=True))
        side.director.assign(side.published("m", "3.0"))
        await device.take(await side.file("2.tar"))
        with stopped_edge(device.home, clock=device.clock.now) as edge:
            saved = edge.store.read().saved
            assert len(saved.carried) == 1
            assert first.digest in saved.fetched  # so that the edge's turn prunes it
            assert first.digest not in saved.carried

    async def test_the_same_state_makes_the_same_file(self, side: Side) -> None:
        assert await side.bytes() == await side.bytes()

    async def test_newer_root_records_are_followed(self, side: Side, device: Device) -> None:
        key = PrivateKey(b"n" * 32)
        side.director.endorse("new", key)
        side.director.assign(side.published("k", "1.0", publisher=key))
        await device.take(await side.file("e1.tar"))
        assert len(device.home.roots()) == 2


class TestBelonging:
    async def test_the_typed_fingerprint_makes_a_device_the_edge_of_the_file(self, tmp_path: Path, side: Side) -> None:
        device = Device(tmp_path / "new", side.clock)
        path = await side.file("e1.tar")
        membership = device.attach(path, side.told()["fingerprint"])
        assert (membership.name, membership.uuid, membership.federation) == ("E1", EDGE, "f")
        assert not device.home.identity_crt.exists()
        assert (await device.take(path))["models"] == ["m@1.0"]

    async def test_an_earlier_root_record_is_a_pin_too(self, tmp_path: Path, side: Side) -> None:
        pin = side.told()["fingerprint"]
        side.director.endorse("new", PrivateKey(b"n" * 32))
        Device(tmp_path / "new", side.clock).attach(await side.file("e1.tar"), pin)

    async def test_another_fingerprint_changes_nothing(self, tmp_path: Path, side: Side) -> None:
        device = Device(tmp_path / "new", side.clock)
        with pytest.raises(WrongRoot):
            device.attach(await side.file("e1.tar"), "ab" * 32)
        assert not device.home.joined
        assert device.home.roots() == ()

    async def test_a_forged_federation_needs_its_own_fingerprint(self, tmp_path: Path, side: Side) -> None:
        """Who makes a file with keys of their own cannot make the root record that the person typed."""
        (tmp_path / "evil").mkdir()
        evil = Side(tmp_path / "evil")
        evil.director.endorse("other", PrivateKey(b"z" * 32))
        device = Device(tmp_path / "new", side.clock)
        with pytest.raises(WrongRoot):
            device.attach(await evil.file("e1.tar"), _pin_of(evil, 2)[:-1] + "0")
        assert not device.home.joined

    @pytest.mark.parametrize("spoil", [lambda raw: raw[:-2000], lambda raw: raw[:-3000] + b"x" + raw[-2999:]])
    async def test_a_file_that_is_refused_does_not_tie(
        self, tmp_path: Path, side: Side, spoil: Callable[[bytes], bytes]
    ) -> None:
        path, pin = await side.file("e1.tar"), side.told()["fingerprint"]
        whole = path.read_bytes()
        path.write_bytes(spoil(whole))
        device = Device(tmp_path / "new", side.clock)
        with pytest.raises(Problem) as refusal:
            device.attach(path, pin)
        assert refusal.value.code in ("archive_truncated", "archive_damaged", "bad_archive", "hash")
        assert not device.home.joined
        assert device.home.roots() == ()
        assert not device.home.identity_key.exists()
        assert not [entry for entry in device.home.releases.rglob("*") if entry.is_file() and "blobs" in entry.parts]
        path.write_bytes(whole)
        device.attach(path, pin)
        assert (await device.take(path))["models"] == ["m@1.0"]

    async def test_an_expired_file_does_not_tie(self, tmp_path: Path, side: Side) -> None:
        path = await side.file("e1.tar")
        side.clock.advance(30 * DAY_S)
        device = Device(tmp_path / "new", side.clock)
        with pytest.raises(Expired):
            device.attach(path, side.told()["fingerprint"])
        assert not device.home.joined


def _pin_of(side: Side, version: int) -> str:
    return digest_of(side.director.store.state.root_documents[version - 1].payload)


class TestRefusals:
    async def test_a_file_for_another_edge(self, side: Side, device: Device) -> None:
        other = PeerId("22222222-2222-4222-8222-222222222222")
        side.director.change(commands.register(side.director.store.state, "E2", uuid=other, token_hash="u", now=1.0))
        problem = await refused(device, await side.file("e2.tar", "E2"), WrongRecipient, "the file is for edge E2")
        assert problem.hint == 'export one for this edge: "peerage export --edge E1 FILE"'
        assert device.events() == [("refused", "e2.tar: wrong_recipient")]

    async def test_a_replay(self, side: Side, device: Device) -> None:
        old = await side.file("old.tar")
        side.director.assign(side.published("m", "2.0"))
        await device.take(await side.file("new.tar"))
        await refused(device, old, Replay)

    async def test_an_older_epoch(self, side: Side, device: Device) -> None:
        old = await side.file("old.tar")
        state = side.director.store.state
        events = commands.start_epoch(state, now=side.clock.now(), draw=0.1, beyond=state.epoch)
        side.director.change(events)
        await device.take(await side.file("new.tar"))
        await refused(device, old, OldEpoch)

    async def test_two_states_under_one_generation(self, side: Side, device: Device) -> None:
        raw = await side.bytes()
        await device.take(await side.file("e1.tar"))
        forged = _with_answer(raw, lambda state: state | {"poll_interval": "1s"})
        path = side.folder / "forged.tar"
        path.write_bytes(forged)
        await refused(device, path, Fork)

    async def test_an_expired_one(self, side: Side, device: Device) -> None:
        path = await side.file("e1.tar")
        side.clock.advance(30 * DAY_S)
        problem = await refused(device, path, Expired)
        assert "What runs here goes on running" in str(problem.hint)

    async def test_a_device_whose_clock_began_anew(self, side: Side, device: Device) -> None:
        path = await side.file("e1.tar")
        side.clock._now = 3600.0
        problem = await refused(device, path, NotYetValid)
        assert problem.hint == "this device's clock says 1970-01-01 01:00 UTC: set it, and import again"

    async def test_another_federation(self, tmp_path: Path, side: Side, device: Device) -> None:
        raw = _with_answer(await side.bytes(), lambda state: state | {"federation": "g"})
        path = side.folder / "other.tar"
        path.write_bytes(raw)
        await refused(device, path, WrongRecipient, "of federation g: this is E1 of f")

    async def test_a_director_that_nobody_named(self, side: Side, device: Device) -> None:
        path = side.folder / "forged.tar"
        path.write_bytes(_with_answer(await side.bytes(), lambda state: state, key=PrivateKey(b"x" * 32)))
        await refused(device, path, UnknownKey)

    async def test_a_changed_state_under_the_old_signature(self, side: Side, device: Device) -> None:
        members = dict(members_of(await side.bytes()))
        answer = decode(members[ANSWER], PollAnswer)
        payload = answer.desired.payload.replace(b'"60s~10%"', b'"1s~10%"').replace(b'"10s"', b'"1s"')
        changed = SignedDocument(payload, answer.desired.payload_type, answer.desired.signatures)
        path = side.folder / "changed.tar"
        path.write_bytes(_consistent(members | {ANSWER: encode(PollAnswer(changed, answer.releases))}))
        await refused(device, path, BadSignature)

    async def test_a_record_that_is_missing(self, side: Side, device: Device) -> None:
        members = dict(members_of(await side.bytes()))
        answer = decode(members[ANSWER], PollAnswer)
        path = side.folder / "lacking.tar"
        path.write_bytes(_consistent(members | {ANSWER: encode(PollAnswer(answer.desired, ()))}))
        await refused(device, path, MixedParts)

    async def test_a_blob_that_is_missing(self, side: Side, device: Device) -> None:
        members = dict(members_of(await side.bytes()))
        for name in [name for name in members if name.startswith("blobs/")]:
            path = side.folder / "lacking.tar"
            path.write_bytes(rewritten([(n, c) for n, c in members.items() if n != name]))
            record = decode(decode(members[ANSWER], PollAnswer).releases[0].payload, ReleaseRecord)
            parts = {record.manifest, *(entry.digest for entry in record.files)}
            if any(name == blob_name(digest) for digest in parts):
                await refused(device, path, BadArchive, "the file lacks|that nothing signed in it names")

    async def test_a_blob_with_other_content(self, side: Side, device: Device) -> None:
        members = dict(members_of(await side.bytes()))
        for name in [name for name in members if name.startswith("blobs/")]:
            content = members[name]
            path = side.folder / "changed.tar"
            path.write_bytes(rewritten(list((members | {name: bytes([content[0] ^ 1]) + content[1:]}).items())))
            await refused(device, path, WrongHash)
            path.write_bytes(rewritten(list((members | {name: content + b"x"}).items())))
            await refused(device, path, WrongSize)

    async def test_a_blob_that_nothing_names(self, side: Side, device: Device) -> None:
        members = members_of(await side.bytes())
        path = side.folder / "more.tar"
        path.write_bytes(rewritten([*members, (blob_name(digest_of(b"more")), b"more")]))
        await refused(device, path, BadArchive, "that nothing signed in it names")

    async def test_contents_that_tell_otherwise(self, side: Side, device: Device) -> None:
        members = dict(members_of(await side.bytes()))
        contents = decode(members[CONTENTS], CarriedContents)
        for field, value in (("name", "E9"), ("etag", '"1.1.1"')):
            told = encode(msgspec.structs.replace(contents, **{field: value}))
            path = side.folder / "told.tar"
            path.write_bytes(rewritten(list((members | {CONTENTS: told}).items())))
            await refused(device, path, DamagedArchive)
        path.write_bytes(rewritten(list((members | {ROOTS: b"[]"}).items())))
        await refused(device, path, DamagedArchive, r"peerage/roots\.json is not what the file's contents say")
        path.write_bytes(
            rewritten(list((members | {CONTENTS: encode(msgspec.structs.replace(contents, form=2))}).items()))
        )
        await refused(device, path, BadArchive, "form 2: this version reads form 1")

    async def test_a_publisher_that_nobody_endorses_keeps_nothing_else_back(self, side: Side, device: Device) -> None:
        """As after a poll: the state is taken, what may not run is not kept, and the turn says why."""
        stranger = PrivateKey(b"s" * 32)
        side.director.endorse("stranger", stranger)
        side.director.assign(side.published("s", "1.0", publisher=stranger))
        members = dict(members_of(await side.bytes()))
        roots = decode(members[ROOTS], tuple[SignedDocument, ...])
        state = _state_of(members)
        forged = _resigned(members, state | {"root_version": 1})
        path = side.folder / "stranger.tar"
        path.write_bytes(_consistent(forged | {ROOTS: msgspec.json.encode(roots[:1])}))
        told = await device.take(path)
        assert told["refused"] == [{"release": "s@1.0", "error": "unknown_key"}]
        assert told["releases"] == ["m@1.0"]
        with stopped_edge(device.home, clock=device.clock.now) as edge:
            assert [release.label for release in edge.layout.releases()] == ["m@1.0"]
            assert sorted(edge.store.read().saved.goals) == ["m", "s"]

    async def test_a_disk_without_room(self, side: Side, device: Device) -> None:
        path = await side.file("e1.tar")
        with stopped_edge(device.home, clock=device.clock.now) as edge:
            edge.layout.blobs.free_bytes = lambda: 1000  # type: ignore[method-assign]
            with pytest.raises(StorageFull, match="the disk has 1000"):
                await importing(edge, path)

    async def test_what_is_no_file(self, tmp_path: Path, side: Side, device: Device) -> None:
        os.mkfifo(tmp_path / "pipe")
        for name in ("missing", "", "pipe"):
            with pytest.raises(BadFile):
                await device.take(tmp_path / name)
        (tmp_path / "text").write_text("{}" * 1000)
        await refused(device, tmp_path / "text", BadArchive, "this is no tar file")


class TestFuzz:
    async def test_a_file_cut_anywhere_changes_nothing(self, side: Side, device: Device) -> None:
        raw = await side.bytes(groups=True)
        before = device.standing()
        random = Random(7)
        path = side.folder / "cut.tar"
        for length in [0, 511, 512, len(raw) - 1, *(random.randrange(len(raw)) for _ in range(60))]:
            path.write_bytes(raw[:length])
            with pytest.raises(Problem) as raised:
                await device.take(path)
            assert isinstance(raised.value, BadArchive | Untrusted), raised.value
            assert device.standing() == before
        path.write_bytes(raw[: len(raw) // 2])
        with pytest.raises(TruncatedArchive):
            await device.take(path)

    async def test_a_bit_changed_anywhere_changes_nothing(self, side: Side, device: Device) -> None:
        raw = await side.bytes(groups=True)
        before = device.standing()
        random = Random(11)
        path = side.folder / "flipped.tar"
        codes = set()
        for at in [*(random.randrange(len(raw)) for _ in range(150)), len(raw) - 1]:
            changed = bytearray(raw)
            changed[at] ^= 1 << random.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(Problem) as raised:
                await device.take(path)
            assert isinstance(raised.value, BadArchive | Untrusted), (at, raised.value)
            codes.add(raised.value.code)
        assert device.standing() == before
        assert {"archive_damaged", "hash"} <= codes

    async def test_documents_changed_by_who_can_count_change_nothing(self, side: Side, device: Device) -> None:
        """The checksum fits, so that only the signatures stand in the way."""
        members = dict(members_of(await side.bytes()))
        before = device.standing()
        random = Random(13)
        path = side.folder / "forged.tar"
        for name in (ANSWER, RELEASES, CONTENTS):
            for _ in range(60):
                changed = bytearray(members[name])
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
                forged = members | {name: bytes(changed)}
                path.write_bytes(rewritten(list(forged.items())) if name == CONTENTS else _consistent(forged))
                if _says_the_same(forged, members) or _signed_by_a_stranger(forged):
                    continue
                with pytest.raises(Problem) as raised:
                    await device.take(path)
                problem = raised.value
                assert isinstance(problem, BadArchive | Untrusted) or problem.code == "bad_poll_answer", problem
                assert device.standing() == before


def _says_the_same(forged: dict[str, bytes], members: dict[str, bytes]) -> bool:
    """Spare bits of base64 change no byte of what is decoded."""
    try:
        return all(
            decode(forged[name], kind) == decode(members[name], kind)
            for name, kind in (
                (ANSWER, PollAnswer),
                (RELEASES, tuple[SignedDocument, ...]),
                (CONTENTS, CarriedContents),
            )
        )
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False


def _signed_by_a_stranger(forged: dict[str, bytes]) -> bool:
    """A release whose signature names another key is none of an endorsed publisher: not kept, as after a poll."""
    try:
        releases = decode(forged[ANSWER], PollAnswer).releases
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return any(signature.keyid != PUBLISHER.keyid for release in releases for signature in release.signatures)


def _state_of(members: dict[str, bytes]) -> dict[str, Any]:
    state: dict[str, Any] = msgspec.json.decode(decode(members[ANSWER], PollAnswer).desired.payload)
    return state


def _resigned(members: dict[str, bytes], state: dict[str, Any], key: PrivateKey | None = None) -> dict[str, bytes]:
    """The members with another state, signed with a key; the director's own by default."""
    answer = decode(members[ANSWER], PollAnswer)
    signed = sign(msgspec.json.encode(state), DESIRED_TYPE, key or DIRECTOR)
    return members | {ANSWER: encode(PollAnswer(signed, answer.releases))}


def _with_answer(raw: bytes, change: Any, *, key: PrivateKey | None = None) -> bytes:
    members = dict(members_of(raw))
    return _consistent(_resigned(members, change(_state_of(members)), key))


def _consistent(members: dict[str, bytes]) -> bytes:
    """With contents and checksum that fit."""
    try:
        contents = decode(members[CONTENTS], CarriedContents)
        state = _state_of(members)
        told = {
            "federation": state["federation"],
            "edge": state["edge"],
            "name": state["name"],
            "etag": f'"{state["epoch"]}.{state["generation"]}.{state["window"]}"',
        }
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
        told = {}
    if told:
        digests = {"answer": digest_of(members[ANSWER]), "roots": digest_of(members[ROOTS])}
        digests["releases"] = digest_of(members[RELEASES])
        members = members | {CONTENTS: encode(msgspec.structs.replace(contents, **told, **digests))}
    return rewritten(list(members.items()))
