"""What the sections of a report are made from."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from reports.formats import NO_CLASS, class_labels
from reports.queries import Answer, Parameter, ask
from storage.runs.manifest import Manifest
from storage.runs.plan import Plan
from storage.runs.run import Run, read_manifest, read_plan
from storage.sql.read_only import connect, tables_in

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class ReportContext:
    """A published run with its tables.

    labels: the classes' names, in order. pages: where all images of the run are, by the anchor of a cell, and `first`; empty
    where the report stands alone.
    """

    connection: "duckdb.DuckDBPyConnection"
    run: Run
    plan: Plan
    manifest: Manifest
    labels: Sequence[str]
    pages: Mapping[str, str]

    def ask(self, name: str, **parameters: Parameter) -> Answer:
        return ask(self.connection, name, run_id=self.run.run_id, **parameters)

    def has_table(self, name: str) -> bool:
        """Whether the run has a table that not every run has: one of an analysis."""
        return name in tables_in(self.connection, "main")

    def name(self, index: int | None, otherwise: str = NO_CLASS) -> str:
        return otherwise if index is None else self.labels[index]

    @cached_property
    def facts(self) -> Answer:
        """The run's row in table `runs`."""
        return self.ask("run_facts")

    @cached_property
    def verdict(self) -> Answer:
        """What all measured images come to, one row."""
        return self.ask("verdict")

    @cached_property
    def gates(self) -> Answer:
        """The run's rows in table `gates`, worst first."""
        return self.ask("gates")


@contextmanager
def open_context(run: Run, pages: Mapping[str, str] | None = None) -> Iterator[ReportContext]:
    """Opens the tables of a published run. pages: see `ReportContext`. Raises InputError where the run is damaged."""
    plan, manifest = read_plan(run), read_manifest(run)
    with connect(run.store, [run.run_id]) as connection:
        yield ReportContext(connection, run, plan, manifest, class_labels(plan.class_names), pages or {})
