"""The schemas of the Parquet tables, written once, and how they are written to disk.

Conventions: snake_case; `_id _at _secs _count _frac` suffixes; a `_frac` is in [0, 1]; undefined is NULL. Each field's
metadata says what it is (`about`) and, for a score, which `direction` speaks for the model's evidence: `higher`,
`lower`, or `none` where neither does. `run_id` is the tables' Hive partition and is not stored in the files.

Version 2 added columns to `runs`, and `samples.left_out_frac`; version 3 the table `gates`; version 4 the table `evidence`
and `gates.samples_sql`; since version 5 a config without `top_k` lets the strongest of many classes compete, not all; since
version 6 the manifest names every file of a run; since version 7 commits are kept by analysis, and a table that belongs to an
analysis (`evidence`) is there only where that ran. Columns are added, never changed or dropped: what an older version did not
have is NULL.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.filesystems import readable
from storage.statistics import SCORES_OF_A_MAP, STATISTICS, Statistic, Summary, in_order

SCHEMA_VERSION = 7


def column(name: str, kind: pa.DataType, about: str, direction: str | None = None) -> pa.Field:
    metadata = {"about": about} | ({"direction": direction} if direction else {})
    return pa.field(name, kind, metadata=metadata)


def score(name: str, about: str, direction: str = "none") -> pa.Field:
    return column(name, pa.float32(), about, direction)


def mean(name: str, about: str, direction: str = "none") -> pa.Field:
    return column(name, pa.float64(), about, direction)


def score_of(statistic: Statistic) -> pa.Field:
    return score(statistic.name, statistic.about, statistic.direction)


def class_means(statistics: Iterable[Statistic]) -> list[pa.Field]:
    return [field for statistic in statistics for field in summaries_of(statistic, statistic.by_class)]


def run_means(statistics: Iterable[Statistic]) -> list[pa.Field]:
    return [field for statistic in statistics for field in summaries_of(statistic, statistic.of_run)]


def summaries_of(statistic: Statistic, summaries: Mapping[Summary, str]) -> list[pa.Field]:
    return [mean(f"{statistic.name}_{summary}", about, statistic.direction) for summary, about in summaries.items()]


PROBABILITY, *FURTHER_STATISTICS = map(score_of, STATISTICS)

INDEX = column("sample_index", pa.int64(), "position in the dataset and in the Zarr arrays")

SAMPLES = [
    INDEX,
    column("sample_id", pa.string(), "name in the dataset"),
    column("content_hash", pa.string(), "SHA-256 of the sample's content"),
    column("label", pa.int32(), "class given by the dataset; NULL = unknown"),
    column("prediction", pa.int32(), "class with the greatest logit"),
    PROBABILITY,
    column("is_correct", pa.bool_(), "prediction = label; NULL = label unknown"),
    column(
        "dominant_class", pa.int32(), "class that holds most of the dominant response map's energy; NULL = no positive response"
    ),
    *FURTHER_STATISTICS,
]

RESPONSES = [
    INDEX,
    column("class_index", pa.int32(), "the class whose response map this row describes"),
    score("logit", "spatial mean of the class's response map before the global average"),
    score("probability", "softmax of the logit"),
    *map(score_of, SCORES_OF_A_MAP),
    score("dominant_area_frac", "share of pixels at which this class is dominant"),
    score("dominant_energy_frac", "share of the dominant response map's energy at those pixels"),
]

FAILURES = [
    INDEX,
    column("sample_id", pa.string(), "name in the dataset"),
    column("stage", pa.string(), "what was being done: read, prepare or compute"),
    column("reason", pa.string(), "why it failed"),
]

CLASS = [
    column("class_index", pa.int32(), "position among the model's outputs"),
    column("class_name", pa.string(), "name of the class"),
    column("sample_count", pa.int64(), "samples with this label"),
]

CLASS_STATS = [
    *CLASS,
    column("prediction_count", pa.int64(), "samples predicted as this class"),
    column("correct_count", pa.int64(), "samples with this label predicted as it"),
    column("dominant_count", pa.int64(), "samples with this dominant class"),
    mean("correct_frac", "correct_count / sample_count", "higher"),
    mean("agreement_frac", "share of the label's samples whose dominant class is their prediction", "higher"),
    *class_means(in_order("probability", "label_energy_frac")),
]

CONFUSION = [
    column("label", pa.int32(), "class given by the dataset; NULL = unknown"),
    column("prediction", pa.int32(), "class with the greatest logit"),
    column("dominant_class", pa.int32(), "class that holds most of the energy; NULL = no positive response"),
    column("sample_count", pa.int64(), "samples with these three"),
    mean("energy_frac", "mean share of energy that their dominant class holds"),
]

LOCALIZATION = [
    *CLASS,
    mean("centroid_y_mean", "mean row of the dominant response map's centroid, in pixels"),
    mean("centroid_x_mean", "mean column of it, in pixels"),
    mean("centroid_y_std", "standard deviation of the row over samples, in pixels"),
    mean("centroid_x_std", "standard deviation of the column over samples, in pixels"),
    mean("spread_mean", "mean spread, in pixels", "lower"),
    mean("half_energy_area_frac_mean", "mean share of pixels that holds half of the energy", "lower"),
    mean("positive_area_frac_mean", "mean share of pixels at which any class has positive response"),
]

UTC = pa.timestamp("us", tz="UTC")

OLDEST_OF_A_RUN = ("sparseness", "dominance_margin", "class_cosine")
"""The statistics whose means `runs` had from the first: those of all others stand at its end."""

RUNS = [
    column("name", pa.string(), "name of the audit, from its config"),
    column("started_at", UTC, "when the run was planned"),
    column("finished_at", UTC, "when its tables were written"),
    column("duration_secs", pa.float64(), "time between the two"),
    column("tool_version", pa.string(), "version of clear-audit"),
    column("model_factory", pa.string(), "function that builds the model; NULL = it is a program"),
    column("model_hash", pa.string(), "SHA-256 of factory and weights, or of the program"),
    column("dataset_path", pa.string(), "where the dataset was read"),
    column("dataset_hash", pa.string(), "SHA-256 of names, labels and content"),
    column("config_hash", pa.string(), "SHA-256 of the resolved config"),
    column("rule", pa.string(), "how responses are sent back"),
    column("precision", pa.string(), "arithmetic of the network"),
    column("class_count", pa.int32(), "outputs of the model"),
    column("class_names", pa.list_(pa.string()), "names of the classes, in order"),
    column("sample_count", pa.int64(), "samples of the dataset"),
    column("processed_count", pa.int64(), "samples with maps and statistics"),
    column("failed_count", pa.int64(), "samples in `failures`"),
    mean("correct_frac", "accuracy over the samples with a label", "higher"),
    mean("agreement_frac", "share of samples whose dominant class is their prediction", "higher"),
    *run_means(statistic for statistic in STATISTICS if statistic.name in OLDEST_OF_A_RUN),
    column("model_program", pa.string(), "file of the exported program; NULL = the model is built by a function"),
    column("reduction", pa.string(), "of the responses of the input's channels"),
    column("head", pa.string(), "module that was named as the one that decides the classes; NULL = it was found"),
    column(
        "competing_count",
        pa.int32(),
        "classes that compete in a sample, those with most positive response (method.top_k); NULL = all",
    ),
    mean(
        "precision_agreement_frac",
        "share of the first images' pixels whose dominant class is that of float32; NULL = float32 was used",
        "higher",
    ),
    column("is_folded", pa.bool_(), "a fixed operator made the maps, worked out once for all images"),
    column("fold_reason", pa.string(), "why none did; NULL = one did"),
    mean("fold_deviation", "largest deviation of the operator's responses from the network's, of their peak", "lower"),
    *run_means(statistic for statistic in STATISTICS if statistic.name not in OLDEST_OF_A_RUN),
]

GATES = [
    column("gate_name", pa.string(), "name of the gate"),
    column("outcome", pa.string(), "passed, warned, failed, error or not evaluated; the last two never count as passed"),
    column("severity", pa.string(), "error or warn: whether the gate can fail the audit"),
    mean("value", "the answer of the gate's query; NULL = there was none"),
    mean("reference_value", "the same of the reference run; NULL = there is none"),
    column("reference_run_id", pa.string(), "the earlier run that was compared with; NULL = there was none"),
    mean("least", "least value allowed; NULL = any"),
    mean("most", "greatest value allowed; NULL = any"),
    mean("max_drop", "how far the value may be below the reference's; NULL = any"),
    mean("max_rise", "how far the value may be above the reference's; NULL = any"),
    column("min_sample_count", pa.int64(), "measured samples below which the gate is not evaluated"),
    column("message", pa.string(), "why the outcome is what it is, in a sentence"),
    column("sql", pa.string(), "the gate's query"),
    column("samples_sql", pa.string(), "the query for the images that count against it; NULL = it has none"),
]


def table_schema(fields: Sequence[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={"schema_version": str(SCHEMA_VERSION)})


SCHEMAS: dict[str, pa.Schema] = {
    name: table_schema(fields)
    for name, fields in {
        "runs": RUNS,
        "samples": SAMPLES,
        "responses": RESPONSES,
        "class_stats": CLASS_STATS,
        "confusion": CONFUSION,
        "localization": LOCALIZATION,
        "failures": FAILURES,
        "gates": GATES,
    }.items()
}
"""The tables that every run has. Those of further analyses are declared in `flows.analyses`."""

PER_SHARD = ("samples", "responses", "failures")
"""The tables that are shards' parts, joined; the others are aggregated."""


ROW_GROUP = 122_880
"""Rows of a row group: as many as DuckDB takes at a time. With a row group for each shard of 512 samples, one sample among 10
million rows of `responses` is found in ten times the time (docs/decisions/0013-row-groups-are-larger-than-shards.md)."""


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer with the settings of every table: zstd 1, byte-stream-split floats, dictionaries for the rest.

    2.6× faster to write, 40 % smaller and 5× faster to group by than pyarrow's defaults.
    """
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    others = [field.name for field in schema if not pa.types.is_floating(field.type) and not pa.types.is_nested(field.type)]
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=others,
        use_byte_stream_split=floats,
        store_schema=True,
    )


def write_table(table: pa.Table, path: Path) -> None:
    """Writes one Parquet file. Raises pyarrow.ArrowInvalid where the table is not of its own schema."""
    with open_writer(path, table.schema) as writer:
        writer.write_table(table)


def read_table(path: Path) -> pa.Table:
    """Reads one small Parquet file, in half the time of pyarrow's function of this name, which prepares for many files."""
    with pq.ParquetFile(readable(path)) as file:
        table: pa.Table = file.read(use_threads=False)
    return table


def compact(parts: list[Path], path: Path, schema: pa.Schema) -> int:
    """Joins parts, in order, into one file; returns the rows.

    Its row groups have `ROW_GROUP` rows whatever the parts have. No more than one of them, and a part, is held.
    """
    held: list[pa.Table] = []
    held_rows = rows = 0
    with open_writer(path, schema) as writer:
        for part in parts:
            held.append(read_table(part))
            held_rows += held[-1].num_rows
            rows += held[-1].num_rows
            if held_rows >= ROW_GROUP:
                joined = pa.concat_tables(held)
                held_rows %= ROW_GROUP
                whole = joined.num_rows - held_rows
                writer.write_table(joined.slice(0, whole), ROW_GROUP)
                held = [joined.slice(whole)]
        if held_rows:
            writer.write_table(pa.concat_tables(held))
    return rows
