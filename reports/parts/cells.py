"""The cells of label and dominant class, each with the images in it."""

from collections.abc import Container
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from reports.context import ReportContext
from reports.formats import NO_LABEL, count, percent, plural
from reports.parts.blocks import Column, Table, tabulate
from reports.parts.gallery import cell_limits
from reports.queries import Answer, Row

CELL_SAMPLES = 8
"""How many images of a cell are listed: first those whose dominant class holds most of their energy."""


@dataclass(frozen=True)
class Cell:
    """The images of one label and one dominant class. label, dominant: as the gallery's filters name the classes."""

    anchor: str
    title: str
    label: str
    dominant: str
    table: Table


@dataclass(frozen=True)
class Cells:
    """The cells that are shown. note: a sentence on which cells these are; empty where they are all."""

    answer: Answer
    cells: list[Cell]
    note: str


def key(index: int | None) -> str:
    """The name of a class in anchors and filters."""
    return "none" if index is None else str(index)


def anchor(label: int | None, dominant: int | None) -> str:
    return f"cell-{key(label)}-{key(dominant)}"


def find_cells(context: ReportContext, drawn: Container[int]) -> Cells:
    """The largest cells, in the order of label and dominant class. drawn: the samples that have a card to lead to."""
    limits = cell_limits(len(context.labels))
    answer = context.ask("cell_samples", count=CELL_SAMPLES, **limits)
    groups = groupby(answer.rows, key=lambda row: (row["label"], row["dominant_class"]))
    cells = [make_cell(context, drawn, label, dominant, list(rows)) for (label, dominant), rows in groups]
    which = "cells" if limits["with_diagonal"] else "cells off the diagonal"
    note = f"These are the {count(len(cells))} largest {which}." if len(cells) == limits["cells"] else ""
    return Cells(answer, cells, note)


def make_cell(context: ReportContext, drawn: Container[int], label: int | None, dominant: int | None, rows: list[Row]) -> Cell:
    title = f"Label {context.name(label, NO_LABEL)}, dominant class {context.name(dominant)}"
    columns = [
        Column("Sample", lambda row: name_sample(row["sample_index"], drawn)),
        Column("Name", lambda row: row["sample_id"], is_number=False),
        Column("Prediction", lambda row: context.name(row["prediction"]), is_number=False),
        Column("Probability", lambda row: percent(row["probability"])),
        Column("Dominant class's energy", lambda row: percent(row["dominant_energy_frac"])),
        Column("Label's energy", lambda row: percent(row["label_energy_frac"])),
    ]
    (total,) = {row["cell_count"] for row in rows}
    table = tabulate(f"{title}; most energy for the dominant class first.", columns, rows, total=total)
    return Cell(anchor(label, dominant), f"{title}: {plural(total, 'image')}", key(label), key(dominant), table)


def name_sample(index: int, drawn: Container[int]) -> str:
    return Markup('<a href="#sample-{}">{:,}</a>').format(index, index) if index in drawn else count(index)
