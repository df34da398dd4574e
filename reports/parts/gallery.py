"""The samples a reviewer should see first: which they are, and their pictures once these are drawn."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from reports.gates.judgement import GateOutcome, Judgement
from reports.parts.blocks import CHART_CLASSES, TABLE_ROWS
from reports.queries import Answer, Parameter, Row, ask
from storage.json_records import Count, Record, read_record
from storage.runs.run import Run

if TYPE_CHECKING:
    import duckdb

GROUPS = {
    "other_evidence": (
        "Right, with evidence for another class",
        "Predicted correctly, while another class holds most of the energy; widest gap first.",
    ),
    "confident_error": ("Wrong and sure of it", "Predicted wrongly; most probable prediction first."),
    "random": ("A random draw", "Drawn by a hash of sample and seed, so that the same run always shows the same."),
    "cell": (
        "One of each cell",
        "For each cell of label and dominant class that is shown above, the image whose dominant class holds most of its energy.",
    ),
}
UNSUSPICIOUS = ("random", "cell")
"""Groups whose samples were not chosen because something speaks against them."""

GATE = "gate:"
"""Prefix of the reason of a sample that counts against a gate; the gate's name follows."""

OLD_OTHER = "#00ff00"

CHARTED_CELLS = 100


@dataclass(frozen=True)
class Choice:
    """A sample to be shown. reason: a group of GROUPS, or a gate. gates: the names of those that it counts against."""

    sample_index: int
    reason: str
    gates: tuple[str, ...] = ()


class GallerySample(Record):
    """A sample that was drawn. peak: the response that has full brightness in its maps."""

    sample_index: Count
    reason: str
    peak: Annotated[float, Field(ge=0)]
    gates: tuple[str, ...] = ()


class Gallery(Record):
    """`gallery.json`: the classes' colours and the samples that were drawn, in order.

    percentile: of a sample's positive responses, the one with full brightness in its maps, which are translucent; None where an
    older version drew the maps, on black and with the peak at full brightness. other_color: of evidence for any other class in
    the binary heatmap; older versions drew it in green, which may be the colour of a class as well.
    """

    colors: list[str]
    samples: list[GallerySample]
    percentile: int | None = Field(default=None, ge=0, le=100)
    other_color: str = OLD_OTHER

    @property
    def other_name(self) -> str:
        return "green" if self.other_color == OLD_OTHER else "pale pink"

    @field_validator("colors", "other_color")
    @classmethod
    def are_hexadecimal(cls, given: list[str] | str) -> list[str] | str:
        """Colours are written into style attributes, where other text could do harm."""
        for color in [given] if isinstance(given, str) else given:
            if not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
                raise ValueError(f"'{color}' is not a colour of the form #rrggbb")
        return given


def cell_limits(classes: int) -> dict[str, Parameter]:
    """Which cells of label and dominant class are shown: the largest ones, and of many classes only those off the diagonal."""
    is_charted = classes <= CHART_CLASSES
    return {"cells": CHARTED_CELLS if is_charted else TABLE_ROWS, "with_diagonal": is_charted}


def choose_samples(
    connection: "duckdb.DuckDBPyConnection",
    run_id: str,
    count: int,
    seed: int,
    classes: int,
    judgements: Sequence[Judgement],
) -> list[Choice]:
    """Up to `count` samples for each gate that did not pass and each group of GROUPS, and one of each cell.

    A sample may be in several groups. count: 0 for none at all.
    """
    if not count:
        return []
    measured = {row["sample_index"] for row in ask(connection, "gallery_measured", run_id=run_id).rows}
    against = {judgement.gate.name: [index for index in judgement.samples if index in measured] for judgement in judgements}
    chosen = {
        GATE + judgement.gate.name: against[judgement.gate.name][:count]
        for judgement in judgements
        if judgement.outcome is not GateOutcome.passed
    }
    for reason in GROUPS:
        answer = select_group(connection, run_id, reason, count, seed, classes)
        chosen[reason] = [row["sample_index"] for row in answer.rows]
    sets = {name: set(indices) for name, indices in against.items()}
    return [
        Choice(index, reason, tuple(name for name, indices in sets.items() if index in indices))
        for reason, indices in chosen.items()
        for index in indices
    ]


def select_group(
    connection: "duckdb.DuckDBPyConnection", run_id: str, reason: str, count: int, seed: int, classes: int
) -> Answer:
    parameters: dict[str, Parameter] = {"run_id": run_id, "count": count, "seed": seed, **cell_limits(classes)}
    return ask(connection, f"gallery_{reason}", **parameters)


def shown_classes(rows: Sequence[Row]) -> dict[int, int]:
    """The class that each sample's binary heatmap is for: its label, or its prediction where it has no label.

    rows: of samples, with sample_index, label and prediction.
    """
    return {row["sample_index"]: row["prediction"] if row["label"] is None else row["label"] for row in rows}


def read_gallery(run: Run) -> Gallery | None:
    """None where nothing was drawn. Raises InputError where `gallery.json` is not what it should be."""
    path = run.gallery / "gallery.json"
    gallery = read_record(Gallery, path) if path.exists() else None
    return gallery if gallery and gallery.samples else None
