"""The log: one entry a line, fields bounded, nothing secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from federation.keys import PrivateKey
from peers import logs
from peers.logs import FIELD_LENGTH_MAX, FIELDS_MAX, JsonForm, TextForm, configure, without_secrets
from peers.settings import EdgeSettings


def record(event: str = "joined", **fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "peerage.federation", "levelname": "INFO", "msg": event, **fields})
    made.created, made.msecs = 1_800_000_000.25, 250.0
    return made


def test_json() -> None:
    line = JsonForm().format(record(peer_name="E1", port=1, gone=None, also=[1]))
    assert json.loads(line) == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "info",
        "from": "federation",
        "event": "joined",
        "peer_name": "E1",
        "port": 1,
        "gone": None,
        "also": "[1]",
    }


def test_text() -> None:
    line = TextForm().format(record(peer_name="E1", reason="no route", empty=""))
    assert line.split(" ", 1)[1] == 'info    federation joined peer_name=E1 reason="no route" empty=""'


def test_an_entry_is_one_line_whatever_strangers_send() -> None:
    entry = record(event="a\nb", name_of="E1\r\n2027 fake\x1b[31m\u2028")
    for form in (JsonForm(), TextForm()):
        line = form.format(entry)
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line


def test_secrets_are_hidden() -> None:
    key = PrivateKey(bytes(range(32)))
    body = key.pem.splitlines()[1]
    entry = record(token="t0ken", bundle="b", Authorization="x", reason=f"bad {key.pem} and Bearer abcdefgh12345678")
    for form in (JsonForm(), TextForm()):
        line = form.format(entry)
        for secret in ("t0ken", body, "abcdefgh12345678"):
            assert secret not in line
        assert "[hidden]" in line
    assert body not in without_secrets(key.pem[:-30])


def test_the_trace_of_an_exception_has_no_key() -> None:
    key = PrivateKey(bytes(32))
    try:
        raise ValueError(key.pem)
    except ValueError as error:
        entry = record(exc_info=(ValueError, error, error.__traceback__))
    for form in (JsonForm(), TextForm()):
        line = form.format(entry)
        assert "ValueError" in line
        assert key.pem.splitlines()[1] not in line


def test_fields_are_bounded() -> None:
    many = {f"f{index}": index for index in range(FIELDS_MAX + 5)}
    assert len(logs.fields_of(record(**many))) == FIELDS_MAX
    assert len(logs.fields_of(record(long="x" * 100_000))["long"]) == FIELD_LENGTH_MAX + 1


@pytest.fixture
def restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("peerage")
    kept = root.handlers[:], root.level, ours.level, logging.raiseExceptions
    yield
    root.handlers[:], level, our_level, logging.raiseExceptions = kept
    root.setLevel(level)
    ours.setLevel(our_level)
    logging.captureWarnings(capture=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("restored")
def test_text_on_a_terminal_and_json_elsewhere() -> None:
    file, terminal = io.StringIO(), Terminal()
    configure(EdgeSettings(), file)
    logging.getLogger("peerage.edge").info("edge_ready", extra={"edge": "E1"})
    configure(EdgeSettings(), terminal)
    logging.getLogger("peerage.edge").info("edge_ready", extra={"edge": "E1"})
    assert json.loads(file.getvalue())["event"] == "edge_ready"
    assert terminal.getvalue().endswith("edge edge_ready edge=E1\n")


@pytest.mark.usefixtures("restored")
def test_levels() -> None:
    stream = io.StringIO()
    configure(EdgeSettings(log_level="warning", log_format="text"), stream)
    logging.getLogger("peerage.edge").info("quiet")
    logging.getLogger("zeroconf").info("quiet")
    logging.getLogger("peerage.edge").warning("loud")
    logging.getLogger("zeroconf").warning("louder")
    assert [line.split(maxsplit=1)[1] for line in stream.getvalue().splitlines()] == [
        "warning edge loud",
        "warning zeroconf louder",
    ]
