"""The aggregates of a run against the same sums in plain Python."""

import statistics
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from storage.filesystems import put_files, readable, scratch
from storage.runs.plan import Plan
from storage.runs.run import Run
from storage.tables import SCHEMAS
from tests.storage.shards import CLASSES, STARTED, Row, Work, build, gather

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
GATHERED = [table for table in SCHEMAS if table != "gates"]

ON_DISK = pytest.mark.parametrize("store_place", ["disk"], indirect=True)
"""Of what is worked out, not of where it lies: not asked of S3 too."""


@pytest.fixture
def work(store_place: Path, make_plan: MakePlan) -> Work:
    return build(store_place, make_plan)


def join(work: Work) -> dict[str, str]:
    return gather(work, {"rule": "linear"}, FACTS, FINISHED)


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
