"""A run whose shards are committed, made by hand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from storage.aggregates import TABLES, place_run
from storage.joins import aggregate, join_maps, join_parts
from storage.maps import MapShape, write_shard
from storage.runs.commits import commit_attempt, ensure_folders, leave_attempt, open_attempt, read_commits
from storage.runs.plan import Plan
from storage.runs.run import MAPS, Run, create_run
from storage.tables import SCHEMAS, write_table

MakePlan = Callable[..., Plan]
Row = dict[str, Any]

CLASSES = ["ant", "bee", "cat", "dog"]
"""No sample has the label of the last one, and the third is never predicted nor dominant."""

STARTED = datetime(2026, 11, 21, 3, tzinfo=UTC)
FAILED = {5, 17, 18}
UNCERTAIN = (
    *("sparseness", "complexity", "dominance_margin", "class_cosine", "centroid_y", "centroid_x", "spread"),
    "left_out_frac",
)
META = pa.field("meta_site", pa.string())
IDENTITY = "i0"
"""Of the options that the shards were measured by."""


@dataclass(frozen=True)
class Work:
    """A run whose shards are committed, and what went into them."""

    run: Run
    plan: Plan
    samples: list[Row]
    responses: list[Row]
    failures: list[Row]
    dominant_class: np.ndarray
    dominant_response: np.ndarray


def sample(index: int, generator: np.random.Generator) -> Row:
    row: Row = {field.name: float(np.float32(generator.random())) for field in SCHEMAS["samples"] if field.type == pa.float32()}
    label = None if index % 11 == 3 else int(generator.integers(0, 3))
    prediction = int(generator.choice([0, 1, 3]))
    dominant = None if index % 7 == 3 else int(generator.choice([0, 1, 3]))
    row |= {"sample_index": index, "sample_id": f"{index}.png", "content_hash": f"{index:064x}", "label": label}
    row |= {"prediction": prediction, "is_correct": None if label is None else label == prediction, "dominant_class": dominant}
    if dominant is None:
        row |= dict.fromkeys(("dominant_energy_frac", "prediction_energy_frac", "label_energy_frac", *UNCERTAIN))
    if label is None:
        row["label_energy_frac"] = None
    return row | {"meta_site": f"site-{index % 2}"}


def build(store: Path, make_plan: MakePlan) -> Work:
    """40 samples in shards of 16, 16 and 8; three of the samples failed. The same at every call."""
    generator = np.random.default_rng(7)
    plan = make_plan(class_names=CLASSES, created_at=STARTED)
    samples = [sample(index, generator) for index in range(40) if index not in FAILED]
    responses = [
        {"sample_index": row["sample_index"], "class_index": label, "energy": float(np.float32(generator.random()))}
        for row in samples
        for label in (0, 3)
    ]
    failures = [
        {"sample_index": index, "sample_id": f"{index}.png", "stage": "read", "reason": "broken"} for index in sorted(FAILED)
    ]
    dominant_class = generator.integers(-1, 4, (40, plan.height, plan.width)).astype(np.int16)
    dominant_response = generator.integers(0, 512, dominant_class.shape).astype(np.float32)
    dominant_response[:, 0, 0] = 512
    dominant_class[16:32], dominant_response[16:32] = -1, 0  # a shard without any response
    run = create_run(store, plan)
    ensure_folders(run, [MAPS])
    rows = {"samples": samples, "responses": responses, "failures": failures}
    for shard in plan.shards():
        attempt = open_attempt(run, MAPS, shard)
        own = slice(shard.start, shard.stop)
        shape = MapShape(plan.sample_count, plan.height, plan.width, plan.shard_samples)
        write_shard(attempt / "maps.zarr", shape, dominant_class[own], dominant_response[own])
        counts = {}
        for table, every in rows.items():
            part = [row for row in every if shard.start <= row["sample_index"] < shard.stop]
            fields = [*SCHEMAS[table], *([META] if table == "samples" else [])]
            schema = pa.schema(fields, metadata=SCHEMAS[table].metadata)
            write_table(pa.Table.from_pylist(part, schema=schema), attempt / f"{table}.parquet")
            counts[table] = len(part)
        assert commit_attempt(run, MAPS, shard, attempt, IDENTITY, counts["samples"], counts["failures"], 1.0)
        leave_attempt(run, attempt)
    return Work(run, plan, samples, responses, failures, dominant_class, dominant_response)


def gather(
    work: Work, attributes: Mapping[str, Any] = {}, facts: Mapping[str, Any] = {}, now: datetime = STARTED
) -> dict[str, str]:
    """Joins the committed shards into the run's arrays and tables, and aggregates; returns the hashes of the arrays' files."""
    commits = [commit for _, commit in sorted(read_commits(work.run, MAPS).items())]
    artefacts = join_maps(work.run, work.plan, commits, dict(attributes))
    join_parts(work.run, work.plan, TABLES, commits)
    aggregate(work.run, work.plan, TABLES)
    place_run(work.run, work.plan, commits, dict(facts), now)
    return artefacts
