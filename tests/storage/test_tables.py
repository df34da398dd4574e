"""The schemas' promises, and the Parquet files as another reader finds them."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import tables
from storage.tables import PER_SHARD, SCHEMA_VERSION, SCHEMAS, compact, write_table

FIELDS = [(table, field) for table, schema in SCHEMAS.items() for field in schema]
IDS = [f"{table}.{field.name}" for table, field in FIELDS]


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
        if pa.types.is_list(kind):
            return [[0.25, 0.5] if pa.types.is_floating(kind.value_type) else ["cat", "dog"]] * count
        return [int(value) for value in generator.integers(0, 9, count)]

    columns = [
        pa.array([None if generator.random() < 1 / 8 else value for value in values(field.type)], field.type) for field in schema
    ]
    return pa.table(columns, schema=schema)


@pytest.mark.parametrize(("table", "field"), FIELDS, ids=IDS)
def test_every_column_says_what_it_is(table: str, field: pa.Field) -> None:
    metadata = {key.decode(): value.decode() for key, value in field.metadata.items()}
    assert len(metadata["about"].split()) >= 2
    assert set(metadata) <= {"about", "direction"}
    is_score = pa.types.is_floating(field.type) and not field.name.endswith("_secs")
    assert metadata.get("direction") in ({"higher", "lower", "none"} if is_score else {None})


@pytest.mark.parametrize(("table", "field"), FIELDS, ids=IDS)
def test_names_are_snake_case_with_the_suffix_of_their_kind(table: str, field: pa.Field) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name)
    suffix = field.name.rsplit("_", 1)[-1]
    kinds = {"at": pa.timestamp("us", tz="UTC"), "secs": pa.float64(), "id": pa.string(), "hash": pa.string()}
    assert field.type == kinds.get(suffix, field.type)
    assert pa.types.is_integer(field.type) == (suffix in {"count", "index", "label", "prediction", "class"})
    assert pa.types.is_timestamp(field.type) == (suffix == "at")
    assert pa.types.is_boolean(field.type) == field.name.startswith("is_")
    if "frac" in field.name.split("_"):
        assert pa.types.is_floating(field.type.value_type if pa.types.is_list(field.type) else field.type)


RELIED_ON = {
    "samples": "sample_index sample_id label prediction probability is_correct dominant_class dominant_energy_frac "
    "prediction_energy_frac label_energy_frac positive_area_frac sparseness complexity centroid_y centroid_x spread "
    "half_energy_area_frac dominance_margin class_cosine",
    "responses": "sample_index class_index logit probability energy peak sparseness complexity centroid_y centroid_x spread "
    "half_energy_area_frac dominant_area_frac dominant_energy_frac",
    "confusion": "label prediction dominant_class sample_count energy_frac",
}


@pytest.mark.parametrize("table", RELIED_ON)
def test_the_columns_that_others_rely_on_are_there(table: str) -> None:
    assert [name for name in RELIED_ON[table].split() if name not in SCHEMAS[table].names] == []


def test_tables_are_those_of_the_design_and_hold_no_column_twice() -> None:
    # And `evidence`, which is ours.
    assert set(SCHEMAS) == {
        "evidence",
        "runs",
        "samples",
        "responses",
        "class_stats",
        "confusion",
        "localization",
        "gates",
        "failures",
    }
    for schema in SCHEMAS.values():
        assert len(set(schema.names)) == len(schema.names)
        assert "run_id" not in schema.names, "the partition's"


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_file_has_the_settings_of_the_design(tmp_path: Path, table: str) -> None:
    path = tmp_path / "part.parquet"
    write_table(random_rows(SCHEMAS[table], 500), path)
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunks = {group.column(index).path_in_schema.split(".")[0]: group.column(index) for index in range(group.num_columns)}
    assert sorted(chunks) == sorted(SCHEMAS[table].names)
    for field in SCHEMAS[table]:
        chunk = chunks[field.name]
        assert chunk.compression == "ZSTD"
        floating = pa.types.is_floating(field.type)
        assert ("BYTE_STREAM_SPLIT" in chunk.encodings) == floating
        indexed = pa.types.is_integer(field.type) or pa.types.is_string(field.type)
        if floating or indexed:
            assert ("RLE_DICTIONARY" in chunk.encodings) == indexed


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_file_carries_rows_schema_version_and_what_columns_mean(tmp_path: Path, table: str) -> None:
    path = tmp_path / "part.parquet"
    rows = random_rows(SCHEMAS[table], 30)
    write_table(rows, path)
    back = pq.ParquetFile(path).read()
    assert back.to_pylist() == rows.to_pylist()
    assert back.schema.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
    for field in SCHEMAS[table]:
        assert back.schema.field(field.name).metadata[b"about"] == field.metadata[b"about"]
        assert back.schema.field(field.name).metadata.get(b"direction") == field.metadata.get(b"direction")


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([5, 3, 4], [8, 4]),
        ([0, 3, 0, 2], [5]),
        ([0, 0], []),
        ([7, 1], [8]),
        ([7, 2, 30, 8], [8, 8, 8, 8, 8, 7]),
        ([16, 0], [8, 8]),
    ],
)
def test_compact_is_the_parts_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int], groups: list[int]
) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP", 8)
    schema = pa.schema([*SCHEMAS["samples"], pa.field("meta_site", pa.string())], metadata=SCHEMAS["samples"].metadata)
    parts, rows = [], []
    for number, size in enumerate(sizes):
        part = random_rows(schema, size, seed=number)
        rows += part.to_pylist()
        parts.append(tmp_path / f"{9 - number}.parquet")
        write_table(part, parts[-1])
    assert compact(parts, tmp_path / "all.parquet", schema) == sum(sizes)
    file = pq.ParquetFile(tmp_path / "all.parquet")
    assert file.read().to_pylist() == rows
    assert file.schema_arrow.equals(schema, check_metadata=True)
    assert [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)] == groups


def test_compact_of_the_same_parts_is_the_same_file(tmp_path: Path) -> None:
    parts = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for number, part in enumerate(parts):
        write_table(random_rows(SCHEMAS["responses"], 50, seed=number), part)
    for name in ("a", "b"):
        compact(parts, tmp_path / name, SCHEMAS["responses"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_shards_write_tables_that_exist() -> None:
    assert set(PER_SHARD) <= set(SCHEMAS)
    assert all("sample_index" in SCHEMAS[table].names for table in PER_SHARD)
