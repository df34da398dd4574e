"""Accuracy beside evidence, against numbers worked out by hand from the rows in `stores`."""

from pathlib import Path

from reports.pages.report import render
from tests.reports.page import Page, heading, parse
from tests.reports.stores import QUOTES, SCRIPT, make_store, many_classes


def test_accuracy_beside_evidence(small_page: Page) -> None:
    assert small_page.table("Accuracy beside evidence") == [
        ["cat", "3", "66.7 %", "66.7 %", "41.7 %", "85.4 %"],
        [SCRIPT, "3", "66.7 %", "66.7 %", "45.8 %", "76.0 %"],
        [QUOTES, "2", "100.0 %", "0.0 %", "12.5 %", "68.8 %"],
    ]


def test_classes_of_fewer_than_five_images_are_not_ranked(small_page: Page, ranked_page: Page) -> None:
    """The cow, of no agreement at all, has two images."""
    rows = ranked_page.table("Accuracy beside evidence")
    assert [row[:4] for row in rows] == [
        ["ant", "5", "100.0 %", "60.0 %"],
        ["bee", "6", "83.3 %", "83.3 %"],
        ["cow", "2", "100.0 %", "0.0 %"],
    ]
    (accuracy,) = ranked_page.all("section", id="accuracy")
    assert "1 class has fewer than 5 images and is not ranked: it stands last." in accuracy.text
    (chart,) = [figure for figure in ranked_page.all("figure", class_="chart") if "Accuracy beside" in figure.text]
    assert "bee" in chart.text
    assert "cow" not in chart.text
    (none,) = small_page.all("section", id="accuracy")
    assert "3 classes have fewer than 5 images and are not ranked: they stand last, in their own order." in none.text
    assert not [figure for figure in small_page.all("figure", class_="chart") if "Accuracy beside" in figure.text]


def test_the_heading_is_what_was_found(small_page: Page, ranked_page: Page) -> None:
    assert heading(ranked_page, "accuracy") == "Agreement is lowest in class ant: 60.0 %, at an accuracy of 100.0 %"
    assert heading(small_page, "accuracy") == "No class has 5 images, so none is ranked."


def test_many_classes_are_cut_and_said_to_be(tmp_path: Path) -> None:
    page = parse(render(make_store(tmp_path, many_classes(60, images=5))))
    table = page.table("Accuracy beside evidence")
    assert [row[0] for row in table] == [f"class-{i:03d}" for i in range(50)]
    (accuracy,) = page.all("section", id="accuracy")
    assert "10 more rows are left out here." in accuracy.text
    assert "The chart shows the worst 20 of 60 classes, by agreement, lowest first." in accuracy.text
    (chart,) = [figure for figure in page.all("figure", class_="chart") if "Accuracy" in figure.text]
    drawn = {f"class-{i:03d}" for i in range(60) if f"class-{i:03d}" in chart.text}
    assert drawn == {f"class-{i:03d}" for i in range(20)}
