"""A peer's home: names, permissions, whole files, one process."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from federation.documents import DOCUMENT_BYTES_MAX, ROOTS_BYTES_MAX, Signature, SignedDocument
from federation.names import PeerId
from peers.homes import (
    SOCKET_PATH_BYTES_MAX,
    BadHome,
    Home,
    HomeInUse,
    Membership,
    NotJoined,
    RunRecord,
    default_home,
    write_whole,
)

MEMBERSHIP = Membership(
    federation="fed",
    uuid=PeerId("11111111-1111-4111-8111-111111111111"),
    name="E1",
    kind="edge",
    role="viewer",
    addresses=("127.0.0.1:35021",),
    not_after=1_800_000_000,
)
RUN = RunRecord(pid=4, kind="edge", name="E1", socket="/s", application="127.0.0.1:8080", started=1.0)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


class TestFolder:
    def test_made_for_its_owner_alone(self, home: Home) -> None:
        assert mode(home.path) == 0o700

    def test_closed_when_it_was_open(self, tmp_path: Path) -> None:
        (tmp_path / "open").mkdir(mode=0o755)
        Home(tmp_path / "open").prepare()
        assert mode(tmp_path / "open") == 0o700

    def test_one_of_other_things_is_refused_and_unchanged(self, tmp_path: Path) -> None:
        (tmp_path / "letters").mkdir(mode=0o755)
        (tmp_path / "letters" / "to-ada.txt").write_text("dear")
        with pytest.raises(BadHome, match="holds other things"):
            Home(tmp_path / "letters").prepare()
        assert mode(tmp_path / "letters") == 0o755

    def test_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(BadHome, match="is not a folder"):
            Home(tmp_path / "file").prepare()
        with pytest.raises(BadHome, match="is not a folder"):
            Home(tmp_path / "file" / "below").prepare()

    def test_a_path_is_absolute_and_not_followed(self, tmp_path: Path) -> None:
        assert Home(Path("here")).path == Path.cwd() / "here"
        assert Home(Path("~/x")).path == Path.home() / "x"
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert Home(tmp_path / "link").path == tmp_path / "link"

    def test_default(self) -> None:
        assert default_home({"PEERAGE_HOME": "/srv/p"}) == Path("/srv/p")
        assert default_home({"PEERAGE_HOME": ""}) == Path("~/.peerage")


class TestDocuments:
    def test_what_was_written_is_read(self, home: Home) -> None:
        roots = (SignedDocument(b"{}", "t", (Signature("k", b"s"),)),)
        home.write_membership(MEMBERSHIP)
        home.write_roots(roots)
        assert (home.membership(), home.roots(), home.joined) == (MEMBERSHIP, roots, True)
        assert {mode(path) for path in home.path.iterdir()} == {0o600}

    def test_no_member(self, home: Home, tmp_path: Path) -> None:
        assert home.read_membership() is None
        with pytest.raises(NotJoined, match="is not the home of a peer that joined") as caught:
            home.membership()
        assert "peerage join" in str(caught.value.hint)
        with pytest.raises(NotJoined, match="does not exist"):
            Home(tmp_path / "nowhere").membership()

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"federation": "f"}', b"\xff\xfe"])
    def test_damage_is_named(self, home: Home, content: bytes) -> None:
        home.membership_json.write_bytes(content)
        with pytest.raises(BadHome, match=r"membership\.json is damaged"):
            home.membership()

    def test_a_field_of_another_version_is_damage(self, home: Home) -> None:
        home.membership_json.write_bytes(b'{"federation":"f","uuid":"u","surprise":1}')
        with pytest.raises(BadHome, match="surprise"):
            home.membership()

    def test_size_is_bounded(self, home: Home) -> None:
        home.roots_json.write_bytes(b" " * (ROOTS_BYTES_MAX + 1))
        with pytest.raises(BadHome, match="larger than"):
            home.roots()
        home.membership_json.write_bytes(b" " * (DOCUMENT_BYTES_MAX + 1))
        with pytest.raises(BadHome, match="larger than"):
            home.membership()

    def test_token_is_made_once(self, home: Home) -> None:
        token = home.token()
        assert len(token) >= 40
        assert home.token() == token
        assert mode(home.token_file) == 0o600

    def test_a_failed_write_leaves_the_old_file_and_nothing_else(self, home: Home) -> None:
        home.write_membership(MEMBERSHIP)
        before = home.membership_json.read_bytes()
        limited = (
            "import resource, signal, sys; from pathlib import Path; from peers.homes import *; "
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));\n"
            "try: write_whole(Path(sys.argv[1]), b'x' * 1000)\n"
            "except HomeUnwritable as problem: print(problem)"
        )
        ran = subprocess.run(
            [sys.executable, "-c", limited, str(home.membership_json)], capture_output=True, text=True, check=True
        )
        assert "cannot write" in ran.stdout
        assert home.membership_json.read_bytes() == before
        assert [path.name for path in home.path.iterdir()] == ["membership.json"]

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(BadHome, match="cannot use"):
            write_whole(tmp_path / "no" / "file", b"")


class TestRunning:
    def test_a_run_record_counts_while_the_lock_is_held(self, home: Home) -> None:
        with home.occupy():
            home.write_run(RUN)
            assert home.read_run() == RUN
        assert home.run_json.exists()
        assert home.read_run() is None

    def test_a_second_process_is_refused_with_the_name_of_the_first(self, home: Home) -> None:
        with home.occupy():
            home.write_run(RUN)
            with pytest.raises(HomeInUse, match="in use by edge E1, process 4"), home.occupy():
                pass
        with home.occupy():
            pass

    def test_a_killed_process_leaves_the_home_free(self, home: Home) -> None:
        holding = (
            "import sys, os, signal; from pathlib import Path; from peers.homes import *\n"
            "with Home(Path(sys.argv[1])).occupy():\n"
            "    print('held', flush=True); sys.stdin.read()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", holding, str(home.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert home.in_use
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        assert not home.in_use

    def test_a_clean_stop_leaves_no_record(self, home: Home) -> None:
        home.write_run(RUN)
        home.socket.touch()
        home.remove_run()
        home.remove_run()
        assert not home.run_json.exists()
        assert not home.socket.exists()


class TestSocket:
    def test_lies_in_the_home(self, home: Home) -> None:
        assert home.prepare_socket() == home.path / "peer.sock"

    def test_lies_in_a_folder_of_this_user_when_the_path_is_long(self, tmp_path: Path) -> None:
        long = Home(tmp_path / ("h" * SOCKET_PATH_BYTES_MAX)).prepare()
        other = Home(tmp_path / ("i" * SOCKET_PATH_BYTES_MAX))
        path = long.prepare_socket()
        assert path.parent != long.path
        assert len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX
        assert mode(path.parent) == 0o700
        assert path != other.socket
        assert path == Home(long.path).socket

    def test_exactly_at_the_bound(self, tmp_path: Path) -> None:
        room = SOCKET_PATH_BYTES_MAX - len(os.fsencode(tmp_path)) - len("//peer.sock")
        assert Home(tmp_path / ("h" * room)).socket.parent == tmp_path / ("h" * room)
        assert Home(tmp_path / ("h" * (room + 1))).socket.parent != tmp_path / ("h" * (room + 1))

    def test_a_stale_socket_is_gone(self, home: Home) -> None:
        home.socket.touch()
        assert not home.prepare_socket().exists()
