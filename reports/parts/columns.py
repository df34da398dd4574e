"""Columns of tables: a class, its images, shares, numbers."""

from collections.abc import Sequence

from reports.context import ReportContext
from reports.formats import count, decimal, percent
from reports.parts.blocks import CHART_CLASSES, Column
from reports.queries import Row

NO_LABELS = "No measured image of this run has a label, so nothing can be said class by class."
RANKED_FROM = 5
"""Images that a class needs to stand in an order of classes: a share of fewer moves too far with each of them."""
NOT_RANKED = f"No class has {RANKED_FROM} images, so none is ranked."
IMAGES = Column("Images", lambda row: count(row["sample_count"]))


def class_column(context: ReportContext) -> Column:
    return Column("Class", lambda row: context.name(row["class_index"]), is_number=False)


def share(title: str, column: str) -> Column:
    return Column(title, lambda row: percent(row[column]))


def number(title: str, column: str, digits: int = 2) -> Column:
    return Column(title, lambda row: decimal(row[column], digits))


def ranked(rows: Sequence[Row], column: str = "sample_count") -> list[Row]:
    """The rows of classes with enough images. column: how many a class has."""
    return [row for row in rows if row[column] >= RANKED_FROM]


def say_unranked(rows: Sequence[Row], column: str = "sample_count") -> str:
    """A sentence on the classes that are not ranked; empty where all are."""
    left = len(rows) - len(ranked(rows, column))
    if not left:
        return ""
    if left == 1:
        return f"1 class has fewer than {RANKED_FROM} images and is not ranked: it stands last."
    return f"{count(left)} classes have fewer than {RANKED_FROM} images and are not ranked: they stand last, in their own order."


def worst(rows: Sequence[Row], order: str) -> tuple[Sequence[Row], str]:
    """The rows that a chart has room for, and a sentence on what it leaves out. order: what the rows are sorted by, in words."""
    if len(rows) <= CHART_CLASSES:
        return rows, f"Classes are in order of {order}."
    return rows[:CHART_CLASSES], f"The chart shows the worst {CHART_CLASSES} of {len(rows):,} classes, by {order}."
