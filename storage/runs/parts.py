"""The files of one unit of work, as its attempt has them, and whether they are what was committed."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.filesystems import hash_file
from storage.maps import shard_files
from storage.runs.commits import Commit
from storage.runs.plan import Plan, Unit
from storage.runs.run import MAPS, Run
from storage.tables import read_table

MAPS_FILE = "maps.zarr"
CLASSES = {"samples": ("label", "prediction", "dominant_class"), "responses": ("class_index",)}
"""Columns that are indices of classes."""

Parts = Mapping[str, pa.Table]
"""The parts of a unit, by the name of their table."""

CheckParts = Callable[[Plan, Unit, Commit, Parts], str | None]
"""What is wrong with the content of a unit's parts, in words; None where nothing is."""


def map_places(shard: int) -> dict[str, str]:
    """The files of a shard's maps: where each is in the run's arrays, by where it is in the attempt."""
    places = zip(shard_files(0), shard_files(shard), strict=True)
    return {f"{MAPS_FILE}/{local}": published for local, published in places}


def part_fault(
    run: Run, plan: Plan, unit: Unit, commit: Commit, schemas: Mapping[str, pa.Schema], check: CheckParts
) -> str | None:
    """What is wrong with the files of a committed unit, in words; None where they are as they were committed.

    schemas: of the parts of its tables, by the tables' names. check: looks at what is in them. Maps that were moved into the
    run's arrays, before a crash, are looked for there.
    """
    moved = map_places(unit.index) if commit.analysis == MAPS else {}
    for name in (*moved, *(f"{table}.parquet" for table in schemas)):
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
        parts = {table: read_table(attempt / f"{table}.parquet") for table in schemas}
        return schema_fault(parts, schemas) or check(plan, unit, commit, parts)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        return f"its tables cannot be read ({str(error).splitlines()[0]})"


def schema_fault(parts: Parts, schemas: Mapping[str, pa.Schema]) -> str | None:
    for name, schema in schemas.items():
        for field in schema:
            if field.name not in parts[name].column_names or parts[name].schema.field(field.name).type != field.type:
                return f"'{name}.parquet' has no column '{field.name}' of type {field.type}"
    return None


def measured_fault(plan: Plan, unit: Unit, commit: Commit, parts: Parts) -> str | None:
    """What is wrong with the parts of the tables that have rows of samples."""
    indices = {name: parts[name]["sample_index"].to_numpy() for name in ("samples", "responses", "failures")}
    for name, count in (("samples", commit.processed_count), ("failures", commit.failed_count)):
        if len(indices[name]) != count:
            return f"'{name}.parquet' has {len(indices[name]):,} rows, and {count:,} were committed"
    found = np.sort(np.concatenate([indices["samples"], indices["failures"]]))
    if not np.array_equal(found, np.arange(unit.start, unit.stop)):
        return f"its tables are not of the images {unit.start:,} to {unit.stop - 1:,}, each once"
    if not np.isin(indices["responses"], indices["samples"]).all():
        return "'responses.parquet' is of other images than 'samples.parquet'"
    return class_fault(plan, [parts[name][column] for name, names in CLASSES.items() for column in names])


def class_fault(plan: Plan, columns: Sequence[pa.ChunkedArray]) -> str | None:
    """What is wrong with columns that are to be indices of classes, or NULL."""
    classes = len(plan.class_names)
    if all(is_within(column, classes) for column in columns):
        return None
    return f"its tables have classes outside of the {classes:,} that there are"


def is_within(column: pa.ChunkedArray, count: int) -> bool:
    """Whether all that is not NULL is in [0, count)."""
    least, most = pc.min_max(column).as_py().values()
    return least is None or bool(least >= 0 and most < count)
