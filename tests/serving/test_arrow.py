"""Arrow IPC in and out: what pyarrow writes is read, what it reads is what the rows say, hostile files are refused."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.arrow import BATCHES_MAX, COLUMNS_MAX, FILE_TYPE, arrow_of, columns_of_arrow
from engine.errors import InputProblem
from engine.records import ROWS_MAX, Selection, encode_rows
from query.errors import LimitExceeded
from tests.serving.test_records import inference

MIB = 1024 * 1024
ROOT = Path(__file__).parents[2]


def written(
    table: pa.Table, *, stream: bool = False, compression: str | None = None, chunk: int | None = None
) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=chunk)
    return sink.getvalue()


def column(values: Any, *, name: str = "x", **about: Any) -> dict[str, Any]:
    return {key: array.tolist() for key, array in read(pa.table({name: values}), **about).items()}


def read(table: pa.Table, *, bytes_max: int = 64 * MIB, **about: Any) -> dict[str, Any]:
    return columns_of_arrow(written(table, **about), bytes_max=bytes_max)


def fixed(rows: list[Any], size: int) -> pa.Array:
    return pa.array(rows, pa.list_(pa.float32(), size))


# --- in --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("chunk", [None, 1])
def test_files_and_streams_are_read(stream: bool, compression: str | None, chunk: int | None) -> None:
    table = pa.table({"tensor": fixed([[1, 2], [3, 4], [5, 6]], 2), "city": ["Ulm", "Æ", ""]})
    columns = read(table, stream=stream, compression=compression, chunk=chunk)
    assert columns["tensor"].dtype == np.float32
    assert columns["tensor"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert columns["city"].tolist() == ["Ulm", "Æ", ""]
    assert columns["tensor"].flags.owndata or columns["tensor"].base.flags.owndata, "nothing keeps the body"


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.int64(), pa.uint8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()],
    ids=str,
)
def test_every_number_keeps_its_type(kind: pa.DataType) -> None:
    array = read(pa.table({"x": pa.array(np.array([1, 2]).astype(kind.to_pandas_dtype()), kind)}))["x"]
    assert array.dtype == kind.to_pandas_dtype()
    assert array.tolist() == [1, 2]


def test_lists_of_one_length_booleans_and_tensors() -> None:
    assert column(pa.array([[1.5, 2], [3, 4]], pa.list_(pa.float64()))) == {"x": [[1.5, 2], [3, 4]]}
    assert column(pa.array([[1], [2]], pa.large_list(pa.int32()))) == {"x": [[1], [2]]}
    assert column(pa.array([[[1, 2]], [[3, 4]]], pa.list_(pa.list_(pa.int8(), 2), 1))) == {"x": [[[1, 2]], [[3, 4]]]}
    assert column([True, False]) == {"x": [True, False]}
    assert column([["a"], ["b"]]) == {"x": [["a"], ["b"]]}
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(12, dtype=np.float32).reshape(2, 2, 3))
    assert column(tensors) == {"x": [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, 11]]]}


def test_a_slice_is_read_as_its_own_rows() -> None:
    table = pa.table({"x": fixed([[1, 2], [3, 4], [5, 6]], 2), "y": [[1], [2], [3]]}).slice(1, 1)
    columns = read(table)
    assert columns["x"].tolist() == [[3, 4]]
    assert columns["y"].tolist() == [[2]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([1.0, None]), '"x": expected a value in every row, found 1 null'),
        (pa.array([[1.0, None]]), "found 1 null"),
        (pa.array([[1.0], None], pa.list_(pa.float32(), 1)), "found 1 null"),
        (pa.nulls(2), "found null"),
        (pa.array([[1.0], [1.0, 2.0]]), "found 1 elements in row 1 and 2 in row 2"),
        (pa.array([{"a": 1}]), "found struct"),
        (pa.array(["a", "a"]).dictionary_encode(), "dictionary"),
        (pa.array([1], pa.date32()), "found date32"),
        (pa.array([b"x"]), "found binary"),
        (pa.array([], pa.float32()), "without rows"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else str(value.type),
)
def test_columns_that_are_no_tensors_are_refused(values: pa.Array, message: str) -> None:
    with pytest.raises(InputProblem, match=message):
        read(pa.table({"x": values}))


def test_permuted_tensors_and_deep_lists_are_refused() -> None:
    kind = pa.fixed_shape_tensor(pa.float32(), (2, 3), permutation=(1, 0))
    permuted = pa.ExtensionArray.from_storage(kind, fixed([[1, 2, 3, 4, 5, 6]], 6))
    with pytest.raises(InputProblem, match="row-major"):
        read(pa.table({"x": permuted}))
    deep: Any = [1]
    for _ in range(9):
        deep = [deep]
    with pytest.raises(InputProblem, match="lists of these"):
        read(pa.table({"x": pa.array(deep)}))


def test_a_name_twice_and_too_many_columns_are_refused() -> None:
    one = pa.array([1.0])
    with pytest.raises(InputProblem, match='"x": expected once, found 2 times'):
        read(pa.Table.from_arrays([one, one], names=["x", "x"]))
    with pytest.raises(LimitExceeded, match=f"at most {COLUMNS_MAX} columns"):
        read(pa.table({f"c{at}": one for at in range(COLUMNS_MAX + 1)}))


def test_rows_and_batches_are_bounded() -> None:
    with pytest.raises(LimitExceeded, match=f"at most {ROWS_MAX} rows"):
        read(pa.table({"x": np.zeros(ROWS_MAX + 1, np.int8)}))
    with pytest.raises(LimitExceeded, match="batches"):
        read(pa.table({"x": np.zeros(BATCHES_MAX + 1, np.int8)}), chunk=1)


def test_what_would_decompress_beyond_the_bound_is_not_decompressed() -> None:
    bomb = written(pa.table({"x": fixed([[0.0] * 1000] * 4000, 1000)}), compression="zstd")
    assert len(bomb) < 32 * 1024
    with pytest.raises(LimitExceeded, match="when decompressed, found 16000000"):
        columns_of_arrow(bomb, bytes_max=8 * MIB)


def test_the_compression_of_old_versions_is_no_way_around_the_bound() -> None:
    def sized(metadata: dict[str, str]) -> bytes:
        """A batch of one column whose body is 8 000 bytes."""
        batch = pa.record_batch({"x": pa.array(np.zeros(1000))})
        sink = io.BytesIO()
        options = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4)
        with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
            writer.write_batch(batch, custom_metadata=metadata or None)
        return sink.getvalue()

    with pytest.raises(InputProblem, match=r"Arrow 1\.0 or later"):
        columns_of_arrow(sized({"ARROW:experimental_compression": "zstd"}), bytes_max=MIB)
    assert columns_of_arrow(sized({}), bytes_max=MIB)["x"].shape == (1000,)


def test_the_footer_is_not_believed() -> None:
    table = pa.table({"x": [1.0, 2.0]})
    body = written(table)
    end = body.rindex(b"ARROW1")
    assert columns_of_arrow(body[: end - 60] + b"\xff" * 60, bytes_max=MIB)["x"].tolist() == [1.0, 2.0]


def test_damaged_files_are_refused_and_nothing_worse() -> None:
    """Every cut, and bytes changed at random, in a process that would show a crash."""
    draws = random.Random(11)
    whole = written(pa.table({"x": fixed([[1, 2], [3, 4]], 2), "s": ["a", "bc"], "l": [[1], [2]]}), compression="lz4")
    bodies = [whole[:at] for at in range(0, len(whole), 7)] + [b"", b"ARROW1", b"ARROW1\0\0", b"x" * 100]
    for _ in range(1500):
        changed = bytearray(whole)
        for _ in range(draws.randint(1, 4)):
            changed[draws.randrange(8, len(changed))] = draws.randrange(256)
        bodies.append(bytes(changed))
    program = """
import json, sys
from engine.arrow import columns_of_arrow
from query.errors import UserProblem
read = refused = 0
for text in json.load(sys.stdin):
    try:
        columns_of_arrow(bytes.fromhex(text), bytes_max=1 << 20)
        read += 1
    except UserProblem:
        refused += 1
print(read, refused)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([body.hex() for body in bodies]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    read_count, refused = map(int, done.stdout.split())
    assert read_count + refused == len(bodies)
    assert refused > 500


# --- out -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_says_what_the_rows_say(stream: bool) -> None:
    opened = pa.ipc.open_stream if stream else pa.ipc.open_file
    table = opened(arrow_of(inference(), stream=stream)).read_all()
    rows = json.loads(encode_rows(inference()))
    found = table.to_pylist()
    assert found[0] == rows[0]
    assert found[1]["in"]["tensor"] == pytest.approx(rows[1]["in"]["tensor"], rel=1e-6)
    assert found[1]["metadata"] == rows[1]["metadata"]
    assert table.schema.names == ["time", "in", "out", "out_forest", "anomaly", "metadata"]


def test_the_types_are_those_of_the_contract() -> None:
    schema = pa.ipc.open_file(arrow_of(inference())).schema
    assert schema.field("time").type == pa.int64()
    tensor = schema.field("in").type.field("tensor")
    assert tensor.type == pa.list_(pa.float32())
    assert tensor.metadata == {b"tensor_type": b"FP32[2]"}
    assert schema.field("in").type.field("city").metadata == {b"tensor_type": b"BYTES[]"}
    assert schema.field("anomaly").type == pa.struct(
        [("count", pa.uint32()), ("too_high", pa.bool_()), ("odd", pa.bool_())]
    )
    assert schema.field("metadata").type == pa.struct(
        [
            ("last_model", pa.utf8()),
            ("pipeline_version", pa.utf8()),
            ("elapsed", pa.list_(pa.uint64())),
            ("dropped", pa.list_(pa.utf8())),
            ("partition", pa.utf8()),
        ]
    )


def test_matrices_records_and_empty_rows() -> None:
    records = np.empty(2, object)
    records[:] = [{0: 0.25}, {0: float("nan")}]
    outputs = {
        "grid": np.arange(12, dtype=np.int64).reshape(2, 2, 3),
        "none": np.zeros((2, 0), np.float32),
        "half": np.array([0.5, 1], np.float16),
        "probabilities": records,
    }
    table = pa.ipc.open_file(arrow_of(inference(outputs=outputs, anomalies={}))).read_all()
    first, second = (row["out"] for row in table.to_pylist())
    assert first["grid"] == [[0, 1, 2], [3, 4, 5]]
    assert second["none"] == []
    assert second["half"] == 1.0
    assert (first["probabilities"], second["probabilities"]) == ('{"0":0.25}', '{"0":"NaN"}')
    assert table.schema.field("out").type.field("grid").metadata == {b"tensor_type": b"INT64[2,3]"}
    assert table.schema.field("out").type.field("probabilities").metadata == {b"tensor_type": b"RECORD[]"}
    assert table.column("anomaly").to_pylist() == [{"count": 0}, {"count": 0}]


def test_the_same_columns_are_chosen_as_of_rows() -> None:
    for dataset, exclude in ((["*"], []), (["in.city", "metadata.elapsed", "anomaly.count"], []), ([], ["out.price"])):
        selection = Selection.of(dataset, exclude)
        table = pa.ipc.open_file(arrow_of(inference(outputs={"price": np.array([1.0, 2.0])}), selection)).read_all()
        rows = json.loads(encode_rows(inference(outputs={"price": np.array([1.0, 2.0])}), selection))
        assert table.to_pylist()[0] == rows[0]


def test_what_is_written_is_read_again() -> None:
    """The column ``in`` of an answer is what a client sends."""
    batch = pa.ipc.open_file(arrow_of(inference())).read_all()
    inputs = pa.Table.from_struct_array(batch.column("in").combine_chunks())
    columns = read(inputs)
    assert columns["tensor"].tolist() == inference().inputs["tensor"].tolist()
    assert columns["city"].tolist() == ["Ulm", "Æ"]
    assert FILE_TYPE.endswith("arrow.file")


def test_pandas_is_not_imported_on_the_way() -> None:
    """It takes a fifth of a second and 40 MiB where it is installed, and is of no use here."""
    body = written(pa.table({"x": fixed([[1, 2]], 2), "s": ["a"], "b": [True], "l": [[1]]}))
    program = """
import sys
from engine.arrow import arrow_of, columns_of_arrow
from tests.serving.test_records import inference
columns_of_arrow(bytes.fromhex(sys.argv[1]), bytes_max=1 << 20)
arrow_of(inference())
print("pandas" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, body.hex()], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_peer_without_the_extra_says_so() -> None:
    program = """
import sys
sys.modules["pyarrow"] = None
from engine.arrow import ArrowUnavailable, columns_of_arrow
try:
    columns_of_arrow(b"ARROW1", bytes_max=1)
except ArrowUnavailable as problem:
    print(problem.hint)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'install "peerage[arrow]", or send JSON records'
