"""How keys come, go and are judged: the next root record, and releases of a key that was revoked."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.actual import Actual, Done, Run, Stop, Unload, Verdict
from federation.documents import LoadedEntry, LoadError, RootRecord, SignedDocument, TrustedKey
from federation.errors import (
    AlreadyEndorsed,
    BadKeyChange,
    KeyRetired,
    KeyRevoked,
    NeedsMoreSignatures,
    UnknownKey,
    Untrusted,
    WrongRoot,
)
from federation.names import digest_of
from federation.outcomes import finished
from federation.reconciliation import answered, decide, restored
from federation.release_records import Signer, signer_of
from federation.revocation import (
    check_assignable,
    check_new,
    judged,
    publisher_keys,
    replace_director,
    replace_publisher,
    replace_root,
    revoke,
    root_named,
    set_roots,
    sign_following,
    standing_of,
    stopping,
    told_changes,
)
from federation.roots import advance, endorse, first_root, pin_of, sign_root, trust_chain
from federation.verification import verify, verify_record
from query.errors import Problem, UnknownName
from tests.trust.material import (
    DIRECTOR,
    FEDERATION,
    NOW,
    PUBLISHER,
    ROOT,
    ROOT_DOCUMENT,
    ROOT_RECORD,
    STRANGER,
    desired,
    key,
    package,
)

NEW = key(70)
RETIRED = replace_publisher(ROOT_RECORD, publisher="ann", key=NEW.public, now=NOW + 1)
KEPT = revoke(ROOT_RECORD, [PUBLISHER.keyid], running="keep", now=NOW + 1)
STOPPED = revoke(ROOT_RECORD, [PUBLISHER.keyid], running="stop", now=NOW + 1)


class TestTheNextRecord:
    @pytest.mark.parametrize("following", [RETIRED, KEPT, STOPPED])
    def test_each_change_is_the_next_version(self, following: RootRecord) -> None:
        assert advance(ROOT_RECORD, sign_following(ROOT_RECORD, following, [ROOT])) == following
        assert following.version == 2

    def test_a_replaced_publisher_key_is_retired(self) -> None:
        assert RETIRED.publishers == {
            PUBLISHER.keyid: TrustedKey(PUBLISHER.public, "ann", int(NOW + 1)),
            NEW.keyid: TrustedKey(NEW.public, "ann"),
        }
        with pytest.raises(AlreadyEndorsed):
            endorse(RETIRED, publisher="ANN", key=STRANGER.public, now=NOW)

    def test_a_publisher_without_an_active_key_is_endorsed_anew(self) -> None:
        again = endorse(KEPT, publisher="ann", key=NEW.public, now=NOW + 2)
        assert list(again.publishers) == [NEW.keyid]
        with pytest.raises(BadKeyChange, match="was revoked: it never comes back"):
            endorse(KEPT, publisher="ann", key=PUBLISHER.public, now=NOW + 2)

    def test_a_director_is_replaced(self) -> None:
        record = replace_director(ROOT_RECORD, key=NEW.public, now=NOW)
        assert record.directors == {NEW.keyid: TrustedKey(NEW.public, "director")}

    def test_a_root_key_is_replaced_and_both_sign(self) -> None:
        record = replace_root(ROOT_RECORD, old=ROOT.keyid, key=NEW.public, now=NOW)
        with pytest.raises(NeedsMoreSignatures, match="version 1, found 0"):
            sign_following(ROOT_RECORD, record, [NEW])
        with pytest.raises(NeedsMoreSignatures, match="version 2, found 0"):
            sign_following(ROOT_RECORD, record, [ROOT])
        signed = sign_following(ROOT_RECORD, record, [ROOT, NEW, STRANGER])
        assert trust_chain([ROOT_DOCUMENT, signed], pin_of(ROOT_DOCUMENT)) == record

    def test_root_keys_and_their_threshold_are_set(self) -> None:
        two = set_roots(ROOT_RECORD, add=[NEW.public], threshold=2, now=NOW)
        assert [entry.name for entry in two.roots.values()] == ["root-1", "root-2"]
        sign_following(ROOT_RECORD, two, [ROOT, NEW])
        one = set_roots(two, remove=[ROOT.keyid], threshold=1, now=NOW)
        with pytest.raises(NeedsMoreSignatures, match="needs 2 signatures of the root keys of version 2, found 1"):
            sign_following(two, one, [NEW])
        sign_following(two, one, [NEW, ROOT])
        assert root_named(one, "root-2") == root_named(one, NEW.keyid[:8]) == NEW.keyid

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (lambda: replace_publisher(ROOT_RECORD, publisher="bob", key=NEW.public, now=NOW), "no key to be replaced"),
            (lambda: replace_publisher(ROOT_RECORD, publisher="ann", key=ROOT.public, now=NOW), "has a part"),
            (lambda: replace_director(ROOT_RECORD, key=PUBLISHER.public, now=NOW), "has a part"),
            (lambda: replace_director(STOPPED, key=PUBLISHER.public, now=NOW), "was revoked"),
            (lambda: replace_root(ROOT_RECORD, old=NEW.keyid, key=STRANGER.public, now=NOW), "is no root key"),
            (lambda: set_roots(ROOT_RECORD, now=NOW), "nothing would change"),
            (lambda: set_roots(ROOT_RECORD, threshold=2, now=NOW), "cannot sign"),
            (lambda: set_roots(ROOT_RECORD, remove=[ROOT.keyid], now=NOW), "cannot sign"),
            (lambda: revoke(STOPPED, [PUBLISHER.keyid], running="keep", now=NOW), "were revoked before"),
            (lambda: revoke(STOPPED, [PUBLISHER.keyid], running="stop", now=NOW), "were revoked before"),
            (lambda: revoke(ROOT_RECORD, [DIRECTOR.keyid], running="stop", now=NOW), "no publisher's key"),
            (lambda: root_named(ROOT_RECORD, "ff" * 32), "expected one root key, found 0"),
        ],
    )
    def test_what_cannot_be_is_refused(self, change: Callable[[], object], why: str) -> None:
        with pytest.raises(BadKeyChange, match=why):
            change()

    def test_a_revocation_becomes_stricter_alone(self) -> None:
        stricter = revoke(KEPT, [PUBLISHER.keyid], running="stop", now=NOW + 9)
        assert stricter.revoked[PUBLISHER.keyid] == msgspec.structs.replace(
            KEPT.revoked[PUBLISHER.keyid], running="stop"
        )
        advance(KEPT, sign_root(stricter, ROOT))

    def test_keys_are_found_by_name_and_id(self) -> None:
        assert publisher_keys(RETIRED, "ANN") == (PUBLISHER.keyid, NEW.keyid)
        assert publisher_keys(STOPPED, PUBLISHER.keyid[:8]) == (PUBLISHER.keyid,)
        for text in ("bob", "", PUBLISHER.keyid[:3]):
            with pytest.raises(UnknownName):
                publisher_keys(ROOT_RECORD, text)

    def test_changes_are_told(self) -> None:
        assert told_changes(ROOT_RECORD, STOPPED) == (
            f'publisher key {PUBLISHER.keyid[:16]} of "ann" is revoked for ever: its releases are unloaded everywhere',
        )
        assert told_changes(ROOT_RECORD, replace_director(ROOT_RECORD, key=NEW.public, now=NOW)) == (
            f'director key {NEW.keyid[:16]} of "director" comes in',
            f'director key {DIRECTOR.keyid[:16]} of "director" goes out',
        )
        assert len(told_changes(ROOT_RECORD, RETIRED)) == 2


@pytest.mark.parametrize(
    ("before", "changes", "why"),
    [
        (STOPPED, {"revoked": {}}, "takes back"),
        (STOPPED, {"revoked": KEPT.revoked}, "lets releases"),
        (STOPPED, {"revoked": {}, "publishers": ROOT_RECORD.publishers}, "takes back"),
        (ROOT_RECORD, {"publishers": {}}, "without revoking it"),
        (ROOT_RECORD, {"publishers": {PUBLISHER.keyid: TrustedKey(PUBLISHER.public, "eve")}}, "another name"),
        (RETIRED, {"publishers": {**ROOT_RECORD.publishers}}, "drops key|was retired"),
        (
            RETIRED,
            {"publishers": {**RETIRED.publishers, PUBLISHER.keyid: TrustedKey(PUBLISHER.public, "ann", 5)}},
            "was retired",
        ),
    ],
)
def test_no_signature_makes_a_successor_take_these_back(
    before: RootRecord, changes: dict[str, object], why: str
) -> None:
    after = msgspec.structs.replace(before, version=before.version + 1, **changes)
    with pytest.raises(WrongRoot, match=why):
        advance(before, sign_root(after, ROOT))


@pytest.mark.parametrize(
    "changes",
    [
        {"publishers": {**RETIRED.publishers, PUBLISHER.keyid: TrustedKey(PUBLISHER.public, "ann")}},
        {"revoked": STOPPED.revoked},
        {"directors": {NEW.keyid: TrustedKey(NEW.public, "director")}},
    ],
)
def test_one_name_has_one_active_key_and_no_key_two_parts(changes: dict[str, object]) -> None:
    with pytest.raises(WrongRoot, match="two"):
        sign_root(msgspec.structs.replace(RETIRED, **changes), ROOT)


CHANGES = st.sampled_from(["endorse", "publisher", "revoke-keep", "revoke-stop", "director", "root", "add", "remove"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CHANGES, st.integers(0, 5), st.integers(0, 9)), max_size=14))
def test_any_chain_of_changes_holds_and_no_key_comes_back(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is changed in whatever order: each version follows, what was revoked stays so, parts stay apart."""
    keys = {number: key(300 + number) for number in range(10)}
    by_id = {one.keyid: one for one in (ROOT, *keys.values())}
    documents, root = [first_root(FEDERATION, roots=[ROOT], director=DIRECTOR.public, now=NOW)], ROOT_RECORD
    root = trust_chain(documents, pin_of(documents[0]))
    gone: set[str] = set()
    for what, person, number in steps:
        name, new = f"p{person}", keys[number].public
        try:
            match what:
                case "endorse":
                    following = endorse(root, publisher=name, key=new, now=NOW)
                case "publisher":
                    following = replace_publisher(root, publisher=name, key=new, now=NOW)
                case "revoke-keep":
                    following = revoke(root, publisher_keys(root, name), running="keep", now=NOW)
                case "revoke-stop":
                    following = revoke(root, publisher_keys(root, name), running="stop", now=NOW)
                case "director":
                    following = replace_director(root, key=new, now=NOW)
                case "root":
                    following = replace_root(root, old=next(iter(root.roots)), key=new, now=NOW)
                case "add":
                    following = set_roots(root, add=[new], threshold=min(2, len(root.roots) + 1), now=NOW)
                case _:
                    following = set_roots(root, remove=[next(iter(root.roots))], threshold=1, now=NOW)
        except Problem:
            continue
        signed = sign_following(root, following, by_id.values())
        assert advance(root, signed) == following
        documents, root = [*documents, signed], following
        gone |= root.revoked.keys()
        assert gone == set(root.revoked)
        assert not gone & (root.roots.keys() | root.directors.keys() | root.publishers.keys())
    assert trust_chain(documents, pin_of(documents[0])) == root


class TestReleases:
    def test_a_retired_key_verifies_and_publishes_nothing_new(self) -> None:
        old, new = package(), package(NEW)
        assert verify(old.doc, root=RETIRED, manifest=old.manifest, files=old.files).signer == "ann"
        with pytest.raises(KeyRetired, match="nothing new"):
            check_new(old.doc, RETIRED, "digits@1.0")
        assert check_assignable(old.doc, RETIRED, "digits@1.0") == PUBLISHER.keyid
        assert check_new(new.doc, RETIRED, "digits@1.0") == NEW.keyid
        both = package(PUBLISHER, NEW)
        assert check_new(both.doc, RETIRED, "digits@1.0") == NEW.keyid

    @pytest.mark.parametrize("root", [KEPT, STOPPED])
    def test_a_revoked_key_is_named(self, root: RootRecord) -> None:
        release = package()
        for check in (
            lambda: verify(release.doc, root=root, manifest=release.manifest, files=release.files),
            lambda: verify_record(release.doc, root),
            lambda: check_new(release.doc, root, "digits@1.0"),
            lambda: check_assignable(release.doc, root, "digits@1.0"),
        ):
            with pytest.raises(KeyRevoked, match=f'{PUBLISHER.keyid[:16]} of publisher "ann"') as refusal:
                check()
            assert refusal.value.code == "revoked_key"

    def test_keep_lets_what_runs_go_on_and_nothing_else(self) -> None:
        release, other = package(), package(version="2.0")
        running = {digest_of(release.doc.payload)}
        verify(release.doc, root=KEPT, manifest=release.manifest, files=release.files, running=running)
        for root, what in ((STOPPED, release), (KEPT, other)):
            with pytest.raises(KeyRevoked):
                verify(what.doc, root=root, manifest=what.manifest, files=what.files, running=running)
        forged = package(STRANGER)
        forged = package(contents=forged.files)
        broken = SignedDocument(forged.doc.payload + b" ", forged.doc.payload_type, forged.doc.signatures)
        with pytest.raises(Untrusted):
            verify(broken, root=KEPT, manifest=forged.manifest, files=forged.files, running={digest_of(broken.payload)})

    def test_one_good_signature_beside_a_revoked_one_is_enough(self) -> None:
        root = endorse(STOPPED, publisher="bob", key=NEW.public, now=NOW)
        release = package(PUBLISHER, NEW)
        assert verify(release.doc, root=root, manifest=release.manifest, files=release.files).signer == "bob"
        assert standing_of(release.doc, root) == ("endorsed", NEW.keyid)
        assert signer_of(release.doc, root) == Signer("bob", NEW.keyid, "endorsed")
        both = endorse(ROOT_RECORD, publisher="bob", key=NEW.public, now=NOW)
        without_bob = revoke(both, [NEW.keyid], running="stop", now=NOW)
        assert signer_of(release.doc, without_bob) == Signer("ann", PUBLISHER.keyid, "endorsed")

    def test_a_stranger_stays_unknown(self) -> None:
        with pytest.raises(UnknownKey):
            verify_record(package(STRANGER).doc, STOPPED)
        assert standing_of(package(STRANGER).doc, STOPPED) == ("unknown", None)
        assert standing_of(package().doc, STOPPED) == ("revoked", PUBLISHER.keyid)
        assert standing_of(package().doc, RETIRED) == ("retired", PUBLISHER.keyid)

    def test_a_signer_is_told_with_the_name_and_the_time(self) -> None:
        since = int(NOW) + 1
        assert signer_of(package().doc, ROOT_RECORD) == Signer("ann", PUBLISHER.keyid, "endorsed")
        assert signer_of(package().doc, RETIRED) == Signer("ann", PUBLISHER.keyid, "retired", since)
        assert signer_of(package().doc, STOPPED) == Signer("ann", PUBLISHER.keyid, "revoked", since)
        assert signer_of(package(STRANGER).doc, STOPPED) == Signer(None, STRANGER.keyid, "unknown")


class TestWhatRuns:
    doc = package().doc
    digest = digest_of(doc.payload)

    def edge(self, origin: str = "group", **fields: object) -> Actual:
        entry = LoadedEntry("digits", "1.0", self.digest, origin, 5)  # type: ignore[arg-type]
        known = Actual(runtime="r", root_version=2, loaded={"digits": entry}, installed={self.digest: "digits@1.0"})
        return msgspec.structs.replace(known, **fields)

    def record(self, digest: str) -> SignedDocument | None:
        return self.doc if digest == self.digest else None

    def test_nothing_revoked_changes_nothing(self) -> None:
        edge = self.edge()
        assert judged(edge, ROOT_RECORD, self.record, now=NOW) is edge
        assert judged(edge, RETIRED, self.record, now=NOW) is edge

    def test_keep_is_shown_and_stays(self) -> None:
        edge = judged(self.edge(), KEPT, self.record, now=NOW)
        assert (edge.loaded, edge.goals) == (self.edge().loaded, {})
        message = (
            f'the key {PUBLISHER.keyid[:16]} of publisher "ann", which signed digits@1.0, was revoked: '
            "it keeps answering until it is replaced"
        )
        assert edge.errors == {"digits@1.0": LoadError("digits@1.0", "revoked_key", message, int(NOW))}
        assert judged(edge, KEPT, self.record, now=NOW + 50) is edge

    def test_stop_is_shown_and_unloaded(self) -> None:
        edge = judged(self.edge(), STOPPED, self.record, now=NOW)
        assert edge.goals == {"digits": Stop("digits", "manual")}
        assert edge.errors["digits@1.0"].message.endswith("was revoked: it is unloaded")
        assert edge.verdicts[self.digest].error == "revoked_key"
        assert judged(edge, STOPPED, self.record, now=NOW + 50) == edge

    def test_what_a_group_wants_in_its_place_comes_after_it(self) -> None:
        """In the very answer that told of the revocation: a device without a network gets no other."""
        successor = Run("digits", "2.0", digest_of(b"successor"), "group")
        edge = judged(self.edge(goals={"digits": successor}), STOPPED, self.record, now=NOW)
        assert edge.goals == {"digits": Stop("digits", "manual", successor)}
        assert judged(edge, STOPPED, self.record, now=NOW + 50) == edge
        again = restored(edge.saved(), installed=edge.installed, runtime="r", root_version=2)
        for known in (edge, again):
            assert Unload("digits") in decide(desired(), known, NOW)
            gone = finished(known, Unload("digits"), Done(), NOW, 0.5)
            assert (gone.goals, gone.loaded, gone.restoring) == ({"digits": successor}, {}, {})
        forgotten = answered(desired(models=()), edge, NOW)
        assert forgotten.goals == {"digits": Stop("digits", "manual")}

    def test_a_manual_load_stays_shown_after_it_was_stopped(self) -> None:
        edge = judged(self.edge("manual"), STOPPED, self.record, now=NOW)
        assert edge.lost["digits"].record == self.digest
        nothing = desired(models=())
        unloaded = msgspec.structs.replace(edge, loaded={}, goals={})
        assert list(answered(nothing, unloaded, NOW).errors) == ["digits@1.0"]

    def test_what_is_being_restored_is_not_any_more(self) -> None:
        run = Run("digits", "1.0", self.digest, "group")
        edge = judged(self.edge(loaded={}, restoring={"digits": run}), STOPPED, self.record, now=NOW)
        assert (edge.restoring, edge.goals) == ({}, {})
        kept = judged(self.edge(loaded={}, restoring={"digits": run}), KEPT, self.record, now=NOW)
        assert kept.restoring == {"digits": run}

    def test_a_wanted_one_is_refused_without_another_try(self) -> None:
        edge = judged(self.edge(), STOPPED, self.record, now=NOW)
        unloaded = msgspec.structs.replace(edge, loaded={}, goals={})
        model = msgspec.structs.replace(desired().models[0], record=self.digest)
        after = answered(desired(models=(model,)), unloaded, NOW)
        assert (after.goals, list(after.errors)) == ({}, ["digits@1.0"])

    def test_a_peer_without_an_agent_stops_the_same(self) -> None:
        signed = {"digits": {PUBLISHER.keyid}, "other": {NEW.keyid}}
        assert stopping(signed, STOPPED) == ("digits",)
        assert stopping(signed, KEPT) == stopping(signed, RETIRED) == ()

    def test_a_good_verdict_does_not_survive_a_stop(self) -> None:
        good = self.edge(verdicts={self.digest: Verdict(self.digest, "r")})
        assert judged(good, KEPT, self.record, now=NOW).verdicts[self.digest].error is None
        assert judged(good, STOPPED, self.record, now=NOW).verdicts[self.digest].root_version == 2
