"""Dominant class beside label, against numbers worked out by hand from the rows in `stores`."""

from pathlib import Path

from reports.pages.report import render
from tests.reports.page import Page, alts, heading, parse
from tests.reports.stores import QUOTES, SCRIPT, make_store, many_classes


def test_largest_confusions(small_page: Page) -> None:
    assert small_page.table("Where the evidence is for another class") == [
        ["cat", SCRIPT, "2", "1", "66.7 %"],
        [SCRIPT, QUOTES, "2", "1", "66.7 %"],
        [QUOTES, "cat", "1", "1", "50.0 %"],
        [QUOTES, "(none)", "1", "1", "50.0 %"],
    ]


def test_the_heading_is_the_greatest_share_of_a_ranked_class(small_page: Page, ranked_page: Page) -> None:
    """Two of the ant's five; both of the cow's are more, and too few."""
    assert heading(ranked_page, "confusion") == "40.0 % of the images of class ant rest on class bee"
    assert heading(small_page, "confusion") == "No class of 5 images or more rests on another class"


def test_confusion_chart_has_rows_and_columns_for_what_is_unknown(small_page: Page) -> None:
    charts = [figure.text for figure in small_page.all("figure", class_="chart") if "dominant class" in figure.text]
    assert len(charts) == 1
    assert "(no label)" in charts[0]
    assert "(none)" in charts[0]
    (alt,) = [text for text in alts(small_page) if text.startswith("Heat map")]
    assert alt.endswith("For 2 of 8 labelled images the dominant class is the label.")


def test_many_classes_have_no_confusion_chart(tmp_path: Path) -> None:
    page = parse(render(make_store(tmp_path, many_classes(21))))
    (confusion,) = page.all("section", id="confusion")
    assert "21 classes are too many for a chart" in confusion.text
    assert "dominant_confusion" not in page.queries()
    assert len(page.table("Where the evidence is for another class")) == 21
    assert not [alt for alt in alts(page) if alt.startswith("Heat map")]


def test_twenty_classes_are_all_drawn(tmp_path: Path) -> None:
    page = parse(render(make_store(tmp_path, many_classes(20))))
    (alt,) = [alt for alt in alts(page) if alt.startswith("Heat map")]
    assert alt.startswith("Heat map of 20 labels by 20 dominant classes.")
    (confusion,) = page.all("section", id="confusion")
    assert len(page.table("Where the evidence is for another class")) == 10
    assert "10 more rows are left out here." in confusion.text
