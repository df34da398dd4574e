"""The verdict, against numbers worked out by hand from the rows in `stores`."""

from pathlib import Path

import pytest

from reports.pages.report import render
from reports.sections import verdict
from tests.reports.page import Page, parse, plain, texts, values
from tests.reports.stores import Content, make_store, sample

FULL = {"processed_count": 10000, "labelled_count": 10000, "correct_count": 9936, "agreement_count": 6912}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {"failed_count": 0},
            "Of 10,000 images, the model predicted 99.4 % correctly; "
            "for 69.1 % of all images the dominant class is the predicted one, and no image failed.",
        ),
        (
            {"failed_count": 1, "labelled_count": 9960, "correct_count": 4980},
            "Of 10,000 images, the model predicted 50.0 % of the 9,960 that have a label correctly; "
            "for 69.1 % of all images the dominant class is the predicted one, and 1 image failed.",
        ),
        (
            {"failed_count": 2, "labelled_count": 0, "correct_count": 0},
            "None of 10,000 images has a label, so the accuracy is not known; "
            "for 69.1 % of all images the dominant class is the predicted one, and 2 images failed.",
        ),
        (
            {"failed_count": 1200, "processed_count": 0, "labelled_count": 0},
            "No image could be measured, so nothing is known of the model; 1,200 images failed.",
        ),
    ],
)
def test_verdict_is_one_sentence_with_numbers(changed: dict[str, int], sentence: str) -> None:
    assert plain(verdict.say_verdict(FULL | changed)) == sentence


def test_small_run(small_page: Page) -> None:
    (verdict,) = small_page.all("section", id="verdict")
    (status,) = small_page.all("p", class_="status failures")
    (sentence,) = small_page.all("p", class_="verdict")
    assert status.text == "complete with failures"
    (judged,) = small_page.all("p", class_="status gates failed")
    assert " ".join(judged.text.split()) == "gates failed 1 failed, 1 error, 1 not evaluated, 1 warned, 1 passed"
    assert plain(sentence.text) == (
        "Of 10 images, the model predicted 75.0 % of the 8 that have a label correctly; "
        "for 50.0 % of all images the dominant class is the predicted one, and 2 images failed."
    )
    figures = dict(zip(texts(small_page, "dt")[:6], values(small_page)[:6], strict=True))
    assert figures == {
        "Images measured": "10",
        "Accuracy": "75.0 %",
        "Agreement": "50.0 %",
        "Correct, another dominates": "3",
        "Class cosine": "0.25",
        "Failures": "2",
    }
    assert "2 have none" in verdict.text


def test_a_run_without_labels(tmp_path: Path) -> None:
    rows = [sample(i, None, 0, 0.5, i % 2, (0.75, 0.75, None)) for i in range(4)]
    page = parse(render(make_store(tmp_path, Content(["a", "b"], rows))))
    assert page.all("p", class_="status")[0].text == "complete"
    assert page.all("p", class_="status gates not-judged")[0].text.strip() == "gates not judged"
    figures = dict(zip(texts(page, "dt"), values(page), strict=True))
    assert figures["Accuracy"] == "not known"
    assert figures["Correct, another dominates"] == "not known"
    assert figures["Agreement"] == "50.0 %"
    (accuracy,) = page.all("section", id="accuracy")
    assert "No measured image of this run has a label" in accuracy.text
    assert [alt for alt in page.all("div", role="group") if "For 0 of 0 labelled" in alt.attributes["aria-label"]]


def test_a_run_of_failures_alone(tmp_path: Path) -> None:
    failures = [{"sample_index": 0, "sample_id": "x", "stage": "read", "reason": "gone"}]
    page = parse(render(make_store(tmp_path, Content(["a", "b"], [], (), failures))))
    assert page.all("p", class_="verdict")[0].text.startswith("No image could be measured")
    assert page.all("div", role="img") == []
