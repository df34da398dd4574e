"""The mean evidence maps: sums of shards, whether they are as they were committed, and what they are joined to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.analyses.analysis import Job, Options
from flows.analyses.evidence import ANALYSIS, CELLS, SCHEMA, as_sums, cell_pixels, mean_evidence
from flows.analyses.runner import take_commits
from storage.errors import InputError
from storage.filesystems import hash_file, readable
from storage.joins import join_parts
from storage.runs.commits import commit_attempt, ensure_folders, leave_attempt, open_attempt, read_commits
from storage.runs.lookup import published_runs
from storage.sql.read_only import connect, select
from storage.tables import write_table
from tests.reports.stores import SMALL, make_plan
from tests.storage.schemas import check_schema
from tests.storage.shards import STARTED, Row, Work, build

JOB = Job(ANALYSIS, Options())
OLD_STORES = Path(__file__).parents[2] / "storage" / "old_stores"


def test_the_schema_is_that_of_a_table_of_ours(tmp_path: Path) -> None:
    check_schema(SCHEMA, tmp_path)


@pytest.mark.parametrize("version", ["v5", "v6"])
def test_the_table_of_an_older_version_has_the_columns_of_this_one(version: str) -> None:
    (run,) = published_runs(OLD_STORES / version)
    rows = select(connect(run.store, [run.run_id]), "SELECT * FROM evidence")
    assert rows.column_names == [*SCHEMA.names, "run_id"]
    plain = [field for field in SCHEMA if not pa.types.is_nested(field.type)]
    assert [rows.schema.field(field.name).type for field in plain] == [field.type for field in plain]
    assert rows.num_rows


def test_a_run_without_it_has_no_such_table(tmp_path: Path) -> None:
    (run,) = published_runs(OLD_STORES / "v1")
    with pytest.raises(InputError, match="table 'evidence' does not exist"):
        select(connect(run.store, [run.run_id]), "SELECT * FROM evidence")


@pytest.mark.parametrize(("height", "width", "side"), [(28, 28, 1), (64, 3, 1), (65, 3, 2), (224, 224, 4), (10, 1000, 16)])
def test_no_side_has_more_than_the_most_cells(height: int, width: int, side: int) -> None:
    assert cell_pixels(height, width) == side
    assert -(-max(height, width) // side) <= CELLS


def test_means_of_shards_are_those_of_all_samples(tmp_path: Path) -> None:
    """Three shards, of which one has no labelled sample and one has not all classes; class 'b' has no sample."""
    first, second = tmp_path / "first", tmp_path / "second"
    nothing = tmp_path / "nothing"
    own = np.array([[[0.5, 0.25, 0.25]], [[0.0, 1.0, 0.0]]])
    write_table(as_sums(np.array([0, 2]), np.array([1, 2]), own, 1 - own), first)
    write_table(as_sums(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 1, 3)), np.zeros((0, 1, 3))), nothing)
    write_table(as_sums(np.array([0]), np.array([3]), own[:1] + 0.5, own[:1]), second)
    plan = make_plan(SMALL).model_copy(update={"class_names": ["a", "b", "c"], "height": 1, "width": 3})
    table = mean_evidence([first, nothing, second], plan)
    assert table.schema == SCHEMA
    assert table.to_pylist() == [
        {
            "class_index": 0,
            "class_name": "a",
            "evidence_count": 4,
            "cell_pixel_count": 1,
            "column_count": 3,
            "label_energy_frac_mean": [0.375, 0.25, 0.25],
            "other_energy_frac_mean": [0.25, 0.25, 0.25],
        },
        {
            "class_index": 1,
            "class_name": "b",
            "evidence_count": 0,
            "cell_pixel_count": 1,
            "column_count": 3,
            "label_energy_frac_mean": None,
            "other_energy_frac_mean": None,
        },
        {
            "class_index": 2,
            "class_name": "c",
            "evidence_count": 2,
            "cell_pixel_count": 1,
            "column_count": 3,
            "label_energy_frac_mean": [0, 0.5, 0],
            "other_energy_frac_mean": [0.5, 0, 0.5],
        },
    ]


# Of whole shards.


@pytest.fixture
def work(store_place: Path) -> Work:
    """A run whose shards are committed, with sums that are no shares, but tell the shards apart.

    Classes 0, 1 and 2 have one shard each, class 3 all of them.
    """
    work = build(store_place, lambda **facts: make_plan(SMALL).model_copy(update=SHAPE | facts))
    ensure_folders(work.run, [ANALYSIS.name])
    for shard in work.plan.shards():
        response = work.dominant_response[shard.start : shard.stop] / 512
        labels = np.array([shard.index, 3])
        attempt = open_attempt(work.run, ANALYSIS.name, shard)
        write_table(as_sums(labels, labels + 1, response[:2], response[2:4]), attempt / "evidence.parquet")
        assert commit_attempt(work.run, ANALYSIS.name, shard, attempt, JOB.identity, shard.size, 0, 1.0)
        leave_attempt(work.run, attempt)
    return work


SHAPE = {"sample_count": 40, "shard_samples": 16, "height": 4, "width": 5, "created_at": STARTED}
ON_DISK = pytest.mark.parametrize("store_place", ["disk"], indirect=True)


def test_mean_evidence_is_that_of_all_shards(work: Work) -> None:
    commits = read_commits(work.run, ANALYSIS.name)
    join_parts(work.run, work.plan, ANALYSIS.tables, [commits[index] for index in range(3)])
    place = work.run.table("evidence")
    found: list[Row] = pq.ParquetFile(readable(place)).read().to_pylist()
    assert pq.read_schema(readable(place)).equals(SCHEMA)
    assert [row["evidence_count"] for row in found] == [1, 2, 3, 12]
    starts = [shard.start for shard in work.plan.shards()]
    means = [work.dominant_response[start] / 512 / (place + 1) for place, start in enumerate(starts)]
    means.append(sum(work.dominant_response[start + 1] for start in starts) / 512 / 12)
    for row, mean in zip(found, means, strict=True):
        np.testing.assert_allclose(row["label_energy_frac_mean"], mean.ravel(), rtol=1e-6)


def part(work: Work, shard: int) -> Path:
    path: Path = work.run.attempts / read_commits(work.run, ANALYSIS.name)[shard].attempt / "evidence.parquet"
    return path


def test_sums_that_were_altered_or_are_gone_take_their_shard_with_them(work: Work) -> None:
    altered, gone = part(work, 0), part(work, 2)
    content = altered.read_bytes()
    altered.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    gone.unlink()
    commits, faults = take_commits(work.run, work.plan, JOB)
    assert list(commits) == [1]
    assert "'evidence.parquet' of its attempt is not as it was committed" in faults[0]
    assert "'evidence.parquet' of its attempt is gone" in faults[1]
    assert all("commits/evidence/0000" in fault and "its unit is computed again" in fault for fault in faults)
    assert list(take_commits(work.run, work.plan, JOB)[0]) == [1]
    assert sorted(read_commits(work.run, "maps")) == [0, 1, 2]


def replaced(table: pa.Table, column: str, values: Any) -> pa.Table:
    field = table.schema.field(column)
    return table.set_column(table.column_names.index(column), field, pa.array(values, field.type))


@ON_DISK
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda rows: replaced(rows, "label", [-1] * len(rows)), "classes outside of the 4"),
        (lambda rows: replaced(rows, "label", [4] * len(rows)), "classes outside of the 4"),
        (
            lambda rows: replaced(rows, "label_energy_frac_sum", [[1.0]] * len(rows)),
            "'evidence.parquet' has not 20 cells a class",
        ),
        (lambda rows: rows.drop_columns(["label"]), "'evidence.parquet' has no column 'label' of type int32"),
    ],
)
def test_sums_that_fit_their_record_and_not_their_shard(work: Work, change: Callable[[pa.Table], pa.Table], fault: str) -> None:
    path = part(work, 0)
    write_table(change(pq.read_table(path)), path)
    commit = read_commits(work.run, ANALYSIS.name)[0]
    files = {"evidence.parquet": hash_file(path)}
    record = commit.model_copy(update={"files": files}).model_dump_json()
    (work.run.commits_of(ANALYSIS.name) / "00000.json").write_text(record)
    commits, (said,) = take_commits(work.run, work.plan, JOB)
    assert list(commits) == [1, 2]
    assert fault in said
