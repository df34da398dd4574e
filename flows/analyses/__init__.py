"""The analyses that an audit can have, one file each. To add one: write its file, and name it here."""

import pyarrow as pa

from flows.analyses import evidence, maps
from flows.analyses.analysis import Analysis
from storage.tables import SCHEMAS

ANALYSES: dict[str, Analysis] = {module.ANALYSIS.name: module.ANALYSIS for module in (maps, evidence)}
"""By name, in the order in which an audit does them."""


def known_schemas() -> dict[str, pa.Schema]:
    """Of all tables that a run can have."""
    return SCHEMAS | {table.name: table.schema for analysis in ANALYSES.values() for table in analysis.tables}
