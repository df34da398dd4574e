"""A report with all images of its run: a page for every hundred, beside the report itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from reports.context import ReportContext, open_context
from reports.formats import NO_LABEL
from reports.pages.report import render
from reports.pages.template import fill_template
from reports.parts.cards import KINDS, Card, Names, describe_samples, make_card, make_filters, make_legend, picture_path
from reports.parts.cells import anchor, key
from reports.parts.gallery import shown_classes
from reports.parts.pictures import are_pixelated
from reports.queries import Row
from storage.errors import InputError
from storage.filesystems import replace_file
from storage.runs.run import Run

PAGE_SAMPLES = 100

Draw = Callable[[Path, Mapping[int, int]], Mapping[int, float]]
"""Draws samples into a folder, in files named by `picture_path`. Takes, by sample, the class of its heatmap;
returns, by sample, the response that has full brightness in its maps."""


@dataclass(frozen=True)
class Page:
    """Samples of one label, in the order of their dominant classes. number: from 1, of `count` pages of the label."""

    file: str
    label: str
    number: int
    count: int
    rows: Sequence[Row]


@dataclass(frozen=True)
class CellGroup:
    """The samples of a page that have one dominant class."""

    anchor: str
    dominant: str
    cards: list[Card]


def write_folder(run: Run, folder: Path, draw: Draw, colors: Sequence[str]) -> Path:
    """Writes the report of a published run, and a gallery of all its measured samples; returns where the report is.

    folder: an empty one, or one to be created. draw: see `Draw`. colors: of the classes, as `#rrggbb`. Raises InputError.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"'{folder}' is not an empty folder: name another with --folder, or empty it")
    pictures = folder / "gallery" / "pictures"
    try:
        pictures.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"'{folder}' cannot be made ({error.strerror}): name another with --folder") from error
    with open_context(run) as context:
        rows = context.ask("gallery_all").rows
        peaks = draw(pictures, shown_classes(rows))
        pages = paginate(context, rows)
        for position, page in enumerate(pages):
            beside = [pages[other].file if 0 <= other < len(pages) else None for other in (position - 1, position + 1)]
            replace_file(folder / "gallery" / page.file, render_page(context, colors, page, pages, beside, pictures, peaks))
    replace_file(folder / "index.html", render(run, find_anchors(pages)))
    return folder / "index.html"


def paginate(context: ReportContext, rows: Sequence[Row]) -> list[Page]:
    """rows: sorted by label and dominant class."""
    pages = []
    for label, grouped in groupby(rows, key=lambda row: row["label"]):
        own = list(grouped)
        starts = range(0, len(own), PAGE_SAMPLES)
        pages += [
            Page(
                f"label-{key(label)}-{number}.html",
                context.name(label, NO_LABEL),
                number,
                len(starts),
                own[start : start + PAGE_SAMPLES],
            )
            for number, start in enumerate(starts, 1)
        ]
    return pages


def find_anchors(pages: Sequence[Page]) -> dict[str, str]:
    """The address at which each cell begins, by the cell's anchor; and that of the first page, as `first`."""
    found: dict[str, str] = {}
    for page in pages:
        for row in page.rows:
            cell = anchor(row["label"], row["dominant_class"])
            found.setdefault(cell, f"gallery/{page.file}#{cell}")
    return found | ({"first": f"gallery/{pages[0].file}"} if pages else {})


def render_page(
    context: ReportContext,
    colors: Sequence[str],
    page: Page,
    pages: Sequence[Page],
    beside: Sequence[str | None],
    pictures: Path,
    peaks: Mapping[int, float],
) -> str:
    """beside: the files of the previous and the next page, None where there is none."""
    names = Names(context.labels, colors)
    rows, shares, _ = describe_samples(context, [row["sample_index"] for row in page.rows])

    def card(row: Row) -> Card:
        index = row["sample_index"]
        files = {kind: picture_path(pictures, index, kind) for kind in KINDS}
        addresses = {kind: f"{pictures.name}/{file.name}" if file.exists() else "" for kind, file in files.items()}
        return make_card(names, rows[index], shares[index], addresses, peaks[index], [])

    groups = [
        CellGroup(anchor(label, dominant), context.name(dominant), [card(row) for row in own])
        for (label, dominant), own in groupby(page.rows, key=lambda row: (row["label"], row["dominant_class"]))
    ]
    legend, _ = make_legend(names, list(rows.values()), [share for held in shares.values() for share in held])
    return fill_template(
        "gallery.html.j2",
        plan=context.plan,
        page=page,
        before=beside[0],
        after=beside[1],
        labels={other.label: other.file for other in pages if other.number == 1},
        legend=legend,
        choices=make_filters(names, [card for group in groups for card in group.cards], []),
        groups=groups,
        is_pixelated=are_pixelated(context.plan.height, context.plan.width),
    )
