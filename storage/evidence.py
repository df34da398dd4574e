"""Mean evidence maps: the sums that shards write, and the table that is made of them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.tables import SCHEMAS, read_table, write_table

EVIDENCE_SUMS = "evidence.parquet"
"""The sums' file in a shard's attempt."""

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


def write_sums(path: Path, labels: np.ndarray, counts: np.ndarray, own: np.ndarray, other: np.ndarray) -> None:
    """The sums of one shard. labels, counts: (k,). own, other: (k, h, w) float64; see `auditor.statistics.evidence`."""
    columns = [pa.array(labels), pa.array(counts), as_lists(own), as_lists(other)]
    write_table(pa.table([column.cast(field.type) for column, field in zip(columns, SUMS, strict=True)], schema=SUMS), path)


def as_lists(values: np.ndarray) -> pa.Array:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * int(np.prod(values.shape[1:]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))


def mean_evidence(parts: Iterable[Path], class_names: list[str], height: int, width: int) -> pa.Table:
    """Rows of table `evidence`, one a class. height, width: of the maps, in pixels.

    Parts are added in their order, so that the same parts give the same means to the last bit.
    """
    side = cell_pixels(height, width)
    rows, columns = cell_grid(height, width)
    counts = np.zeros(len(class_names), np.int64)
    sums = np.zeros((2, len(class_names), rows * columns))
    for part in parts:
        table = read_table(part)
        labels = table["label"].to_numpy()
        counts[labels] += table["evidence_count"].to_numpy()
        for total, name in zip(sums, ("label_energy_frac_sum", "other_energy_frac_sum"), strict=True):
            total[labels] += table[name].combine_chunks().flatten().to_numpy().reshape(len(labels), rows * columns)
    means = sums / np.maximum(counts, 1)[:, None]
    none = pa.array(counts == 0)
    values = {
        "class_index": pa.array(np.arange(len(class_names))),
        "class_name": pa.array(class_names, pa.string()),
        "evidence_count": pa.array(counts),
        "cell_pixel_count": pa.array(np.full(len(class_names), side)),
        "column_count": pa.array(np.full(len(class_names), columns)),
        "label_energy_frac_mean": without(as_lists(means[0]), none),
        "other_energy_frac_mean": without(as_lists(means[1]), none),
    }
    schema = SCHEMAS["evidence"]
    return pa.table([values[field.name].cast(field.type) for field in schema], schema=schema)


def without(values: pa.Array, undefined: pa.Array) -> pa.Array:
    """The values, NULL where they are undefined."""
    return pc.if_else(undefined, pa.scalar(None, values.type), values)
