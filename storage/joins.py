"""How the parts of a table that an analysis's units write become the run's table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.filesystems import files_below, hash_file, publish_files, put_files, put_folder, readable, scratch
from storage.maps import MapShape, create_maps
from storage.runs.commits import Commit
from storage.runs.parts import map_places
from storage.runs.plan import Plan
from storage.runs.run import Run
from storage.sql.read_only import connect, select
from storage.tables import SCHEMAS, compact, write_table

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Append:
    """The rows of the parts, in the order of the units. A part may have further columns, the same in all."""


@dataclass(frozen=True)
class Reduce:
    """What a function makes of all parts. parts: their schema. function: from the parts' files, in order, and the plan."""

    parts: pa.Schema
    function: Callable[[Sequence[Path], Plan], pa.Table]


@dataclass(frozen=True)
class Aggregate:
    """What one SELECT over the run's other tables says; `$class_names` are the names of the classes. It has no parts."""

    sql: str


@dataclass(frozen=True)
class Derive:
    """What a function makes of the run's other tables, where SQL is not the words for it. It has no parts.

    function: from a connection that knows the run's tables made so far, and the plan.
    """

    function: Callable[["duckdb.DuckDBPyConnection", Plan], pa.Table]


@dataclass(frozen=True)
class Table:
    """A table of an analysis. schema: of the run's table; a column `class_name` says that it has one row a class."""

    name: str
    schema: pa.Schema
    join: Append | Reduce | Aggregate | Derive = field(default_factory=Append)

    @property
    def part_schema(self) -> pa.Schema | None:
        """What a unit writes; None where it writes nothing."""
        if isinstance(self.join, Append):
            return self.schema
        return self.join.parts if isinstance(self.join, Reduce) else None

    @property
    def part_name(self) -> str:
        """Its file in a unit's attempt."""
        return f"{self.name}.parquet"


def join_parts(run: Run, plan: Plan, tables: Sequence[Table], commits: Sequence[Commit]) -> None:
    """Makes the run's tables of those of an analysis that have parts. commits: of all its units, in order."""
    for table in tables:
        parts = [run.attempts / commit.attempt / table.part_name for commit in commits]
        if isinstance(table.join, Append):
            place_table(run, table.name, partial(append, parts, table.schema))
        elif isinstance(table.join, Reduce):
            place_rows(run, table.name, table.join.function(parts, plan), table.schema)


def append(parts: list[Path], schema: pa.Schema, path: Path) -> None:
    compact(parts, path, pq.read_schema(readable(parts[0])) if parts else schema)


def aggregate(run: Run, plan: Plan, tables: Sequence[Table]) -> None:
    """Makes the tables that follow from the run's others, which must be there, each from those before it."""
    for table in tables:
        if isinstance(table.join, Aggregate | Derive):
            with connect(run.store, [run.run_id], threads=1) as connection:
                rows = follow(connection, plan, table.join)
            place_rows(run, table.name, rows, table.schema)


def follow(connection: "duckdb.DuckDBPyConnection", plan: Plan, join: Aggregate | Derive) -> pa.Table:
    if isinstance(join, Derive):
        return join.function(connection, plan)
    return select(connection, join.sql, {"class_names": plan.class_names} if "$class_names" in join.sql else {})


def join_maps(run: Run, plan: Plan, commits: Sequence[Commit], attributes: dict[str, Any]) -> dict[str, str]:
    """Moves each shard's files into the run's arrays. A shard that was moved before a crash is found moved."""
    places, hashes = {}, {}
    for commit in commits:
        for local, published in map_places(commit.unit).items():
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


def place_rows(run: Run, name: str, rows: pa.Table, schema: pa.Schema | None = None) -> None:
    """schema: of the table; what `SCHEMAS` says where it is not given."""
    schema = SCHEMAS[name] if schema is None else schema
    place_table(run, name, lambda path: write_table(rows.select(schema.names).cast(schema), path))


def place_table(run: Run, name: str, write: Callable[[Path], None]) -> None:
    """Writes a table elsewhere and puts it in its place, alone, so that a reader never meets half of it, nor another's."""
    place = run.table(name)
    with scratch(run.attempts) as folder:
        write(folder / f"{name}.parquet")
        put_files({folder / f"{name}.parquet": place})
    for path in [path for path in files_below(place.parent) if path != place]:
        path.unlink()
