"""The contract of an analysis: what an audit is made of.

An analysis is three files of one name: its arithmetic in `auditor`, its stage here, in `flows/analyses`, and its section of the
report in `reports/sections`. A stage says, in one `Analysis`, all that the rest of an audit needs to know of it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from flows.sections import Section
from reports.figures import Figure
from storage.datasets import Dataset
from storage.joins import Table
from storage.runs.parts import CheckParts
from storage.runs.plan import Plan, Unit
from storage.runs.run import Run

# Only named here: it imports PyTorch, and who asks which tables there are has no need of that.
if TYPE_CHECKING:
    import duckdb

    from flows.runtime.worker import AuditWorker


class Options(Section):
    """The options of an analysis: the keys of its section of the config. run: whether an audit has it."""

    run: bool = True


@dataclass(frozen=True)
class ShardMaps:
    """The maps of a shard's n samples, as they were measured, or as the run stored them.

    labels: (n,) int64, −1 = unknown, or not measured. dominant_class: (n, height, width) int16, −1 = none.
    dominant_response: the same shape, float32 ≥ 0.
    """

    labels: np.ndarray
    dominant_class: np.ndarray
    dominant_response: np.ndarray


@dataclass(frozen=True)
class Context:
    """What a unit is worked out with. worker: the model and the dataset; None for an analysis of the maps of a shard that nobody
    could measure. maps: of the shard, where the analysis is of maps.
    """

    run: Run
    plan: Plan
    options: Options
    worker: "AuditWorker | None"
    maps: ShardMaps | None = None


@dataclass(frozen=True)
class Result:
    """What came of a unit. processed, failed: of its items. tables: its part of each table that has parts, by name.

    maps: of the analysis that makes them.
    """

    processed: int
    failed: int
    tables: Mapping[str, pa.Table]
    maps: ShardMaps | None = None


def no_fault(plan: Plan, unit: Unit, commit: object, parts: Mapping[str, pa.Table]) -> str | None:
    """For an analysis whose parts need no other check than that of their columns."""
    return None


def no_warning(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    return []


@dataclass(frozen=True)
class Analysis:
    """One part of an audit: it works unit by unit, on any worker, and its tables are made of what the units write.

    name: of its section of the config, its folder of commits, and its section of the report. about: what it finds, in words.
    options: its section of the config. tables: see `Table`; one with parts gets one from each unit. units: what there is to do,
    from the plan and the options. work: does one unit, the same way every time: a unit that is done twice, for a worker died,
    must come out the same to the last bit. of_maps: its units are the shards, and each is worked out from the shard's maps, in
    one pass with these where they are made. check: what is wrong with the content of a unit's parts. fail: what a unit comes
    to that is given up, and why; by default its parts are empty. figures: the numbers that it offers to gates, to comparisons and
    to the page over all runs. reads: the analyses beside the maps whose tables it asks: they are done before it. warn:
    from a connection to the run's tables, what a person is to be told at once, a sentence each.
    """

    name: str
    about: str
    options: type[Options]
    tables: tuple[Table, ...]
    units: Callable[[Plan, Options], list[Unit]]
    work: Callable[[Unit, Context], Result]
    of_maps: bool = False
    check: CheckParts = no_fault
    fail: Callable[[Plan, Dataset, Unit, str], Result] | None = None
    figures: tuple[Figure, ...] = ()
    reads: tuple[str, ...] = ()
    warn: Callable[["duckdb.DuckDBPyConnection"], list[str]] = no_warning

    def failed(self, plan: Plan, dataset: Dataset, unit: Unit, reason: str) -> Result:
        """What a unit comes to that killed whoever tried it: all of its items failed."""
        if self.fail is not None:
            return self.fail(plan, dataset, unit, reason)
        return Result(0, unit.size, {name: schema.empty_table() for name, schema in self.part_schemas.items()})

    @property
    def part_schemas(self) -> dict[str, pa.Schema]:
        """Of the tables that have parts."""
        return {table.name: schema for table in self.tables if (schema := table.part_schema) is not None}

    def identity(self, options: Options) -> str:
        """SHA-256 of what decides its result beside what the plan says: units that were done by other options are done again."""
        return hashlib.sha256(json.dumps(options.model_dump(mode="json", exclude={"run"}), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Job:
    """An analysis and the options that it is done by."""

    analysis: Analysis
    options: Options

    @property
    def identity(self) -> str:
        return self.analysis.identity(self.options)


def shards(plan: Plan, options: Options) -> list[Unit]:
    return plan.shards()
