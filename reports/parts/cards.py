"""The gallery as the report shows it: pictures, and the words beside them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from reports.context import ReportContext
from reports.formats import NO_CLASS, NO_LABEL, percent, significant
from reports.parts.blocks import CHART_CLASSES, TABLE_ROWS
from reports.parts.cells import key
from reports.parts.gallery import GATE, GROUPS, Gallery, read_gallery, select_group
from reports.parts.layers import Drawn, Picture, lay_out, plain
from reports.parts.pictures import embed
from reports.queries import Answer, Row
from storage.errors import InputError

KINDS = {"input": "input", "heatmap": "binary heatmap", "clear": "CLEAR map"}
"""The pictures of a sample: what ends their file names, and what a reader knows them as."""

FILTERS = {"label": "label", "prediction": "prediction", "dominant": "dominant_class"}
FILTER_TITLES = {"label": "Label", "prediction": "Prediction", "dominant": "Dominant class"}


@dataclass(frozen=True)
class Swatch:
    """A class and its colour. share: the part of the energy that it holds, where one sample is meant."""

    color: str
    name: str
    share: str = ""


@dataclass(frozen=True)
class Fact:
    """What is said of a sample. differs: another class than the one to compare with."""

    name: str
    value: str
    differs: bool = False


@dataclass(frozen=True)
class Card:
    """All that is shown of one sample. filters: what it is found by, as the values of Filter."""

    sample_index: int
    sample_id: str
    pictures: list[Picture]
    facts: list[Fact]
    swatches: list[Swatch]
    peak: str
    filters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Filter:
    """What cards can be chosen by. options: a value of the cards' `filters`, and what a reader knows it as."""

    name: str
    title: str
    options: list[tuple[str, str]]


@dataclass(frozen=True)
class CardGroup:
    """The samples of one reason, each shown once. elsewhere: those of them that an earlier group shows.

    selection: the query that chose them, where it still chooses the same.
    """

    title: str
    about: str
    cards: list[Card]
    elsewhere: list[int]
    selection: Answer | None


@dataclass(frozen=True)
class GalleryPage:
    """The report's gallery.

    answers: the queries behind the words beside the pictures. reduced: see `pictures.embed`. percentile: see `gallery.Gallery`.
    """

    groups: list[CardGroup]
    filters: list[Filter]
    legend: list[Swatch]
    legend_note: str
    reduced: int | None
    answers: list[Answer]
    percentile: int | None


class Names:
    """Names and colours of classes by index, as `samples` and `gallery.json` give them."""

    def __init__(self, labels: Sequence[str], colors: Sequence[str]) -> None:
        self.swatches = [Swatch(color, label) for color, label in zip(colors, labels, strict=True)]

    def name(self, index: int | None, otherwise: str) -> str:
        return otherwise if index is None else self.swatches[index].name


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
    return GalleryPage(groups, filters, legend, note, reduced, answers, gallery.percentile)


def picture_path(folder: Path, index: int, kind: str) -> Path:
    return folder / f"{index:06d}-{kind}.png"


def describe_samples(context: ReportContext, indices: Sequence[int]) -> tuple[dict[int, Row], dict[int, list[Row]], list[Answer]]:
    """By sample: its row, and the classes that hold most of its energy; with the queries."""
    facts = context.ask("gallery_samples", indices=indices)
    shares = context.ask("gallery_shares", indices=indices)
    held: dict[int, list[Row]] = {index: [] for index in indices}
    for row in shares.rows:
        held[row["sample_index"]].append(row)
    return {row["sample_index"]: row for row in facts.rows}, held, [facts, shares]


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


def make_card(
    names: Names,
    row: Row,
    shares: Sequence[Row],
    pictures: Mapping[str, str],
    peak: float,
    against: Sequence[tuple[str, str]],
    are_translucent: bool = True,
) -> Card:
    """row, shares: of the sample, see `describe_samples`. pictures: an address by kind, empty where there is none.

    against: the gates that it counts against, each by its number and its name. are_translucent: whether the maps can lie on the
    image.
    """
    index = row["sample_index"]
    label = names.name(row["label"], NO_LABEL)
    prediction = names.name(row["prediction"], NO_CLASS)
    dominant = names.name(row["dominant_class"], NO_CLASS)
    of_class = label if row["label"] is not None else f"the prediction {prediction}"
    alts = {
        "input": f"Input image, sample {index}, label: {label}.",
        "heatmap": f"Binary heatmap: evidence for {of_class} from red to white, for any other class in green.",
        "clear": f"CLEAR map: each pixel in the colour of its dominant class; most energy: {dominant}.",
    }
    facts = [
        Fact("label", label),
        Fact("prediction", f"{prediction} ({percent(row['probability'])})", row["is_correct"] is False),
        Fact("dominant class", dominant, row["dominant_class"] != row["prediction"]),
        Fact("energy for the prediction", percent(row["prediction_energy_frac"])),
        Fact("energy for the label", percent(row["label_energy_frac"])),
        *([Fact("counts against", ", ".join(gate for _, gate in against))] if against else []),
    ]
    swatches = [
        Swatch(
            names.swatches[share["class_index"]].color,
            names.name(share["class_index"], ""),
            percent(share["dominant_energy_frac"]),
        )
        for share in shares
    ]
    filters = {name: key(row[column]) for name, column in FILTERS.items()} | {"gate": " ".join(number for number, _ in against)}
    image, *maps = (Drawn(kind, KINDS[kind], alt, pictures[kind]) for kind, alt in alts.items())
    shown = lay_out(index, image, maps) if are_translucent else [plain(drawn) for drawn in (image, *maps)]
    return Card(index, row["sample_id"], shown, facts, swatches, significant(peak), filters)


def make_filters(names: Names, cards: Sequence[Card], gates: Sequence[str]) -> list[Filter]:
    """What a reader can choose cards by: only what occurs among them, and not all alike."""
    found = []
    for name, title in FILTER_TITLES.items():
        values = {card.filters[name] for card in cards}
        indices = sorted(int(value) for value in values if value != "none")
        options = [(str(index), names.name(index, "")) for index in indices]
        otherwise = NO_LABEL if name == "label" else NO_CLASS
        found.append(Filter(name, title, [*options, *([("none", otherwise)] if "none" in values else [])]))
    against = [(str(number), gate) for number, gate in enumerate(gates)]
    useful = [choice for choice in found if len(choice.options) > 1]
    return [*useful, *([Filter("gate", "Counts against gate", against)] if against else [])]


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
