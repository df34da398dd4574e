"""A figure of an analysis of the tests' own, and runs that have its table."""

import pyarrow as pa
import pytest

from reports.figures import FIGURES, Figure
from storage.joins import place_rows
from storage.runs.run import Run
from storage.tables import column, table_schema

LIGHT = Figure(
    "light",
    "mean light of all images",
    "light",
    "SELECT avg(light) FROM light",
    "SELECT sample_index FROM light ORDER BY light DESC, sample_index LIMIT 2",
    "Light",
)
SCHEMA = table_schema([column("sample_index", pa.int64(), "position"), column("light", pa.float64(), "how light it is")])


def offer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `flows.analyses` does with the figures of an analysis, and no others."""
    for name in list(FIGURES):
        monkeypatch.delitem(FIGURES, name)
    monkeypatch.setitem(FIGURES, LIGHT.name, LIGHT)


def place_light(run: Run, *values: float | None) -> None:
    rows = pa.table({"sample_index": list(range(len(values))), "light": pa.array(values, pa.float64())})
    run.attempts.mkdir(exist_ok=True)
    place_rows(run, "light", rows, SCHEMA)
