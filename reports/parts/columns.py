"""Columns of tables: a class, its images, shares, numbers."""

from collections.abc import Sequence

from reports.context import ReportContext
from reports.formats import count, decimal, percent
from reports.parts.blocks import CHART_CLASSES, Column
from reports.queries import Row

NO_LABELS = "No measured image of this run has a label, so nothing can be said class by class."
IMAGES = Column("Images", lambda row: count(row["sample_count"]))


def class_column(context: ReportContext) -> Column:
    return Column("Class", lambda row: context.name(row["class_index"]), is_number=False)


def share(title: str, column: str) -> Column:
    return Column(title, lambda row: percent(row[column]))


def number(title: str, column: str, digits: int = 2) -> Column:
    return Column(title, lambda row: decimal(row[column], digits))


def worst(rows: Sequence[Row], order: str) -> tuple[Sequence[Row], str]:
    """The rows that a chart has room for, and a sentence on what it leaves out. order: what the rows are sorted by, in words."""
    if len(rows) <= CHART_CLASSES:
        return rows, f"Classes are in order of {order}."
    return rows[:CHART_CLASSES], f"The chart shows the worst {CHART_CLASSES} of {len(rows):,} classes, by {order}."
