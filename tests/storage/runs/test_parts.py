"""The files of a committed shard, damaged in every way: each is found, and the shard is to be computed again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from storage.filesystems import hash_file, is_remote, readable
from storage.runs.commits import Commit, read_commits, sound_commits
from storage.runs.parts import map_places, measured_fault, part_fault
from storage.runs.plan import Plan, Unit
from storage.runs.run import MAPS
from storage.tables import PER_SHARD, SCHEMAS, write_table
from tests.storage.shards import IDENTITY, Work, build, gather

MakePlan = Callable[..., Plan]

PARTS = {table: SCHEMAS[table] for table in PER_SHARD}

ON_DISK = pytest.mark.parametrize("store_place", ["disk"], indirect=True)


@pytest.fixture
def work(store_place: Path, make_plan: MakePlan) -> Work:
    return build(store_place, make_plan)


def sound(work: Work) -> tuple[list[int], list[str]]:
    """The shards whose commits hold, and what is wrong with the others."""

    def fault_of(shard: Unit, commit: Commit) -> str | None:
        return part_fault(work.run, work.plan, shard, commit, PARTS, measured_fault)

    commits, faults = sound_commits(work.run, MAPS, IDENTITY, work.plan.shards(), fault_of)
    return list(commits), faults


def part(work: Work, shard: int, name: str) -> Path:
    path: Path = work.run.attempts / read_commits(work.run, MAPS)[shard].attempt / name
    return path


def test_what_was_committed_holds_and_stays(work: Work) -> None:
    assert sound(work) == ([0, 1, 2], [])
    assert sound(work) == ([0, 1, 2], [])


@pytest.mark.parametrize("name", [*(f"{table}.parquet" for table in PER_SHARD), *map_places(0)])
def test_a_file_that_was_altered_or_is_gone_takes_its_shard_with_it(work: Work, name: str) -> None:
    altered, gone = part(work, 0, name), part(work, 2, name)
    content = altered.read_bytes()
    altered.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    gone.unlink()
    shards, faults = sound(work)
    assert shards == [1]
    assert f"'{name}' of its attempt is not as it was committed" in faults[0]
    assert f"'{name}' of its attempt is gone" in faults[1]
    assert all("commits/maps/0000" in fault and "its unit is computed again" in fault for fault in faults)
    assert [path.name for path in work.run.commits_of(MAPS).iterdir()] == ["00001.json"]
    assert sound(work) == ([1], [])


@ON_DISK
def test_maps_that_were_moved_before_a_crash_are_hashed_where_they_are(work: Work) -> None:
    gather(work)
    assert sound(work) == ([0, 1, 2], [])
    place = work.run.maps / map_places(1)["maps.zarr/dominant_class/c/0/0/0"]
    place.write_bytes(place.read_bytes()[::-1])
    shards, (fault,) = sound(work)
    assert shards == [0, 2]
    assert "dominant_class/c/0/0/0' of its attempt is not as it was committed" in fault


def recommit(work: Work, place: int, **changes: Any) -> None:
    """Writes a commit's record anew, with the hashes that its files have by now."""
    path = work.run.commits_of(MAPS) / f"{place:05d}.json"
    record = json.loads(path.read_text())
    attempt = work.run.attempts / record["attempt"]
    record["files"] = {name: hash_file(attempt / name) for name in record["files"]}
    path.write_text(json.dumps(record | changes))


@ON_DISK
@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"processed_count": 1 << 40}, "it counts 1,099,511,627,777 items, and the unit has 16"),
        ({"processed_count": 1 << 41}, "processed_count: Input should be less than or equal to"),
        ({"processed_count": 16}, "it counts 17 items, and the unit has 16"),
        ({"processed_count": 14, "failed_count": 2}, "'samples.parquet' has 15 rows, and 14 were committed"),
        ({"run_id": "20261121T030000Z-audit-0002"}, "is of unit 0 of analysis 'maps' of run '20261121T030000Z-audit-0002'"),
        ({"unit": 1}, "is of unit 1 of analysis 'maps' of run"),
        ({"analysis": "evidence"}, "is of unit 0 of analysis 'evidence' of run"),
        ({"identity": "i1"}, "analysis 'maps' was done by other options"),
        ({"attempt": "maps-00001-aaaaaaaa"}, "it names the attempt 'maps-00001-aaaaaaaa', which is not of unit 0"),
        ({"attempt": "evidence-00000-aaaa"}, "it names the attempt 'evidence-00000-aaaa', which is not of unit 0"),
        ({"attempt": "maps-00000-aaaaaaaa"}, "of its attempt is gone"),
        ({"attempt": "../maps-00000-a"}, "attempt: Value error"),
        ({"duration_secs": -1}, "duration_secs: Input should be greater"),
        ({"files": {}}, "it does not name 'maps.zarr/dominant_class/c/0/0/0'"),
        ({"files": {"../../plan.json": "0"}}, "leads out of its folder"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
    ],
)
def test_a_record_that_does_not_hold(work: Work, changes: dict[str, Any], fault: str) -> None:
    recommit(work, 0, **changes)
    shards, (said,) = sound(work)
    assert shards == [1, 2]
    assert fault in said


def rewrite(change: Callable[[pa.Table], pa.Table], name: str = "samples.parquet") -> Callable[[Work], None]:
    def damage(work: Work) -> None:
        path = part(work, 0, name)
        write_table(change(pq.read_table(path)), path)
        recommit(work, 0)

    return damage


def replaced(table: pa.Table, column: str, values: Any) -> pa.Table:
    field = table.schema.field(column)
    return table.set_column(table.column_names.index(column), field, pa.array(values, field.type))


def swap_attempts(work: Work) -> None:
    """Each of two shards has the other's files, under records that fit them."""
    first, second = (work.run.attempts / read_commits(work.run, MAPS)[shard].attempt for shard in (0, 1))
    first.rename(first.with_name("x"))
    second.rename(first)
    first.with_name("x").rename(second)
    recommit(work, 0)
    recommit(work, 1)


def cut_table(work: Work) -> None:
    path = part(work, 0, "samples.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    recommit(work, 0)


def swap_maps(work: Work) -> None:
    for name in map_places(0):
        first, second = part(work, 0, name), part(work, 1, name)
        kept = first.read_bytes()
        shutil.copyfile(second, first)
        second.write_bytes(kept)


@ON_DISK
@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (swap_maps, "maps.zarr/dominant_class/c/0/0/0' of its attempt is not as it was committed"),
        (swap_attempts, "'samples.parquet' has 14 rows, and 15 were committed"),
        (rewrite(lambda rows: rows.slice(1)), "'samples.parquet' has 14 rows, and 15 were committed"),
        (rewrite(lambda rows: rows.take([0, *range(14)])), "its tables are not of the images 0 to 15, each once"),
        (
            rewrite(lambda rows: replaced(rows, "sample_index", pc.add(rows["sample_index"], 16).to_pylist())),
            "its tables are not of the images 0 to 15, each once",
        ),
        (rewrite(lambda rows: replaced(rows, "prediction", [4] * len(rows))), "classes outside of the 4 that there are"),
        (rewrite(lambda rows: replaced(rows, "label", [-1] * len(rows))), "classes outside of the 4 that there are"),
        (
            rewrite(lambda rows: replaced(rows, "class_index", [9] * len(rows)), "responses.parquet"),
            "classes outside of the 4 that there are",
        ),
        (
            rewrite(lambda rows: replaced(rows, "sample_index", [5] * len(rows)), "responses.parquet"),
            "'responses.parquet' is of other images than 'samples.parquet'",
        ),
        (
            rewrite(lambda rows: rows.drop_columns(["sample_index"])),
            "'samples.parquet' has no column 'sample_index' of type int64",
        ),
        (
            rewrite(lambda rows: rows.set_column(0, "sample_index", rows["sample_index"].cast("int32"))),
            "'samples.parquet' has no column 'sample_index' of type int64",
        ),
        (cut_table, "its tables cannot be read"),
    ],
)
def test_files_that_fit_their_record_and_not_their_shard(work: Work, damage: Callable[[Work], None], fault: str) -> None:
    damage(work)
    shards, faults = sound(work)
    assert shards == [2] if damage in (swap_attempts, swap_maps) else [1, 2]
    assert fault in faults[0]


def test_what_is_no_record_is_removed(work: Work) -> None:
    (work.run.commits_of(MAPS) / "00000.json").write_text('{"unit": 0')
    (work.run.commits_of(MAPS) / "00007.json").write_text((work.run.commits_of(MAPS) / "00001.json").read_text())
    (work.run.commits_of(MAPS) / "notes.txt").write_text("x")
    if not is_remote(work.run.store):
        (work.run.commits_of(MAPS) / "00002.json").unlink()
        (work.run.commits_of(MAPS) / "00002.json").mkdir()
    shards, faults = sound(work)
    assert shards == ([1, 2] if is_remote(work.run.store) else [1])
    assert len(faults) == (3 if is_remote(work.run.store) else 4)
    assert sorted(read_commits(work.run, MAPS)) == shards


def test_tables_are_joined_of_what_is_sound(work: Work, make_plan: MakePlan) -> None:
    """A shard that is computed again gives the very tables that there would have been."""
    path = part(work, 1, "samples.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    assert sound(work)[0] == [0, 2]
    again = build(work.run.store, lambda **facts: make_plan(**facts, run_id="20261121T030000Z-audit-0002"))
    record: Commit = read_commits(again.run, MAPS)[1]
    for file in record.files:
        place = work.run.attempts / record.attempt / file
        if not is_remote(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((again.run.attempts / record.attempt / file).read_bytes())
    (work.run.commits_of(MAPS) / "00001.json").write_text(record.model_copy(update={"run_id": work.run.run_id}).model_dump_json())
    for one in (work, again):
        gather(one)
    tables = [pq.read_table(readable(one.run.table("samples")), partitioning=None) for one in (work, again)]
    assert tables[0].equals(tables[1])
