"""The first screen's answers, against numbers worked out by hand from the rows in `stores`."""

from dataclasses import replace
from pathlib import Path

import pytest

from reports.gates.gate import Gate
from reports.pages.report import render
from storage.runs.run import Run
from tests.reports.page import Page, parse, plain, texts, values
from tests.reports.sections.test_data_checks import place as place_data_checks
from tests.reports.sections.test_trust import place_trust
from tests.reports.stores import RANKED, Content, make_store, sample

SUSPICIOUS = "Most suspicious: of the 5 correct images of class ant, 40.0 % have their evidence for another class, mostly bee."


def answer(page: Page) -> tuple[str, str]:
    """How the finding is marked, and its sentence; the first answer is of the maps."""
    found = [element for element in page.all("p") if element.attributes.get("class", "").startswith("answer ")]
    return found[1].attributes["class"].removeprefix("answer "), plain(found[1].text)


def answer_of(run: Run) -> tuple[str, str]:
    return answer(parse(render(run)))


def test_small_run(small_page: Page) -> None:
    (verdict,) = small_page.all("section", id="verdict")
    (audited,) = small_page.all("p", class_="audited")
    assert plain(audited.text) == (
        "Model digits:net on 10 images of data/<digits> in 3 classes, explained by rule linear on 2026-11-21, "
        "and 2 images could not be measured. complete with failures"
    )
    assert answer(small_page) == ("failed", "Gate “class_cosine” failed: 0.25 is above the most allowed, 0.125.")
    figures = dict(zip(texts(small_page, "dt")[:3], values(small_page)[:3], strict=True))
    assert figures == {"Accuracy": "75.0 %", "Agreement": "50.0 %", "Right on other evidence": "3"}
    said = plain(verdict.text)
    assert "6 of 8 with a label" in said
    assert "evidence is for the prediction; 2 have none" in said
    assert "✗ 1 gate passed, 1 failed, 1 error, 1 not evaluated, 1 warned (class_cosine: 0.25 is above" in said


def test_what_was_not_asked_is_said_with_the_command(small_page: Page) -> None:
    commands = [code.text for code in small_page.all("code")]
    for analysis in ("trust", "data_checks"):
        assert f"clear-audit analyse 20261121T030000Z-digits-4f2a {analysis}" in commands
    assert "Not known: it was not measured." in small_page.all("section", id="verdict")[0].text


def test_the_class_with_most_correct_images_on_other_evidence(ranked_page: Page) -> None:
    """Two of the ant's five; all of the cow's two, which are too few."""
    assert answer(ranked_page) == ("noted", SUSPICIOUS)


def test_the_worst_is_said_first(tmp_path: Path) -> None:
    """Data before a gate that failed, that before one that warns, all before a class."""
    warning = Gate("agreement", min=0.9, severity="warn")
    low = "0.615385 is below the least allowed, 0.9"
    run = make_store(tmp_path / "warned", replace(RANKED, gates=[warning]))
    assert answer_of(run) == ("warned", f"Gate “agreement” warned: {low}.")
    run = make_store(tmp_path / "failed", replace(RANKED, gates=[warning, Gate("accuracy", min=0.95)]))
    assert answer_of(run) == ("failed", "Gate “accuracy” failed: 0.923077 is below the least allowed, 0.95.")
    place_data_checks(run, True, True, None)
    assert answer_of(run)[1].startswith("Gate “accuracy”")
    place_data_checks(run, True, False, None)
    assert answer_of(run) == ("failed", "Not as it should be: the classes seem to be in another order.")


def test_a_warning_that_was_not_evaluated_is_no_finding(tmp_path: Path) -> None:
    """There is no earlier run to compare with."""
    run = make_store(tmp_path, replace(RANKED, gates=[Gate("accuracy", max_drop=0.1, severity="warn")]))
    assert answer_of(run) == ("noted", SUSPICIOUS)


def test_nothing_suspicious_is_said_so(tmp_path: Path) -> None:
    rows = [sample(i, 0, 0, 0.5, 0, (0.75, 0.75, 0.75)) for i in range(5)]
    run = make_store(tmp_path, Content(["a", "b"], rows))
    assert answer_of(run) == ("noted", "No class of 5 correct images or more rests on another class.")


@pytest.mark.parametrize(
    ("uses", "outcome"),
    [((True, True), "passed"), ((False, False), "failed"), ((True, False), "warned"), ((None, True), "warned")],
)
def test_how_the_maps_are_marked(tmp_path: Path, uses: tuple[bool | None, bool | None], outcome: str) -> None:
    run = make_store(tmp_path, RANKED)
    place_trust(run, *uses)
    (found, *_) = [p for p in parse(render(run)).all("p") if p.attributes.get("class", "").startswith("answer ")]
    assert found.attributes["class"] == f"answer {outcome}"


def test_a_run_without_labels(tmp_path: Path) -> None:
    rows = [sample(i, None, 0, 0.5, i % 2, (0.75, 0.75, None)) for i in range(4)]
    page = parse(render(make_store(tmp_path, Content(["a", "b"], rows))))
    assert page.all("span", class_="status")[0].text == "complete"
    assert answer(page) == ("noted", "No image has a label: whether the model is right is not known.")
    figures = dict(zip(texts(page, "dt"), values(page), strict=True))
    assert figures["Accuracy"] == "not known"
    assert figures["Right on other evidence"] == "not known"
    assert figures["Agreement"] == "50.0 %"
    (accuracy,) = page.all("section", id="accuracy")
    assert "No measured image of this run has a label" in accuracy.text
    assert [alt for alt in page.all("div", role="group") if "For 0 of 0 labelled" in alt.attributes["aria-label"]]


def test_a_run_of_failures_alone(tmp_path: Path) -> None:
    failures = [{"sample_index": 0, "sample_id": "x", "stage": "read", "reason": "gone"}]
    page = parse(render(make_store(tmp_path, Content(["a", "b"], [], (), failures))))
    assert answer(page) == ("failed", "No image could be measured, so nothing is known of the model.")
    assert page.all("div", role="img") == []
