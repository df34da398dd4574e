"""The files of one shard, as its attempt has them, and whether they are what was committed."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.evidence import EVIDENCE_SUMS, cell_grid
from storage.filesystems import hash_file
from storage.maps import shard_files
from storage.runs.commits import Commit
from storage.runs.plan import Plan, Unit
from storage.runs.run import Run
from storage.tables import PER_SHARD, read_table

MAPS = "maps.zarr"
TABLES = (*(f"{table}.parquet" for table in PER_SHARD), EVIDENCE_SUMS)
CLASSES = {"samples": ("label", "prediction", "dominant_class"), "responses": ("class_index",)}
"""Columns that are indices of classes."""


def map_places(shard: int) -> dict[str, str]:
    """The files of a shard's maps: where each is in the run's arrays, by where it is in the attempt."""
    places = zip(shard_files(0), shard_files(shard), strict=True)
    return {f"{MAPS}/{local}": published for local, published in places}


def part_fault(run: Run, plan: Plan, shard: Unit, commit: Commit) -> str | None:
    """What is wrong with the files of a committed shard, in words; None where they are as they were committed.

    Maps that were moved into the run's arrays, before a crash, are looked for there.
    """
    moved = map_places(shard.index)
    for name in (*moved, *TABLES):
        if name not in commit.files:
            return f"it does not name '{name}'"
    attempt = run.attempts / commit.attempt
    for name, digest in commit.files.items():
        try:
            path = attempt / name
            if name in moved and not path.exists():
                path = run.maps / moved[name]
            if not path.is_file():
                return f"'{name}' of its attempt is gone"
            if hash_file(path) != digest:
                return f"'{name}' of its attempt is not as it was committed"
        except OSError as error:
            return f"'{name}' of its attempt cannot be read ({error.strerror or error})"
    try:
        return content_fault(run, plan, shard, commit)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        return f"its tables cannot be read ({str(error).splitlines()[0]})"


def content_fault(run: Run, plan: Plan, shard: Unit, commit: Commit) -> str | None:
    """The same of what is in its tables."""
    attempt, classes = run.attempts / commit.attempt, len(plan.class_names)
    tables = {name: read_table(attempt / f"{name}.parquet") for name in PER_SHARD}
    indices = {name: table["sample_index"].to_numpy() for name, table in tables.items()}
    for name, count in (("samples", commit.processed_count), ("failures", commit.failed_count)):
        if len(indices[name]) != count:
            return f"'{name}.parquet' has {len(indices[name]):,} rows, and {count:,} were committed"
    found = np.sort(np.concatenate([indices["samples"], indices["failures"]]))
    if not np.array_equal(found, np.arange(shard.start, shard.stop)):
        return f"its tables are not of the images {shard.start:,} to {shard.stop - 1:,}, each once"
    if not np.isin(indices["responses"], indices["samples"]).all():
        return "'responses.parquet' is of other images than 'samples.parquet'"
    sums = read_table(attempt / EVIDENCE_SUMS)
    columns = [tables[name][column] for name, names in CLASSES.items() for column in names]
    if any(not is_within(column, classes) for column in (*columns, sums["label"])):
        return f"its tables have classes outside of the {classes:,} that there are"
    cells = int(np.prod(cell_grid(plan.height, plan.width)))
    if any(not pc.all(pc.equal(pc.list_value_length(sums[name]), cells)).as_py() for name in sums.column_names[2:] if len(sums)):
        return f"'{EVIDENCE_SUMS}' has not {cells:,} cells a class"
    return None


def is_within(column: pa.ChunkedArray, count: int) -> bool:
    """Whether all that is not NULL is in [0, count)."""
    least, most = pc.min_max(column).as_py().values()
    return least is None or bool(least >= 0 and most < count)
