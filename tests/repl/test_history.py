"""What was typed is kept, for this user alone, and never a secret."""

import base64
import os
import random
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from peers.repl.history import ENTRY_LENGTH_MAX, FILE_BYTES_MAX, HistoryFile, history_file, is_secret

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def history(tmp_path: Path) -> HistoryFile:
    return HistoryFile(tmp_path / "state" / "history" / "mine")


def test_entries_come_back(history: HistoryFile) -> None:
    assert history.entries() == []
    for text in ("1 + 1", "select a\nfrom Integer a\n\nwhere a = 1", "+ and # at the start"):
        assert history.add(text, now=NOW)
    assert HistoryFile(history.path).entries() == [
        "1 + 1",
        "select a\nfrom Integer a\n\nwhere a = 1",
        "+ and # at the start",
    ]
    assert history.path.read_text().startswith("# 2026-01-31T12:00:00Z\n+1 + 1\n# 2026")


def test_only_this_user_reads_it(history: HistoryFile) -> None:
    before = os.umask(0)
    try:
        history.add("1")
    finally:
        os.umask(before)
    assert stat.S_IMODE(history.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.path.parent.stat().st_mode) == 0o700


def test_a_file_that_others_could_read_is_closed_to_them(history: HistoryFile) -> None:
    history.add("1")
    history.path.chmod(0o644)
    history.path.parent.chmod(0o755)
    assert history.entries() == ["1"]
    assert stat.S_IMODE(history.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.path.parent.stat().st_mode) == 0o700


def test_a_link_is_not_followed(history: HistoryFile, tmp_path: Path) -> None:
    history.path.parent.mkdir(parents=True)
    (tmp_path / "precious").write_text("")
    history.path.symlink_to(tmp_path / "precious")
    assert not history.add("1")
    assert history.entries() == []
    assert history.failed is not None
    assert (tmp_path / "precious").read_text() == ""


TOKEN = "Zk3" + base64.urlsafe_b64encode(random.Random(5).randbytes(32)).decode().rstrip("=")
BUNDLE = base64.b64encode(b'{"federation":"mine","token":"x","ca":"-----BEGIN"}' * 5).decode()


@pytest.mark.parametrize(
    "text",
    [
        f'f("{TOKEN}")',
        f'f("{BUNDLE}")',
        '"-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"',
        '"Authorization: Bearer abcdefgh1234"',
        'models:set_repository("r", {"password": "x"})',
        "set :password = 'hunter2'",
        'password = "hunter2"',
        '"token: abc"',
        'f("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl")',
    ],
)
def test_secrets_are_not_written(history: HistoryFile, text: str) -> None:
    assert is_secret(text)
    assert not history.add(text)
    assert not history.path.exists()


@pytest.mark.parametrize(
    "text",
    [
        'models:info("sha256:a78cbcacefb699fb6f3ab9581d6ba39412a072a07b401d37fd16d8fea04bbba3")',
        'edge:add_group("the-edge-with-the-longest-name-that-there-is-in-the-house", "g")',
        "key", 'r["token_count"]', "set :key = 1", "edge:actual_state(e).token_count > 3",
    ],
)  # fmt: skip
def test_what_only_looks_long_is_written(text: str) -> None:
    assert not is_secret(text)


def test_blanks_and_endless_texts_are_not_written(history: HistoryFile) -> None:
    assert not history.add("  \n")
    assert not history.add("x" * (ENTRY_LENGTH_MAX + 1))


def test_the_file_is_bounded(history: HistoryFile) -> None:
    history.path.parent.mkdir(parents=True, mode=0o700)
    line = "# 2026-01-31T12:00:00Z\n+" + "1" * 990 + "\n"
    history.path.write_text(line * (FILE_BYTES_MAX // len(line) + 50))
    assert history.entries()[-1] == "1" * 990
    assert history.path.stat().st_size < FILE_BYTES_MAX * 0.6
    assert set(history.entries()) == {"1" * 990}
    assert stat.S_IMODE(history.path.stat().st_mode) == 0o600


def test_a_federation_has_one_file_whatever_the_home() -> None:
    place = {"XDG_STATE_HOME": "/state"}
    one = history_file(place, federation="mine", authority=b"one")
    assert one == history_file(place, federation="mine", authority=b"one")
    assert one != history_file(place, federation="mine", authority=b"another")
    assert one.parent == Path("/state/peerage/history")
    assert history_file(place, federation="../../etc/x", authority=b"").parent == one.parent
