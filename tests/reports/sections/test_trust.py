"""Whether the maps can be believed, as the report says it."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from flows.analyses.trust import MEANS, VERDICTS
from reports.pages.report import render
from reports.sections.trust import MapTest, say_heading
from storage.joins import place_rows
from storage.runs.run import Run
from tests.reports.page import heading, parse, plain
from tests.reports.stores import SMALL, make_store

REASON = "When the image moves, its map stays where it was (correlation 0.10 with the map moved along, 0.90 where it was)."


def place_trust(
    run: Run, is_for_where: bool | None, is_for_class: bool | None, outcomes: Sequence[str] = ("passed", "failed")
) -> None:
    """Writes the tables of the analysis, with a test for each outcome."""
    run.attempts.mkdir(exist_ok=True)
    verdict = {
        "rule": "linear",
        "is_for_where": is_for_where,
        "is_for_class": is_for_class,
        "test_names": [f"test-{place}" for place in range(len(outcomes))],
        "test_outcomes": list(outcomes),
        "test_reasons": [REASON] * len(outcomes),
    }
    mean = {
        "source": "rule",
        "measure": "contrast",
        "question": "class",
        "value": 0.5,
        "low": 0.25,
        "high": 0.75,
        "sample_count": 8,
    }
    for name, row, schema in (("trust_verdicts", verdict, VERDICTS), ("trust", mean, MEANS)):
        place_rows(run, name, pa.Table.from_pylist([row], schema=schema), schema)


def test_without_the_analysis_there_is_no_section(small_html: str) -> None:
    assert not parse(small_html).all("section", id="trust")


def test_reasons_stand_in_full_in_the_section_and_short_on_the_first_screen(tmp_path: Path) -> None:
    run = make_store(tmp_path, SMALL)
    place_trust(run, False, True)
    page = parse(render(run))
    assert heading(page, "trust") == "The maps can be used to say for which class it is, not where the evidence is"
    (section,), (first,) = page.all("section", id="trust"), page.all("section", id="verdict")
    assert f"The map test-1: failed. {REASON}" in plain(section.text)
    assert "The map test-1: failed. When the image moves, its map stays where it was." in plain(first.text)
    assert "correlation" not in first.text


def test_a_reason_without_numbers_is_short_already() -> None:
    assert MapTest("x", "–", "not measured", "It could not be measured.").short == "It could not be measured."


@pytest.mark.parametrize(
    ("where", "which", "said"),
    [
        (True, True, "The maps can be used to say where the evidence is and for which class it is"),
        (True, None, "The maps can be used to say where the evidence is, and it is not known whether for which class it is"),
        (False, False, "The maps cannot be used: neither to say where the evidence is nor for which class it is"),
        (None, None, "It is not known whether the maps can be used"),
    ],
)
def test_headings(where: bool | None, which: bool | None, said: str) -> None:
    assert say_heading({"is_for_where": where, "is_for_class": which}) == said
