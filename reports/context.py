"""What every section of a report is asked of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reports.parts.formats import NO_CLASS
from reports.queries import Answer, Parameter, ask

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Scope:
    """What every section needs. labels: the classes' names, in order; height, width: of the maps, in pixels."""

    connection: "duckdb.DuckDBPyConnection"
    run_id: str
    labels: Sequence[str]
    height: int
    width: int

    def ask(self, name: str, **parameters: Parameter) -> Answer:
        return ask(self.connection, name, run_id=self.run_id, **parameters)

    def name(self, index: int | None, otherwise: str = NO_CLASS) -> str:
        return otherwise if index is None else self.labels[index]
