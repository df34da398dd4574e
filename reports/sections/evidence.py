"""Mean evidence maps, by label: where in the picture the evidence of a class lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.context import ReportContext
from reports.formats import count, percent
from reports.parts.blocks import CHART_CLASSES
from reports.parts.cards import Fact
from reports.parts.columns import NOT_RANKED, RANKED_FROM, ranked, say_unranked
from reports.parts.layers import Layer, Picture
from reports.parts.pictures import as_uri, heat
from reports.queries import Answer, Row
from reports.sections.section import Section


@dataclass(frozen=True)
class MeanMap:
    """Two pictures of a class, of the evidence for it and for the others, and the facts beside them."""

    name: str
    pictures: list[Picture]
    facts: list[Fact]


@dataclass(frozen=True)
class MeanMaps:
    """The classes that there is room for. note: which classes these are. cell: the size of a picture's cell, in words."""

    answer: Answer
    maps: list[MeanMap]
    note: str
    cell: str


def make_content(context: ReportContext) -> dict[str, Any]:
    maps = mean_maps(context)
    return {"mean_evidence": maps, "heading": say_heading(context, maps.answer.rows if maps else None)}


def say_heading(context: ReportContext, rows: Sequence[Row] | None) -> str:
    """rows: of query `mean_evidence`; None where there are none."""
    if rows is None:
        return "Where evidence lies on average is not known"
    if not ranked(rows, "evidence_count"):
        return NOT_RANKED
    name, share = context.name(rows[0]["class_index"]), percent(rows[0]["label_energy_frac"])
    return f"Class {name} has least evidence of its own: {share} of the energy in its images"


def mean_maps(context: ReportContext) -> MeanMaps | None:
    """None where no measured image has a label and evidence, or where the analysis did not run."""
    if not context.has_table("evidence"):
        return None
    answer = context.ask("mean_evidence", count=CHART_CLASSES, ranked_from=RANKED_FROM)
    if not answer.rows:
        return None
    side = answer.rows[0]["cell_pixel_count"]
    note = "Classes are in order of their own share, lowest first."
    if len(context.labels) > len(answer.rows) == CHART_CLASSES:
        note = f"Shown are the {CHART_CLASSES} of {count(len(context.labels))} classes with the lowest share of their own."
    note = f"{note} {say_unranked(answer.rows, 'evidence_count')}".strip()
    cell = "one pixel" if side == 1 else f"{side} × {side} pixels"
    return MeanMaps(answer, [make_map(context, row) for row in answer.rows], note, cell)


def make_map(context: ReportContext, row: Row) -> MeanMap:
    name, greatest = context.name(row["class_index"]), row["cell_frac_max"]
    sides = {
        "for the class": ("label_energy_frac_mean", f"Where evidence for {name} lies in its images, on average."),
        "for others": ("other_energy_frac_mean", f"Where evidence for other classes lies in the images of {name}, on average."),
    }
    pictures = []
    for title, (column, alt) in sides.items():
        shares = np.array(row[column]).reshape(-1, row["column_count"])
        pictures.append(Picture(title, alt, (Layer(as_uri(heat(shares, greatest, column.startswith("label")))),)))
    facts = [
        Fact("images", count(row["evidence_count"])),
        Fact("energy for the class", percent(row["label_energy_frac"])),
        Fact("full brightness", f"{percent(greatest)} in a cell"),
    ]
    return MeanMap(name, pictures, facts)


SECTION = Section("evidence", "Mean evidence", "evidence.html.j2", make_content)
