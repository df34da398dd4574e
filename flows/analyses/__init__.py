"""The analyses that an audit can have, one file each. To add one: write its file, and name it here."""

import re

import pyarrow as pa

from flows.analyses import data_checks, evidence, maps, trust
from flows.analyses.analysis import Analysis
from reports.figures import FIGURES
from storage.tables import SCHEMAS

ANALYSES: dict[str, Analysis] = {}
"""By name, in the order in which an audit does them."""


def add_analysis(analysis: Analysis) -> None:
    """Puts an analysis, and the figures that it offers, to those that there are: before a config is read by them."""
    ANALYSES[analysis.name] = analysis
    FIGURES.update({figure.name: figure for figure in analysis.figures})


for module in (maps, evidence, data_checks, trust):
    add_analysis(module.ANALYSIS)

MISSING = re.compile(r"table '(\w+)' does not exist")


def name_analysis(message: str) -> str:
    """What is wrong with a query, in words, with the analysis that makes a table that is not there."""
    missing = MISSING.search(message)
    table = None if missing is None else missing[1]
    maker = next((name for name, analysis in ANALYSES.items() if table in {made.name for made in analysis.tables}), None)
    if maker is None:
        return message
    return (
        f"table '{table}' is of analysis '{maker}', and no run of the store has it: 'clear-audit analyse RUN {maker}' adds it; "
        "where a run had the analysis before it had this table, audit anew"
    )


def known_schemas() -> dict[str, pa.Schema]:
    """Of all tables that a run can have."""
    return SCHEMAS | {table.name: table.schema for analysis in ANALYSES.values() for table in analysis.tables}
