"""Whatever type a manifest's column has, it can be written to a table, asked for in SQL, and had as Python's values."""

import json
import uuid
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.datasets.columns import keep, kept_type
from storage.errors import InputError
from storage.tables import write_table

SEVEN_SECONDS, FIRST_OF_JULY = 7 * 10**9, 182
CASES: dict[str, tuple[pa.DataType, Any, pa.DataType, Any]] = {
    "half": (pa.float16(), np.float16(1.5), pa.float32(), 1.5),
    "float": (pa.float32(), 1.5, pa.float32(), 1.5),
    "bool": (pa.bool_(), True, pa.bool_(), True),
    "int8": (pa.int8(), -3, pa.int8(), -3),
    "uint64": (pa.uint64(), 2**64 - 1, pa.uint64(), 2**64 - 1),
    "null": (pa.null(), None, pa.null(), None),
    "decimal256": (pa.decimal256(50, 2), Decimal("1.50"), pa.float64(), 1.5),
    "decimal128": (pa.decimal128(38, 2), Decimal("1.50"), pa.decimal128(38, 2), Decimal("1.50")),
    "decimal32": (pa.decimal32(5, 2), Decimal("1.50"), pa.decimal128(5, 2), Decimal("1.50")),
    "text": (pa.large_string(), "é", pa.string(), "é"),
    "text view": (pa.string_view(), "é", pa.string(), "é"),
    "words": (pa.dictionary(pa.int8(), pa.string()), "é", pa.string(), "é"),
    "numbers of few values": (pa.dictionary(pa.int8(), pa.int64()), 3, pa.int64(), 3),
    "bytes of text": (pa.binary(), "é".encode(), pa.string(), "é"),
    "bytes": (pa.binary(), b"\xff\x00", pa.string(), "ff00"),
    "bytes of one length": (pa.binary(2), b"ab", pa.string(), "ab"),
    "large bytes": (pa.large_binary(), b"\xe9", pa.string(), "e9"),
    "date": (pa.date64(), FIRST_OF_JULY * 86_400_000, pa.date32(), "1970-07-02"),
    "second": (pa.timestamp("s"), 7, pa.timestamp("us"), "1970-01-01 00:00:07"),
    "nanosecond": (pa.timestamp("ns"), SEVEN_SECONDS + 1999, pa.timestamp("us"), "1970-01-01 00:00:07.000001"),
    "zone": (pa.timestamp("ms", "Europe/Berlin"), 7000, pa.timestamp("us", "UTC"), "1970-01-01 00:00:07+00:00"),
    "time": (pa.time32("s"), 7, pa.time64("us"), "00:00:07"),
    "time in nanoseconds": (pa.time64("ns"), SEVEN_SECONDS + 1, pa.time64("us"), "00:00:07"),
    "duration": (pa.duration("ms"), 1500, pa.float64(), 1.5),
    "list": (pa.large_list(pa.float16()), [np.float16(1.5)], pa.list_(pa.float32()), [1.5]),
    "list view": (pa.list_view(pa.int64()), [1, 2], pa.list_(pa.int64()), [1, 2]),
    "pair": (pa.list_(pa.float32(), 2), [1.5, 2.0], pa.list_(pa.float32()), [1.5, 2.0]),
    "struct": (pa.struct([("a", pa.float16())]), {"a": np.float16(1.5)}, pa.struct([("a", pa.float32())]), {"a": 1.5}),
    "map": (pa.map_(pa.string(), pa.int64()), [("a", 1)], pa.map_(pa.string(), pa.int64()), [("a", 1)]),
    "words of a list": (pa.list_(pa.dictionary(pa.int32(), pa.string())), ["a"], pa.list_(pa.string()), ["a"]),
}


def plainly(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool | list | dict | Decimal) else str(value)


@pytest.mark.parametrize("case", CASES)
def test_a_column_of_any_type_is_written_and_read(tmp_path: Path, case: str) -> None:
    kind, value, kept, expected = CASES[case]
    table = pa.table({"x": pa.chunked_array([pa.array([value, None], kind)])})
    pq.write_table(table, tmp_path / "manifest.parquet")
    table = pq.read_table(tmp_path / "manifest.parquet")
    column = keep(table["x"], "x", "manifest.parquet")
    assert column.type == kept
    assert kept_type(kept) == kept
    assert [plainly(found) for found in column.to_pylist()] == [expected, None]
    write_table(pa.table({"x": column}), tmp_path / "samples.parquet")
    with duckdb.connect() as connection:
        rows = connection.sql(f"SELECT * FROM '{tmp_path / 'samples.parquet'}'").to_arrow_table()["x"].to_pylist()
    assert [plainly(found) for found in rows] == [expected, None]


def extension(kind: pa.DataType, storage: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, storage)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (
            extension(pa.uuid(), pa.array([b"0123456789abcdef", None], pa.binary(16))),
            [str(uuid.UUID(bytes=b"0123456789abcdef")), None],
        ),
        (extension(pa.bool8(), pa.array([1, None], pa.int8())), [1, None]),
        (extension(pa.json_(), pa.array(['{"a": 1}', None])), [json.dumps({"a": 1}), None]),
    ],
    ids=["uuid", "bool8", "json"],
)
def test_types_upon_types(column: pa.Array, expected: Sequence[object]) -> None:
    assert keep(pa.chunked_array([column]), "x", "manifest.parquet").to_pylist() == expected


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{}], pa.struct([])),
        pa.array([[b"\xff"]], pa.list_(pa.binary())),
        pa.array([[7]], pa.list_(pa.duration("s"))),
        pa.array([pa.MonthDayNano([1, 2, 3])]),
        pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]),
    ],
    ids=lambda column: str(column.type),
)
def test_a_column_that_cannot_be_kept_is_named(column: pa.Array) -> None:
    with pytest.raises(
        InputError, match=r"manifest.parquet: column 'x' is .*, which no table can hold; write it as text or drop it"
    ):
        keep(pa.chunked_array([column]), "x", "manifest.parquet")
