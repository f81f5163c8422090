"""``peerage fmt``: files, folders and standard input in one style, and what it says of those that it cannot read."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

import pytest

from peers.cli import main
from peers.cli.console import DONE, FAILED, USAGE

UNTIDY = "// all\n//PEER:E1\nselect  x from x IN [1,2] // both\n"
TIDY = "// all\n//peer: E1\nselect x from x in [1, 2];  // both\n"


def run(*arguments: str | Path) -> int:
    return main(["fmt", *(str(argument) for argument in arguments)])


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    for name, text in (
        ("a.pql", UNTIDY),
        ("b.pql", TIDY),
        ("notes.txt", UNTIDY),
        (".hidden/c.pql", UNTIDY),
        ("below/d.pql", UNTIDY),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    return tmp_path


def test_a_folder(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(scripts) == DONE
    out, err = capsys.readouterr()
    assert out.splitlines() == [str(scripts / "a.pql"), str(scripts / "below/d.pql")]
    assert err == "2 formatted, 1 as they should be\n"
    found = {str(path.relative_to(scripts)): path.read_text("utf-8") for path in scripts.rglob("*") if path.is_file()}
    assert found == {
        "a.pql": TIDY, "b.pql": TIDY, "below/d.pql": TIDY, ".hidden/c.pql": UNTIDY, "notes.txt": UNTIDY,
    }  # fmt: skip
    assert run("--check", scripts, scripts / "a.pql") == DONE


def test_a_check_changes_nothing(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--check", scripts) == FAILED
    assert capsys.readouterr().err == "2 would be formatted, 1 as they should be\n"
    assert (scripts / "a.pql").read_text("utf-8") == UNTIDY


def test_the_difference(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--diff", scripts / "a.pql") == DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[3:] == [
        " // all",
        "-//PEER:E1",
        "-select  x from x IN [1,2] // both",
        "+//peer: E1",
        "+select x from x in [1, 2];  // both",
    ]
    assert (scripts / "a.pql").read_text("utf-8") == UNTIDY


def test_a_file_keeps_its_mode_and_its_link(scripts: Path) -> None:
    (scripts / "a.pql").chmod(0o664)
    link = scripts / "link"
    link.symlink_to(scripts / "a.pql")
    assert run(link) == DONE
    assert link.is_symlink()
    assert stat.S_IMODE((scripts / "a.pql").stat().st_mode) == 0o664
    assert (scripts / "a.pql").read_text("utf-8") == TIDY


def test_what_does_not_parse_stays_and_the_others_go_on(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scripts / "0.pql").write_text("1;\nselect from x", "utf-8")
    (scripts / "1.pql").write_bytes(b"\xff\xfe")
    assert run(scripts) == FAILED
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        f"{scripts / '0.pql'}:2:8",
        'error(syntax): unexpected "from": expected an expression or "distinct"',
        "  2 | select from x",
        "             ^^^^",
        '  hint: "from" is a keyword and cannot be a name',
        str(scripts / "1.pql"),
        f"error(not_text): {scripts / '1.pql'} is no UTF-8 text: byte 0 is 0xff",
        "2 formatted, 1 as they should be, 2 left as they are",
    ]
    assert (scripts / "0.pql").read_text("utf-8") == "1;\nselect from x"
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(("flags", "status", "out"), [((), DONE, TIDY), (("--check",), FAILED, "")])
def test_standard_input(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    status: int,
    out: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + UNTIDY.encode())))
    assert run(*flags, "-") == status
    assert capsys.readouterr().out == out


def test_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "none.pql") == USAGE
    assert run("-", tmp_path) == USAGE
    assert capsys.readouterr().err.splitlines() == [
        f"error(usage): no file or folder {tmp_path / 'none.pql'}",
        'error(usage): "-" stands alone: standard input is formatted to standard output',
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scripts / "a.pql").chmod(0)
    assert run(scripts / "a.pql") == FAILED
    assert capsys.readouterr().err.startswith(f"cannot read {scripts / 'a.pql'}: Permission denied")


def test_a_pipe_is_not_waited_for(scripts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(scripts / "pipe.pql")
    assert run("--check", scripts) == FAILED
    assert "pipe.pql" not in capsys.readouterr().err
    assert run(scripts / "pipe.pql") == FAILED
    assert capsys.readouterr().err.startswith(f"cannot read {scripts / 'pipe.pql'}: expected a regular file")


def test_the_difference_shows_line_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.pql").write_bytes(b"1;\r\n2;")
    assert run("--diff", tmp_path / "a.pql") == DONE
    assert capsys.readouterr().out.split("\n")[3:] == [
        "-1;\r",
        "-2;",
        "\\ No newline at end of file",
        "+1;",
        "+2;",
        "",
    ]
