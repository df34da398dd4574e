"""What became of the gates, as the report shows it."""

from tests.reports.page import Page
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
    (section,) = small_page.all("section", id="gates")
    assert f"SELECT '{SCRIPT}'" in section.text
