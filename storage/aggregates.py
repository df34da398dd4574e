"""The tables of `maps`: what its shards write, and what is aggregated from samples."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from storage.joins import Aggregate, Append, Table, place_rows
from storage.runs.commits import Commit
from storage.runs.plan import Plan
from storage.runs.run import Run
from storage.sql.read_only import connect, select
from storage.statistics import STATISTICS, SUMMARIES, Statistic, Summary
from storage.tables import PER_SHARD, SCHEMAS

if TYPE_CHECKING:
    import duckdb

CLASSES = """
    SELECT unnest($class_names) AS class_name, unnest(range(len($class_names))) AS class_index
"""


def sum_up(statistic: Statistic, summaries: Iterable[Summary]) -> list[str]:
    """SQL for each of the summaries, under the name of its column."""
    return [f"{SUMMARIES[summary].format(name=statistic.name)} AS {statistic.name}_{summary}" for summary in summaries]


CLASS_MEANS = ", ".join(sql for statistic in STATISTICS for sql in sum_up(statistic, statistic.by_class))
RUN_MEANS = ", ".join(sql for statistic in STATISTICS for sql in sum_up(statistic, statistic.of_run))

CLASS_STATS = f"""
WITH classes AS ({CLASSES}),
by_label AS (
    SELECT
        label,
        count(*) AS sample_count,
        count(*) FILTER (is_correct) AS correct_count,
        avg(is_correct::INT) AS correct_frac,
        avg(agrees::INT) AS agreement_frac,
        {CLASS_MEANS}
    FROM evidence_verdicts
    GROUP BY label
),
by_prediction AS (SELECT prediction, count(*) AS prediction_count FROM samples GROUP BY prediction),
by_dominant AS (SELECT dominant_class, count(*) AS dominant_count FROM samples GROUP BY dominant_class)
SELECT
    classes.*,
    by_label.* EXCLUDE (label) REPLACE (
        coalesce(sample_count, 0) AS sample_count,
        coalesce(correct_count, 0) AS correct_count
    ),
    coalesce(prediction_count, 0) AS prediction_count,
    coalesce(dominant_count, 0) AS dominant_count
FROM classes
LEFT JOIN by_label ON class_index = label
LEFT JOIN by_prediction ON class_index = prediction
LEFT JOIN by_dominant ON class_index = dominant_class
ORDER BY class_index
"""

CONFUSION = """
SELECT label, prediction, dominant_class, count(*) AS sample_count, avg(dominant_energy_frac) AS energy_frac
FROM samples
GROUP BY ALL
ORDER BY ALL NULLS LAST
"""

LOCALIZATION = f"""
WITH classes AS ({CLASSES}),
by_label AS (
    SELECT
        label,
        count(*) AS sample_count,
        avg(centroid_y) AS centroid_y_mean,
        avg(centroid_x) AS centroid_x_mean,
        stddev_pop(centroid_y) AS centroid_y_std,
        stddev_pop(centroid_x) AS centroid_x_std,
        avg(spread) AS spread_mean,
        avg(half_energy_area_frac) AS half_energy_area_frac_mean,
        avg(positive_area_frac) AS positive_area_frac_mean
    FROM samples
    GROUP BY label
)
SELECT classes.*, by_label.* EXCLUDE (label) REPLACE (coalesce(sample_count, 0) AS sample_count)
FROM classes LEFT JOIN by_label ON class_index = label
ORDER BY class_index
"""

RUN_FIGURES = f"""
SELECT avg(is_correct::INT) AS correct_frac, avg(agrees::INT) AS agreement_frac, {RUN_MEANS}
FROM evidence_verdicts
"""

TABLES = (
    *(Table(name, SCHEMAS[name], Append()) for name in PER_SHARD),
    Table("class_stats", SCHEMAS["class_stats"], Aggregate(CLASS_STATS)),
    Table("localization", SCHEMAS["localization"], Aggregate(LOCALIZATION)),
    Table("confusion", SCHEMAS["confusion"], Aggregate(CONFUSION)),
)


def place_run(run: Run, plan: Plan, commits: Sequence[Commit], facts: dict[str, Any], now: datetime) -> None:
    """Writes the run's row of `runs`, whose other tables must be there. facts: its columns that the plan does not know."""
    connection = connect(run.store, [run.run_id], threads=1)
    place_rows(run, "runs", run_row(connection, plan, commits, facts, now))


def run_row(
    connection: "duckdb.DuckDBPyConnection", plan: Plan, commits: Sequence[Commit], facts: dict[str, Any], now: datetime
) -> pa.Table:
    row = {
        "name": plan.name,
        "started_at": plan.created_at,
        "finished_at": now,
        "duration_secs": max(0.0, (now - plan.created_at).total_seconds()),
        "tool_version": plan.tool_version,
        "model_hash": plan.model_hash,
        "dataset_hash": plan.dataset_hash,
        "config_hash": plan.config_hash,
        "class_count": len(plan.class_names),
        "class_names": plan.class_names,
        "sample_count": plan.sample_count,
        "processed_count": sum(commit.processed_count for commit in commits),
        "failed_count": sum(commit.failed_count for commit in commits),
        **facts,
        **select(connection, RUN_FIGURES).to_pylist()[0],
    }
    return pa.Table.from_pylist([row], schema=SCHEMAS["runs"])
