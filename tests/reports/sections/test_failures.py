"""The images that could not be measured, as the report shows them."""

from pathlib import Path

from reports.pages.report import render
from tests.reports.page import Page, heading, parse, plain
from tests.reports.stores import Content, make_store, sample


def test_failures(small_page: Page) -> None:
    assert small_page.table("Images without maps") == [
        ["10", "broken & <b>", "read", "cannot identify image file '<broken>'"],
        ["11", "empty", "prepare", "image is 0 × 0"],
    ]


def test_the_heading_counts_them(small_page: Page, ranked_page: Page) -> None:
    assert heading(small_page, "failures") == "2 images could not be measured"
    assert heading(ranked_page, "failures") == "Every image could be measured"


def test_what_is_not_finite_is_said_above_the_failures(tmp_path: Path) -> None:
    reasons = ["the maps are not finite", *2 * ["the model's scores are not finite"], "damaged"]
    failures = [{"sample_index": 1 + i, "sample_id": "f", "stage": "compute", "reason": reasons[i]} for i in range(4)]
    page = parse(render(make_store(tmp_path, Content(["a"], [sample(0, 0, 0, 0.5, 0, (1.0, 1.0, 1.0))], (), failures))))
    (section,) = page.all("section", id="failures")
    said = "The model's scores are not finite for 2 of 5 images. The maps are not finite for 1 of 5 images."
    assert said in " ".join(section.text.split())


def test_only_the_first_fifty_failures_are_listed(tmp_path: Path) -> None:
    failures = [{"sample_index": i, "sample_id": f"f{i}", "stage": "read", "reason": "gone"} for i in range(1, 1062)]
    page = parse(render(make_store(tmp_path, Content(["a"], [sample(0, 0, 0, 0.5, 0, (1.0, 1.0, 1.0))], (), failures))))
    rows = page.table("Images without maps")
    assert [row[1] for row in rows] == [f"f{i}" for i in range(1, 51)]
    (section,) = page.all("section", id="failures")
    assert "1,061 images could not be measured" in plain(section.text)
    assert "1,011 more rows are left out here." in section.text
