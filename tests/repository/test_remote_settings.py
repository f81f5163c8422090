"""What may be set about a remote repository, what is kept of it, and the files with credentials."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from federation.names import BadName
from peers.homes import HomeUnwritable
from peers.remote_credentials import CREDENTIALS_BYTES_MAX, BadCredentials, read_credentials
from peers.remote_settings import REPOSITORIES_MAX, BadRepository, RemoteBook, RemoteSettings, read_settings
from query.errors import LimitExceeded, Problem, UnknownName

HUB = "https://registry.example:5000/team.one/x"


def secret(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.unlink(missing_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def test_what_a_repository_is() -> None:
    found = read_settings("hub", {"url": HUB + "/"})
    assert (found.scheme, found.address, found.prefix) == ("https", "registry.example:5000", "team.one/x/")
    assert found.repository("doubler") == "team.one/x/models/doubler"
    assert read_settings("hub", {"url": "http://[::1]:5000"}).address == "[::1]:5000"
    assert read_settings("hub", {"url": "http://localhost"}).repository("m") == "models/m"
    assert read_settings("hub", {"url": "http://registry.example", "insecure": True}).insecure


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, 'expected a "url"'),
        ({"url": ""}, 'expected a "url"'),
        ({"url": 5}, 'expected "url" as a text'),
        ({"url": "x" * 2000}, 'expected "url" as a text of at most'),
        ({"ulr": HUB}, 'no setting "ulr" — did you mean "url"?'),
        ({"url": HUB, "credential": "/x"}, 'no setting "credential" — did you mean "credentials"?'),
        ({"url": HUB, "colour": "red"}, 'no setting "colour": expected one of url, credentials'),
        ({"url": HUB, "insecure": "yes"}, 'expected "insecure" as true or false'),
        ({"url": "registry.example"}, 'expected a "url" like'),
        ({"url": "ftp://registry.example"}, 'expected a "url" like'),
        ({"url": "https://"}, 'expected a "url" like'),
        ({"url": "https://registry.example:99999"}, "is none"),
        ({"url": "https://registry.example:0"}, 'expected a "url" like'),
        ({"url": "https://reg istry"}, 'expected a "url" like'),
        ({"url": "https://mechanic:hunter2@registry.example"}, "carries no user and no password"),
        ({"url": HUB + "?token=hunter2"}, 'has no "?"'),
        ({"url": HUB + "#x"}, 'has no "?"'),
        ({"url": "https://registry.example/Team"}, "no prefix of an OCI name"),
        ({"url": "https://registry.example/../x"}, "no prefix of an OCI name"),
        ({"url": "http://registry.example"}, "plain http to registry.example"),
        ({"url": "http://127.0.0.1.evil.example"}, "plain http to"),
        ({"url": HUB, "ca": "ca.crt"}, 'expected "ca" as an absolute path'),
        ({"url": HUB, "credentials": "~/x"}, 'expected "credentials" as an absolute path'),
        ({"url": HUB, "ca": "/nonexistent/ca.crt"}, "no file /nonexistent/ca.crt"),
        ({"url": HUB, "ca": __file__}, 'expected "ca" as a PEM file with certificates, found '),
    ],
)
def test_what_is_none(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRepository) as refused:
        read_settings("hub", settings)
    assert message in refused.value.message
    assert "hunter2" not in refused.value.message


def test_certs_are_a_folder_as_the_command_writes_it(tmp_path: Path) -> None:
    with pytest.raises(BadCredentials, match=r"cannot read .*client\.key: No such file"):
        read_settings("hub", {"url": HUB, "certs": str(tmp_path)})
    (tmp_path / "client.key").write_text("key")
    (tmp_path / "client.key").chmod(0o644)
    with pytest.raises(BadCredentials, match=r"others may read .*client\.key"):
        read_settings("hub", {"url": HUB, "certs": str(tmp_path)})
    (tmp_path / "client.key").chmod(0o600)
    with pytest.raises(BadRepository, match=r"no file .*ca\.crt"):
        read_settings("hub", {"url": HUB, "certs": str(tmp_path)})
    for name in ("ca.crt", "client.cert"):
        (tmp_path / name).write_text("x")
    assert read_settings("hub", {"url": HUB, "certs": str(tmp_path)}).certs == str(tmp_path)


def test_a_book_keeps_what_was_set(tmp_path: Path) -> None:
    path = tmp_path / "repositories.json"
    book = RemoteBook(path)
    assert book.all() == {}
    book.set("Hub", RemoteSettings(url=HUB, credentials="/secret"))
    book.set("other", RemoteSettings(url=HUB))
    book.set("HUB", RemoteSettings(url=HUB, insecure=True))
    assert {name: one.insecure for name, one in RemoteBook(path).all().items()} == {"other": False, "HUB": True}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert book.find("hub") == ("HUB", RemoteSettings(url=HUB, insecure=True))
    with pytest.raises(UnknownName, match='no repository "huh" — did you mean "HUB"') as unknown:
        book.find("huh")
    assert "models:set_repository" in (unknown.value.hint or "")
    book.set("hub", None)
    assert list(book.all()) == ["other"]
    with pytest.raises(UnknownName):
        book.set("hub", None)
    path.write_text("[]")
    with pytest.raises(BadRepository, match="is not a list of repositories"):
        book.all()


def test_names_and_their_number_are_bounded(tmp_path: Path) -> None:
    book = RemoteBook(tmp_path / "repositories.json")
    for name, kind in (("default", BadRepository), ("DEFAULT", BadRepository), ("a b", BadName), ("all", BadName)):
        with pytest.raises(kind):
            book.set(name, RemoteSettings(url=HUB))
    for number in range(REPOSITORIES_MAX):
        book.set(f"hub{number}", RemoteSettings(url=HUB))
    with pytest.raises(LimitExceeded):
        book.set("hub", RemoteSettings(url=HUB))
    assert len(book.all()) == REPOSITORIES_MAX


def test_a_home_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(HomeUnwritable, match="No such file or directory"):
        RemoteBook(tmp_path / "gone" / "repositories.json").set("hub", RemoteSettings(url=HUB))


# --- credentials ------------------------------------------------------------------------------------------------------


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_both_forms(tmp_path: Path) -> None:
    assert read_credentials(secret(tmp_path, "ada:h:u ü\n"), "r").basic == basic("ada", "h:u ü")
    auth = base64.b64encode(b"ada:pw").decode()
    for key in ("registry.example:5000", "https://registry.example:5000", "http://REGISTRY.example:5000/v2/"):
        path = secret(tmp_path, json.dumps({"auths": {"other": {}, key: {"auth": auth}}, "credsStore": "x"}))
        assert read_credentials(path, "registry.example:5000").basic == basic("ada", "pw")
    path = secret(tmp_path, json.dumps({"auths": {"r": {"username": "ada", "password": "pw"}}}))
    assert read_credentials(path, "r").basic == basic("ada", "pw")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hunter2", "holds no credentials"),
        (b":hunter2", "holds no credentials"),
        (b"hunter2:", "holds no credentials"),
        (b"ada:hunter2\nmore", "holds no credentials"),
        (b"", "holds no credentials"),
        (b"\xff\xfehunter2", "is not text"),
        (b"{hunter2", "is not what docker and skopeo write"),
        (b'{"auths": ["hunter2"]}', "is not what docker and skopeo write"),
        (b'{"auths": {"r": {"auth": "hunter2"}}}', 'the "auth" of r is not base64'),
        (b'{"auths": {"other": {"auth": "aHVudGVyMg=="}}}', "has no credentials for r: it knows other"),
        (b'{"auths": {"r": {"auth": "aHVudGVyMg=="}}}', "holds no credentials"),
        (b"ada:" + b"x" * CREDENTIALS_BYTES_MAX, "has more than"),
    ],
)
def test_what_are_no_credentials(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BadCredentials) as refused:
        read_credentials(secret(tmp_path, content), "r")
    assert message in refused.value.message
    for told in (refused.value.message, repr(refused.value), str(refused.value.__cause__ or "")):
        assert "hunter2" not in told


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(BadCredentials, match="others may read") as refused:
        read_credentials(secret(tmp_path, "ada:hunter2", mode), "r")
    assert (refused.value.hint or "").startswith("chmod 600 ")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing", Path("/dev/zero"), Path("/x\0y")):
        with pytest.raises(BadCredentials):
            read_credentials(path, "r")


def test_credentials_show_nothing_of_themselves(tmp_path: Path) -> None:
    found = read_credentials(secret(tmp_path, "ada:hunter2"), "r")
    assert "hunter2" not in f"{found!r} {found}"
    assert not isinstance(found, Problem)
