"""The schemas' promises, and the Parquet files as another reader finds them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import tables
from storage.tables import PER_SHARD, SCHEMAS, compact, write_table
from tests.storage.schemas import check_column, check_content, check_names, check_settings, random_rows

FIELDS = [(table, field) for table, schema in SCHEMAS.items() for field in schema]
IDS = [f"{table}.{field.name}" for table, field in FIELDS]


@pytest.mark.parametrize(("table", "field"), FIELDS, ids=IDS)
def test_every_column_says_what_it_is_and_has_the_name_of_its_kind(table: str, field: pa.Field) -> None:
    check_column(field)


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
    assert set(SCHEMAS) == {
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
        check_names(schema)


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_file_has_the_settings_of_the_design(tmp_path: Path, table: str) -> None:
    check_settings(SCHEMAS[table], tmp_path / "part.parquet")


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_file_carries_rows_schema_version_and_what_columns_mean(tmp_path: Path, table: str) -> None:
    check_content(SCHEMAS[table], tmp_path / "part.parquet")


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
