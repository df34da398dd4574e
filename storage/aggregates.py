"""The tables that are aggregated from samples, and the joining of shards into a run's arrays and tables."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import InputError
from storage.evidence import EVIDENCE_SUMS, mean_evidence
from storage.filesystems import files_below, hash_file, publish_files, put_files, put_folder, readable, scratch
from storage.maps import MapShape, create_maps
from storage.runs.commits import Commit
from storage.runs.parts import map_places
from storage.runs.run import Plan, Run
from storage.sql.read_only import connect, select
from storage.tables import PER_SHARD, SCHEMAS, compact, write_table

if TYPE_CHECKING:
    import duckdb

CLASSES = """
    SELECT unnest($class_names) AS class_name, unnest(range(len($class_names))) AS class_index
"""

CLASS_STATS = f"""
WITH classes AS ({CLASSES}),
by_label AS (
    SELECT
        label,
        count(*) AS sample_count,
        count(*) FILTER (is_correct) AS correct_count,
        avg(is_correct::INT) AS correct_frac,
        avg(agrees::INT) AS agreement_frac,
        avg(probability) AS probability_mean,
        avg(label_energy_frac) AS label_energy_frac_mean,
        avg(prediction_energy_frac) AS prediction_energy_frac_mean,
        avg(sparseness) AS sparseness_mean,
        quantile_cont(sparseness, 0.1) AS sparseness_p10,
        quantile_cont(sparseness, 0.5) AS sparseness_p50,
        quantile_cont(sparseness, 0.9) AS sparseness_p90,
        avg(complexity) AS complexity_mean,
        avg(dominance_margin) AS dominance_margin_mean,
        avg(class_cosine) AS class_cosine_mean
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

RUN_MEANS = """
SELECT
    avg(is_correct::INT) AS correct_frac,
    avg(agrees::INT) AS agreement_frac,
    avg(sparseness) AS sparseness_mean,
    avg(dominance_margin) AS dominance_margin_mean,
    avg(class_cosine) AS class_cosine_mean,
    avg(left_out_frac) AS left_out_frac_mean,
    max(left_out_frac)::DOUBLE AS left_out_frac_max
FROM evidence_verdicts
"""


def gather(
    run: Run, plan: Plan, commits: dict[int, Commit], attributes: dict[str, Any], facts: dict[str, Any], now: datetime
) -> dict[str, str]:
    """Joins the committed shards into the run's arrays and tables, and aggregates; may be repeated after a crash.

    commits: by shard, see `sound_commits`. attributes: written beside the arrays. facts: columns of the `runs` row that the plan
    does not know.
    Returns the SHA-256 of the arrays' files by path in the store. Raises InputError where a shard is not committed.
    """
    missing = [shard.index for shard in plan.shards() if shard.index not in commits]
    if missing:
        raise InputError(f"run '{run.run_id}' lacks {len(missing)} shards, first {missing[0]}: run it again to resume it")
    ordered = [commits[shard.index] for shard in plan.shards()]
    artefacts = gather_maps(run, plan, ordered, attributes)
    for table in PER_SHARD:
        parts = [run.attempts / commit.attempt / f"{table}.parquet" for commit in ordered]
        place_table(run, table, lambda path, parts=parts: compact(parts, path, pq.read_schema(readable(parts[0]))))
    connection = connect(run.store, [run.run_id], threads=1)
    names = {"class_names": plan.class_names}
    for table, sql in {"class_stats": CLASS_STATS, "localization": LOCALIZATION}.items():
        place_rows(run, table, select(connection, sql, names))
    place_rows(run, "confusion", select(connection, CONFUSION))
    place_rows(run, "evidence", gather_evidence(run, plan, ordered))
    place_rows(run, "runs", run_row(connection, plan, ordered, facts, now))
    return artefacts


def gather_maps(run: Run, plan: Plan, commits: list[Commit], attributes: dict[str, Any]) -> dict[str, str]:
    """Moves each shard's files into the run's arrays. A shard that was moved before a crash is found moved."""
    places, hashes = {}, {}
    for commit in commits:
        for local, published in map_places(commit.shard).items():
            places[run.attempts / commit.attempt / local] = run.maps / published
            hashes[run.maps / published] = commit.files[local]
    with scratch(run.attempts) as folder:
        made = folder / "maps"
        create_maps(made, MapShape(plan.sample_count, plan.height, plan.width, plan.shard_samples), attributes)
        hashes |= {run.maps / path.relative_to(made).as_posix(): hash_file(path) for path in files_below(made)}
        put_folder(made, run.maps)
    publish_files(places)
    # What a crash left there, or somebody put there, would be read as the run's.
    for path in [path for path in files_below(run.maps) if path not in hashes]:
        path.unlink()
    return {path.relative_to(run.store).as_posix(): digest for path, digest in hashes.items()}


def gather_evidence(run: Run, plan: Plan, commits: list[Commit]) -> pa.Table:
    parts = [run.attempts / commit.attempt / EVIDENCE_SUMS for commit in commits]
    return mean_evidence(parts, plan.class_names, plan.height, plan.width)


def run_row(
    connection: "duckdb.DuckDBPyConnection", plan: Plan, commits: list[Commit], facts: dict[str, Any], now: datetime
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
        **select(connection, RUN_MEANS).to_pylist()[0],
    }
    return pa.Table.from_pylist([row], schema=SCHEMAS["runs"])


def place_rows(run: Run, table: str, rows: pa.Table) -> None:
    schema = SCHEMAS[table]
    place_table(run, table, lambda path: write_table(rows.select(schema.names).cast(schema), path))


def place_table(run: Run, table: str, write: Any) -> None:
    """Writes a table elsewhere and puts it in its place, alone, so that a reader never meets half of it, nor another's."""
    place = run.table(table)
    with scratch(run.attempts) as folder:
        write(folder / f"{table}.parquet")
        put_files({folder / f"{table}.parquet": place})
    for path in [path for path in files_below(place.parent) if path != place]:
        path.unlink()
