"""What the report says of the maps."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.analyses.trust import MEANS, VERDICTS
from reports.pages.report import render
from reports.sections.trust import rules_table, say_heading
from storage.joins import place_rows
from storage.rule_choices import MeasuredRule, RuleChoice
from storage.runs.run import Run
from tests.reports.page import heading as title
from tests.reports.page import parse, plain
from tests.reports.stores import SCRIPT, SMALL, make_store

MOVED = "It stays where it was (correlation 0.10 with the map moved along, 0.90 where it was)."


def place_trust(run: Run, where: bool | None, label: bool | None) -> None:
    """Writes the tables of the analysis."""

    def mean(source: str, measure: str, value: float | None, control: str | None, at: float | None) -> dict[str, Any]:
        numbers = {"value": value, "low": None, "high": None, "sample_count": 3, "control": control, "control_value": at}
        return {"source": source, "measure": measure, "question": "image"} | numbers

    means = [
        mean("rule", "moved_along", 0.75, "ink", 1.0),
        mean("rule", "class_gain", 3.0, None, None),
        mean("ink", "moved_along", 1.0, None, None),
        mean("random_pixels", "moved_along", None, None, None),
    ]
    verdict = {
        "rule": "linear",
        "is_usable_for_place": where,
        "is_usable_for_classes": label,
        "test_names": ["depends on the image", "depends on the class"],
        "test_outcomes": ["passed", "failed"],
        "test_reasons": [MOVED, f"It is all one {SCRIPT}."],
    }
    run.attempts.mkdir(exist_ok=True)
    place_rows(run, "trust", pa.Table.from_pylist(means, schema=MEANS), MEANS)
    place_rows(run, "trust_verdicts", pa.Table.from_pylist([verdict], schema=VERDICTS), VERDICTS)


def test_without_the_analysis_there_is_no_section(tmp_path: Path) -> None:
    assert not parse(render(make_store(tmp_path, SMALL))).all("section", id="trust")


def test_tests_and_measures_are_told(tmp_path: Path) -> None:
    run = make_store(tmp_path, SMALL)
    place_trust(run, True, False)
    page = parse(render(run))
    (section,) = page.all("section", id="trust")
    text = plain(section.text)
    assert title(page, "trust") == "The maps can be used to say where the evidence is, not for which class it is"
    first = plain(page.all("section", id="verdict")[0].text)
    assert "✓ The map depends on the image: passed. It stays where it was. ✗" in first, "without the numbers"
    assert f"The map depends on the class: failed. It is all one {SCRIPT}." in first
    assert f"✓ The map depends on the image: passed. {MOVED}" in text
    assert f"✗ The map depends on the class: failed. It is all one {SCRIPT}." in text
    rows = [[plain(cell) for cell in row] for row in page.table("What was measured of the maps, means over images.")]
    assert rows == [
        ["correlation of a moved image's map with the map moved along", "0.75", "– to –", "1.00", "the image itself", "3"],
        ["response at the image for each unit of class response", "3.00", "– to –", "–", "–", "3"],
    ]
    controls = [[plain(cell) for cell in row] for row in page.table("The same of the controls.")]
    assert controls == [["correlation of a moved image's map with the map moved along", "1.00", "–"]]


def test_a_chosen_rule_stands_among_those_that_were_measured() -> None:
    good = MeasuredRule(
        rule="gradient", is_usable_for_place=True, is_usable_for_classes=False, score=0.75, means={"contrast": 1.0}
    )
    choice = RuleChoice(
        rule="gradient", reason="it is", image_count=9, rules=[MeasuredRule(rule="deconv", refusal="no way"), good]
    )
    table = rules_table(choice)
    assert table.rows == [
        ["deconv", "–", "–", "–", "–", "–", "–", "no way"],
        ["gradient", "✓ yes", "✗ no", "1.00", "–", "–", "–", ""],
    ]


@pytest.mark.parametrize(
    ("where", "label", "heading"),
    [
        (True, True, "The maps can be used to say where the evidence is and for which class it is"),
        (False, True, "The maps can be used to say for which class it is, not where the evidence is"),
        (True, None, "The maps can be used to say where the evidence is, and it is not known whether for which class it is"),
        (False, False, "The maps cannot be used: neither to say where the evidence is nor for which class it is"),
        (None, False, "The maps cannot be used to say for which class it is, and it is not known whether where the evidence is"),
        (None, None, "It is not known whether the maps can be used"),
    ],
)
def test_the_heading_says_what_for(where: bool | None, label: bool | None, heading: str) -> None:
    assert say_heading({"is_usable_for_place": where, "is_usable_for_classes": label}) == heading
