"""What became of the gates, as the report shows it."""

import pytest

from reports.sections.gates import say_heading
from tests.reports.page import Page, heading
from tests.reports.stores import SCRIPT


def test_gates_worst_first_with_what_is_allowed(small_page: Page) -> None:
    rows = small_page.table("What was asked")
    assert [row[:5] for row in rows] == [
        ["class_cosine", "✗ failed", "0.25", "≤ 0.125", "–"],
        [SCRIPT, "⚠ error", "–", "≥ 1", "–"],
        ["sparseness_shift", "? not evaluated, a warning", "–", "≤ 0.1", "–"],
        ["agreement", "! warned", "0.5", "≥ 0.9", "–"],
        ["accuracy", "✓ passed", "0.75", "≥ 0.5", "–"],
    ]
    assert rows[0][5] == "0.25 is above the most allowed, 0.125"
    assert heading(small_page, "gates") == (
        "1 gate passed, 1 failed, 1 error, 1 not evaluated, 1 warned (class_cosine: 0.25 is above the most allowed, 0.125)"
    )
    (section,) = small_page.all("section", id="gates")
    assert f"SELECT '{SCRIPT}'" in section.text


@pytest.mark.parametrize(
    ("outcomes", "said"),
    [
        ([], "No gate was set"),
        (["passed"], "The one gate passed"),
        (["passed"] * 6, "All 6 gates passed"),
        (["failed", *["passed"] * 5], "5 gates passed, 1 failed (gate-0: because 0)"),
        (["failed", "failed", "warned"], "0 gates passed, 2 failed, 1 warned (gate-0: because 0)"),
    ],
)
def test_the_heading_counts_and_names_the_worst(outcomes: list[str], said: str) -> None:
    rows = [
        {"gate_name": f"gate-{place}", "outcome": outcome, "message": f"because {place}"}
        for place, outcome in enumerate(outcomes)
    ]
    assert say_heading(rows) == said
