"""The file that keeps a workspace's default peer."""

import os
import stat
from pathlib import Path

import pytest

from peers.workspace import (
    BYTES_MAX,
    FILE,
    BadWorkspace,
    WorkspaceUnwritable,
    default_peer,
    find,
    save_default_peer,
    with_default_peer,
)


@pytest.mark.parametrize(
    ("text", "after", "without"),
    [
        ("", 'default_peer = "E1"\n', ""),
        ("x = 1\n", 'x = 1\ndefault_peer = "E1"\n', "x = 1\n"),
        ("x = 1", 'x = 1\ndefault_peer = "E1"\n', "x = 1\n"),
        ('# a\ndefault_peer = "old"  # why\n[t]\n', '# a\ndefault_peer = "E1"  # why\n[t]\n', "# a\n[t]\n"),
        ("[t]\ndefault_peer = 'theirs'\n", "default_peer = \"E1\"\n\n[t]\ndefault_peer = 'theirs'\n", None),
        ("'default_peer'='old'", "'default_peer'=\"E1\"", ""),
    ],
)
def test_everything_else_in_it_stays(text: str, after: str, without: str | None, tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_text(text)
    assert save_default_peer(tmp_path, "E1") == file
    assert file.read_text() == after
    assert default_peer(tmp_path) == "E1"
    save_default_peer(tmp_path, None)
    assert default_peer(tmp_path) is None
    assert without is None or file.read_text() == without


def test_the_nearest_above_counts(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert find(inner) is None
    save_default_peer(tmp_path, "nameserver")
    assert default_peer(inner / "script.pql") == "nameserver"
    (tmp_path / "a" / FILE).write_text('default_peer = "group lab"\n')
    assert default_peer(inner) == "group lab"
    save_default_peer(inner, "E2")
    assert default_peer(inner) == "E2"
    assert not (inner / FILE).exists()


@pytest.mark.parametrize(
    "text", ["default_peer = 3", "default_peer = [", 'default_peer = "a b"', 'default_peer = "group"', "\xff"]
)
def test_what_cannot_be_one_is_refused_and_left(text: str, tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadWorkspace):
        default_peer(tmp_path)


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("#" * (BYTES_MAX + 1))
    with pytest.raises(BadWorkspace, match="longer than"):
        default_peer(tmp_path)


@pytest.mark.parametrize("text", ['note = """\ndefault_peer = "a"\n"""\n', "list = [\n[1],\n]\n"])
def test_what_only_looks_like_the_key_is_left_alone(text: str, tmp_path: Path) -> None:
    """A line inside a longer value: nothing is written, and who asked is told."""
    (tmp_path / FILE).write_text(text)
    with pytest.raises(BadWorkspace, match="cannot set default_peer"):
        save_default_peer(tmp_path, "E1")
    assert (tmp_path / FILE).read_text() == text


@pytest.mark.parametrize("peer", ["", "two words", "a\nb", "all, E1", "E1" * 5_000])
def test_a_peer_that_cannot_be_one_is_not_written(peer: str, tmp_path: Path) -> None:
    with pytest.raises(BadWorkspace):
        save_default_peer(tmp_path, peer)
    assert list(tmp_path.iterdir()) == []


def test_permissions_and_links_stay(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text("x = 1\n")
    real.chmod(0o640)
    (tmp_path / FILE).symlink_to(real)
    save_default_peer(tmp_path, "E1")
    assert (tmp_path / FILE).is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert real.read_text() == 'x = 1\ndefault_peer = "E1"\n'


def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path) -> None:
    """A folder that somebody sent must not have its reader write elsewhere."""
    sent, other = tmp_path / "sent", tmp_path / "other.toml"
    sent.mkdir()
    for text in ("x = 1\n", None):
        if text is None:
            other.unlink()
        else:
            other.write_text(text)
        (sent / FILE).unlink(missing_ok=True)
        (sent / FILE).symlink_to(other)
        with pytest.raises(WorkspaceUnwritable, match="out of its folder"):
            save_default_peer(sent, "E1")
        assert (other.read_text() if other.exists() else None) == text


def test_a_file_that_anybody_may_have_left_does_not_count(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    own = shared / "own"
    own.mkdir(parents=True)
    (shared / FILE).write_text('default_peer = "E1"\n')
    shared.chmod(0o1777)
    assert default_peer(own) == "E1"  # it is this user's
    if os.geteuid() == 0:  # who alone can give files away
        os.chown(shared / FILE, 12345, -1)
        assert default_peer(own) is None
        shared.chmod(0o755)
        assert default_peer(own) == "E1"


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceUnwritable):
        save_default_peer(tmp_path / "gone", "E1")


def test_a_name_with_quotes_cannot_leave_its_string() -> None:
    assert with_default_peer("", 'a"\nb = "c') == 'default_peer = "a\\"\\nb = \\"c"\n'


def test_a_target_of_several_lines(tmp_path: Path) -> None:
    with pytest.raises(BadWorkspace, match="expected one line as default_peer, found several"):
        save_default_peer(tmp_path, "E1\nE2")
    assert not (tmp_path / FILE).exists()
