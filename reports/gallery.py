"""The samples a reviewer should see first: which they are, and their pictures once these are drawn."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import field_validator

from reports.queries import Answer, ask
from storage.runs import Record, Run, read_record

if TYPE_CHECKING:
    import duckdb

GROUPS = {
    "other_evidence": (
        "Right, with evidence for another class",
        "Predicted correctly, while another class holds most of the energy; widest gap first.",
    ),
    "confident_error": ("Wrong and sure of it", "Predicted wrongly; most probable prediction first."),
    "random": ("A random draw", "Drawn by a hash of sample and seed, so that the same run always shows the same."),
}


@dataclass(frozen=True)
class Choice:
    """A sample to be shown. reason: the group of GROUPS that it stands for."""

    sample_index: int
    reason: str


class GallerySample(Record):
    """A sample that was drawn. peak: the response that is full brightness in its CLEAR map."""

    sample_index: int
    reason: str
    peak: float


class Gallery(Record):
    """`gallery.json`: the classes' colours and the samples that were drawn, in order."""

    colors: list[str]
    samples: list[GallerySample]

    @field_validator("colors")
    @classmethod
    def are_hexadecimal(cls, colors: list[str]) -> list[str]:
        """Colours are written into style attributes, where other text could do harm."""
        for color in colors:
            if not re.fullmatch(r"#[0-9a-fA-F]{6}", color):
                raise ValueError(f"'{color}' is not a colour of the form #rrggbb")
        return colors


def choose_samples(connection: "duckdb.DuckDBPyConnection", run_id: str, count: int, seed: int) -> list[Choice]:
    """Up to `count` samples for each group of GROUPS, in the groups' order; a sample may be in several."""
    answers = [select_group(connection, run_id, reason, count, seed) for reason in GROUPS]
    return [Choice(row["sample_index"], reason) for reason, answer in zip(GROUPS, answers, strict=True) for row in answer.rows]


def select_group(connection: "duckdb.DuckDBPyConnection", run_id: str, reason: str, count: int, seed: int) -> Answer:
    return ask(connection, f"gallery_{reason}", run_id=run_id, count=count, seed=seed)


def read_gallery(run: Run) -> Gallery | None:
    """None where nothing was drawn. Raises InputError where `gallery.json` is not what it should be."""
    path = run.gallery / "gallery.json"
    gallery = read_record(Gallery, path) if path.exists() else None
    return gallery if gallery and gallery.samples else None
