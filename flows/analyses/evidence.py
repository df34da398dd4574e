"""Mean evidence by class: where, in the images of a class, its own evidence lies, and where that of other classes does."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.analyses.analysis import Analysis, Context, Options, Result, shards
from storage.joins import Reduce, Table
from storage.runs.commits import Commit
from storage.runs.parts import Parts, class_fault
from storage.runs.plan import Plan, Unit
from storage.tables import CLASS, column, read_table, table_schema

WHERE = "of an image's energy in each cell, row by row from the top left"

SCHEMA = table_schema(
    [
        *CLASS[:2],
        column("evidence_count", pa.int64(), "samples with this label and any positive response: those that are averaged"),
        column("cell_pixel_count", pa.int32(), "pixels a side of a cell"),
        column("column_count", pa.int32(), "cells side by side"),
        column(
            "label_energy_frac_mean", pa.list_(pa.float32()), f"mean share {WHERE}, where the label dominates; NULL = no sample"
        ),
        column(
            "other_energy_frac_mean", pa.list_(pa.float32()), f"mean share {WHERE}, where another class does; NULL = no sample"
        ),
    ]
)

CELLS = 64
"""Most cells a side: a mean over many images has no finer detail that is worth its memory, which grows with the classes."""

SUMS = pa.schema(
    [
        pa.field("label", pa.int32()),
        pa.field("evidence_count", pa.int64()),
        pa.field("label_energy_frac_sum", pa.list_(pa.float64())),
        pa.field("other_energy_frac_sum", pa.list_(pa.float64())),
    ]
)


def cell_pixels(height: int, width: int) -> int:
    """Pixels a side of a cell."""
    return -(-max(height, width) // CELLS)


def cell_grid(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of cells."""
    side = cell_pixels(height, width)
    return -(-height // side), -(-width // side)


def work(unit: Unit, context: Context) -> Result:
    import torch

    from auditor.statistics.evidence import label_evidence

    maps = context.maps
    assert maps is not None
    side = cell_pixels(context.plan.height, context.plan.width)
    pixels = torch.from_numpy(maps.dominant_class), torch.from_numpy(maps.dominant_response)
    sums = label_evidence(*pixels, torch.from_numpy(maps.labels), side)
    return Result(unit.size, 0, {"evidence": as_sums(*(part.numpy() for part in sums))})


def as_sums(labels: np.ndarray, counts: np.ndarray, own: np.ndarray, other: np.ndarray) -> pa.Table:
    """The sums of one shard. labels, counts: (k,). own, other: (k, h, w) float64; see `auditor.statistics.evidence`."""
    columns = [pa.array(labels), pa.array(counts), as_lists(own), as_lists(other)]
    return pa.table([column.cast(field.type) for column, field in zip(columns, SUMS, strict=True)], schema=SUMS)


def as_lists(values: np.ndarray) -> pa.Array:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * int(np.prod(values.shape[1:]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))


def mean_evidence(parts: Iterable[Path], plan: Plan) -> pa.Table:
    """Rows of table `evidence`, one a class.

    Parts are added in their order, so that the same parts give the same means to the last bit.
    """
    side = cell_pixels(plan.height, plan.width)
    rows, columns = cell_grid(plan.height, plan.width)
    counts = np.zeros(len(plan.class_names), np.int64)
    sums = np.zeros((2, len(plan.class_names), rows * columns))
    for part in parts:
        table = read_table(part)
        labels = table["label"].to_numpy()
        counts[labels] += table["evidence_count"].to_numpy()
        for total, name in zip(sums, ("label_energy_frac_sum", "other_energy_frac_sum"), strict=True):
            total[labels] += table[name].combine_chunks().flatten().to_numpy().reshape(len(labels), rows * columns)
    means = sums / np.maximum(counts, 1)[:, None]
    none = pa.array(counts == 0)
    values = {
        "class_index": pa.array(np.arange(len(plan.class_names))),
        "class_name": pa.array(plan.class_names, pa.string()),
        "evidence_count": pa.array(counts),
        "cell_pixel_count": pa.array(np.full(len(plan.class_names), side)),
        "column_count": pa.array(np.full(len(plan.class_names), columns)),
        "label_energy_frac_mean": without(as_lists(means[0]), none),
        "other_energy_frac_mean": without(as_lists(means[1]), none),
    }
    return pa.table([values[field.name].cast(field.type) for field in SCHEMA], schema=SCHEMA)


def without(values: pa.Array, undefined: pa.Array) -> pa.Array:
    """The values, NULL where they are undefined."""
    return pc.if_else(undefined, pa.scalar(None, values.type), values)


def check(plan: Plan, unit: Unit, commit: Commit, parts: Parts) -> str | None:
    """What is wrong with a shard's sums."""
    sums = parts["evidence"]
    cells = int(np.prod(cell_grid(plan.height, plan.width)))
    if any(not pc.all(pc.equal(pc.list_value_length(sums[name]), cells)).as_py() for name in sums.column_names[2:] if len(sums)):
        return f"'evidence.parquet' has not {cells:,} cells a class"
    return class_fault(plan, [sums["label"]])


ANALYSIS = Analysis(
    name="evidence",
    about="mean maps of the evidence for each class and for others",
    options=Options,
    tables=(Table("evidence", SCHEMA, Reduce(SUMS, mean_evidence)),),
    units=shards,
    work=work,
    of_maps=True,
    check=check,
)
