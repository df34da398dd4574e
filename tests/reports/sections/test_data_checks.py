"""The data checks in the report."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows.analyses.data_checks import CHECKS, IMAGES, reduced
from reports.pages.report import render
from storage.joins import place_rows
from storage.runs.run import Run
from tests.reports.page import parse, plain
from tests.reports.stores import SCRIPT, SMALL, make_store

NAMES = ("better_than_chance", "class_order", "input")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_store(tmp_path, SMALL)


def place(run: Run, *outcomes: bool | None) -> None:
    rows = [
        {"check_name": name, "is_passed": passed, "value": 0.5, "control_value": None, "p_value": None, "finding": f"{SCRIPT} it"}
        for name, passed in zip(NAMES, outcomes, strict=True)
    ]
    run.attempts.mkdir(exist_ok=True)
    place_rows(run, "data_checks", pa.Table.from_pylist(rows, schema=CHECKS), CHECKS)
    png = reduced(SMALL_IMAGE)
    images = [
        {"sample_index": index, "label": label, "prediction": 0, "png": png} for index, label in ((7, 1), (2, 0), (5, None))
    ]
    place_rows(run, "input_images", pa.Table.from_pylist(images, schema=IMAGES), IMAGES)


SMALL_IMAGE = np.zeros((1, 28, 28), np.uint8)


def test_without_the_analysis_there_is_no_section(run: Run) -> None:
    page = parse(render(run))
    assert not page.all("section", id="data")
    assert not [link for link in page.all("a") if link.attributes["href"] == "#data"]


def test_faults_are_the_heading(run: Run) -> None:
    place(run, True, False, None)
    page = parse(render(run))
    (heading,) = [element for element in page.all("h2") if element.attributes.get("id") == "data-title"]
    assert plain(heading.text) == "Not as it should be: the classes seem to be in another order"
    rows = [[plain(cell) for cell in row] for row in page.table("Checks of the data, before anything else is believed.")]
    assert [row[1] for row in rows] == ["✓ passed", "✗ failed", "– not evaluated"]
    assert rows[0][2:] == ["50.0 %", "– by guessing", f"{SCRIPT} it"]
    assert not page.all("script", src="")


def test_images_are_shown_as_received_in_their_order(run: Run) -> None:
    place(run, True, True, True)
    page = parse(render(run))
    (section,) = page.all("section", id="data")
    shown = [image for image in page.all("img") if "as the model received it" in image.attributes["alt"]]
    assert [image.attributes["alt"].split()[1] for image in shown] == ["2", "5", "7"]
    assert "cat" in section.text
    assert f"{SCRIPT}, predicted cat" in plain(section.text)
    assert "The data reach the model as in its training, as far as can be told" in plain(section.text)


def test_where_nothing_could_be_checked_the_heading_says_so(run: Run) -> None:
    place(run, None, None, None)
    assert "Nothing could be checked of how the data reach the model" in render(run)
