"""Sparseness and place, against numbers worked out by hand from the rows in `stores`."""

from pathlib import Path

from reports.pages.report import render
from tests.reports.page import Page, parse
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
