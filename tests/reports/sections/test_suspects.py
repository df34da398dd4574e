"""The first screen's pictures."""

from pathlib import Path

from reports.pages.report import render
from reports.parts.gallery import Gallery
from reports.sections.suspects import most_suspicious
from storage.runs.run import Run
from tests.reports.page import Page, parse, plain
from tests.reports.parts.test_cards import pictures_of
from tests.reports.stores import SCRIPT, SMALL, Content, make_store

DRAWN = [
    (8, "gate:x"),
    (3, "gate:x"),
    (1, "other_evidence"),
    (3, "other_evidence"),
    (6, "other_evidence"),
    (2, "random"),
    (8, "cell"),
]


def test_suspicious_groups_take_turns_and_the_others_follow() -> None:
    samples = [{"sample_index": index, "reason": reason, "peak": 1.0} for index, reason in DRAWN]
    gallery = Gallery.model_validate({"colors": ["#000000"], "samples": samples})
    assert most_suspicious(gallery) == [8, 1, 3, 6, 2]


def test_six_maps_on_their_images(small_page: Page) -> None:
    """In turn of those right on other evidence, 1 and 6, and those wrong, 2 and 5; then of the random draw."""
    (section,) = small_page.all("section", id="suspects")
    links = [link.text for link in small_page.all("a") if link.attributes["href"].startswith("#sample-")]
    assert links[:6] == [f"Sample {index}" for index in (1, 2, 6, 5, 9, 8)]
    shown, gallery = pictures_of(small_page)[:6], pictures_of(small_page)[6:]
    first, second = gallery[0], gallery[2]
    assert shown[0] == [(first[0][0], True), second[1]], "sample 1, of which the gallery begins with the image"
    assert f"Sample 1: label and prediction cat, most evidence for {SCRIPT} (75.0 %)" in plain(section.text)
    assert f"Sample 9: label (no label), prediction {SCRIPT}, most evidence for no class" in plain(section.text)
    assert "full brightness is the 99th percentile of the image's positive responses" in plain(section.text)


def test_a_sample_whose_picture_is_missing_is_not_among_them(tmp_path: Path) -> None:
    run = make_store(tmp_path, SMALL)
    (run.gallery / "000002-input.png").unlink()
    assert [link for link in sample_links(run) if link == "#sample-2"] == []


def sample_links(run: Run) -> list[str]:
    page = parse(render(run))
    return [link.attributes["href"] for link in page.all("a") if link.text.startswith("Sample ")]


def test_without_pictures_the_first_screen_says_so(tmp_path: Path) -> None:
    page = parse(render(make_store(tmp_path, Content(SMALL.classes, SMALL.samples))))
    assert "This run has no pictures" in page.all("section", id="suspects")[0].text
