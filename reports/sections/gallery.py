"""The gallery: the samples a reviewer should see first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reports.context import ReportContext
from reports.formats import count, plural
from reports.parts.cards import (
    KINDS,
    Card,
    Filter,
    Names,
    Swatch,
    describe_samples,
    make_card,
    make_filters,
    make_legend,
    picture_path,
)
from reports.parts.gallery import GATE, GROUPS, Gallery, read_gallery, select_group
from reports.parts.pictures import are_pixelated, embed
from reports.queries import Answer, Row
from reports.sections.section import Section
from storage.errors import InputError


@dataclass(frozen=True)
class CardGroup:
    """The samples chosen for one reason, each shown once. elsewhere: those that an earlier group shows already.

    selection: the query that chose them; None where it would not choose the same ones.
    """

    title: str
    about: str
    cards: list[Card]
    elsewhere: list[int]
    selection: Answer | None


@dataclass(frozen=True)
class GalleryPage:
    """The report's gallery.

    answers: the queries behind the words beside the pictures. reduced: see `pictures.embed`. percentile, other_color,
    other_name: see `gallery.Gallery`.
    """

    heading: str
    groups: list[CardGroup]
    filters: list[Filter]
    legend: list[Swatch]
    legend_note: str
    reduced: int | None
    answers: list[Answer]
    percentile: int | None
    other_color: str
    other_name: str


def make_content(context: ReportContext) -> dict[str, Any]:
    gallery = make_gallery(context)
    heading = "No image was drawn" if gallery is None else gallery.heading
    return {"gallery": gallery, "heading": heading, "is_pixelated": are_pixelated(context.plan.height, context.plan.width)}


def make_gallery(context: ReportContext) -> GalleryPage | None:
    """None where the run has no pictures."""
    run, gallery = context.run, read_gallery(context.run)
    if gallery is None:
        return None
    samples = {sample.sample_index: sample for sample in reversed(gallery.samples)}
    rows, shares, answers = describe_samples(context, sorted(samples))
    if len(gallery.colors) != len(context.labels) or samples.keys() != rows.keys():
        raise InputError(f"the pictures in '{run.gallery}' are of other samples or classes than the run's: draw them again")
    names = Names(context.labels, gallery.colors)
    gates = list(dict.fromkeys(gate for sample in gallery.samples for gate in sample.gates))
    uris, reduced = embed([picture_path(run.gallery, index, kind) for index in samples for kind in KINDS])

    def card(index: int) -> Card:
        pictures = {kind: uris.get(picture_path(run.gallery, index, kind), "") for kind in KINDS}
        against = [(str(gates.index(gate)), gate) for gate in samples[index].gates]
        return make_card(
            names, rows[index], shares[index], pictures, samples[index].peak, against, gallery.percentile is not None
        )

    groups = make_groups(context, gallery, card)
    legend, note = make_legend(names, list(rows.values()), [share for held in shares.values() for share in held])
    filters = make_filters(names, [made for group in groups for made in group.cards], gates)
    return GalleryPage(
        say_heading(list(rows.values())),
        groups,
        filters,
        legend,
        note,
        reduced,
        answers,
        gallery.percentile,
        gallery.other_color,
        gallery.other_name,
    )


def say_heading(rows: Sequence[Row]) -> str:
    """rows: of the samples, see `describe_samples`."""
    wrong = sum(row["is_correct"] is False for row in rows)
    elsewhere = sum(bool(row["is_correct"]) and row["dominant_class"] not in (None, row["prediction"]) for row in rows)
    return (
        f"{plural(len(rows), 'image')} to look at: {count(elsewhere)} right on evidence for another class, {count(wrong)} wrong"
    )


def make_groups(context: ReportContext, gallery: Gallery, card: Callable[[int], Card]) -> list[CardGroup]:
    groups, shown = [], set()
    for reason in dict.fromkeys(sample.reason for sample in gallery.samples):
        indices = [sample.sample_index for sample in gallery.samples if sample.reason == reason]
        title, about = name_group(reason)
        fresh = [index for index in dict.fromkeys(indices) if index not in shown]
        elsewhere = [index for index in indices if index in shown]
        groups.append(
            CardGroup(title, about, [card(index) for index in fresh], elsewhere, find_selection(context, reason, indices))
        )
        shown |= set(fresh)
    return groups


def name_group(reason: str) -> tuple[str, str]:
    """A group's title, and how it was chosen."""
    if reason.startswith(GATE):
        gate = reason.removeprefix(GATE)
        return (
            f"Counts against gate “{gate}”",
            "Chosen by the gate's query for its images, which stands with the gate; worst first.",
        )
    return GROUPS.get(reason, (reason, ""))


def find_selection(context: ReportContext, reason: str, shown: Sequence[int]) -> Answer | None:
    plan = context.plan
    settings = plan.config.get("report", {})
    if reason not in GROUPS or not {"gallery_samples", "seed"} <= set(settings):
        return None
    found = select_group(
        context.connection, plan.run_id, reason, settings["gallery_samples"], settings["seed"], len(plan.class_names)
    )
    # A resumed run may have been drawn under other settings than it was planned with.
    return found if [row["sample_index"] for row in found.rows] == list(shown) else None


SECTION = Section("gallery", "Gallery", "gallery.html.j2", make_content)
