"""Every figure of the report equals its SQL, run by hand: with DuckDB alone, on the Parquet files."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from reports.pages.report import render
from storage.runs.run import Run
from tests.reports.page import Page, heading, parse, plain
from tests.reports.parts.test_gallery import random_rows
from tests.reports.stores import GATES, Content, Row, make_store

Read = Callable[[Row], Any]

EVIDENCE_VERDICTS = """
CREATE VIEW evidence_verdicts AS
SELECT *, coalesce(dominant_class = prediction, false) AS agrees, dominant_class != prediction AS is_for_another_class
FROM samples
"""
"""What is asked like a table, and not stored: the view of docs/tables.md, written out."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three hundred samples of three classes, some without label or evidence, two failures, eight cards."""
    rows = random_rows(300)
    failures = [{"sample_index": 300 + place, "sample_id": "x", "stage": "read", "reason": "gone"} for place in range(2)]
    responses = [
        {"sample_index": index, "class_index": kind, "dominant_energy_frac": (index + kind) % 8 / 8}
        for index in range(300)
        for kind in range(3)
    ]
    drawn = [(index, "by hand") for index in range(0, 160, 20)]
    store = tmp_path_factory.mktemp("golden")
    return make_store(store, Content(["a", "b", "c"], rows, responses, failures, drawn, gates=GATES[:4]))


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    return parse(render(run))


@pytest.fixture(scope="module")
def answers(run: Run, page: Page) -> dict[str, list[Row]]:
    """What each query that the page shows answers to whoever runs it."""
    connection = duckdb.connect()
    for folder in (run.store / "tables").iterdir():
        connection.execute(f"CREATE VIEW {folder.name} AS FROM read_parquet('{folder}/*/*.parquet', hive_partitioning = true)")
    connection.execute(EVIDENCE_VERDICTS)
    found = {}
    for name, sql in page.queries().items():
        columns, rows = connection.sql(sql).columns, connection.sql(sql).fetchall()
        found[name] = [dict(zip(columns, row, strict=True)) for row in rows]
    return found


def number(text: str) -> float | None:
    """What a cell says, as a number; None for a dash."""
    text = re.sub(r"[\s,]", "", text).replace("−", "-")
    if text == "–":
        return None
    found = re.fullmatch(r"([<>]?)(-?[\d.]+)(%?)", text)
    assert found, text
    return float(found[2]) / (100 if found[3] else 1)


def step(text: str) -> float:
    """Half of a cell's last digit, or of the step that `< 0.1 %` stands for."""
    text = re.sub(r"\s", "", text)
    digits = len(text.rstrip("%").partition(".")[2])
    return (1.0 if text[0] in "<>" else 0.5) * 10**-digits / (100 if text.endswith("%") else 1)


def check(text: str, value: float | None) -> None:
    shown = number(text)
    assert (shown is None) == (value is None), (text, value)
    if shown is not None and value is not None:
        assert abs(shown - float(value)) <= step(text) + 1e-9, (text, value)


def columns(*names: str) -> list[Read]:
    return [lambda row, name=name: row[name] for name in names]


TABLES = {
    "Accuracy beside evidence, by label": (
        "accuracy_evidence",
        columns("sample_count", "correct_frac", "agreement_frac", "label_energy_frac_mean", "probability_mean"),
    ),
    "Sparseness and complexity": (
        "sparseness",
        columns("sample_count", "sparseness_p10", "sparseness_p50", "sparseness_p90", "sparseness_mean", "complexity_mean"),
    ),
    "How far the maps": ("class_sensitivity", columns("sample_count", "class_cosine_mean", "dominance_margin_mean")),
}


@pytest.mark.parametrize("caption", TABLES)
def test_tables_of_numbers_by_class(caption: str, page: Page, answers: dict[str, list[Row]]) -> None:
    query, reads = TABLES[caption]
    cells = page.table(caption)
    assert len(cells) == len(answers[query]) == 3
    for row, shown in zip(answers[query], cells, strict=True):
        assert shown[0] == row["class_name"]
        for text, read in zip(shown[1:], reads, strict=True):
            check(text, read(row))


def test_localization(page: Page, answers: dict[str, list[Row]]) -> None:
    for row, shown in zip(answers["localization"], page.table("Where in 28"), strict=True):
        assert (shown[0], number(shown[1])) == (row["class_name"], row["sample_count"])
        for text, name in zip(shown[2:4], ("centroid_y", "centroid_x"), strict=True):
            for part, kind in zip(text.split(" ± "), ("mean", "std"), strict=True):
                check(part, row[f"{name}_{kind}"])
        for text, name in zip(shown[4:], ("spread", "half_energy_area_frac", "positive_area_frac"), strict=True):
            check(text, row[f"{name}_mean"])


def test_cells_of_label_and_dominant_class(run: Run, page: Page, answers: dict[str, list[Row]]) -> None:
    names = {None: "(none)"} | dict(enumerate("abc"))
    rows = answers["dominant_confusion_largest"]
    table = page.table("Where the evidence is for another class")
    assert len(rows) == len(table)
    for row, shown in zip(rows, table, strict=True):
        assert shown[:2] == [names[row["label"]], names[row["dominant_class"]]]
        for text, name in zip(shown[2:], ("cell_count", "correct_count", "label_frac"), strict=True):
            check(text, row[name])
    chart = render(run).split("Heat map")[1].split("</svg>")[0]
    counts = sorted(int(text) for text in re.findall(r">(\d+)</text>", chart))
    assert counts == sorted(row["cell_count"] for row in answers["dominant_confusion"])
    listed = {(row["label"], row["dominant_class"]): row["cell_count"] for row in answers["cell_samples"]}
    assert listed == {(row["label"], row["dominant_class"]): row["cell_count"] for row in answers["dominant_confusion"]}


def test_images_of_each_cell(page: Page, answers: dict[str, list[Row]]) -> None:
    shown = [row for caption, rows in page.tables().items() if caption.startswith("Label ") for row in rows]
    assert len(shown) == len(answers["cell_samples"])
    for row, cells in zip(answers["cell_samples"], shown, strict=True):
        assert [number(cells[0]), cells[1], cells[2]] == [row["sample_index"], row["sample_id"], "abc"[row["prediction"]]]
        for text, name in zip(cells[3:], ("probability", "dominant_energy_frac", "label_energy_frac"), strict=True):
            check(text, row[name])


def test_verdict_and_what_was_not_evaluated(page: Page, answers: dict[str, list[Row]]) -> None:
    (row,), (facts,) = answers["verdict"], answers["run_facts"]
    (section,) = page.all("section", id="verdict")
    text = plain(section.text)
    expected = {
        "Accuracy": row["correct_count"] / row["labelled_count"],
        "Agreement": row["agreement_count"] / row["processed_count"],
        "Right on other evidence": row["other_evidence_count"],
    }
    for name, value in expected.items():
        said = re.search(rf"{name} ([<>]?[\d.,]+(?: %)?)", text)
        assert said
        check(said[1], value)
    assert f"on {row['processed_count']:,} images" in text
    assert f"{row['failed_count']:,} images could not be measured" in text
    said = re.search(r"have a cosine of ([\d.]+)", heading(page, "method"))
    assert said
    check(said[1], facts["class_cosine_mean"])
    (missing,) = answers["not_evaluated"]
    assert [number(shown[1]) for shown in page.table("What was not evaluated")] == list(missing.values())


def test_gates(page: Page, answers: dict[str, list[Row]]) -> None:
    for row, shown in zip(answers["gates"], page.table("What was asked"), strict=True):
        assert shown[0] == row["gate_name"]
        assert row["outcome"] in shown[1]
        assert shown[2] == ("–" if row["value"] is None else f"{row['value']:.3g}")
        assert shown[5] == row["message"]


def test_cards(page: Page, answers: dict[str, list[Row]]) -> None:
    texts = {article.attributes["id"]: plain(article.text) for article in page.all("article") if "id" in article.attributes}
    assert len(texts) == len(answers["gallery_samples"]) == 8
    for row in answers["gallery_samples"]:
        text = texts[f"sample-{row['sample_index']}"]
        for title, name in (("prediction", "prediction_energy_frac"), ("label", "label_energy_frac")):
            said = re.search(rf"energy for the {title} (–|[<>]? ?[\d.]+ %)", text)
            assert said
            check(said[1], row[name])
        held = [share for share in answers["gallery_shares"] if share["sample_index"] == row["sample_index"]]
        shares = [f"{'abc'[share['class_index']]} {share['dominant_energy_frac']:.1%}".replace("%", " %") for share in held]
        assert f"{' '.join(['CLEAR map, alone', *shares])} label" in text


def test_mean_evidence(page: Page, answers: dict[str, list[Row]]) -> None:
    texts = [plain(article.text) for article in page.all("article") if "id" not in article.attributes]
    for row, text in zip(answers["mean_evidence"], texts, strict=True):
        assert text.startswith(row["class_name"])
        said = re.search(r"images ([\d,]+) energy for the class ([\d.]+ %) full brightness ([\d.]+ %)", text)
        assert said
        for shown, name in zip(said.groups(), ("evidence_count", "label_energy_frac", "cell_frac_max"), strict=True):
            check(shown, row[name])


def marks(page_html: str, kind: str, pattern: str) -> list[float]:
    """Positions from the left, in pixels, of marks of one kind in the order they are drawn in."""
    return [
        float(left)
        for group in re.findall(rf'<g class="mark-{kind} role-mark[^"]*"[^>]*>(.*?)</g>', page_html, re.DOTALL)
        for left in re.findall(pattern, group)
    ]


def test_marks_of_the_charts(run: Run, answers: dict[str, list[Row]]) -> None:
    """A share of 1 is 600 pixels from the left; the last row and column of the picture 138."""
    html = render(run)
    dots = marks(html, "symbol", r'transform="translate\(([\d.]+),')
    names = ("correct_frac", "agreement_frac", "label_energy_frac_mean")
    expected = [600 * row[name] for row in answers["accuracy_evidence"] for name in names]
    places = {name: [138 * row[name] / 27 for row in answers["localization"]] for name in ("centroid_y_mean", "centroid_x_mean")}
    clamped = [min(place, 138) for column in places.values() for place in column]
    assert dots == pytest.approx(expected + clamped, abs=0.01)
    ticks = marks(html, "rect", r'd="M([\d.]+),[\d.]+h3v16h-3Z"')
    assert [tick + 1.5 for tick in ticks] == pytest.approx(
        [600 * row["sparseness_p50"] for row in answers["sparseness"]], abs=0.01
    )


def test_every_query_of_figures_is_checked_here(page: Page) -> None:
    asked = set(re.findall(r'answers\["([a-z_]+)"\]', Path(__file__).read_text(encoding="utf-8")))
    asked |= {query for query, _ in TABLES.values()}
    lists = {
        "other_evidence_classes",
        "failures",
        "gallery_other_evidence",
        "gallery_confident_error",
        "gallery_random",
        "gallery_cell",
    }
    assert set(page.queries()) - lists == asked
