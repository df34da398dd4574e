"""The first screen's pictures: of the gallery, those that a reviewer should look at first."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Any

from reports.context import ReportContext
from reports.formats import NO_CLASS, NO_LABEL, count, percent
from reports.parts.cards import Names, Swatch, describe_samples, make_legend, picture_path
from reports.parts.gallery import UNSUSPICIOUS, Gallery, read_gallery
from reports.parts.layers import Drawn, Picture, lay_again, plain
from reports.parts.pictures import are_pixelated, embed
from reports.queries import Row
from reports.sections.section import Section

SHOWN = 6
OPAQUE_ROOM = 100_000
"""Bytes that a map may take that lies on no image."""


@dataclass(frozen=True)
class Suspect:
    """A sample to look at. said: its label and prediction. swatch: its dominant class; None where it has none."""

    sample_index: int
    picture: Picture
    said: str
    swatch: Swatch | None


@dataclass(frozen=True)
class Suspects:
    """legend: the classes that are seen in the pictures. percentile: see `gallery.Gallery`."""

    suspects: list[Suspect]
    legend: list[Swatch]
    percentile: int | None


def make_content(context: ReportContext) -> dict[str, Any]:
    gallery, plan = read_gallery(context.run), context.plan
    found = None if gallery is None else find_suspects(context, gallery)
    return {"found": found, "is_pixelated": are_pixelated(plan.height, plan.width)}


def find_suspects(context: ReportContext, gallery: Gallery) -> Suspects:
    folder = context.run.gallery
    needed = ("clear",) if gallery.percentile is None else ("input", "clear")
    drawn = [index for index in most_suspicious(gallery) if all(picture_path(folder, index, kind).is_file() for kind in needed)]
    rows, shares, _ = describe_samples(context, drawn[:SHOWN])
    names = Names(context.labels, gallery.colors)
    suspects = [make_suspect(context, names, row, gallery.percentile is not None) for index, row in rows.items()]
    suspects.sort(key=lambda suspect: drawn.index(suspect.sample_index))
    legend, _ = make_legend(names, list(rows.values()), [share for held in shares.values() for share in held])
    return Suspects(suspects, legend, gallery.percentile)


def make_suspect(context: ReportContext, names: Names, row: Row, is_translucent: bool) -> Suspect:
    """row: of the sample, see `describe_samples`. is_translucent: whether its map lies on its image."""
    index = row["sample_index"]
    label, prediction = names.name(row["label"], NO_LABEL), names.name(row["prediction"], NO_CLASS)
    said = f"label and prediction {label}" if label == prediction else f"label {label}, prediction {prediction}"
    path = picture_path(context.run.gallery, index, "clear")
    # Of a translucent map the gallery has the drawing.
    uri = "" if is_translucent else embed([path], OPAQUE_ROOM)[0][path]
    clear = Drawn("clear", f"Sample {count(index)}", f"CLEAR map of sample {index}, {said}.", uri)
    dominant = None if row["dominant_class"] is None else names.swatches[row["dominant_class"]]
    swatch = dominant and replace(dominant, share=percent(row["dominant_energy_frac"]))
    picture = lay_again(index, "input", clear) if is_translucent else plain(clear)
    return Suspect(index, picture, said, swatch)


def most_suspicious(gallery: Gallery) -> list[int]:
    """Samples of the gallery, each once: in turn the next of each suspicious group, then the others."""
    groups: dict[str, list[int]] = {}
    for sample in gallery.samples:
        groups.setdefault(sample.reason, []).append(sample.sample_index)
    suspicious = [indices for reason, indices in groups.items() if reason not in UNSUSPICIOUS]
    others: Sequence[list[int]] = [indices for reason, indices in groups.items() if reason in UNSUSPICIOUS]
    in_turn = chain.from_iterable(zip_longest(*suspicious))
    return list(dict.fromkeys(index for index in chain(in_turn, *others) if index is not None))


SECTION = Section("suspects", "Images to look at first", "suspects.html.j2", make_content)
