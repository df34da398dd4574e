"""The gallery as the report shows it: pictures, and the words beside them."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from reports.blocks import CHART_CLASSES, TABLE_ROWS
from reports.formats import NO_CLASS, NO_LABEL, percent, significant
from reports.gallery import GROUPS, Gallery, GallerySample, read_gallery, select_group
from reports.queries import Answer, Row, ask
from storage.errors import InputError
from storage.runs import Plan, Run

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Swatch:
    """A class and its colour. share: the part of the energy that it holds, where one sample is meant."""

    color: str
    name: str
    share: str = ""


@dataclass(frozen=True)
class Picture:
    """One drawing of a sample. uri: empty where the file is missing."""

    name: str
    uri: str
    alt: str


@dataclass(frozen=True)
class Fact:
    """What is said of a sample. differs: another class than the one to compare with."""

    name: str
    value: str
    differs: bool = False


@dataclass(frozen=True)
class Card:
    """All that is shown of one sample."""

    sample_index: int
    sample_id: str
    pictures: list[Picture]
    facts: list[Fact]
    swatches: list[Swatch]
    peak: str


@dataclass(frozen=True)
class CardGroup:
    """The samples of one reason. selection: the query that chose them, where it still chooses the same."""

    title: str
    about: str
    cards: list[Card]
    selection: Answer | None


@dataclass(frozen=True)
class GalleryPage:
    """The report's gallery. answers: the queries behind the words beside the pictures."""

    groups: list[CardGroup]
    legend: list[Swatch]
    legend_note: str
    answers: list[Answer]


class Names:
    """Names and colours of classes by index, as `samples` and `gallery.json` give them."""

    def __init__(self, labels: Sequence[str], colors: Sequence[str]) -> None:
        self.swatches = [Swatch(color, label) for color, label in zip(colors, labels, strict=True)]

    def name(self, index: int | None, otherwise: str) -> str:
        return otherwise if index is None else self.swatches[index].name


def make_gallery(connection: "duckdb.DuckDBPyConnection", run: Run, plan: Plan, labels: Sequence[str]) -> GalleryPage | None:
    """None where the run has no pictures. labels: the classes' names, in order."""
    gallery = read_gallery(run)
    if gallery is None:
        return None
    indices = sorted({sample.sample_index for sample in gallery.samples})
    facts = ask(connection, "gallery_samples", run_id=run.run_id, indices=indices)
    shares = ask(connection, "gallery_shares", run_id=run.run_id, indices=indices)
    rows = {row["sample_index"]: row for row in facts.rows}
    if len(gallery.colors) != len(labels) or set(indices) != set(rows):
        raise InputError(f"the pictures in '{run.gallery}' are of other samples or classes than the run's: draw them again")
    names = Names(labels, gallery.colors)
    held: dict[int, list[Row]] = {index: [] for index in indices}
    for row in shares.rows:
        held[row["sample_index"]].append(row)
    cards = {
        sample.sample_index: make_card(run, names, sample, rows[sample.sample_index], held[sample.sample_index])
        for sample in gallery.samples
    }
    reasons = list(dict.fromkeys(sample.reason for sample in gallery.samples))
    groups = [make_group(connection, plan, reason, gallery, cards) for reason in reasons]
    legend, note = make_legend(names, facts.rows, shares.rows)
    return GalleryPage(groups, legend, note, [facts, shares])


def make_group(
    connection: "duckdb.DuckDBPyConnection", plan: Plan, reason: str, gallery: Gallery, cards: dict[int, Card]
) -> CardGroup:
    title, about = GROUPS.get(reason, (reason, ""))
    shown = [sample.sample_index for sample in gallery.samples if sample.reason == reason]
    settings = plan.config.get("report", {})
    selection = None
    if reason in GROUPS and {"gallery_samples", "seed"} <= set(settings):
        selection = select_group(connection, plan.run_id, reason, settings["gallery_samples"], settings["seed"])
        # A resumed run may have been drawn under other settings than it was planned with.
        if [row["sample_index"] for row in selection.rows] != shown:
            selection = None
    return CardGroup(title, about, [cards[index] for index in shown], selection)


def make_card(run: Run, names: Names, sample: GallerySample, row: Row, shares: Sequence[Row]) -> Card:
    label = names.name(row["label"], NO_LABEL)
    prediction = names.name(row["prediction"], NO_CLASS)
    dominant = names.name(row["dominant_class"], NO_CLASS)
    of_class = label if row["label"] is not None else f"the prediction {prediction}"
    alts = {
        "input": ("input", f"Input image, sample {sample.sample_index}, label: {label}."),
        "heatmap": (
            "binary heatmap",
            f"Binary heatmap: evidence for {of_class} from red to white, for any other class in green.",
        ),
        "clear": ("CLEAR map", f"CLEAR map: each pixel in the colour of its dominant class; most energy: {dominant}."),
    }
    pictures = [Picture(name, data_uri(run, sample.sample_index, kind), alt) for kind, (name, alt) in alts.items()]
    facts = [
        Fact("label", label),
        Fact("prediction", f"{prediction} ({percent(row['probability'])})", row["is_correct"] is False),
        Fact("dominant class", dominant, row["dominant_class"] != row["prediction"]),
        Fact("energy for the prediction", percent(row["prediction_energy_frac"])),
        Fact("energy for the label", percent(row["label_energy_frac"])),
    ]
    swatches = [
        Swatch(
            names.swatches[share["class_index"]].color,
            names.name(share["class_index"], ""),
            percent(share["dominant_energy_frac"]),
        )
        for share in shares
    ]
    return Card(sample.sample_index, row["sample_id"], pictures, facts, swatches, significant(sample.peak))


def as_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def data_uri(run: Run, sample_index: int, kind: str) -> str:
    path = run.gallery / f"{sample_index:06d}-{kind}.png"
    if not path.exists():
        return ""
    return as_uri(path.read_bytes())


def make_legend(names: Names, facts: Sequence[Row], shares: Sequence[Row]) -> tuple[list[Swatch], str]:
    """All classes where there are few, else those named beside a picture; with a sentence on what is left out."""
    total = len(names.swatches)
    if total <= CHART_CLASSES:
        return names.swatches, ""
    named = {row[column] for row in facts for column in ("label", "prediction", "dominant_class")}
    named |= {row["class_index"] for row in shares}
    shown = list(islice(sorted(named - {None}), TABLE_ROWS))
    note = f"Only {len(shown)} of the {total:,} classes are listed: those named beside a picture"
    note += f", the first {TABLE_ROWS} of {len(named - {None})}." if len(named - {None}) > TABLE_ROWS else "."
    return [names.swatches[index] for index in shown], note
