"""The images of each cell of label and dominant class."""

from dataclasses import replace
from pathlib import Path

from reports.context import open_context
from reports.pages.report import render
from reports.parts.cells import find_cells
from storage.runs.run import Run
from tests.reports.page import Page, parse
from tests.reports.stores import QUOTES, SCRIPT, Content, make_store, many_classes, sample


def test_every_cell_lists_its_images(small_page: Page) -> None:
    titles = [title for title in small_page.tables() if title.startswith("Label")]
    assert titles == [
        f"Label {label}, dominant class {dominant}; most energy for the dominant class first."
        for label, dominant in [
            ("cat", "cat"),
            ("cat", SCRIPT),
            (SCRIPT, SCRIPT),
            (SCRIPT, QUOTES),
            (QUOTES, "cat"),
            (QUOTES, "(none)"),
            ("(no label)", "cat"),
            ("(no label)", "(none)"),
        ]
    ]
    assert small_page.table(f"Label cat, dominant class {SCRIPT}") == [
        ["1", "<img 1>", "cat", "75.0 %", "75.0 %", "25.0 %"],
        ["2", "<img 2>", SCRIPT, "93.8 %", "50.0 %", "25.0 %"],
    ]


def test_a_cell_leads_to_cards_that_there_are(small_run: Run) -> None:
    with open_context(small_run) as context:
        found = find_cells(replace(context, labels=["a", "b", "c"]), drawn={1})
    (cell,) = [cell for cell in found.cells if cell.anchor == "cell-0-1"]
    assert [row[0] for row in cell.table.rows] == ['<a href="#sample-1">1</a>', "2"]
    assert (cell.label, cell.dominant, cell.title) == ("0", "1", "Label a, dominant class b: 2 images")
    assert found.note == ""


def test_a_large_cell_lists_its_strongest_and_says_how_many_are_left(tmp_path: Path) -> None:
    rows = [sample(index, 0, 0, 0.5, 1, (index / 16, 0.25, 0.25)) for index in range(12)]
    page = parse(render(make_store(tmp_path, Content(["a", "b"], rows))))
    assert [row[0] for row in page.table("Label a, dominant class b")] == [str(index) for index in range(11, 3, -1)]
    (confusion,) = page.all("section", id="confusion")
    assert "4 more rows are left out here." in confusion.text


def test_of_many_classes_the_largest_cells_are_listed(tmp_path: Path) -> None:
    content = many_classes(60)
    more = [sample(60, 59, 59, 0.5, 0, (0.5, 0.5, 0.5))]
    page = parse(render(make_store(tmp_path, Content(content.classes, [*content.samples, *more]))))
    (confusion,) = page.all("section", id="confusion")
    assert "These are the 50 largest cells off the diagonal." in confusion.text
    assert len(page.table("Label class-059, dominant class class-000")) == 2
    targets = {link.attributes["href"] for link in page.all("a") if link.attributes["href"].startswith("#cell")}
    assert len(targets) == 50
    assert targets <= {f"#{element.attributes['id']}" for element in page.elements if "id" in element.attributes}
