"""Mean evidence maps, by label: where in the picture the evidence of a class lies."""

from dataclasses import dataclass

import numpy as np

from reports.context import Scope
from reports.parts.blocks import CHART_CLASSES
from reports.parts.cards import Fact
from reports.parts.formats import count, percent
from reports.parts.layers import Layer, Picture
from reports.parts.pictures import as_uri, heat
from reports.queries import Answer, Row
from storage.sql.read_only import tables_in


@dataclass(frozen=True)
class MeanMap:
    """Two pictures of a class, for it and for the others, with what is said of them."""

    name: str
    pictures: list[Picture]
    facts: list[Fact]


@dataclass(frozen=True)
class MeanMaps:
    """The classes that there is room for. note: which they are. cell: what one cell of a picture is."""

    answer: Answer
    maps: list[MeanMap]
    note: str
    cell: str


def mean_maps(scope: Scope) -> MeanMaps | None:
    """None where no measured image has a label and evidence, or the run has not the analysis that makes the table."""
    if "evidence" not in tables_in(scope.connection, "main"):
        return None
    answer = scope.ask("mean_evidence", count=CHART_CLASSES)
    if not answer.rows:
        return None
    side = answer.rows[0]["cell_pixel_count"]
    note = "Classes are in order of their own share, lowest first."
    if len(scope.labels) > len(answer.rows) == CHART_CLASSES:
        note = f"Shown are the {CHART_CLASSES} of {count(len(scope.labels))} classes with the lowest share of their own."
    cell = "one pixel" if side == 1 else f"{side} × {side} pixels"
    return MeanMaps(answer, [make_map(scope, row) for row in answer.rows], note, cell)


def make_map(scope: Scope, row: Row) -> MeanMap:
    name, greatest = scope.name(row["class_index"]), row["cell_frac_max"]
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
