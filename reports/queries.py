"""The SQL behind the report: one file per figure, shown to the reader as it was run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.sql.read_only import select
from storage.sql.union import quote

if TYPE_CHECKING:
    import duckdb

FOLDER = Path(__file__).parent / "sql"
SECTIONS = Path(__file__).parent / "sections"
"""The folder of the queries that only one section asks: they stand beside it."""

Row = dict[str, Any]
Parameter = str | int | Sequence[int]


@dataclass(frozen=True)
class Answer:
    """A query's rows and the text that gave them: a user who runs `sql` gets the same rows."""

    name: str
    sql: str
    rows: list[Row]


def load(name: str) -> str:
    """The text of `sql/<name>.sql`, else of `sections/<name>.sql`, with its parameters as $name."""
    shared = FOLDER / f"{name}.sql"
    return (shared if shared.exists() else SECTIONS / f"{name}.sql").read_text(encoding="utf-8").strip()


def fill(sql: str, parameters: dict[str, Parameter]) -> str:
    """Writes the parameters into the text as literals. Raises KeyError where one is missing."""
    return re.sub(r"\$([a-z_]+)", lambda match: literal(parameters[match[1]]), sql)


def literal(value: Parameter) -> str:
    if isinstance(value, str):
        return quote(value)
    return str(value) if isinstance(value, int) else str([int(item) for item in value])


def ask(connection: "duckdb.DuckDBPyConnection", name: str, **parameters: Parameter) -> Answer:
    """Runs a query of the report with its parameters written into its text, so that what is shown is what was run."""
    sql = fill(load(name), parameters)
    return Answer(name, sql, select(connection, sql).to_pylist())
