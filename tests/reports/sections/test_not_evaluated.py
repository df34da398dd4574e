"""What was not evaluated, counted."""

from pathlib import Path

from reports.pages.report import render
from tests.reports.page import Page, heading, parse
from tests.reports.stores import Content, make_store, sample


def test_what_was_not_evaluated_is_counted(small_page: Page, tmp_path: Path) -> None:
    counts = [row[1] for row in small_page.table("What was not evaluated")]
    assert counts == ["2", "2", "2", "0", "2"], "failures, without label, without dominant class, empty classes, open gates"
    rows = [sample(index, 0, 0, 0.5, 0, (1, 1, 1)) for index in range(3)]
    page = parse(render(make_store(tmp_path, Content(["a", "b", "c"], rows))))
    assert [row[1] for row in page.table("What was not evaluated")] == ["0", "0", "0", "2", "0"]
    assert heading(page, "not-evaluated") == "Not in every number: 2 empty classes"


def test_the_heading_names_what_is_missing(small_page: Page, tmp_path: Path) -> None:
    assert heading(small_page, "not-evaluated") == (
        "Not in every number: 2 images that failed, 2 images without a label, 2 images without evidence, 2 gates left open"
    )
    page = parse(render(make_store(tmp_path, Content(["a"], [sample(0, 0, 0, 0.5, 0, (1, 1, 1))]))))
    assert heading(page, "not-evaluated") == "Every image, class and gate was evaluated"
