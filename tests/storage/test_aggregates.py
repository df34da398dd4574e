"""Shards joined into a run, and its aggregates against the same sums in plain Python."""

import statistics
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.aggregates import gather
from storage.errors import InputError
from storage.filesystems import put_files, readable, remote, remove_tree, scratch
from storage.maps import open_maps
from storage.runs.commits import read_commits
from storage.runs.plan import Plan
from storage.runs.run import Run
from storage.tables import SCHEMAS
from tests.storage.shards import CLASSES, META, STARTED, Row, Work, build

MakePlan = Callable[..., Plan]
FilesOf = Callable[[Path], dict[str, str]]

FINISHED = datetime(2026, 11, 21, 3, 2, 30, tzinfo=UTC)
FACTS = {
    "model_factory": "m:build",
    "model_program": None,
    "dataset_path": "/data",
    "rule": "linear",
    "reduction": "l2",
    "head": None,
    "precision": "bfloat16",
    "competing_count": 3,
    "precision_agreement_frac": 0.75,
    "is_folded": False,
    "fold_reason": "it has gates",
    "fold_deviation": None,
}
GATHERED = {table: schema for table, schema in SCHEMAS.items() if table != "gates"}

ON_DISK = pytest.mark.parametrize("store_place", ["disk"], indirect=True)
"""Of what is worked out, not of where it lies: not asked of S3 too."""


@pytest.fixture
def work(store_place: Path, make_plan: MakePlan) -> Work:
    return build(store_place, make_plan)


def join(work: Work) -> dict[str, str]:
    return gather(work.run, work.plan, read_commits(work.run), {"rule": "linear"}, FACTS, FINISHED)


@ON_DISK
def test_mean_evidence_is_that_of_all_shards(work: Work) -> None:
    """Of sums that are no shares, but tell the shards apart: classes 0, 1 and 2 have one shard each, class 3 all of them."""
    join(work)
    found = rows_of(work, "evidence")
    assert [row["evidence_count"] for row in found] == [1, 2, 3, 12]
    starts = [shard.start for shard in work.plan.shards()]
    means = [work.dominant_response[start] / 512 / (place + 1) for place, start in enumerate(starts)]
    means.append(sum(work.dominant_response[start + 1] for start in starts) / 512 / 12)
    for row, mean in zip(found, means, strict=True):
        np.testing.assert_allclose(row["label_energy_frac_mean"], mean.ravel(), rtol=1e-6)


def rows_of(work: Work, table: str) -> list[Row]:
    rows: list[Row] = pq.ParquetFile(readable(work.run.table(table))).read().to_pylist()
    return rows


def mean(rows: list[Row], column: str) -> float | None:
    """Over the rows where it is known; unknown where it is known nowhere."""
    known = [row[column] for row in rows if row[column] is not None]
    return statistics.fmean(known) if known else None


def quantile(rows: list[Row], column: str, share: float) -> float | None:
    known = [row[column] for row in rows if row[column] is not None]
    return float(np.quantile(known, share)) if known else None


def std(rows: list[Row], column: str) -> float | None:
    known = [row[column] for row in rows if row[column] is not None]
    return statistics.pstdev(known) if known else None


def agreement(rows: list[Row]) -> float | None:
    return statistics.fmean(row["dominant_class"] == row["prediction"] for row in rows) if rows else None


def check(found: list[Row], expected: list[Row]) -> None:
    assert len(found) == len(expected)
    for got, wanted in zip(found, expected, strict=True):
        assert list(got) == list(wanted)
        assert got == {
            name: pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value
            for name, value in wanted.items()
        }


@ON_DISK
def test_the_samples_have_what_the_aggregates_must_cope_with(work: Work) -> None:
    labels, dominant = Counter(row["label"] for row in work.samples), Counter(row["dominant_class"] for row in work.samples)
    assert set(labels) == {None, 0, 1, 2}
    assert set(dominant) == {None, 0, 1, 3}
    assert {row["prediction"] for row in work.samples} == {0, 1, 3}
    assert any(row["label"] is None and row["dominant_class"] is None for row in work.samples)


@ON_DISK
def test_class_stats(work: Work) -> None:
    join(work)
    expected = []
    for label, name in enumerate(CLASSES):
        own = [row for row in work.samples if row["label"] == label]
        expected.append(
            {
                "class_index": label,
                "class_name": name,
                "sample_count": len(own),
                "prediction_count": sum(row["prediction"] == label for row in work.samples),
                "correct_count": sum(row["prediction"] == label for row in own),
                "dominant_count": sum(row["dominant_class"] == label for row in work.samples),
                "correct_frac": mean(own, "is_correct"),
                "agreement_frac": agreement(own),
                "probability_mean": mean(own, "probability"),
                "label_energy_frac_mean": mean(own, "label_energy_frac"),
                "prediction_energy_frac_mean": mean(own, "prediction_energy_frac"),
                "sparseness_mean": mean(own, "sparseness"),
                "sparseness_p10": quantile(own, "sparseness", 0.1),
                "sparseness_p50": quantile(own, "sparseness", 0.5),
                "sparseness_p90": quantile(own, "sparseness", 0.9),
                "complexity_mean": mean(own, "complexity"),
                "dominance_margin_mean": mean(own, "dominance_margin"),
                "class_cosine_mean": mean(own, "class_cosine"),
            }
        )
    assert expected[3]["sample_count"] == 0
    assert expected[3]["correct_frac"] is None
    check(rows_of(work, "class_stats"), expected)


@ON_DISK
def test_confusion(work: Work) -> None:
    join(work)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in work.samples:
        groups.setdefault((row["label"], row["prediction"], row["dominant_class"]), []).append(row)
    order = sorted(groups, key=lambda key: [(part is None, part or 0) for part in key])
    expected = [
        dict(zip(("label", "prediction", "dominant_class"), key, strict=True))
        | {"sample_count": len(groups[key]), "energy_frac": mean(groups[key], "dominant_energy_frac")}
        for key in order
    ]
    assert any(row["dominant_class"] is None and row["energy_frac"] is None for row in expected)
    check(rows_of(work, "confusion"), expected)
    assert sum(row["sample_count"] for row in rows_of(work, "confusion")) == 37


@ON_DISK
def test_localization(work: Work) -> None:
    join(work)
    expected = []
    for label, name in enumerate(CLASSES):
        own = [row for row in work.samples if row["label"] == label]
        expected.append(
            {
                "class_index": label,
                "class_name": name,
                "sample_count": len(own),
                "centroid_y_mean": mean(own, "centroid_y"),
                "centroid_x_mean": mean(own, "centroid_x"),
                "centroid_y_std": std(own, "centroid_y"),
                "centroid_x_std": std(own, "centroid_x"),
                "spread_mean": mean(own, "spread"),
                "half_energy_area_frac_mean": mean(own, "half_energy_area_frac"),
                "positive_area_frac_mean": mean(own, "positive_area_frac"),
            }
        )
    check(rows_of(work, "localization"), expected)


@ON_DISK
def test_the_row_of_the_run(work: Work) -> None:
    join(work)
    expected = {
        "name": "audit",
        "started_at": STARTED,
        "finished_at": FINISHED,
        "duration_secs": 150.0,
        "tool_version": "0.1.0",
        "model_factory": "m:build",
        "model_hash": "m0",
        "dataset_path": "/data",
        "dataset_hash": "d0",
        "config_hash": "c0",
        "rule": "linear",
        "precision": "bfloat16",
        "class_count": 4,
        "class_names": CLASSES,
        "sample_count": 40,
        "processed_count": 37,
        "failed_count": 3,
        "correct_frac": mean(work.samples, "is_correct"),
        "agreement_frac": agreement(work.samples),
        "sparseness_mean": mean(work.samples, "sparseness"),
        "dominance_margin_mean": mean(work.samples, "dominance_margin"),
        "class_cosine_mean": mean(work.samples, "class_cosine"),
        "model_program": None,
        "reduction": "l2",
        "head": None,
        "competing_count": 3,
        "precision_agreement_frac": 0.75,
        "is_folded": False,
        "fold_reason": "it has gates",
        "fold_deviation": None,
        "left_out_frac_mean": mean(work.samples, "left_out_frac"),
        "left_out_frac_max": max(row["left_out_frac"] for row in work.samples if row["left_out_frac"] is not None),
    }
    check(rows_of(work, "runs"), [expected])


def test_rows_of_the_shards_come_in_order_with_their_meta_columns(work: Work) -> None:
    join(work)
    assert rows_of(work, "samples") == work.samples
    found = rows_of(work, "responses")
    assert [{name: row[name] for name in ("sample_index", "class_index", "energy")} for row in found] == work.responses
    assert rows_of(work, "failures") == work.failures
    for table, schema in GATHERED.items():
        fields = [*schema, *([META] if table == "samples" else [])]
        assert pq.read_schema(readable(work.run.table(table))).equals(pa.schema(fields))


def test_maps_are_those_of_the_shards(work: Work) -> None:
    join(work)
    maps = open_maps(work.run.maps)
    assert maps.attrs.asdict() == {"rule": "linear"}
    np.testing.assert_array_equal(maps["dominant_class"][:], work.dominant_class)
    restored = maps["dominant_response"][:].astype(np.float32) * maps["response_peak"][:][:, None, None]
    np.testing.assert_array_equal(restored, work.dominant_response)


def test_the_artefacts_are_the_maps_files_and_their_hashes(work: Work, files_of: FilesOf) -> None:
    artefacts = join(work)
    files = files_of(work.run.store)
    assert artefacts == {path: digest for path, digest in files.items() if f"{work.run.run_id}/maps.zarr/" in path}
    assert len(artefacts) == 9 + 4  # and what describes the group and its three arrays


def test_only_the_runs_own_samples_count(work: Work, tmp_path: Path) -> None:
    join(work)
    other = Run(work.run.store, "20250101T000000Z-older-0000")
    for table in GATHERED:
        with scratch(work.run.attempts) as folder:
            (folder / table).write_bytes(work.run.table(table).read_bytes())
            put_files({folder / table: other.table(table)})
    join(work)
    assert rows_of(work, "runs")[0]["processed_count"] == 37
    assert sum(row["sample_count"] for row in rows_of(work, "confusion")) == 37


# After a crash.


def result(work: Work, files_of: FilesOf) -> dict[str, str]:
    """The run's files that readers meet."""
    return {
        path: digest for path, digest in files_of(work.run.store).items() if "/attempts/" not in path and "/commits/" not in path
    }


def test_gathering_again_gives_the_same_files(work: Work, files_of: FilesOf) -> None:
    artefacts = join(work)
    before = result(work, files_of)
    assert len(before) == 9 + 4 + 8 + 1  # map files, their JSON, tables, the plan
    assert join(work) == artefacts
    assert result(work, files_of) == before
    remove_tree(work.run.store / "tables")
    assert join(work) == artefacts
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
            join(work)
    assert join(work) == join(whole)
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
            join(work)
    assert join(work) == join(whole)
    assert result(work, files_of) == result(whole, files_of)


def test_what_is_gathered_in_s3_is_what_is_gathered_on_a_disk(
    tmp_path: Path, s3_store: Path, make_plan: MakePlan, files_of: FilesOf
) -> None:
    on_disk, in_s3 = build(tmp_path / "disk", make_plan), build(s3_store, make_plan)
    assert join(on_disk) == join(in_s3)
    assert result(on_disk, files_of) == result(in_s3, files_of)


def test_a_shard_that_is_not_committed_is_an_input_error_and_writes_nothing(
    tmp_path: Path, make_plan: MakePlan, files_of: FilesOf
) -> None:
    work = build(tmp_path, make_plan, only=range(1, 2))
    before = files_of(tmp_path)
    with pytest.raises(InputError, match=f"run '{work.run.run_id}' lacks 2 shards, first 0: run it again to resume it"):
        join(work)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("gone", ["", "maps.zarr", "maps.zarr/response_peak/c/0", "samples.parquet", "failures.parquet"])
def test_a_commit_whose_files_are_gone_is_an_error_and_not_an_empty_shard(work: Work, gone: str) -> None:
    path = work.run.attempts / read_commits(work.run)[1].attempt / gone
    if path.is_dir():
        remove_tree(path)
    else:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=read_commits(work.run)[1].attempt):
        join(work)
    assert not work.run.table("class_stats").exists()
    assert not work.run.is_published
