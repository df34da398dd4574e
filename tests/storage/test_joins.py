"""The units of a run joined into its arrays and tables, with crashes on the way."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.filesystems import readable, remote, remove_tree
from storage.joins import Aggregate, Append, Derive, Reduce, Table, aggregate, join_parts, place_rows
from storage.maps import open_maps
from storage.runs.commits import Commit, commit_attempt, ensure_folders, leave_attempt, open_attempt, read_commits
from storage.runs.plan import Plan, Unit
from storage.runs.run import MAPS, Run, create_run
from storage.tables import SCHEMAS, read_table, table_schema, write_table
from tests.storage.shards import META, Row, Work, build, gather

MakePlan = Callable[..., Plan]
FilesOf = Callable[[Path], dict[str, str]]

ATTRIBUTES = {"rule": "linear"}
GATHERED = {table: schema for table, schema in SCHEMAS.items() if table != "gates"}


@pytest.fixture
def work(store_place: Path, make_plan: MakePlan) -> Work:
    return build(store_place, make_plan)


def rows_of(run: Run, table: str) -> list[Row]:
    rows: list[Row] = pq.ParquetFile(readable(run.table(table))).read().to_pylist()
    return rows


def test_rows_of_the_shards_come_in_order_with_their_meta_columns(work: Work) -> None:
    gather(work, ATTRIBUTES)
    assert rows_of(work.run, "samples") == work.samples
    found = rows_of(work.run, "responses")
    assert [{name: row[name] for name in ("sample_index", "class_index", "energy")} for row in found] == work.responses
    assert rows_of(work.run, "failures") == work.failures
    for table, schema in GATHERED.items():
        fields = [*schema, *([META] if table == "samples" else [])]
        assert pq.read_schema(readable(work.run.table(table))).equals(pa.schema(fields))


def test_maps_are_those_of_the_shards(work: Work) -> None:
    gather(work, ATTRIBUTES)
    maps = open_maps(work.run.maps)
    assert maps.attrs.asdict() == {"rule": "linear"}
    np.testing.assert_array_equal(maps["dominant_class"][:], work.dominant_class)
    restored = maps["dominant_response"][:].astype(np.float32) * maps["response_peak"][:][:, None, None]
    np.testing.assert_array_equal(restored, work.dominant_response)


def test_the_artefacts_are_the_maps_files_and_their_hashes(work: Work, files_of: FilesOf) -> None:
    artefacts = gather(work, ATTRIBUTES)
    files = files_of(work.run.store)
    assert artefacts == {path: digest for path, digest in files.items() if f"{work.run.run_id}/maps.zarr/" in path}
    assert len(artefacts) == 9 + 4  # and what describes the group and its three arrays


# After a crash.


def result(work: Work, files_of: FilesOf) -> dict[str, str]:
    """The run's files that readers meet."""
    return {
        path: digest for path, digest in files_of(work.run.store).items() if "/attempts/" not in path and "/commits/" not in path
    }


def test_gathering_again_gives_the_same_files(work: Work, files_of: FilesOf) -> None:
    artefacts = gather(work, ATTRIBUTES)
    before = result(work, files_of)
    assert len(before) == 9 + 4 + 7 + 1  # map files, their JSON, tables, the plan
    assert gather(work, ATTRIBUTES) == artefacts
    assert result(work, files_of) == before
    remove_tree(work.run.store / "tables")
    assert gather(work, ATTRIBUTES) == artefacts
    assert result(work, files_of) == before


class Crash(BaseException):
    """Nothing catches it."""


@pytest.mark.parametrize("crash_at", [0, 1, 4, 8, 9, 10, 13, 15])
def test_a_crash_at_any_move_is_mended_by_gathering_again(
    tmp_path: Path, make_plan: MakePlan, files_of: FilesOf, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    """Nine files of maps and seven tables are moved."""
    whole, work = build(tmp_path / "whole", make_plan), build(tmp_path / "crashed", make_plan)
    replace, moves = Path.replace, iter(range(16))

    def crash(source: Path, target: Path) -> Path:
        if (source.name == "0" or source.suffix == ".parquet") and next(moves) == crash_at:
            raise Crash
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash)
        with pytest.raises(Crash):
            gather(work, ATTRIBUTES)
    assert gather(work, ATTRIBUTES) == gather(whole, ATTRIBUTES)
    assert result(work, files_of) == result(whole, files_of)


@pytest.mark.parametrize("crash_at", [1, 3])
def test_a_crash_while_s3_copies_is_mended_by_gathering_again(
    s3_store: Path, make_plan: MakePlan, files_of: FilesOf, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    """After some of nine files, and between two tables."""
    whole, work = build(s3_store / "whole", make_plan), build(s3_store / "crashed", make_plan)
    filesystem, _ = remote(s3_store)
    copy, put, puts = filesystem.copy, filesystem.put, iter(range(9))

    def crash_copying(sources: list[str], targets: list[str], **options: Any) -> None:
        copy(sources[: 4 * crash_at], targets[: 4 * crash_at], **options)
        raise Crash

    def crash_putting(sources: list[str], targets: list[str], **options: Any) -> None:
        if targets[0].endswith(".parquet") and next(puts) == crash_at:
            raise Crash
        put(sources, targets, **options)

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, *(("copy", crash_copying) if crash_at < 3 else ("put", crash_putting)))
        with pytest.raises(Crash):
            gather(work, ATTRIBUTES)
    assert gather(work, ATTRIBUTES) == gather(whole, ATTRIBUTES)
    assert result(work, files_of) == result(whole, files_of)


def test_what_is_gathered_in_s3_is_what_is_gathered_on_a_disk(
    tmp_path: Path, s3_store: Path, make_plan: MakePlan, files_of: FilesOf
) -> None:
    on_disk, in_s3 = build(tmp_path / "disk", make_plan), build(s3_store, make_plan)
    assert gather(on_disk, ATTRIBUTES) == gather(in_s3, ATTRIBUTES)
    assert result(on_disk, files_of) == result(in_s3, files_of)


@pytest.mark.parametrize("gone", ["", "maps.zarr", "maps.zarr/response_peak/c/0", "samples.parquet", "failures.parquet"])
def test_a_commit_whose_files_are_gone_is_an_error_and_not_an_empty_shard(work: Work, gone: str) -> None:
    path = work.run.attempts / read_commits(work.run, MAPS)[1].attempt / gone
    if path.is_dir():
        remove_tree(path)
    else:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=read_commits(work.run, MAPS)[1].attempt):
        gather(work, ATTRIBUTES)
    assert not work.run.table("class_stats").exists()
    assert not work.run.is_published


# Tables of any analysis.

NUMBERS = table_schema([pa.field("number", pa.int32())])
SUM = table_schema([pa.field("class_name", pa.string()), pa.field("number_sum", pa.int64())])


def sum_numbers(parts: Sequence[Path], plan: Plan) -> pa.Table:
    total = sum(sum(read_table(part)["number"].to_pylist()) for part in parts)
    return pa.table({"class_name": plan.class_names, "number_sum": [total] * len(plan.class_names)})


TABLES = (
    Table("numbers", NUMBERS),
    Table("sums", SUM, Reduce(NUMBERS, sum_numbers)),
    Table("doubles", SUM, Aggregate("SELECT unnest($class_names) AS class_name, 2 * sum(number) AS number_sum FROM numbers")),
    Table("counts", pa.schema([pa.field("number_count", pa.int16())]), Aggregate("SELECT count(*) AS number_count FROM numbers")),
)


def commit_numbers(run: Run, *parts: list[int]) -> list[Commit]:
    """A unit a part, committed last first."""
    ensure_folders(run, ["toy"])
    for index, part in reversed(list(enumerate(parts))):
        unit = Unit(index, 0, len(part))
        attempt = open_attempt(run, "toy", unit)
        for table in TABLES:
            if table.part_schema is not None:
                write_table(pa.table({"number": pa.array(part, pa.int32())}, schema=NUMBERS), attempt / table.part_name)
        assert commit_attempt(run, "toy", unit, attempt, "i0", len(part), 0, 1.0)
        leave_attempt(run, attempt)
    commits = read_commits(run, "toy")
    return [commits[index] for index in range(len(parts))]


def test_what_a_unit_writes_of_a_table(make_plan: MakePlan) -> None:
    assert [table.part_schema for table in TABLES] == [NUMBERS, NUMBERS, None, None]
    assert isinstance(TABLES[0].join, Append)
    assert [table.part_name for table in TABLES[:2]] == ["numbers.parquet", "sums.parquet"]


def test_parts_are_appended_reduced_and_aggregated(store_place: Path, make_plan: MakePlan, files_of: FilesOf) -> None:
    plan = make_plan()
    run = create_run(store_place, plan)
    commits = commit_numbers(run, [3, 1], [], [4, 1, 5])
    join_parts(run, plan, TABLES, commits)
    assert not run.table("doubles").exists()
    aggregate(run, plan, TABLES)
    assert rows_of(run, "numbers") == [{"number": number} for number in (3, 1, 4, 1, 5)]
    assert rows_of(run, "sums") == [{"class_name": name, "number_sum": 14} for name in ("cat", "dog")]
    assert rows_of(run, "doubles") == [{"class_name": name, "number_sum": 28} for name in ("cat", "dog")]
    assert rows_of(run, "counts") == [{"number_count": 5}]
    for table in TABLES:
        assert pq.read_schema(readable(run.table(table.name))).equals(table.schema)
    before = files_of(store_place)
    join_parts(run, plan, TABLES, commits)
    aggregate(run, plan, TABLES)
    assert files_of(store_place) == before


def test_without_a_unit_the_tables_are_empty(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan(sample_count=0)
    run = create_run(tmp_path, plan)
    join_parts(run, plan, TABLES, [])
    assert rows_of(run, "numbers") == []
    assert rows_of(run, "sums") == [{"class_name": name, "number_sum": 0} for name in ("cat", "dog")]


def test_a_table_takes_the_place_of_what_lay_there(tmp_path: Path, make_plan: MakePlan) -> None:
    run = create_run(tmp_path, make_plan())
    other = run.table("numbers").with_name("part-1.parquet")
    other.parent.mkdir(parents=True)
    other.write_text("of another")
    rows = pa.table({"further": ["x"], "number": pa.array([7], pa.int64())})
    place_rows(run, "numbers", rows, NUMBERS)
    assert [path.name for path in other.parent.iterdir()] == ["part-0.parquet"]
    assert rows_of(run, "numbers") == [{"number": 7}]


def test_a_table_is_derived_from_those_before_it(work: Work) -> None:
    gather(work, ATTRIBUTES)
    count = table_schema([pa.field("n", pa.int64(), metadata={"about": "a count"})])
    asked: list[str] = []

    def derive(connection: Any, plan: Plan) -> pa.Table:
        asked.append(plan.run_id)
        return pa.table({"n": [2 * connection.sql("SELECT n FROM counted").fetchall()[0][0]]})

    tables = [Table("counted", count, Aggregate("SELECT count(*) AS n FROM samples")), Table("doubled", count, Derive(derive))]
    aggregate(work.run, work.plan, tables)
    assert rows_of(work.run, "doubled") == [{"n": 2 * len(work.samples)}]
    assert asked == [work.run.run_id]
    assert tables[1].part_schema is None
