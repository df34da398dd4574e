"""What was not evaluated, counted."""

from pathlib import Path

from reports.pages.report import render
from tests.reports.page import Page, parse
from tests.reports.stores import Content, make_store, sample


def test_what_was_not_evaluated_is_counted(small_page: Page, tmp_path: Path) -> None:
    counts = [row[1] for row in small_page.table("What was not evaluated")]
    assert counts == ["2", "2", "2", "0", "2"], "failures, without label, without dominant class, empty classes, open gates"
    rows = [sample(index, 0, 0, 0.5, 0, (1, 1, 1)) for index in range(3)]
    page = parse(render(make_store(tmp_path, Content(["a", "b", "c"], rows))))
    assert [row[1] for row in page.table("What was not evaluated")] == ["0", "0", "0", "2", "0"]
