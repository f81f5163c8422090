"""Commands that need no running peer: help, usage, settings, keys, certificates, and what is refused."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.keys import PrivateKey, read_key, write_key
from peers.cli import main
from peers.cli.console import DONE, FAILED, USAGE
from peers.founding import found
from peers.homes import Home
from peers.setting_texts import declared
from peers.settings import EdgeSettings, NameserverSettings

COMMANDS = [
    "nameserver", "edge", "demo", "register", "join", "query", "poll", "keys", "keys show", "keys make", "keys endorse",
    "keys rotate", "keys rotate publisher", "keys rotate director", "keys rotate root", "keys roots", "keys revoke",
    "certs",
]  # fmt: skip
WITH_JSON = [command for command in COMMANDS if command not in ("keys", "keys rotate")]


@pytest.fixture(autouse=True)
def umask(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands set the umask of their process, which here is the test's."""
    monkeypatch.delenv("PEERAGE_HOME", raising=False)
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def founded(tmp_path: Path) -> Home:
    home = Home(tmp_path / "ns")
    found(home, NameserverSettings(federation="mine"), now=1_800_000_000.0, host_name="box")
    return home


def run(*arguments: str | Path) -> int:
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as ended:
        return int(ended.code or 0)


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_says_what_it_does_with_examples(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(*command.split(), "--help") == DONE
        out = capsys.readouterr().out
        assert "examples:\n  peerage" in out
        assert "exit status: 0 done, 1 failed, 2 usage, 3 a partial answer" in out
        assert ("--json" in out) == (command in WITH_JSON)

    def test_names_every_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--help") == DONE
        out = capsys.readouterr().out
        for command in COMMANDS:
            assert f"\n    {command.split()[0]}" in out

    @pytest.mark.parametrize(("command", "kind"), [("nameserver", NameserverSettings), ("edge", EdgeSettings)])
    def test_names_every_setting(self, command: str, kind: type, capsys: pytest.CaptureFixture[str]) -> None:
        run(command, "--help")
        out = capsys.readouterr().out
        for setting in declared(kind):
            assert setting.flag in out

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("--version") == DONE
        assert capsys.readouterr().out.startswith("peerage ")

    def test_is_quick_and_light(self) -> None:
        heavy = ["aiohttp", "zeroconf", "onnxruntime", "numpy", "lark", "oras", "cryptography", "sqlite_utils", "nacl"]
        asked = (
            "import sys\nfrom peers.cli.arguments import command_parser\ncommand_parser()\n"
            f"print([name for name in {heavy} if name in sys.modules])"
        )
        ran = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nothing"],
        ["query", "--unknown"],
        ["query", "1", "-f", "x"],
        ["query", "-f", "/no/such/file"],
        ["query", "--timeout", "soon", "1"],
        ["query", ""],
        ["query", " \n"],
        ["register"],
        ["register", "E1", "--role", "king"],
        ["join"],
        ["join", "/no/such/file"],
        ["keys"],
        ["keys", "endorse", "ada"],
        ["certs"],
        ["nameserver", "--federation-port", "x"],
        ["edge", "--nameserver", "nowhere"],
        ["nameserver", "--fed", "x"],
    ],
)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    home = [] if not arguments or len(arguments) == 1 else ["--home", str(tmp_path / "h")]
    assert run(*arguments, *home) == USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err
    assert not (tmp_path / "h").exists()


class TestRefused:
    def told(self, capsys: pytest.CaptureFixture[str]) -> str:
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return err

    @pytest.mark.parametrize("command", [["edge"], ["poll"], ["query", "1"], ["certs", "c"], ["register", "E1"]])
    def test_a_home_that_is_not_there(
        self, command: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert run(*command, "--home", tmp_path / "nowhere") == FAILED
        assert str(tmp_path / "nowhere") in self.told(capsys)
        assert not (tmp_path / "nowhere").exists()

    def test_a_setting_in_the_home_that_does_not_exist(self, founded: Home, capsys: pytest.CaptureFixture[str]) -> None:
        founded.settings_toml.write_text("federation_prt = 1")
        assert run("nameserver", "--home", founded.path) == USAGE
        assert 'no setting "federation_prt" in' in self.told(capsys)

    def test_an_edge_in_another_kind_of_home(self, founded: Home, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("edge", "--home", founded.path) == FAILED
        assert "expected an edge's home" in self.told(capsys)

    def test_polling_for_another_kind_of_peer(self, founded: Home, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("poll", "--home", founded.path) == USAGE
        assert "expected an edge's home" in self.told(capsys)

    def test_a_damaged_home(self, founded: Home, capsys: pytest.CaptureFixture[str]) -> None:
        founded.membership_json.write_text("{")
        assert run("edge", "--home", founded.path) == FAILED
        assert "membership.json is damaged" in self.told(capsys)

    def test_errors_as_json(self, founded: Home, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("edge", "--json", "--home", founded.path) == FAILED
        assert json.loads(self.told(capsys))["error"]["code"] == "bad_home"

    @pytest.mark.parametrize("text", ["", "garbage", "A" * 100])
    def test_a_bundle_that_is_none(self, text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        (tmp_path / "bundle").write_text(text)
        assert run("join", "--home", tmp_path / "e1", tmp_path / "bundle") == FAILED
        assert "error(bad_bundle)" in self.told(capsys)

    def test_a_bundle_that_is_not_text(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        (tmp_path / "bundle").write_bytes(os.urandom(2000) + b"\xff")
        assert run("join", "--home", tmp_path / "e1", tmp_path / "bundle") == FAILED
        assert "error(bad_bundle)" in self.told(capsys)

    def test_a_bundle_is_not_written_over_a_file(
        self, founded: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "out").write_text("mine")
        assert run("register", "E1", "--home", founded.path, "--out", tmp_path / "out") == USAGE
        assert "expected a new file" in self.told(capsys)
        assert (tmp_path / "out").read_text() == "mine"

    def test_no_file_stays_when_there_is_no_bundle(
        self, founded: Home, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert run("register", "E1", "--home", founded.path, "--out", tmp_path / "out") == FAILED
        assert "not running" in self.told(capsys)
        assert not (tmp_path / "out").exists()


class TestKeys:
    def test_show(self, founded: Home, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("keys", "show", "--json", "--home", founded.path) == DONE
        shown = json.loads(capsys.readouterr().out)
        assert {key["key"]: key["id"] for key in shown["keys"]} == {
            "identity": read_key(founded.identity_key).keyid,
            "ca": read_key(founded.ca_key).keyid,
            "director": read_key(founded.director_key).keyid,
        }
        assert (shown["federation"], shown["root_version"], shown["publishers"]) == ("mine", 1, [])

    def test_no_command_shows_a_private_key(self, founded: Home, capsys: pytest.CaptureFixture[str]) -> None:
        run("keys", "show", "--home", founded.path)
        out, err = capsys.readouterr()
        for path in founded.path.glob("*.key"):
            secret = read_key(path)
            assert secret.pem.splitlines()[1] not in out + err
            assert secret.seed.hex() not in out + err

    def test_make_twice(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        home = Home(tmp_path / "ada")
        assert run("keys", "make", "--publisher", "--home", home.path) == DONE
        made = read_key(home.publisher_key).keyid
        assert made in capsys.readouterr().out
        assert run("keys", "make", "--publisher", "--home", home.path) == FAILED
        assert "never overwritten" in capsys.readouterr().err
        assert read_key(home.publisher_key).keyid == made

    def test_make_in_a_home_that_joined(self, founded: Home, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("keys", "make", "--publisher", "--home", founded.path) == USAGE
        assert not founded.publisher_key.exists()

    def test_a_key_that_others_can_read_is_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        home = Home(tmp_path / "ada").prepare()
        write_key(home.identity_key, PrivateKey(bytes(32)))
        home.identity_key.chmod(0o644)
        assert run("keys", "show", "--home", home.path) == FAILED
        assert "can be read by others: expected mode 600, found 644" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "content", [b"", b"\xff", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
    )
    def test_a_file_that_is_no_key(self, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        home = Home(tmp_path / "ada").prepare()
        home.identity_key.write_bytes(content)
        home.identity_key.chmod(0o600)
        assert run("keys", "show", "--home", home.path) == FAILED
        assert "is not a key file" in capsys.readouterr().err

    @pytest.mark.parametrize("options", [["--dry-run"], ["--yes"]])
    def test_there_is_no_publisher_key_to_rotate(
        self, founded: Home, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Said before anything is made or asked; here by the home of a nameserver that does not run."""
        assert run("keys", "rotate", "publisher", "--home", founded.path, *options) == FAILED
        assert "error(not_a_publisher)" in capsys.readouterr().err
        assert not founded.publisher_next_key.exists()

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (["roots"], "error(bad_key_change): nothing would change"),
            (["roots", "--threshold", "0"], "error(bad_key_change): 0 of 1 root keys cannot sign"),
            (["roots", "--remove", "root-1"], "error(bad_key_change): 1 of 0 root keys cannot sign"),
            (["rotate", "root", "--new-root-home", "{root}"], "error(bad_key_change): key"),
            (["revoke", "ada", "--running", "stop"], 'error(unknown_name): no publisher or key "ada"'),
            (["endorse", "ada"], "error(unknown_name)"),
        ],
    )
    def test_changes_that_cannot_be(
        self, founded: Home, words: list[str], why: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = f"{founded.path}-root"
        before = founded.roots()
        given = [word.format(root=root) for word in words]
        assert run("keys", *given, "--root-home", root, "--home", founded.path, "--yes") == FAILED
        assert why in capsys.readouterr().err
        assert founded.roots() == before

    def test_endorse_without_the_root_key(
        self, founded: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("keys", "endorse", "ada", "--root-home", tmp_path, "--home", f"{founded.path}-admin") == USAGE
        told = capsys.readouterr().err
        assert f"{tmp_path} is no root folder: expected root.key in it" in told
        assert "--root-home DIR" in told


def test_certs(founded: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "certs"
    assert run("certs", folder, "--home", f"{founded.path}-admin") == DONE
    assert capsys.readouterr().out.split() == [str(folder / name) for name in ("ca.crt", "client.cert", "client.key")]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "client.key").stat().st_mode) == 0o600
    assert (folder / "ca.crt").read_text() == founded.ca_crt.read_text()
    assert read_key(folder / "client.key") == read_key(Home(Path(f"{founded.path}-admin")).identity_key)
