"""Columns that have other types from run to run: whatever one run brought, all are read."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.runs.run import Run
from storage.sql.read_only import connect, select
from storage.sql.union import common_type
from storage.tables import SCHEMAS

PutRows = Callable[..., Path]

VALUES: list[tuple[pa.DataType, Any, str]] = [
    (pa.int64(), 2**53 + 1, "9007199254740993"),
    (pa.int8(), -3, "-3"),
    (pa.float32(), 1.5, "1.5"),
    (pa.string(), "seven", "seven"),
    (pa.bool_(), True, "true"),
    (pa.date32(), date(2026, 11, 27), "2026-11-27"),
    (pa.timestamp("us"), datetime(2026, 11, 27, 3), "2026-11-27 03:00:00"),
    (pa.timestamp("us", "UTC"), datetime(2026, 11, 27, 3, tzinfo=UTC), "2026-11-27"),
    (pa.time64("us"), time(3), "03:00:00"),
    (pa.list_(pa.int64()), [1, 2], "[1, 2]"),
    (pa.struct([("a", pa.int64())]), {"a": 1}, "{'a': 1}"),
    (pa.decimal128(38, 2), Decimal("1.50"), "1.50"),
    (pa.uint64(), 2**64 - 1, "18446744073709551615"),
]


def rows(store: Path, sql: str, runs: tuple[str, ...] = ("a", "b")) -> list[dict[str, Any]]:
    return select(connect(store, runs), sql).to_pylist()


def test_any_two_types_of_a_column_are_read_together(tmp_path: Path, put_rows: PutRows) -> None:
    pairs = {f"meta_{index}": pair for index, pair in enumerate(permutations(VALUES, 2))}
    for place, run in enumerate("ab"):
        row = {name: pair[place][1] for name, pair in pairs.items()}
        put_rows(run, "samples", [{"sample_index": 0} | row], [pa.field(name, pair[place][0]) for name, pair in pairs.items()])
    connection = connect(tmp_path, ["a", "b"])
    assert select(connection, "SELECT * FROM samples").num_rows == 2
    texts = select(connection, "SELECT COLUMNS('meta_.*')::VARCHAR FROM samples ORDER BY run_id").to_pylist()
    for name, pair in pairs.items():
        for found, (kind, value, expected) in zip((row[name] for row in texts), pair, strict=True):
            if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
                assert float(found) == float(value)
            else:
                assert found.startswith(expected), kind


def test_a_column_that_came_later_or_has_no_value(tmp_path: Path, put_rows: PutRows) -> None:
    put_rows("a", "samples", [{"sample_index": 0}])
    put_rows("b", "samples", [{"sample_index": 0, "meta_x": None}], [pa.field("meta_x", pa.null())])
    put_rows("c", "samples", [{"sample_index": 0, "meta_x": 7}], [pa.field("meta_x", pa.int64())])
    put_rows("d", "samples", [{"sample_index": 0, "meta_x": "x"}], [pa.field("meta_x", pa.string())])
    sql = "SELECT meta_x FROM samples ORDER BY run_id"
    assert rows(tmp_path, sql, ("a", "b", "c")) == [{"meta_x": None}, {"meta_x": None}, {"meta_x": 7}]
    assert rows(tmp_path, sql, ("a", "b", "c", "d")) == [{"meta_x": value} for value in (None, None, "7", "x")]


def test_a_file_in_an_encoding_that_duckdb_has_not_is_read(tmp_path: Path, put_rows: PutRows) -> None:
    """As an older version wrote a column of floats of 16 bits."""
    schema = pa.schema([*SCHEMAS["samples"], pa.field('meta_"x', pa.float16()), pa.field("meta_y", pa.int64())])
    values = [{"sample_index": index, 'meta_"x': np.float16(index / 2), "meta_y": index} for index in range(3)]
    path = Run(tmp_path, "a").table("samples")
    path.parent.mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist(values, schema=schema), path, use_dictionary=["sample_id"], use_byte_stream_split=['meta_"x']
    )
    put_rows("b", "samples", [{"sample_index": 7, "meta_y": "seven"}], [pa.field("meta_y", pa.string())])
    connection = connect(tmp_path, ["a", "b"], reference="a")
    found = select(connection, "SELECT * FROM samples ORDER BY run_id, sample_index").to_pylist()
    assert [(row["run_id"], row["sample_index"], row['meta_"x'], row["meta_y"]) for row in found] == [
        ("a", 0, 0.0, "0"),
        ("a", 1, 0.5, "1"),
        ("a", 2, 1.0, "2"),
        ("b", 7, None, "seven"),
    ]
    assert select(connection, 'SELECT max("meta_""x") AS x FROM reference.samples').to_pylist() == [{"x": 1.0}]


@pytest.mark.parametrize(
    ("kinds", "common"),
    [
        (["BIGINT"], None),
        (["BIGINT", "TINYINT"], None),
        (["BIGINT", '"NULL"'], None),
        (["BIGINT", "FLOAT"], "DOUBLE"),
        (["DECIMAL(38,2)", "DECIMAL(38,30)"], "DOUBLE"),
        (["DATE", "TIMESTAMP_NS"], "TIMESTAMP"),
        (["DATE", "TIMESTAMP WITH TIME ZONE"], "VARCHAR"),
        (["BOOLEAN", "BIGINT"], "VARCHAR"),
        (["BIGINT[]", "VARCHAR[]"], "VARCHAR"),
    ],
    ids=str,
)
def test_the_type_that_holds_several(kinds: list[str], common: str | None) -> None:
    assert common_type(set(kinds)) == common
