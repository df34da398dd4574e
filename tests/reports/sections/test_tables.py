"""What each section says, against numbers worked out by hand from the rows in `stores`."""

from pathlib import Path

from reports.pages.report import render
from tests.reports.page import Page, parse, plain
from tests.reports.stores import QUOTES, SCRIPT, Content, make_store, many_classes, sample


def test_accuracy_beside_evidence(small_page: Page) -> None:
    assert small_page.table("Accuracy beside evidence") == [
        [QUOTES, "2", "100.0 %", "0.0 %", "12.5 %", "68.8 %"],
        ["cat", "3", "66.7 %", "66.7 %", "41.7 %", "85.4 %"],
        [SCRIPT, "3", "66.7 %", "66.7 %", "45.8 %", "76.0 %"],
    ]


def test_largest_confusions(small_page: Page) -> None:
    assert small_page.table("Where the evidence is for another class") == [
        ["cat", SCRIPT, "2", "1", "66.7 %"],
        [SCRIPT, QUOTES, "2", "1", "66.7 %"],
        [QUOTES, "cat", "1", "1", "50.0 %"],
        [QUOTES, "(none)", "1", "1", "50.0 %"],
    ]


def test_confusion_chart_has_rows_and_columns_for_what_is_unknown(small_page: Page) -> None:
    charts = [figure.text for figure in small_page.all("figure", class_="chart") if "dominant class" in figure.text]
    assert len(charts) == 1
    assert "(no label)" in charts[0]
    assert "(none)" in charts[0]
    (alt,) = [text for text in alts(small_page) if text.startswith("Heat map")]
    assert alt.endswith("For 2 of 8 labelled images the dominant class is the label.")


def alts(page: Page) -> list[str]:
    shown = [*page.all("div", role="img"), *page.all("div", role="group")]
    return [element.attributes["aria-label"] for element in shown]


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


def test_class_sensitivity(small_page: Page) -> None:
    rows = small_page.table("How far the maps")
    assert rows == [["cat", "3", "0.25", "0.75"], [SCRIPT, "3", "0.25", "0.75"], [QUOTES, "2", "0.25", "0.75"]]


def test_failures(small_page: Page) -> None:
    assert small_page.table("Images without maps") == [
        ["10", "broken & <b>", "read", "cannot identify image file '<broken>'"],
        ["11", "empty", "prepare", "image is 0 × 0"],
    ]


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


def test_many_classes_are_cut_and_said_to_be(tmp_path: Path) -> None:
    page = parse(render(make_store(tmp_path, many_classes(60))))
    table = page.table("Accuracy beside evidence")
    assert [row[0] for row in table] == [f"class-{i:03d}" for i in range(50)]
    (accuracy,) = page.all("section", id="accuracy")
    assert "10 more rows are left out here." in accuracy.text
    assert "The chart shows the worst 20 of 60 classes, by agreement, lowest first." in accuracy.text
    (chart,) = [figure for figure in page.all("figure", class_="chart") if "Accuracy" in figure.text]
    drawn = {f"class-{i:03d}" for i in range(60) if f"class-{i:03d}" in chart.text}
    assert drawn == {f"class-{i:03d}" for i in range(20)}


def test_many_classes_have_no_confusion_chart(tmp_path: Path) -> None:
    page = parse(render(make_store(tmp_path, many_classes(21))))
    (confusion,) = page.all("section", id="confusion")
    assert "21 classes are too many for a chart" in confusion.text
    assert "dominant_confusion" not in page.queries()
    assert len(page.table("Where the evidence is for another class")) == 21
    assert not [alt for alt in alts(page) if alt.startswith("Heat map")]


def test_twenty_classes_are_all_drawn(tmp_path: Path) -> None:
    page = parse(render(make_store(tmp_path, many_classes(20))))
    (alt,) = [alt for alt in alts(page) if alt.startswith("Heat map")]
    assert alt.startswith("Heat map of 20 labels by 20 dominant classes.")
    (confusion,) = page.all("section", id="confusion")
    assert len(page.table("Where the evidence is for another class")) == 10
    assert "10 more rows are left out here." in confusion.text


def test_a_run_whose_maps_are_all_empty(tmp_path: Path) -> None:
    rows = [sample(i, 0, 0, 0.5, None, (None, None, None)) for i in range(3)]
    page = parse(render(make_store(tmp_path, Content(["a", "b"], rows))))
    assert page.table("Sparseness and complexity") == [["a", "3", "–", "–", "–", "–", "–"]]
    assert page.table("Where in 28") == [["a", "3", "–", "–", "–", "–", "0.0 %"]]
    assert page.table("Accuracy beside evidence") == [["a", "3", "100.0 %", "0.0 %", "–", "50.0 %"]]


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


def test_what_was_not_evaluated_is_counted(small_page: Page, tmp_path: Path) -> None:
    counts = [row[1] for row in small_page.table("What was not evaluated")]
    assert counts == ["2", "2", "2", "0", "2"], "failures, without label, without dominant class, empty classes, open gates"
    rows = [sample(index, 0, 0, 0.5, 0, (1, 1, 1)) for index in range(3)]
    page = parse(render(make_store(tmp_path, Content(["a", "b", "c"], rows))))
    assert [row[1] for row in page.table("What was not evaluated")] == ["0", "0", "0", "2", "0"]
