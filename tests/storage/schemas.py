"""What holds of the schema of every table, and of its Parquet file as another reader finds it."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.tables import SCHEMA_VERSION, write_table


def random_rows(schema: pa.Schema, count: int, seed: int = 0) -> pa.Table:
    """Values of every kind, one in eight NULL."""
    generator = np.random.default_rng(seed)

    def values(kind: pa.DataType) -> list[object]:
        if pa.types.is_floating(kind):
            return [float(np.float32(value)) for value in generator.random(count)]
        if pa.types.is_boolean(kind):
            return [bool(value) for value in generator.integers(0, 2, count)]
        if pa.types.is_string(kind):
            return [f"name-{value}" for value in generator.integers(0, 9, count)]
        if pa.types.is_binary(kind):
            return [bytes(generator.integers(0, 256, 9, np.uint8)) for _ in range(count)]
        if pa.types.is_list(kind):
            return [[0.25, 0.5] if pa.types.is_floating(kind.value_type) else ["cat", "dog"]] * count
        return [int(value) for value in generator.integers(0, 9, count)]

    columns = [
        pa.array([None if generator.random() < 1 / 8 else value for value in values(field.type)], field.type) for field in schema
    ]
    return pa.table(columns, schema=schema)


def check_schema(schema: pa.Schema, folder: Path) -> None:
    """All that holds of the schema of every table. folder: where files are written to look."""
    for field in schema:
        check_column(field)
    check_names(schema)
    check_settings(schema, folder / "settings.parquet")
    check_content(schema, folder / "content.parquet")


def check_column(field: pa.Field) -> None:
    """It says what it is, and has a name in snake_case with the suffix of its kind."""
    metadata = {key.decode(): value.decode() for key, value in field.metadata.items()}
    assert len(metadata["about"].split()) >= 2
    assert set(metadata) <= {"about", "direction"}
    is_score = pa.types.is_floating(field.type) and not field.name.endswith("_secs")
    assert metadata.get("direction") in ({"higher", "lower", "none"} if is_score else {None})
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name)
    suffix = field.name.rsplit("_", 1)[-1]
    kinds = {"at": pa.timestamp("us", tz="UTC"), "secs": pa.float64(), "id": pa.string(), "hash": pa.string()}
    assert field.type == kinds.get(suffix, field.type)
    assert pa.types.is_integer(field.type) == (suffix in {"count", "index", "label", "prediction", "class"})
    assert pa.types.is_timestamp(field.type) == (suffix == "at")
    assert pa.types.is_boolean(field.type) == field.name.startswith("is_")
    if "frac" in field.name.split("_"):
        assert pa.types.is_floating(field.type.value_type if pa.types.is_list(field.type) else field.type)


def check_names(schema: pa.Schema) -> None:
    assert len(set(schema.names)) == len(schema.names)
    assert "run_id" not in schema.names, "the partition's"


def check_settings(schema: pa.Schema, path: Path) -> None:
    """How a file is compressed and encoded. path: where one is written to look."""
    write_table(random_rows(schema, 500), path)
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunks = {group.column(index).path_in_schema.split(".")[0]: group.column(index) for index in range(group.num_columns)}
    assert sorted(chunks) == sorted(schema.names)
    for field in schema:
        chunk = chunks[field.name]
        assert chunk.compression == "ZSTD"
        floating = pa.types.is_floating(field.type)
        assert ("BYTE_STREAM_SPLIT" in chunk.encodings) == floating
        indexed = pa.types.is_integer(field.type) or pa.types.is_string(field.type)
        if floating or indexed:
            assert ("RLE_DICTIONARY" in chunk.encodings) == indexed


def check_content(schema: pa.Schema, path: Path) -> None:
    """A file carries rows, schema version and what columns mean. path: where one is written to look."""
    rows = random_rows(schema, 30)
    write_table(rows, path)
    back = pq.ParquetFile(path).read()
    assert back.to_pylist() == rows.to_pylist()
    assert back.schema.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
    for field in schema:
        assert back.schema.field(field.name).metadata[b"about"] == field.metadata[b"about"]
        assert back.schema.field(field.name).metadata.get(b"direction") == field.metadata.get(b"direction")
