"""Answers in files: CSV, JSON, Parquet."""

import csv
import io
import json
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from peers.repl.exports import BadExport, format_named, table_of, write_file, written

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
ROWS = [
    (None, (1, "a,\"b\"\nc", None, [1, 2.5])),
    (None, (-(2**70), "é", True, {"k": AT, "t": np.array([[1.0]], "float32")})),
]  # fmt: skip
COLUMNS = ("n", "s", "n", "")


def test_csv_reads_back() -> None:
    text = written("csv", COLUMNS, ROWS).decode()
    assert list(csv.reader(io.StringIO(text))) == [
        ["n", "s", "n_3", "column4"],
        ["1", 'a,"b"\nc', "", "[1,2.5]"],
        [str(-(2**70)), "é", "true", '{"k":"2026-01-31T12:00:00Z","t":[[1.0]]}'],
    ]


def test_json_reads_back() -> None:
    assert json.loads(written("json", COLUMNS, ROWS[:1])) == [
        {"n": 1, "s": 'a,"b"\nc', "n_3": None, "column4": [1, 2.5]}
    ]
    assert json.loads(written("json", ("x",), [])) == []
    assert json.loads(written("json", ("x",), [(None, (float("nan"),)), (None, ([float("inf")],))])) == [
        {"x": None},
        {"x": [None]},
    ]


def test_records_become_columns_and_peers_stand_before_them() -> None:
    rows = [("E1", ({"a": 1, "peer": 2},)), ("E2", ({"b": 3},))]
    assert table_of(("edge:status",), rows) == (
        ["answered_by", "a", "peer", "b"],
        [{"answered_by": "E1", "a": 1, "peer": 2}, {"answered_by": "E2", "b": 3}],
    )
    assert written("csv", ("x",), [("E1", (1,))]) == b"peer,x\nE1,1\n"


def test_rows_with_more_values_than_columns_lose_none() -> None:
    assert written("csv", ("a",), [(None, (1, 2))]) == b"a,column2\n1,2\n"


def test_parquet_has_types() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [(None, (1, "a", AT, [1.5], np.array([1, 2]), 1)), (None, (2, None, AT, [], np.array([3]), "x"))]
    table = parquet.read_table(io.BytesIO(written("parquet", ("n", "s", "t", "v", "x", "m"), rows)))
    assert [str(field.type) for field in table.schema] == [
        "int64", "string", "timestamp[us, tz=UTC]", "list<element: double>", "list<element: int64>", "string",
    ]  # fmt: skip
    assert table.to_pylist()[0] == {"n": 1, "s": "a", "t": AT, "v": [1.5], "x": [1, 2], "m": "1"}


def test_parquet_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadExport, match="it has no pyarrow") as problem:
        written("parquet", ("x",), [(None, (1,))])
    assert problem.value.hint == "pip install 'peerage[arrow]', or export csv or json"


def test_formats_are_named() -> None:
    assert format_named("CSV") == "csv"
    with pytest.raises(BadExport, match='no format "jsn" — did you mean "json"'):
        format_named("jsn")


def test_a_file_is_whole_private_and_replaced_only_when_told(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    write_file(path, b"1", replace=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(BadExport, match="exists"):
        write_file(path, b"2", replace=False)
    write_file(path, b"3", replace=True)
    assert path.read_bytes() == b"3"
    assert [one.name for one in tmp_path.iterdir()] == ["x.csv"]
    with pytest.raises(BadExport, match="is a folder"):
        write_file(tmp_path, b"", replace=True)
