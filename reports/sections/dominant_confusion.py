"""The dominant class beside the label: a chart, the largest cells, and the images in them."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from reports.context import ReportContext
from reports.formats import NO_CLASS, NO_LABEL, count, percent
from reports.parts import charts
from reports.parts.blocks import CHART_CLASSES, TABLE_ROWS, Block, Chart, Column, tabulate
from reports.parts.cells import Cell, anchor, find_cells
from reports.parts.columns import RANKED_FROM, ranked, share
from reports.parts.gallery import read_gallery
from reports.queries import Row
from reports.sections.section import Section

LARGEST_CELLS = 10
"""Rows of the table beside the confusion chart, which shows all cells."""


def make_content(context: ReportContext) -> dict[str, Any]:
    gallery = read_gallery(context.run)
    cells = find_cells(context, {sample.sample_index for sample in gallery.samples} if gallery else set())
    confusion = (confusion_chart_block(context, cells.cells), confusion_table_block(context, cells.cells))
    heading = say_heading(context, confusion[-1].answer.rows)
    return {"confusion": confusion, "cells": cells, "has_gallery": gallery is not None, "heading": heading}


def say_heading(context: ReportContext, rows: Sequence[Row]) -> str:
    """The greatest share of a class that rests on one other class. rows: of query `dominant_confusion_largest`."""
    found = [row for row in ranked(rows, "label_count") if row["dominant_class"] is not None]
    if not found:
        return f"No class of {RANKED_FROM} images or more rests on another class"
    worst = max(found, key=lambda row: row["label_frac"])
    label, dominant = context.name(worst["label"]), context.name(worst["dominant_class"])
    return f"{percent(worst['label_frac'])} of the images of class {label} rest on class {dominant}"


def confusion_chart_block(context: ReportContext, listed: Sequence[Cell]) -> Block | None:
    """None where there are too many classes for a chart, or nothing to draw. listed: the cells that can be linked to."""
    if len(context.labels) > CHART_CLASSES:
        return None
    answer = context.ask("dominant_confusion")
    if not answer.rows:
        return None
    titles = {cell.anchor: cell.title for cell in listed}
    cells = [
        {
            "anchor": anchor(row["label"], row["dominant_class"]),
            "name": context.name(row["label"], NO_LABEL),
            "dominant": context.name(row["dominant_class"]),
            "count": row["cell_count"],
            "share": row["label_frac"],
        }
        for row in answer.rows
    ]
    found = {cell["name"] for cell in cells}
    labels = [name for name in [*context.labels, NO_LABEL] if name in found]
    dominants = [*context.labels, *([NO_CLASS] if any(row["dominant_class"] is None for row in answer.rows) else [])]
    diagonal = sum(row["cell_count"] for row in answer.rows if row["label"] is not None and row["label"] == row["dominant_class"])
    labelled = sum(row["cell_count"] for row in answer.rows if row["label"] is not None)
    alt = (
        f"Heat map of {len(labels)} labels by {len(dominants)} dominant classes. "
        f"For {count(diagonal)} of {count(labelled)} labelled images the dominant class is the label."
    )
    see = "deep colour off the diagonal: images of a label whose evidence is for another class."
    caption = (
        "Images by label (rows) and dominant class (columns). The deeper the colour, the greater the cell's share of "
        "its row; evidence that is where it should be lies on the diagonal. A cell leads to its images."
    )
    return Block(answer, Chart(charts.confusion(cells, labels, dominants, titles), see, caption, alt, has_links=True))


def confusion_table_block(context: ReportContext, listed: Sequence[Cell]) -> Block:
    """listed: the cells that can be linked to."""
    anchors = {cell.anchor for cell in listed}

    def linked_count(row: Row) -> str:
        target, images = anchor(row["label"], row["dominant_class"]), count(row["cell_count"])
        return Markup('<a href="#{}">{}</a>').format(target, images) if target in anchors else images

    answer = context.ask("dominant_confusion_largest")
    if not answer.rows:
        return Block(answer, note="There is no labelled image whose evidence is for another class than its label.")
    is_charted = len(context.labels) <= CHART_CLASSES
    table = tabulate(
        "Where the evidence is for another class than the label; most images first.",
        [
            Column("Label", lambda row: context.name(row["label"], NO_LABEL), is_number=False),
            Column("Dominant class", lambda row: context.name(row["dominant_class"]), is_number=False),
            Column("Images", linked_count),
            Column("Of these predicted correctly", lambda row: count(row["correct_count"])),
            share("Share of the label's images", "label_frac"),
        ],
        answer.rows,
        limit=LARGEST_CELLS if is_charted else TABLE_ROWS,
    )
    too_many = f"{count(len(context.labels))} classes are too many for a chart: these are the largest cells."
    return Block(answer, table=table, note="" if is_charted else too_many)


SECTION = Section("confusion", "Dominant classes", "dominant_confusion.html.j2", make_content)
