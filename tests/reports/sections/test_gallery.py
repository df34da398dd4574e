"""The gallery as the report shows it."""

import json
import shutil
from pathlib import Path

import pytest

from reports.pages.report import render
from storage.errors import InputError
from storage.runs.run import Run
from tests.reports.page import Page, heading, parse, plain
from tests.reports.stores import SMALL, Content, make_store, write_gallery

SUSPECTS, MEAN_MAPS = 6, 6
"""Pictures that stand before the gallery."""


def test_pictures_of_an_older_version_are_shown_as_they_are(tmp_path: Path) -> None:
    """Its maps are on black: over the image they would hide it."""
    run = make_store(tmp_path, SMALL)
    record = run.gallery / "gallery.json"
    content = json.loads(record.read_text(encoding="utf-8"))
    del content["percentile"]
    record.write_text(json.dumps(content), encoding="utf-8")
    page = parse(render(run))
    assert len(page.all("img")) == SUSPECTS + MEAN_MAPS + 3 * 9
    assert not page.all("image")
    (gallery,) = page.all("section", id="gallery")
    assert "Full brightness is the greatest response of the image" in plain(gallery.text)
    assert "on the image" not in gallery.text


def test_the_colour_of_other_classes_is_the_one_that_was_drawn(tmp_path: Path, small_page: Page) -> None:
    """Older versions did not say so: theirs was green."""
    (gallery,) = small_page.all("section", id="gallery")
    assert "any other class in pale pink" in plain(gallery.text)
    run = make_store(tmp_path, SMALL)
    record = run.gallery / "gallery.json"
    content = json.loads(record.read_text(encoding="utf-8"))
    assert content.pop("other_color") == "#ffa6ff"
    record.write_text(json.dumps(content), encoding="utf-8")
    page = parse(render(run))
    (gallery,) = page.all("section", id="gallery")
    assert "any other class in green" in plain(gallery.text)
    assert page.all("i", style="background:#00ff00")


def test_the_heading_is_what_was_found(small_page: Page) -> None:
    """1, 4, 6 and, without evidence, 7 are right and do not agree; 4 is not drawn. 2 and 5 are wrong."""
    assert heading(small_page, "gallery") == "9 images to look at: 2 right on evidence for another class, 2 wrong"


def test_without_pictures_the_report_says_so(tmp_path: Path) -> None:
    run = make_store(tmp_path, Content(SMALL.classes, SMALL.samples))
    page = parse(render(run))
    (gallery,) = page.all("section", id="gallery")
    assert "This run has no pictures" in gallery.text
    assert len(page.all("img")) == MEAN_MAPS
    run.gallery.mkdir()
    assert render(run) == render_without(run)


def render_without(run: Run) -> str:
    shutil.rmtree(run.gallery)
    return render(run)


def test_a_selection_that_is_not_what_is_shown_is_not_claimed(tmp_path: Path) -> None:
    run = make_store(tmp_path, Content(SMALL.classes, SMALL.samples, drawn=[(6, "other_evidence"), (0, "by hand")]))
    page = parse(render(run))
    assert "gallery_other_evidence" not in page.queries()
    assert "gallery_samples" in page.queries()
    assert "by hand" in [element.text for element in page.all("h3")]


def test_pictures_of_another_run_are_refused(tmp_path: Path) -> None:
    run = make_store(tmp_path, SMALL)
    write_gallery(run, ["#000000"] * 3, [{"sample_index": 10, "reason": "random", "peak": 1.0}])
    with pytest.raises(InputError, match="other samples or classes"):
        render(run)
