"""Rows → a file as CSV, JSON or Parquet, for ``\\export``.

Owns how an answer becomes a table: a column for each column, ``peer`` before them where several peers were asked; an
answer of one column whose rows are all records becomes a column for each of their keys. In CSV a string, a number and a
time stand as they are, null is empty, everything else is JSON. JSON is a list with one record a line; it
knows no infinite numbers, so they are null. In Parquet a
column has the type of its values; one whose values have none in common holds their JSON.

Rules: a file is whole or not there, has mode 0600, and replaces none without being told to. Parquet needs the extra
``arrow``.
"""

from __future__ import annotations

import csv
import io
import math
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import msgspec

from query.errors import UserProblem, WorldProblem, suggestion
from query.values import is_tensor

Format: TypeAlias = Literal["csv", "json", "parquet"]
FORMATS: Final[tuple[Format, ...]] = ("csv", "json", "parquet")
PEER: Final = "peer"


class BadExport(UserProblem):
    """An export that makes no sense: of no answer, in a format or to a file that cannot be."""

    code = "bad_export"


class NotWritten(WorldProblem):
    """The disk refused; there is no file."""

    code = "export_not_written"


Row: TypeAlias = tuple[str | None, tuple[Any, ...]]


def format_named(word: str) -> Format:
    for known in FORMATS:
        if word.casefold() == known:
            return known
    raise BadExport(
        f'no format "{word[:40]}"{suggestion(word, FORMATS)}',
        hint=f"formats are {', '.join(FORMATS)}: \\export csv FILE",
    )


def table_of(columns: Sequence[str], rows: Sequence[Row]) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of the columns and, for each row, its values by name; see the module."""
    names = _distinct(columns)
    tagged = any(peer is not None for peer, _ in rows)
    if len(names) == 1 and rows and all(isinstance(values[0], dict) for _, values in rows):
        records = [values[0] for _, values in rows]
        names = list(dict.fromkeys(key for record in records for key in record))
    else:
        width = max([len(names), *(len(values) for _, values in rows)])
        names = _distinct([*names, *(f"column{number + 1}" for number in range(len(names), width))])
        records = [dict(zip(names, values, strict=False)) for _, values in rows]
    if not tagged:
        return names, records
    own = PEER if PEER not in names else "answered_by"
    return [own, *names], [{own: peer, **record} for (peer, _), record in zip(rows, records, strict=True)]


def _distinct(columns: Sequence[str]) -> list[str]:
    names: list[str] = []
    for number, column in enumerate(columns, start=1):
        name = column or f"column{number}"
        names.append(name if name not in names else f"{name}_{number}")
    return names


def written(form: Format, columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    """The content of a file. Raises :class:`BadExport` where the extra for Parquet is missing."""
    names, records = table_of(columns, rows)
    match form:
        case "csv":
            return _csv(names, records)
        case "json":
            return _json(names, records)
        case "parquet":
            return _parquet(names, records)


def _csv(names: Sequence[str], records: Iterable[Mapping[str, Any]]) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for record in records:
        writer.writerow([_cell(record.get(name)) for name in names])
    return file.getvalue().encode("utf-8", errors="replace")


def _cell(value: Any) -> str | int | float:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int() | float() | str():
            return value
        case datetime():
            return value.isoformat().replace("+00:00", "Z")
        case _:
            return _as_json(value)


def _as_json(value: Any) -> str:
    return msgspec.json.encode(_plain(value)).decode("utf-8")


def _plain(value: Any) -> Any:
    """A value as other programs read JSON: a tensor as nested lists, a time as text."""
    if is_tensor(value):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(names: Sequence[str], records: Iterable[Mapping[str, Any]]) -> bytes:
    lines = (_as_json({name: record.get(name) for name in names}).encode() for record in records)
    return b"[\n" + b",\n".join(lines) + b"\n]\n"


def _parquet(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> bytes:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise BadExport(
            "this installation writes no Parquet: it has no pyarrow",
            hint="pip install 'peerage[arrow]', or export csv or json",
        ) from None
    columns = []
    for name in names:
        values = [record.get(name) for record in records]
        try:
            columns.append(pa.array([value.tolist() if is_tensor(value) else value for value in values]))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            columns.append(pa.array([None if value is None else _text(value) for value in values], pa.string()))
    file = io.BytesIO()
    pq.write_table(pa.table(columns, names=list(names)), file)
    return file.getvalue()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _as_json(value)


def write_file(path: Path, content: bytes, *, replace: bool) -> None:
    """Raises :class:`BadExport` when there is such a file, :class:`NotWritten` when the disk refuses."""
    if path.is_dir():
        raise BadExport(f"{path} is a folder: expected the name of a file")
    if path.exists() and not replace:
        raise BadExport(f"{path} exists", hint="name another file, or replace it: \\export … FILE --replace")
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        made.rename(path)
    except OSError as error:
        with suppress(OSError):
            made.unlink(missing_ok=True)
        raise NotWritten(f"cannot write {path}: {error.strerror}") from error
