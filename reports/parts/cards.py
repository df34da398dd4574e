"""Cards: a sample's pictures, and the words beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reports.context import ReportContext
from reports.formats import NO_CLASS, NO_LABEL, count, percent, significant
from reports.parts.cells import key
from reports.parts.layers import Drawn, Picture, lay_out, plain
from reports.queries import Answer, Row

KINDS = {"input": "input", "heatmap": "binary heatmap", "clear": "CLEAR map"}
"""The pictures of a sample: the end of the file's name, and what a reader knows the picture as."""

LEGEND_CLASSES = 12
ALIKE = 60
"""Colours that differ by less than this, of 255, in each channel look alike; the nearest of twelve even ones differ by 65."""

FILTERS = {"label": "label", "prediction": "prediction", "dominant": "dominant_class"}
FILTER_TITLES = {"label": "Label", "prediction": "Prediction", "dominant": "Dominant class"}


@dataclass(frozen=True)
class Swatch:
    """A class and its colour. share: its part of a sample's energy, where a sample is meant."""

    color: str
    name: str
    share: str = ""


@dataclass(frozen=True)
class Fact:
    """A fact about a sample. differs: whether it names another class than the one it is compared with."""

    name: str
    value: str
    differs: bool = False


@dataclass(frozen=True)
class Card:
    """All that is shown of one sample. filters: by the name of a Filter, the value that finds the card."""

    sample_index: int
    sample_id: str
    pictures: list[Picture]
    facts: list[Fact]
    swatches: list[Swatch]
    peak: str
    filters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Filter:
    """A choice among cards. options: pairs of a value of the cards' `filters` and what a reader knows it as."""

    name: str
    title: str
    options: list[tuple[str, str]]


class Names:
    """Names and colours of classes by index, as `samples` and `gallery.json` give them."""

    def __init__(self, labels: Sequence[str], colors: Sequence[str]) -> None:
        self.swatches = [Swatch(color, label) for color, label in zip(colors, labels, strict=True)]

    def name(self, index: int | None, otherwise: str) -> str:
        return otherwise if index is None else self.swatches[index].name


def picture_path(folder: Path, index: int, kind: str) -> Path:
    return folder / f"{index:06d}-{kind}.png"


def describe_samples(context: ReportContext, indices: Sequence[int]) -> tuple[dict[int, Row], dict[int, list[Row]], list[Answer]]:
    """By sample, its row and the classes that hold most of its energy; and the queries that gave them."""
    facts = context.ask("gallery_samples", indices=indices)
    shares = context.ask("gallery_shares", indices=indices)
    held: dict[int, list[Row]] = {index: [] for index in indices}
    for row in shares.rows:
        held[row["sample_index"]].append(row)
    return {row["sample_index"]: row for row in facts.rows}, held, [facts, shares]


def make_card(
    names: Names,
    row: Row,
    shares: Sequence[Row],
    pictures: Mapping[str, str],
    peak: float,
    against: Sequence[tuple[str, str]],
    are_translucent: bool = True,
) -> Card:
    """row, shares: of the sample, see `describe_samples`. pictures: the address of each kind, empty where the file is missing.

    against: number and name of each gate that the sample counts against. are_translucent: whether the maps can be laid over the
    image.
    """
    index = row["sample_index"]
    label = names.name(row["label"], NO_LABEL)
    prediction = names.name(row["prediction"], NO_CLASS)
    dominant = names.name(row["dominant_class"], NO_CLASS)
    of_class = label if row["label"] is not None else f"the prediction {prediction}"
    alts = {
        "input": f"Input image, sample {index}, label: {label}.",
        "heatmap": f"Binary heatmap: evidence for {of_class}, from red to white, and the strongest for any other class.",
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
    filters = {name: key(row[column]) for name, column in FILTERS.items()} | {"gate": " ".join(number for number, _ in against)}
    image, *maps = (Drawn(kind, KINDS[kind], alt, pictures[kind]) for kind, alt in alts.items())
    shown = lay_out(index, image, maps) if are_translucent else [plain(drawn) for drawn in (image, *maps)]
    return Card(index, row["sample_id"], shown, facts, make_swatches(names, shares), significant(peak), filters)


def make_filters(names: Names, cards: Sequence[Card], gates: Sequence[str]) -> list[Filter]:
    """The filters that are of use: those by which the cards differ, with the values that occur."""
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


def make_swatches(names: Names, shares: Sequence[Row]) -> list[Swatch]:
    """The classes that hold most of a sample's energy, with their shares. shares: see `describe_samples`."""
    found = [(names.swatches[row["class_index"]], percent(row["dominant_energy_frac"])) for row in shares]
    return [Swatch(swatch.color, swatch.name, share) for swatch, share in found]


def make_legend(names: Names, facts: Sequence[Row], shares: Sequence[Row]) -> tuple[list[Swatch], str]:
    """Of the classes seen in the pictures those with most energy, no two of like colour, and a sentence on what is left out.

    They stand in the order of the classes.
    """
    energy = {row["dominant_class"]: 0.0 for row in facts if row["dominant_class"] is not None}
    for row in shares:
        energy[row["class_index"]] = energy.get(row["class_index"], 0.0) + row["dominant_energy_frac"]
    listed: list[int] = []
    for index in sorted(energy, key=lambda index: (-energy[index], index)):
        colors = [names.swatches[other].color for other in listed]
        if len(listed) < LEGEND_CLASSES and not any(are_alike(names.swatches[index].color, color) for color in colors):
            listed.append(index)
    left, note = len(energy) - len(listed), ""
    if left:
        are = "class is" if left == 1 else "classes are"
        note = f"{count(left)} more {are} seen, with less evidence or a colour like these; each image names its own."
    return [names.swatches[index] for index in sorted(listed)], note


def are_alike(first: str, second: str) -> bool:
    """first, second: `#rrggbb`."""
    channels = zip(bytes.fromhex(first[1:]), bytes.fromhex(second[1:]), strict=True)
    return max(abs(one - other) for one, other in channels) < ALIKE
