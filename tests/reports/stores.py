"""Small real stores with rows worked out by hand."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from flows.analyses import evidence
from reports.gates.gate import Gate
from reports.gates.judgement import Judgement, as_rows
from reports.gates.judging import judge
from storage.aggregates import CLASS_STATS, CONFUSION, LOCALIZATION, run_row
from storage.filesystems import create_file, put_folder, replace_file, scratch
from storage.joins import place_rows
from storage.runs.commits import Commit, ensure_folders
from storage.runs.manifest import Manifest
from storage.runs.plan import Examination, Plan
from storage.runs.run import MAPS, Run, create_run, publish
from storage.sql.read_only import connect, select
from storage.tables import SCHEMA_VERSION, SCHEMAS, write_table

RUN_ID = "20261121T030000Z-digits-4f2a"
PLANNED = datetime(2026, 11, 21, 3, 0, 0, tzinfo=UTC)
SCRIPT = "<script>alert(1)</script>"
QUOTES = 'Ünï & "quotes"'
KINDS = ("input", "heatmap", "clear")

Row = dict[str, Any]


@dataclass(frozen=True)
class Content:
    """What a store is to hold.

    drawn: pairs of sample and reason in the gallery. facts: columns of the run's row besides those that every run has here.
    """

    classes: Sequence[str]
    samples: Sequence[Row]
    responses: Sequence[Row] = ()
    failures: Sequence[Row] = ()
    drawn: Sequence[tuple[int, str]] = ()
    report: Row = field(default_factory=lambda: {"gallery_samples": 2, "seed": 7})
    facts: Row = field(default_factory=dict)
    examination: Examination | None = None
    run_id: str = RUN_ID
    gates: Sequence[Gate] = ()


def sample(
    index: int,
    label: int | None,
    prediction: int,
    probability: float,
    dominant: int | None,
    shares: Sequence[float | None],
) -> Row:
    """A row of `samples`. shares: energy of the dominant class, the prediction and the label."""
    has_map = dominant is not None
    return {
        "sample_index": index,
        "sample_id": f"<img {index}>",
        "content_hash": "0" * 64,
        "label": label,
        "prediction": prediction,
        "probability": probability,
        "is_correct": None if label is None else label == prediction,
        "dominant_class": dominant,
        "dominant_energy_frac": shares[0],
        "prediction_energy_frac": shares[1],
        "label_energy_frac": shares[2],
        "positive_area_frac": 0.5 if has_map else 0.0,
        "energy": 2.0,
        "peak": 1.0,
        "sparseness": (index + 1) / 32 if has_map else None,
        "complexity": 3.0 if has_map else None,
        "centroid_y": 4.0 + index if has_map else None,
        "centroid_x": 10.0 if has_map else None,
        "spread": 2.5 if has_map else None,
        "half_energy_area_frac": 0.125 if has_map else None,
        "dominance_margin": 0.75 if has_map else None,
        "class_cosine": 0.25,
        "left_out_frac": None if index == 9 else index / 64,
    }


def response(index: int, class_index: int, share: float) -> Row:
    return {"sample_index": index, "class_index": class_index, "dominant_energy_frac": share}


SAMPLES = [
    sample(0, 0, 0, 0.875, 0, (0.75, 0.75, 0.75)),
    sample(1, 0, 0, 0.75, 1, (0.75, 0.25, 0.25)),
    sample(2, 0, 1, 0.9375, 1, (0.5, 0.5, 0.25)),
    sample(3, 1, 1, 0.96875, 1, (0.875, 0.875, 0.875)),
    sample(4, 1, 1, 0.625, 2, (0.5, 0.375, 0.375)),
    sample(5, 1, 2, 0.6875, 2, (0.75, 0.75, 0.125)),
    sample(6, 2, 2, 0.875, 0, (0.625, 0.125, 0.125)),
    sample(7, 2, 2, 0.5, None, (None, None, None)),
    sample(8, None, 0, 0.40625, 0, (0.625, 0.625, None)),
    sample(9, None, 1, 0.3125, None, (None, None, None)),
]
RESPONSES = [
    response(1, 0, 0.25),
    response(1, 1, 0.75),
    response(2, 1, 0.5),
    response(2, 2, 0.25),
    response(2, 0, 0.25),
]
FAILURES = [
    {
        "sample_index": 10,
        "sample_id": "broken & <b>",
        "stage": "read",
        "reason": "cannot identify image file '<broken>'",
    },
    {"sample_index": 11, "sample_id": "empty", "stage": "prepare", "reason": "image is 0 × 0"},
]
DRAWN = [
    (1, "other_evidence"),
    (6, "other_evidence"),
    (2, "confident_error"),
    (5, "confident_error"),
    (9, "random"),
    (8, "random"),
    *((index, "cell") for index in (0, 1, 3, 5, 6, 7, 8, 9)),
]
GATES = [
    Gate("accuracy", min=0.5),
    Gate("agreement", min=0.9, severity="warn"),
    Gate("class_cosine", max=0.125),
    Gate("sparseness_shift", max=0.1, severity="warn"),
    Gate(SCRIPT, f"SELECT '{SCRIPT}'", min=1),
]
SMALL = Content(["cat", SCRIPT, QUOTES], SAMPLES, RESPONSES, FAILURES, DRAWN, gates=GATES)


RIGHT, OTHER = (0.75, 0.75, 0.75), (0.75, 0.25, 0.25)
RANKED = Content(
    ["ant", "bee", "cow"],
    [
        *(sample(index, 0, 0, 0.5, 0, RIGHT) for index in range(3)),
        *(sample(index, 0, 0, 0.5, 1, OTHER) for index in range(3, 5)),
        *(sample(index, 1, 1, 0.5, 1, (0.875, 0.875, 0.875)) for index in range(5, 10)),
        sample(10, 1, 0, 0.5, 1, (0.875, 0.125, 0.875)),
        *(sample(index, 2, 2, 0.5, 0, (0.875, 0.125, 0.125)) for index in range(11, 13)),
    ],
)
"""Five images of the ant, of which two rest on the bee; six of the bee, one predicted wrongly; too few of the cow to rank."""


def many_classes(classes: int, images: int = 1) -> Content:
    """Samples of all classes in turn, predicted right; evidence for the class after it, the more so the lower the class."""
    samples = [
        sample(
            index, index % classes, index % classes, 0.5, (index + 1) % classes, (0.75, *[0.25 * (index % classes) / classes] * 2)
        )
        for index in range(classes * images)
    ]
    return Content([f"class-{index:03d}" for index in range(classes)], samples)


def make_store(store: Path, content: Content) -> Run:
    """A published run, written by the functions that write one in earnest."""
    plan = make_plan(content)
    run = create_run(store, plan)
    for table in ("samples", "responses", "failures"):
        place_rows(run, table, pa.Table.from_pylist(list(getattr(content, table)), schema=SCHEMAS[table]))
    counts = {"processed_count": len(content.samples), "failed_count": len(content.failures)}
    commit = Commit(run_id=run.run_id, unit=0, attempt="maps-00000-0", duration_secs=1.5, files={}, **counts)
    ensure_folders(run, [MAPS])
    create_file(run.commits_of(MAPS) / "00000.json", commit.model_dump_json())
    facts = {"model_factory": "digits:net", "dataset_path": "data/<digits>", "rule": "linear", "precision": "float32"}
    facts |= content.facts
    finished = PLANNED + timedelta(seconds=75)
    names = {"class_names": plan.class_names}
    with connect(store, [run.run_id]) as connection:
        place_rows(run, "class_stats", select(connection, CLASS_STATS, names))
        place_rows(run, "localization", select(connection, LOCALIZATION, names))
        place_rows(run, "confusion", select(connection, CONFUSION))
        place_rows(run, "evidence", make_evidence(run, plan, content), evidence.SCHEMA)
        place_rows(run, "runs", run_row(connection, plan, [commit], facts, finished))
    judgements = judge(content.gates, run, None)
    place_rows(run, "gates", as_rows(judgements, None))
    draw_gallery(run, content, judgements)
    manifest = Manifest(
        run_id=run.run_id,
        plan_hash="c" * 64,
        started_at=PLANNED,
        finished_at=finished,
        expected_count=plan.sample_count,
        examination=content.examination,
        readings=["Only positive response is sent back: max(z, 0) & no more."],
        environment={"python": "3.11.2", "device": "cpu"},
        artefacts={f"runs/{run.run_id}/maps.zarr/{index}": f"{index:064x}" for index in range(3)},
        **counts,
    )
    publish(run, manifest)
    return run


def make_evidence(run: Run, plan: Plan, content: Content) -> pa.Table:
    """Of 28 × 28 cells: the label's share at (label, label) from the top left, the others' at the far end of its row."""
    measured = [row for row in content.samples if row["label"] is not None and row["dominant_class"] is not None]
    labels = np.array([row["label"] for row in measured], np.int64)
    own, other = np.zeros((2, len(measured), 28, 28))
    for place, row in enumerate(measured):
        own[place, row["label"] % 28, row["label"] % 28] = row["label_energy_frac"]
        other[place, row["label"] % 28, 27] = 1 - row["label_energy_frac"]
    parts = []
    with scratch(run.attempts) as folder:
        for label in sorted(set(labels.tolist())):
            parts.append(folder / f"evidence-{label}.parquet")
            chosen = labels == label
            sums = own[chosen].sum(0)[None], other[chosen].sum(0)[None]
            write_table(evidence.as_sums(labels[chosen][:1], np.array([chosen.sum()]), *sums), parts[-1])
        return evidence.mean_evidence(parts, plan)


def make_plan(content: Content) -> Plan:
    return Plan(
        run_id=content.run_id,
        created_at=PLANNED,
        schema_version=SCHEMA_VERSION,
        tool_version="0.1.0",
        name="digits <audit>",
        config={
            "name": "digits",
            "dataset": {"path": "</pre><script>alert(2)</script>"},
            "report": content.report,
            "folder": "/audits",
        },
        config_hash="d" * 64,
        model_hash="a" * 64,
        dataset_hash="b" * 64,
        class_names=list(content.classes),
        sample_count=len(content.samples) + len(content.failures),
        height=28,
        width=28,
        shard_samples=16,
    )


def draw_gallery(run: Run, content: Content, judgements: Sequence[Judgement] = ()) -> None:
    """Plain squares for pictures, maps half transparent; no folder at all where nothing is drawn."""
    if not content.drawn:
        return
    with scratch(run.folder) as folder:
        for index, _ in content.drawn:
            for kind in KINDS:
                mode, color = ("RGB", (index * 20, 80, 120)) if kind == "input" else ("RGBA", (0, 250, index * 20, 128))
                Image.new(mode, (28, 28), color).save(folder / f"{index:06d}-{kind}.png")
        put_folder(folder, run.gallery)
    colors = [f"#{index * 96 % 256:02x}8040" for index in range(len(content.classes))]
    samples = [{"sample_index": index, "reason": reason, "peak": 1.25} for index, reason in content.drawn]
    against: dict[int, list[str]] = {sample["sample_index"]: [] for sample in samples}
    for judgement in judgements:
        for index in against.keys() & set(judgement.samples):
            against[index].append(judgement.gate.name)
    write_gallery(run, colors, [sample | {"gates": against[sample["sample_index"]]} for sample in samples])


def write_gallery(run: Run, colors: Sequence[str], samples: Sequence[Row]) -> None:
    """As the flow writes it."""
    replace_file(
        run.gallery / "gallery.json",
        json.dumps({"colors": list(colors), "samples": list(samples), "percentile": 99, "other_color": "#ffa6ff"}),
    )
