"""Accuracy beside evidence, against numbers worked out by hand from the rows in `stores`."""

from pathlib import Path

from reports.pages.report import render
from tests.reports.page import Page, parse
from tests.reports.stores import QUOTES, SCRIPT, make_store, many_classes


def test_accuracy_beside_evidence(small_page: Page) -> None:
    assert small_page.table("Accuracy beside evidence") == [
        [QUOTES, "2", "100.0 %", "0.0 %", "12.5 %", "68.8 %"],
        ["cat", "3", "66.7 %", "66.7 %", "41.7 %", "85.4 %"],
        [SCRIPT, "3", "66.7 %", "66.7 %", "45.8 %", "76.0 %"],
    ]


def test_many_classes_are_cut_and_said_to_be(tmp_path: Path) -> None:
    page = parse(render(make_store(tmp_path, many_classes(60))))
    table = page.table("Accuracy beside evidence")
    assert [row[0] for row in table] == [f"class-{i:03d}" for i in range(50)]
    (accuracy,) = page.all("section", id="accuracy")
    assert "10 more rows are left out here." in accuracy.text
    assert "The chart shows the worst 20 of 60 classes, by agreement, lowest first." in accuracy.text
    (chart,) = [figure for figure in page.all("figure", class_="chart") if "Accuracy" in figure.text]
    drawn = {f"class-{i:03d}" for i in range(60) if f"class-{i:03d}" in chart.text}
    assert drawn == {f"class-{i:03d}" for i in range(20)}
