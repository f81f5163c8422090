"""The commands against real processes: founding, joining, asking, endorsing, stopping, and what each refuses."""

from __future__ import annotations

import json
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from federation import bundles
from federation.documents import Bundle
from federation.keys import read_key
from peers.homes import Home
from tests.shell.running import Federation, environment, federation

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """One federation with an edge, for tests that do not harm it."""
    with federation(tmp_path_factory.mktemp("federation")) as made:
        assert made.member("E1").status == 0
        made.start("E1", "edge")
        yield made


class TestReady:
    def test_a_nameserver_tells_where_it_listens(self, shared: Federation) -> None:
        record = json.loads((shared.folder / "ns" / "run.json").read_text())
        assert record["kind"] == "nameserver"
        assert re.fullmatch(r"127\.0\.0\.1:\d+", record["federation"])
        assert re.fullmatch(r"127\.0\.0\.1:\d+", record["application"])
        assert Path(record["socket"]).is_socket()

    def test_its_files_are_its_owners_alone(self, shared: Federation) -> None:
        for path in (shared.folder / "ns").rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path

    def test_its_log_is_json_with_events(self, shared: Federation) -> None:
        events = [json.loads(line)["event"] for line in shared.log("ns").splitlines() if line.startswith("{")]
        assert "nameserver_ready" in events
        assert "joined" in events

    def test_a_second_process_in_a_home_is_refused(self, shared: Federation) -> None:
        ended = shared.peerage("nameserver", "--home", "ns", "--federation-port", "0", "--application-port", "0")
        assert ended.status == 1
        assert "error(home_in_use)" in ended.err
        assert shared.peerage("query", "--home", "ns", "1").status == 0

    def test_a_taken_port_names_its_setting(self, shared: Federation, tmp_path: Path) -> None:
        record = json.loads((shared.folder / "ns" / "run.json").read_text())
        for setting, address in (("federation", record["federation"]), ("application", record["application"])):
            free = "application" if setting == "federation" else "federation"
            ended = shared.peerage(
                "nameserver", "--home", tmp_path / setting, "--federation-host", "127.0.0.1", "--no-zeroconf",
                f"--{setting}-port", address.rpartition(":")[2], f"--{free}-port", "0",
            )  # fmt: skip
            assert ended.status == 1
            assert f"error(port_taken): {setting}_port" in ended.err


class TestAsking:
    def test_rows_on_standard_output_alone(self, shared: Federation) -> None:
        ended = shared.peerage("query", "--home", "ns-admin", '1 + 1; "a"')
        assert (ended.status, ended.out, ended.err) == (0, '2\n"a"\n', "")

    def test_from_a_file_and_standard_input(self, shared: Federation) -> None:
        (shared.folder / "two.pql").write_text("// two\n1 + 1;\n")
        assert shared.peerage("query", "--home", "ns-admin", "-f", "two.pql").out == "2\n"
        assert shared.peerage("query", "--home", "ns-admin", "-", stdin="1 + 2").out == "3\n"
        assert shared.peerage("query", "--home", "ns-admin", stdin="1 + 3").out == "4\n"

    def test_the_peer_of_the_home_answers(self, shared: Federation) -> None:
        for home, name in (("ns", "NAMESERVER"), ("E1", "E1"), ("ns-admin", "ADMIN")):
            assert shared.peerage("query", "--home", home, "this_peer()").out == f'"{name}"\n'

    def test_another_peer_is_the_default_target(self, shared: Federation) -> None:
        assert shared.peerage("query", "--home", "ns-admin", "--peer", "e1", "this_peer()").out == '"E1"\n'

    def test_several_peers(self, shared: Federation) -> None:
        ended = shared.peerage("query", "--home", "ns-admin", "--peer", "nameserver, E1", "1")
        assert sorted(ended.out.splitlines()) == ["E1: 1", "NAMESERVER: 1"]
        assert (ended.status, ended.err) == (0, "2 peers: 2 rows\n")

    def test_a_partial_answer(self, shared: Federation) -> None:
        assert shared.peerage("register", "LATE", "--home", "ns-admin").status == 0
        ended = shared.peerage("query", "--home", "ns-admin", "//peer: E1, LATE\nthis_peer()")
        assert (ended.status, ended.out) == (3, 'E1: "E1"\n')
        assert ended.err == "2 peers: 1 rows, 1 unreachable — LATE: unreachable(never)\n"

    def test_an_error_is_underlined(self, shared: Federation) -> None:
        ended = shared.peerage("query", "--home", "ns-admin", 'edge:grups("E1")')
        assert (ended.status, ended.out) == (1, "")
        assert "error(unknown_name)" in ended.err
        assert 'edge:grups("E1")\n  ^^^^' in ended.err

    @pytest.mark.parametrize("home", ["ns", "ns-admin"])
    def test_a_text_without_statements(self, shared: Federation, home: str) -> None:
        ended = shared.peerage("query", "--home", home, "// only a comment")
        assert (ended.status, ended.out) == (1, "")
        assert "error(syntax): expected statements, found none" in ended.err
        assert shared.peerage("query", "--home", home, "").status == 2

    def test_json_is_frames(self, shared: Federation) -> None:
        ended = shared.peerage("query", "--json", "--home", "ns-admin", "1")
        assert [json.loads(line)["frame"] for line in ended.out.splitlines()] == ["schema", "row", "end"]

    def test_an_edges_home_has_no_say_elsewhere(self, shared: Federation) -> None:
        ended = shared.peerage("query", "--home", "E1", 'edge:add_group("E1", "mine")')
        assert ended.status == 1
        assert "error(forbidden)" in ended.err
        assert "--home" in ended.err

    def test_a_program_gets_errors_of_the_class_that_was_raised(self, shared: Federation) -> None:
        program = (
            "import peers\n"
            "from query.errors import Problem\n"
            "with peers.connect('ns') as federation:\n"
            "    try:\n"
            '        federation.value(\'edge:set_poll_interval("E1", "9")\')\n'
            "    except Problem as problem:\n"
            "        print(type(problem).__module__, type(problem).__name__, problem.code)\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=shared.folder,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        assert ran.stdout == "federation.intervals BadInterval bad_interval\n"

    def test_polling(self, shared: Federation) -> None:
        ended = shared.peerage("poll", "--home", "E1", "--json")
        assert ended.status == 0, ended.err
        assert ended.facts["edge"] == "E1"
        assert ended.facts["models"] == []

    def test_a_peer_that_does_not_run(self, shared: Federation) -> None:
        assert shared.member("IDLE").status == 0
        ended = shared.peerage("query", "--home", "IDLE", "1")
        assert ended.status == 1
        assert "IDLE is not running" in ended.err


class TestJoining:
    def test_a_bundle_is_printed_once_and_kept_nowhere(self, shared: Federation) -> None:
        ended = shared.peerage("register", "E7", "--home", "ns-admin")
        token = bundles.decode(ended.out).token
        assert ended.status == 0
        assert len(ended.out.split()) == 1
        for path in shared.folder.rglob("*"):
            if path.is_file():
                assert token.encode() not in path.read_bytes(), path

    def test_out_is_for_its_owner_alone(self, shared: Federation) -> None:
        ended = shared.peerage("register", "E8", "--home", "ns-admin", "--out", "e8.bundle", "--json")
        assert ended.facts == {"name": "E8", "kind": "edge", "role": "viewer", "publisher": False, "file": "e8.bundle"}
        assert stat.S_IMODE((shared.folder / "e8.bundle").stat().st_mode) == 0o600

    def test_from_standard_input(self, shared: Federation) -> None:
        bundle = shared.peerage("register", "E9", "--home", "ns").out
        ended = shared.peerage("join", "--home", "E9", "-", stdin=bundle)
        assert ended.status == 0, ended.err
        assert Home(shared.folder / "E9").membership().name == "E9"

    def test_a_used_bundle(self, shared: Federation) -> None:
        assert shared.member("E10").status == 0
        ended = shared.peerage("join", "--home", "E10-again", "E10.bundle")
        assert ended.status == 1
        assert "error(token_reused)" in ended.err
        assert not Home(shared.folder / "E10-again").joined
        assert '"code":"token_reused"' in shared.log("ns").replace(" ", "")

    def test_a_join_is_repeated_in_its_home(self, shared: Federation) -> None:
        assert shared.member("E11").status == 0
        home = Home(shared.folder / "E11")
        home.membership_json.unlink()
        assert shared.peerage("join", "--home", "E11", "E11.bundle").status == 0
        assert home.joined

    def test_the_wrong_name(self, shared: Federation) -> None:
        text = shared.peerage("register", "E12", "--home", "ns-admin").out
        other = bundles.encode(_renamed(text, "E13"))
        ended = shared.peerage("join", "--home", "E13", "-", stdin=other)
        assert ended.status == 1
        assert "error(wrong_name)" in ended.err

    def test_a_bundle_of_another_federation(self, shared: Federation, tmp_path: Path) -> None:
        with federation(tmp_path) as other:
            theirs = bundles.decode(other.peerage("register", "E14", "--home", "ns-admin").out)
            ours = bundles.decode(shared.peerage("register", "E15", "--home", "ns-admin").out)
            mixed = bundles.encode(_at(theirs, ours.addresses))
            ended = shared.peerage("join", "--home", "E14", "-", stdin=mixed)
        assert ended.status == 1
        assert "error(wrong_ca)" in ended.err
        assert "tls_refused" in shared.log("ns")

    def test_a_name_twice(self, shared: Federation) -> None:
        ended = shared.peerage("register", "e1", "--home", "ns-admin")
        assert (ended.status, ended.out) == (1, "")
        assert "error(peer_name_taken)" in ended.err


class TestPublisher:
    def test_registered_joined_endorsed(self, shared: Federation) -> None:
        joined = shared.member("ada", "--role", "operator", "--publisher")
        assert (joined.facts["kind"], joined.facts["role"]) == ("client", "operator")
        keyid = read_key(Home(shared.folder / "ada").publisher_key).keyid
        endorse = ("keys", "endorse", "ada", "--root-home", "ns-root", "--home", "ns-admin")

        refused = shared.peerage(*endorse, "--key", "0000000000")
        assert (refused.status, "error(wrong_key)" in refused.err) == (1, True)

        endorsed = shared.peerage(*endorse, "--key", keyid[:12], "--json")
        assert endorsed.status == 0, endorsed.err
        changes = [f"publisher ada signs with key {keyid}"]
        assert endorsed.facts == {"publisher": "ada", "key": keyid, "root_version": 2, "changes": changes}

        again = shared.peerage(*endorse)
        assert (again.status, "error(already_endorsed)" in again.err) == (1, True)
        shown = shared.peerage("keys", "show", "--home", "ns-root", "--json").facts
        assert shown["publishers"] == [{"name": "ada", "standing": "endorsed", "id": keyid}]

    def test_only_an_admin(self, shared: Federation) -> None:
        assert shared.member("bob", "--role", "operator", "--publisher").status == 0
        ended = shared.peerage("keys", "endorse", "bob", "--root-home", "ns-root", "--home", "bob")
        assert ended.status == 1
        assert "error(forbidden)" in ended.err

    def test_another_root_key(self, shared: Federation) -> None:
        assert shared.member("eve", "--publisher").status == 0
        fake = Home(shared.folder / "fake-root").prepare()
        shutil.copy(shared.folder / "ns" / "director.key", fake.root_key)
        ended = shared.peerage("keys", "endorse", "eve", "--root-home", "fake-root", "--home", "ns-admin")
        assert ended.status == 1
        assert "is not a root key of federation-" in ended.err


ENDLESS = "count(select a from a in range(1, 30000), b in range(1, 30000) where a = b)"


class TestStopping:
    @pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
    def test_both_stop_in_time_and_tidy_up(self, tmp_path: Path, by: signal.Signals) -> None:
        with federation(tmp_path) as made:
            assert made.member("E1").status == 0
            made.start("E1", "edge")
            assert made.peerage("poll", "--home", "E1").status == 0
            for name in ("ns", "E1"):
                assert made.stop(name, by=by) == 0, made.log(name)
                assert not (tmp_path / name / "run.json").exists()
                assert "Traceback" not in made.log(name)

    @pytest.mark.parametrize(("first", "second"), [("ns", "E1"), ("E1", "ns")])
    def test_both_stop_in_time_while_a_query_runs_and_it_tells_its_ledger(
        self, tmp_path: Path, first: str, second: str
    ) -> None:
        with federation(tmp_path) as made:
            assert made.member("E1").status == 0
            made.start("E1", "edge")
            while made.peerage("query", "--home", "ns", 'edge:listening("E1")').out != "true\n":
                pass  # each asks a real process, so that this waits for the edge and not for luck
            asking = made.begin("query", "--home", "ns-admin", "--peer", "E1", ENDLESS)
            while made.peerage("query", "--home", first, "count(query:list())").out != "2\n":
                pass
            assert made.stop(first) == 0, made.log(first)
            told = asking.communicate(timeout=30)[0]
            assert "E1: cancelled" in told or "error(cancelled)" in told, told
            assert "Traceback" not in told
            assert made.stop(second) == 0, made.log(second)
            for name in (first, second):
                assert "stop_forced" not in made.log(name)
                assert "Traceback" not in made.log(name)

    def test_after_a_kill_the_home_is_free_and_knows_everybody(self, tmp_path: Path) -> None:
        with federation(tmp_path) as made:
            assert made.member("E1").status == 0
            made.stop("ns", by=signal.SIGKILL)
            assert made.peerage("query", "--home", "ns", "1").status == 1
            made.start("ns", "nameserver", "--federation-port", "0", "--federation-host", "127.0.0.1")
            ended = made.peerage("query", "--home", "ns-admin", "select e.name from e in peer:list()")
            assert ended.status == 0, ended.err
            assert '"E1"' in ended.out


def _renamed(text: str, name: str) -> Bundle:
    return msgspec.structs.replace(bundles.decode(text), name=name)


def _at(bundle: Bundle, addresses: tuple[str, ...]) -> Bundle:
    return msgspec.structs.replace(bundle, addresses=addresses)
