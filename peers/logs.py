"""The log of a running peer: one entry a line on standard error, as text for people or JSON for programs.

An entry is an event and its fields: ``log.info("joined", extra={"peer_name": name, "uuid": uuid})``. The event is a
fixed word; what varies is in the fields.

    12:00:01.250 info  federation joined peer_name=E1 uuid=0b9c…
    {"time":"2026-01-31T12:00:01.250Z","level":"info","from":"federation","event":"joined","peer_name":"E1",…}

Owns the form and what may not pass: a field whose name is in :data:`SECRET_FIELDS`, and anything that looks like a
private key, is hidden wherever it comes from. Rules: a line is a line (control characters are escaped); a field has at
most :data:`FIELD_LENGTH_MAX` characters; writing a log never raises.
"""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec

from peers.settings import CommonSettings

FIELD_LENGTH_MAX: Final = 2_000
TRACE_LENGTH_MAX: Final = 20_000
FIELDS_MAX: Final = 32
HIDDEN: Final = "[hidden]"
SECRET_FIELDS: Final = frozenset(
    {"token", "bundle", "key", "pem", "seed", "secret", "password", "authorization", "private_key", "nonce"}
)
ROOT: Final = "peerage"

_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_BEARER: Final = re.compile(r"(?i)\bbearer\s+[A-Za-z0-9._~+/=-]{8,}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_OF_EVERY_RECORD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(settings: CommonSettings, stream: TextIO) -> None:
    """Send the log of this process to ``stream``: ours from the level of the settings on, others' from warning on."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonForm() if as_json else TextForm())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(settings.log_level.upper())
    logging.getLogger("aiohttp.access").propagate = False
    logging.raiseExceptions = False
    logging.captureWarnings(capture=True)


class JsonForm(logging.Formatter):
    """An entry as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _moment(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "from": _origin(record),
            "event": _text(record.getMessage(), FIELD_LENGTH_MAX),
            **fields_of(record),
        }
        return _CONTROL.sub(_escaped, msgspec.json.encode(entry).decode("utf-8"))


class TextForm(logging.Formatter):
    """An entry for people; the trace of an exception follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        fields = fields_of(record)
        trace = fields.pop("trace", None)
        told = "".join(f" {name}={_shown(value)}" for name, value in fields.items())
        moment = f"{_moment(record).astimezone():%H:%M:%S}.{int(record.msecs):03d}"
        event = _CONTROL.sub(_escaped, _text(record.getMessage(), FIELD_LENGTH_MAX))
        line = f"{moment} {record.levelname.lower():7} {_origin(record)} {event}{told}"
        return line if trace is None else f"{line}\n{trace}"


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What an entry says beside its event, with nothing secret in it."""
    fields: dict[str, Any] = {}
    for name, value in vars(record).items():
        if name in _OF_EVERY_RECORD or name.startswith("_"):
            continue
        if len(fields) == FIELDS_MAX:
            break
        if name.casefold() in SECRET_FIELDS:
            fields[name] = HIDDEN
        elif value is None or isinstance(value, bool | int | float):
            fields[name] = value
        else:
            fields[name] = _text(str(value), FIELD_LENGTH_MAX)
    if record.exc_info and record.exc_info[0] is not None:
        fields["trace"] = _text(logging.Formatter().formatException(record.exc_info), TRACE_LENGTH_MAX)
    return fields


def without_secrets(text: str) -> str:
    """``text`` with everything that looks like a private key or a bearer token hidden."""
    return _BEARER.sub(f"Bearer {HIDDEN}", _PRIVATE_KEY.sub(HIDDEN, text))


def _text(text: str, length_max: int) -> str:
    hidden = without_secrets(text)
    return hidden if len(hidden) <= length_max else hidden[:length_max] + "…"


def _shown(value: Any) -> str:
    text = _CONTROL.sub(_escaped, str(value))
    return f'"{text}"' if not text or " " in text else text


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _origin(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT}.")


def _moment(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)
