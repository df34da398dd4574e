"""Charts: whole SVG, whose text is escaped and takes the page's colour."""

import re
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from reports.formats import class_labels
from reports.parts import charts
from tests.reports.stores import QUOTES, SCRIPT

NAMES = [SCRIPT, QUOTES]
LONG = "a name that is far too long for the side of a chart [17]"


def text_of(svg: Markup) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def accuracy_evidence(names: list[str] = NAMES) -> Markup:
    measures = dict.fromkeys(charts.MEASURES, 0.5)
    return charts.accuracy_evidence([{"name": name} | measures for name in names])


def confusion() -> Markup:
    cells = [
        {"anchor": "cell-0-1", "name": SCRIPT, "dominant": QUOTES, "count": 1234, "share": 0.75},
        {"anchor": "cell-1-1", "name": QUOTES, "dominant": QUOTES, "count": 5, "share": 0.25},
    ]
    return charts.confusion(cells, NAMES, NAMES, {"cell-0-1": f"{SCRIPT} and {QUOTES}"})


def sparseness() -> Markup:
    return charts.sparseness([{"name": name, "p10": 0.25, "p50": 0.5, "p90": 0.75} for name in NAMES])


def localization() -> Markup:
    row = {"centroid_y_mean": 3.0, "centroid_y_std": 1.0, "centroid_x_mean": 20.0, "centroid_x_std": 0.0}
    row |= {"spread_mean": 4.0, "half_energy_area_frac_mean": 0.25}
    return charts.localization([row | {"name": name} for name in NAMES], 28, 32)


ALL = pytest.mark.parametrize("chart", [accuracy_evidence, confusion, sparseness, localization])


@ALL
def test_names_are_text_and_nothing_else(chart) -> None:  # type: ignore[no-untyped-def]
    svg = chart()
    assert set(NAMES) <= set(text_of(svg))
    assert "<script" not in svg.lower()


@ALL
def test_text_takes_the_color_of_the_page(chart) -> None:  # type: ignore[no-untyped-def]
    fills = re.findall(r'<text[^>]* fill="([^"]+)"', chart())
    assert fills
    assert set(fills) <= {"currentColor", "#fff"}


@ALL
def test_nothing_lies_behind_the_chart(chart) -> None:  # type: ignore[no-untyped-def]
    assert not re.search(r'<rect[^>]*fill="(white|#fff(fff)?)"', chart())


@ALL
def test_nothing_has_an_id_that_another_chart_could_have(chart) -> None:  # type: ignore[no-untyped-def]
    assert " id=" not in chart()


def test_cells_lead_to_their_images_where_these_are_listed() -> None:
    (link,) = ElementTree.fromstring(confusion()).iter("{http://www.w3.org/2000/svg}a")
    assert link.attrib == {"href": "#cell-0-1", "aria-label": f"{SCRIPT} and {QUOTES}"}
    assert len(list(link)) == 1


@ALL
def test_parts_of_a_chart_have_no_roles_without_names(chart) -> None:  # type: ignore[no-untyped-def]
    assert not re.search(r"role=|aria-roledescription|aria-hidden", chart())


def test_confusion_says_the_counts() -> None:
    assert {"1,234", "5"} <= set(text_of(confusion()))


def test_white_numbers_are_on_deep_color_only() -> None:
    colors = dict(re.findall(r'<text[^>]* fill="([^"]+)"[^>]*>([\d,]+)<', confusion()))
    assert colors == {"#fff": "1,234", "currentColor": "5"}


def test_long_names_keep_their_beginning_and_their_index() -> None:
    (shortened,) = [text for text in text_of(accuracy_evidence([LONG, "b"])) if text.startswith("a name")]
    assert shortened == "a name that i…a chart [17]"


def test_an_undefined_measure_is_left_out() -> None:
    row = dict(zip(charts.MEASURES, (1.0, 0.5, None), strict=True))
    whole = accuracy_evidence(["a"]).count("<path")
    assert charts.accuracy_evidence([{"name": "a"} | row]).count("<path") == whole - 1


@pytest.mark.parametrize(
    ("runs", "ticks"), [(2, ["−1", "0"]), (3, ["−2", "−1", "0"]), (100, ["−85", "−68", "−51", "−34", "−17", "0"])]
)
def test_a_trend_is_marked_at_whole_runs(runs: int, ticks: list[str]) -> None:
    row = {"correct_frac": 0.5, "agreement_frac": 0.25, "sparseness_mean": None}
    texts = text_of(charts.trend([row | {"run_id": str(number)} for number in range(runs)]))
    assert [text for text in texts if re.fullmatch("−?[0-9]+", text)] == ticks


@pytest.mark.parametrize("name", ["constructor", "toString", "valueOf", "hasOwnProperty", "__proto__", "null", "NaN"])
def test_names_that_every_object_of_javascript_has(name: str) -> None:
    labels = class_labels([name, "dog"])
    assert labels[0].startswith(name)
    rows = [{"name": label, **dict.fromkeys(charts.MEASURES, 0.5)} for label in labels]
    assert name in charts.accuracy_evidence(rows)
    # And where one comes in all the same, the page does.
    rows = [{"name": name, **dict.fromkeys(charts.MEASURES, 0.5)}]
    assert charts.accuracy_evidence(rows)
