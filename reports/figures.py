"""Numbers that analyses say of a run: for gates, for comparisons, and for the page over all runs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.runs.run import Run
from storage.sql.read_only import connect, select, tables_in

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Figure:
    """One number of a run. name: of the built-in gate that asks for it. about: what it is, with unit and range.

    table: of the analysis, without which there is no such number. sql: one SELECT of one number; NULL where it is undefined.
    samples: one SELECT with a column `sample_index`, the images that count against it, worst first. heading: of its column on
    the page over all runs; None: it has none.
    """

    name: str
    about: str
    table: str
    sql: str
    samples: str | None = None
    heading: str | None = None


FIGURES: dict[str, Figure] = {}
"""By name. Reports know no analysis: `flows.analyses` puts here what those that there are offer."""


def has_figure(connection: "duckdb.DuckDBPyConnection", figure: Figure, schema: str = "main") -> bool:
    """Whether the run that is connected had the analysis."""
    return figure.table in tables_in(connection, schema)


def figures_of(run: Run, figures: Iterable[Figure] | None = None) -> dict[str, float | None]:
    """Figures of a run, by name; None where it is undefined, or the analysis did not run. figures: all, where not given.

    Raises InputError where a table is damaged.
    """
    wanted = list(FIGURES.values() if figures is None else figures)
    found: dict[str, float | None] = {figure.name: None for figure in wanted}
    # A store may have thousands of runs from before there was the analysis.
    there = [figure for figure in wanted if run.table(figure.table).exists()]
    if there:
        with connect(run.store, [run.run_id]) as connection:
            found |= {figure.name: read_figure(connection, figure) for figure in there}
    return found


def read_figure(connection: "duckdb.DuckDBPyConnection", figure: Figure) -> float | None:
    value = select(connection, figure.sql).column(0)[0].as_py()
    return None if value is None else float(value)
