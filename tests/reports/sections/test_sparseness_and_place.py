"""Sparseness and place, against numbers worked out by hand from the rows in `stores`."""

from pathlib import Path

from reports.pages.report import render
from tests.reports.page import Page, heading, parse
from tests.reports.stores import QUOTES, SCRIPT, Content, make_store, sample


def test_sparseness(small_page: Page) -> None:
    assert small_page.table("Sparseness and complexity") == [
        ["cat", "3", "0.04", "0.06", "0.09", "0.06", "3.00"],
        [SCRIPT, "3", "0.13", "0.16", "0.18", "0.16", "3.00"],
        [QUOTES, "2", "0.22", "0.22", "0.22", "0.22", "3.00"],
    ]


def test_localization(small_page: Page) -> None:
    assert small_page.table("Where in 28 × 28 pixels") == [
        ["cat", "3", "5.0 ± 0.8", "10.0 ± 0.0", "2.50", "12.5 %", "50.0 %"],
        [SCRIPT, "3", "8.0 ± 0.8", "10.0 ± 0.0", "2.50", "12.5 %", "50.0 %"],
        [QUOTES, "2", "10.0 ± 0.0", "10.0 ± 0.0", "2.50", "12.5 %", "25.0 %"],
    ]


def test_a_run_whose_maps_are_all_empty(tmp_path: Path) -> None:
    rows = [sample(i, 0, 0, 0.5, None, (None, None, None)) for i in range(3)]
    page = parse(render(make_store(tmp_path, Content(["a", "b"], rows))))
    assert page.table("Sparseness and complexity") == [["a", "3", "–", "–", "–", "–", "–"]]
    assert page.table("Where in 28") == [["a", "3", "–", "–", "–", "–", "0.0 %"]]
    assert page.table("Accuracy beside evidence") == [["a", "3", "100.0 %", "0.0 %", "–", "50.0 %"]]
    assert heading(page, "where") == "No class has 5 images, so none is ranked."


def test_ranked_by_hand(ranked_page: Page) -> None:
    """Sparseness is (index + 1) / 32: in the median 3/32 of the ant and 8.5/32 of the bee; the cow, of two, comes last."""
    rows = ranked_page.table("Sparseness and complexity")
    assert [(row[0], row[3]) for row in rows] == [("ant", "0.09"), ("bee", "0.27"), ("cow", "0.39")]
    said = "Least sparse evidence: class ant, at 0.09; widest: class ant, half of it on 12.5 % of the pixels"
    assert heading(ranked_page, "where") == said
    (section,) = ranked_page.all("section", id="where")
    assert section.text.count("1 class has fewer than 5 images and is not ranked") == 2
    assert section.text.count("What to see:") == 2


def test_without_evidence_nothing_is_found(tmp_path: Path) -> None:
    rows = [sample(i, 0, 0, 0.5, None, (None, None, None)) for i in range(5)]
    assert (
        heading(parse(render(make_store(tmp_path, Content(["a", "b"], rows)))), "where") == "No image has evidence for any class"
    )
