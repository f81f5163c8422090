"""Backups of a home whose nameserver goes on writing, and what is restored from them."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from pathlib import Path
from random import Random

import msgspec
import pytest

from federation.blobs import StorageFull
from federation.bundles import check_join, join_request
from federation.documents import TrustedKey
from federation.errors import TokenExpired, WrongKey, WrongRoot
from federation.events import EpochStarted, TokenIssued
from federation.keys import PrivateKey, read_key, write_key
from federation.names import digest_of
from federation.roots import sign_root
from federation.snapshots import BadBackup
from federation.store import FederationStore
from peers.backup_folders import BackupInUse, Backups
from peers.backups import take_backup
from peers.founding import found
from peers.homes import BadHome, Home, NotJoined
from peers.restoring import Wishes, restore
from peers.settings import NameserverSettings
from query.errors import Problem
from tests.backup.ground import ADA, NOW, Ground, check_whole, ground, token_of
from tests.badinput.test_full_disk import small_disk
from tests.membership.small import identity, key

BACKUPS = 8


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- consistency ----------------------------------------------------------------------------------------------------


def write_until(folder: Path, enough: threading.Event, *, seed: int) -> None:
    """What a nameserver does all day, as fast as it can: publish, delete, collect garbage, register."""
    random = Random(seed)
    writer = Ground(folder)
    try:
        number = 0
        while not enough.is_set():
            number += 1
            writer.publish("busy", str(number))
            published = [release.record.version for release in writer.store.state.published.versions("busy")]
            if len(published) > 3:
                writer.delete("busy", random.choice(published))
            if random.random() < 0.3:
                writer.layout.collect_garbage()
            if random.random() < 0.3:
                writer.register(f"E{number}-{seed}")
    finally:
        writer.close()


def test_every_snapshot_under_writes_is_a_whole_federation(tmp_path: Path) -> None:
    with ground(tmp_path):
        pass
    enough = threading.Event()
    writer = threading.Thread(target=write_until, args=(tmp_path, enough), kwargs={"seed": 1})
    writer.start()
    try:
        seqs = []
        for number in range(BACKUPS):
            taken = take_backup(Home(tmp_path / "ns"), tmp_path / "backup", clock=lambda n=number: NOW + n)
            assert taken.snapshot.lacking == ()
            seqs.append(taken.snapshot.seq)
    finally:
        enough.set()
        writer.join()
    assert seqs == sorted(set(seqs)), "the writer stood still"
    backups = Backups(tmp_path / "backup")
    assert len(backups.names()) == BACKUPS
    for number, name in enumerate(backups.names()):
        home = Home(tmp_path / f"restored-{number}")
        done = restore(tmp_path / "backup", home, Wishes(snapshot=name), clock=lambda: NOW + 9999.0)
        assert done.lacking == ()
        assert done.seq == seqs[number] + 1 + len(done.ended_bundles)
        assert "m@1.0" in check_whole(home)


def test_what_is_deleted_while_it_is_copied_is_in_the_snapshot(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.publish("m", "2.0")
        copied = []

        def deleting(done: int, total: int) -> None:
            if not copied:
                place.delete("m", "2.0")
                place.layout.collect_garbage()
            copied.append(done)

        taken = take_backup(place.home, place.backup, clock=lambda: NOW, progress=deleting)
        assert (taken.snapshot.releases, taken.snapshot.lacking) == (2, ())
        assert place.layout.collect_garbage().blobs > 0  # it went as soon as nobody copied
        place.restore()
        assert check_whole(Home(tmp_path / "ns2")) == ["m@1.0", "m@2.0"]


def test_a_release_that_is_listed_but_not_logged_is_not_made_up(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.layout.install(place.release("m", "3.0", "create function three() -> Real as 3;\n"))
        place.take()
        place.restore()
        assert check_whole(Home(tmp_path / "ns2")) == ["m@1.0"]


def test_a_release_that_is_logged_but_not_listed_is_listed_again(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        (place.home.releases / "index.json").unlink()
        assert place.take().snapshot.lacking == ()
        place.restore()
        assert check_whole(Home(tmp_path / "ns2")) == ["m@1.0"]


# --- the folder -----------------------------------------------------------------------------------------------------


def test_contents_are_copied_once_and_never_linked(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        first = place.take()
        place.publish("m", "2.0")
        second = place.take()
        assert (first.blobs_copied, first.bytes_copied > 0) == (6, True)
        assert second.blobs_copied == 5  # files, config, manifest, record and its attachment; not the empty config
        assert place.take().bytes_copied == 0
        for path in (place.backup / "blobs" / "sha256").iterdir():
            assert path.stat().st_nlink == 1
        private = list(place.backup.rglob("*.key"))
        assert len(private) == 9
        assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
        assert stat.S_IMODE(place.backup.stat().st_mode) == 0o700


def test_only_the_newest_are_kept_and_what_they_need(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.publish("m", "2.0")
        place.take()
        place.delete("m", "2.0")
        place.now += 1
        place.take()
        before = len(list((place.backup / "blobs" / "sha256").iterdir()))
        place.now += 1
        taken = place.take(keep=2)
        assert len(taken.forgotten) == 1
        assert before - len(list((place.backup / "blobs" / "sha256").iterdir())) == 5
        backups = Backups(place.backup)
        assert len(backups.names()) == 2
        assert [list(backups.damage(name, backups.read(name), seen=set())) for name in backups.names()] == [[], []]


def test_no_blob_goes_while_a_snapshot_cannot_be_read(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        name = place.take().name
        (place.backup / "snapshots" / name / "manifest.json").write_bytes(b"{}")
        before = contents(place.backup / "blobs")
        place.now += 1
        with pytest.raises(BadBackup, match=f"{name} is damaged"):
            place.take(keep=3)
        assert contents(place.backup / "blobs") == before


def test_the_folder_is_of_one_federation_and_of_backups_alone(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.take()
        other = Home(tmp_path / "other")
        found(other, NameserverSettings(federation="other", zeroconf=False), now=NOW, host_name="here")
        with pytest.raises(BadBackup, match="holds backups of federation mine: expected other"):
            take_backup(other, place.backup, clock=lambda: NOW)
        with pytest.raises(BadBackup, match="holds other things than backups, as "):
            take_backup(place.home, tmp_path / "models", clock=lambda: NOW)
        with pytest.raises(BadHome, match="lies in"):
            take_backup(place.home, place.home.path / "backup", clock=lambda: NOW)
        with pytest.raises(BadHome, match="home of client admin: expected a nameserver's home"):
            take_backup(place.admin_home, place.backup, clock=lambda: NOW)
        with pytest.raises(NotJoined):
            take_backup(Home(tmp_path / "gone"), place.backup, clock=lambda: NOW)
        (tmp_path / "file").write_text("x")
        with pytest.raises(BadBackup, match="cannot use"):
            take_backup(place.home, tmp_path / "file", clock=lambda: NOW)
        with pytest.raises(BadBackup, match="no backup folder"):
            Backups(tmp_path / "models")


def test_one_command_at_a_time_writes_to_it(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.take()
        with Backups(place.backup).occupy(), pytest.raises(BackupInUse):
            place.take()
        with Backups(place.backup).occupy(), pytest.raises(BackupInUse):
            place.restore()
        with Backups(place.backup).reading(), Backups(place.backup).reading(), pytest.raises(BackupInUse):
            place.take()


# --- what is damaged ------------------------------------------------------------------------------------------------


def test_every_damage_of_a_backup_is_found_and_nothing_is_restored(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        name = place.take().name
        files = [path for path in place.backup.rglob("*") if path.is_file() and path.name != ".lock"]
        for path in sorted(files):
            if path.name == "peerage-backup.json":
                continue
            whole = path.read_bytes()
            for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[: len(whole) // 2], None):
                if damaged is None:
                    path.unlink()
                else:
                    path.write_bytes(damaged)
                backups = Backups(place.backup)
                try:
                    assert list(backups.damage(name, backups.read(name), seen=set())) != [], path
                except BadBackup:
                    assert path.name.startswith("manifest.")
                with pytest.raises(BadBackup):
                    place.restore()
                assert not (tmp_path / "ns2").exists()
                path.write_bytes(whole)
        place.restore()
        assert check_whole(Home(tmp_path / "ns2")) == ["m@1.0"]


def test_a_damaged_content_can_be_gone_without(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.publish("m", "2.0")
        place.take()
        release = place.store.state.find_release("m", "2.0")
        blob = place.backup / "blobs" / "sha256" / release.record.files[0].digest.removeprefix("sha256:")
        blob.write_bytes(b"garbage")
        with pytest.raises(BadBackup, match="nothing was restored"):
            place.restore()
        done = place.restore(allow_damaged=True)
        assert [entry.what for entry in done.lacking] == [release.record.files[0].digest]


def test_a_repository_that_lacks_something_is_saved_as_far_as_it_goes(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.publish("m", "2.0")
        place.publish("m", "3.0")
        gone, altered = (place.store.state.find_release("m", version).record for version in ("2.0", "3.0"))
        place.layout.blobs.path(gone.files[0].digest).unlink()
        place.layout.blobs.path(altered.files[0].digest).write_bytes(b"x" * altered.files[0].size)
        taken = place.take()
        assert {(entry.what, entry.reason, entry.release) for entry in taken.snapshot.lacking} == {
            (gone.files[0].digest, "is not here", "m@2.0"),
            (altered.files[0].digest, "is damaged", "m@3.0"),
        }
        done = place.restore()
        assert {entry.release for entry in done.lacking} == {"m@2.0", "m@3.0"}
        store = FederationStore.open(done.home.state_db)
        assert len(store.state.releases()) == 3
        store.close()


def test_what_a_home_lost_is_still_in_the_backup_from_before(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.take()
        place.layout.blobs.path(place.store.state.find_release("m", "1.0").record.files[0].digest).unlink()
        assert place.take().snapshot.lacking == ()
        place.restore()
        assert check_whole(Home(tmp_path / "ns2")) == ["m@1.0"]


def test_a_damaged_part_of_an_earlier_attempt_is_begun_anew(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        record = place.store.state.find_release("m", "1.0").record
        (place.backup / "staging").mkdir(parents=True)
        shutil.rmtree(place.backup)
        place.take()
        path = Backups(place.backup).blobs.path(record.files[0].digest)
        path.unlink()
        part = place.backup / "staging" / f"{path.name}.part"
        part.write_bytes(b"?" * (record.files[0].size // 2))
        assert place.take().snapshot.lacking == ()
        assert digest_of(path.read_bytes()) == record.files[0].digest


# --- a full disk ----------------------------------------------------------------------------------------------------


def test_a_backup_on_a_full_disk_is_named_and_goes_on(tmp_path: Path) -> None:
    with ground(tmp_path) as place, small_disk(tmp_path / "disk", megabytes=48) as disk:
        folder = tmp_path / "disk" / "backup"
        place.publish("m", "2.0", content="-- " + "x" * 4_000_000 + "\ncreate function big() -> Real as 1;\n")
        take_backup(place.home, folder, clock=lambda: NOW)
        place.publish("m", "3.0", content="-- " + "y" * 4_000_000 + "\ncreate function big() -> Real as 1;\n")
        for leave_bytes, message in ((0, "no space left"), (8 << 20, "the backup needs .* in reserve: the disk has")):
            disk.fill(leave_bytes=leave_bytes)
            with pytest.raises(Problem, match=message) as refused:
                take_backup(place.home, folder, clock=lambda: NOW + 1)
            assert refused.value.hint is not None
            assert "free some disk space" in refused.value.hint
            disk.empty()
            assert len(Backups(folder).names()) == 1
        backups = Backups(folder)
        assert list(backups.damage(backups.names()[0], backups.read(backups.names()[0]), seen=set())) == []
        disk.fill(leave_bytes=8 << 20)
        with pytest.raises(StorageFull, match="the home needs"):
            restore(folder, Home(tmp_path / "disk" / "ns2"), Wishes(), clock=lambda: NOW)
        assert not (tmp_path / "disk" / "ns2").exists()
        disk.empty()
        take_backup(place.home, folder, clock=lambda: NOW + 2)
        restore(folder, Home(tmp_path / "disk" / "ns2"), Wishes(), clock=lambda: NOW)
        assert check_whole(Home(tmp_path / "disk" / "ns2")) == ["m@1.0", "m@2.0", "m@3.0"]


# --- what is restored -----------------------------------------------------------------------------------------------


def test_it_goes_on_beyond_every_epoch_with_the_reason_in_the_log(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        before = place.store.state.seq
        first = place.take()
        done = place.restore()
        store = FederationStore.open(done.home.state_db)
        changes = list(store.read_from(before + 1))
        assert not store.restored
        store.close()
        assert [type(change.event) for change in changes] == [EpochStarted]
        (change,) = changes
        assert isinstance(change.event, EpochStarted)
        assert change.event.epoch == done.epoch > first.snapshot.epoch
        assert change.event.reason.startswith(f"restored from snapshot {first.name} by ")
        assert change.caller == "nameserver"
        # another snapshot, of a later epoch, bounds a restore of the first, whatever the clock says
        later = FederationStore.open(done.home.state_db)
        later.append([EpochStarted(done.epoch + 10**15)], caller="nameserver", now=NOW + 5000)
        later.close()
        take_backup(done.home, place.backup, clock=lambda: NOW + 6000)
        again = place.restore("ns3", snapshot=first.name)
        assert again.epoch > done.epoch + 10**15


def test_root_records_that_are_newer_than_the_backup_are_taken_up(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.take()
        place.endorse("bob", PrivateKey(b"b" * 32))
        place.endorse("eve", PrivateKey(b"e" * 32))
        without = place.restore()
        assert (without.root_version, without.newer_roots) == (2, 0)
        done = place.restore("ns3", roots=(place.root_home, place.admin_home))
        assert (done.root_version, done.newer_roots) == (4, 2)
        assert done.home.roots() == place.store.state.root_documents
        store = FederationStore.open(done.home.state_db)
        assert store.state.root == place.store.state.root
        store.close()


def test_a_director_that_was_replaced_after_the_backup_is_told(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.take()
        before = place.store.state.root
        other = PrivateKey(b"d" * 32)
        following = msgspec.structs.replace(
            before, version=before.version + 1, directors={other.keyid: TrustedKey(other.public, "director")}
        )
        place.root_home.write_roots(
            (*place.store.state.root_documents, sign_root(following, read_key(place.root_home.root_key)))
        )
        assert place.restore().director_replaced is False  # nobody told
        done = place.restore("ns3", roots=(place.root_home,))
        assert (done.director_replaced, done.root_version) == (True, before.version + 1)
        write_key(done.home.director_next_key, other)
        place.home.director_next_key.write_bytes(done.home.director_next_key.read_bytes())
        place.home.director_next_key.chmod(0o600)
        place.now += 1
        place.take()
        assert place.restore("ns4", roots=(place.root_home,)).director_replaced is False


def test_root_records_of_another_chain_are_refused(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.take()
        other = Home(tmp_path / "other")
        found(other, NameserverSettings(federation="mine", zeroconf=False), now=NOW, host_name="here")
        with pytest.raises(WrongRoot, match=r"root record 1 in .* is not the one in the backup"):
            place.restore(roots=(Home(tmp_path / "other-root"),))
        signed = place.endorse("bob", PrivateKey(b"b" * 32))
        place.root_home.write_roots((*place.store.state.root_documents[:2], _unsigned(signed)))
        with pytest.raises(Problem):
            place.restore(roots=(place.root_home,))
        assert not (tmp_path / "ns2").exists()


def _unsigned(document: object) -> object:
    return msgspec.structs.replace(document, signatures=())  # type: ignore[type-var]


def test_bundles_whose_use_cannot_be_known_are_void_and_others_are_not_touched(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.register("unused", joined=False)
        place.take()
        done = place.restore()
        assert done.ended_bundles == ("unused",)
        store = FederationStore.open(done.home.state_db)
        (ended,) = [change.event for change in store.read_from(1) if isinstance(change.event, TokenIssued)]
        assert ended.uuid == identity("unused")
        request = join_request(name="unused", token=token_of("unused"), key=key("unused"))
        with pytest.raises(TokenExpired):
            check_join(request, store.state.member(identity("unused")), now=place.now + 3601)
        again = join_request(name="E1", token=token_of("E1"), key=key("E1"))
        assert check_join(again, store.state.member(identity("E1")), now=place.now + 3601) is False
        store.close()


def test_without_keys_they_are_named_and_can_be_given(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        taken = place.take(with_keys=False)
        assert list(place.backup.rglob("*.key")) == []
        keyids = {name: read_key(place.home.path / name).keyid for name in ("identity.key", "ca.key", "director.key")}
        assert taken.snapshot.keys == keyids
        raw = b"".join(path.read_bytes() for path in place.backup.rglob("*") if path.is_file())
        assert not any(read_key(place.home.path / name).pem.split("\n")[1].encode() in raw for name in keyids)
        assert place.restore().missing_keys == keyids
        wrong = tmp_path / "wrong"
        wrong.mkdir()
        write_key(wrong / "ca.key", ADA)
        with pytest.raises(WrongKey, match=r"ca\.key is key"):
            place.restore("ns3", keys=wrong)
        done = place.restore("ns3", keys=place.home.path)
        assert done.missing_keys == {}
        assert {name: read_key(done.home.path / name).keyid for name in keyids} == keyids


def test_a_home_that_holds_anything_is_not_touched(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.take()
        before = contents(place.home.path)
        with pytest.raises(BadHome, match=r"is the home of nameserver nameserver: expected an empty folder"):
            place.restore("ns")
        assert contents(place.home.path) == before
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "x").write_text("mine")
        with pytest.raises(BadHome, match="holds x: expected an empty folder"):
            place.restore("full")
        (tmp_path / "empty").mkdir()
        place.restore("empty")
        assert [path.name for path in tmp_path.glob(".*")] == []
        assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "empty").glob("*.key")} == {0o600}


def test_a_clock_behind_the_backup_is_told(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        first = place.take()
        done = restore(place.backup, Home(tmp_path / "ns2"), Wishes(), clock=lambda: 1.0)
        assert done.clock_behind
        assert done.epoch > first.snapshot.epoch


def test_a_backup_that_cannot_be_written_to_can_be_restored(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.take()
        shutil.rmtree(place.backup / "staging")
        (place.backup / ".lock").unlink()
        for path in (*place.backup.rglob("*"), place.backup):
            path.chmod(0o500 if path.is_dir() else 0o400)
        before = contents(place.backup)
        place.restore()
        if os.geteuid() != 0:
            assert contents(place.backup) == before
        assert check_whole(Home(tmp_path / "ns2")) == ["m@1.0"]


def test_files_of_the_process_and_folders_of_people_stay_out(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        home = place.home
        home.token()
        home.run_json.write_text("{}")
        home.settings_toml.write_text('log_level = "error"\n')
        home.models.mkdir()
        os.mkfifo(home.path / "pipe")
        (home.path / "core").write_bytes(b"\0" * (5 << 20))
        taken = place.take()
        names = {name.removeprefix("home/") for name in taken.snapshot.files if name.startswith("home/")}
        assert names == {
            "ca.crt",
            "ca.key",
            "director.key",
            "identity.crt",
            "identity.key",
            "membership.json",
            "peerage.toml",
            "roots.json",
        }
        assert taken.left_out == ("core", "models", "pipe")
        assert place.restore().home.settings_toml.read_text() == 'log_level = "error"\n'


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    with ground(tmp_path) as place:
        place.take()
    place.home.state_db.write_bytes(b"\0" * 4096)
    with pytest.raises(Problem, match=r"state\.db"):
        place.take()
    assert len(Backups(place.backup).names()) == 1
