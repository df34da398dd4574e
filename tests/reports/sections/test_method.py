"""How the maps were made, as the report says it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from reports.pages.report import render
from storage.runs.lookup import published_runs
from storage.runs.plan import ConservedRelevance, Examination
from tests.reports.page import Page, heading, parse, plain
from tests.reports.stores import QUOTES, SCRIPT, SMALL, make_store

OLD_STORE = Path(__file__).parents[2] / "storage" / "old_stores" / "v1"


FOLD = {"where": "max_pool2d", "rows": 15680, "memory": 4_917_248_000, "shape": [28, 28]}


def method_of(store: Path, facts: dict[str, Any], examination: Examination | None) -> dict[str, str]:
    """The method's facts in the report of a small run."""
    content = replace(SMALL, facts=facts, examination=examination)
    return {row[0]: row[1] for row in parse(render(make_store(store, content))).table("Method of this run")}


def test_class_sensitivity(small_page: Page) -> None:
    rows = small_page.table("How far the maps")
    assert rows == [["cat", "3", "0.25", "0.75"], [SCRIPT, "3", "0.25", "0.75"], [QUOTES, "2", "0.25", "0.75"]]


def test_method_of_a_folded_run(tmp_path: Path) -> None:
    facts = {"rule": "linear", "reduction": "max", "is_folded": True, "fold_deviation": 2.1e-6}
    assert method_of(tmp_path, facts, Examination(sample_count=64, fold=FOLD, fold_deviation=2.1e-6)) == {
        "Rule": "linear",
        "Channels of the input": "the greatest response",
        "Precision": "float32",
        "Classes that compete": "all 3",
        "Where classes are decided": "found from the operations",
        "Fixed operator": (
            "one for all images, from the classes back to the output of “max_pool2d”: 4.92 GB, built by 15,680 passes through "
            "the network; on the first 64 images its responses deviate from the network's by at most 2 × 10⁻⁶ of the greatest"
        ),
    }


def test_method_of_a_run_in_less_than_float32_with_some_classes_and_a_named_head(tmp_path: Path) -> None:
    """left_out_frac is 0/64 to 8/64 in the small run, and NULL once: 6.25 % on average."""
    facts = {
        "rule": "lrp_<zplus>",
        "reduction": "l2",
        "precision": "bfloat16",
        "precision_agreement_frac": 0.99125,
        "competing_count": 2,
        "head": "<b>last</b>",
        "is_folded": False,
        "fold_reason": "rule 'lrp_<zplus>' depends on the input",
    }
    assert method_of(tmp_path, facts, Examination(sample_count=1, precision_agreement_frac=0.99125)) == {
        "Rule": "lrp_<zplus>",
        "Channels of the input": "root of the sum of their squared responses",
        "Precision": "bfloat16: 99.1 % of the pixels of the first 1 image have the same dominant class as in float32",
        "Classes that compete": (
            "in each image the 2 with most positive response, of 3; the others have 6.2 % of it on average, 12.5 % at worst"
        ),
        "Where classes are decided": "named: <b>last</b>",
        "Fixed operator": "none, each class was sent back for each image: rule 'lrp_<zplus>' depends on the input",
    }


def test_method_of_a_run_that_sends_nothing_back(tmp_path: Path) -> None:
    facts = {"rule": "cam", "reduction": None, "is_folded": False, "fold_reason": "rule 'cam' sends nothing back"}
    said = method_of(tmp_path, facts, Examination(sample_count=64))
    assert said["Channels of the input"] == "–"
    assert said["Fixed operator"] == "none: rule 'cam' sends nothing back"


def test_method_of_a_run_whose_rule_conserves(tmp_path: Path) -> None:
    kept = ConservedRelevance(kept=-0.672, size=140.57, operation="'batch_norm' (8 of 20)", taken=1.66)
    said = method_of(tmp_path, {"rule": "lrp_epsilon"}, Examination(sample_count=64, conservation=kept))["Conservation"]
    assert said == (
        "responses add up to −0.67 of what their class sends back, without signs to 140.57; constants, as biases and class "
        "tokens, take most at operation 'batch_norm' (8 of 20): 1.66"
    )
    all_kept = ConservedRelevance(kept=1, size=1, operation=None, taken=0)
    said = method_of(tmp_path / "all", {"rule": "lrp_zplus"}, Examination(sample_count=64, conservation=all_kept))["Conservation"]
    assert said == "responses add up to 1.00 of what their class sends back, without signs to 1.00"


def test_how_the_model_was_read_is_shown_where_that_is_not_plain(tmp_path: Path) -> None:
    read = method_of(tmp_path, {}, Examination(sample_count=1, notes=["its 'logits' are taken", "z_L has one position"]))
    assert read["How the model is read"] == "its 'logits' are taken; z_L has one position"
    assert "How the model is read" not in method_of(tmp_path / "plain", {}, Examination(sample_count=1))


def test_more_places_than_classes_leave_none_out(tmp_path: Path) -> None:
    assert method_of(tmp_path, {"competing_count": 5}, None)["Classes that compete"] == "all 3"


def test_report_of_a_run_of_an_older_version(tmp_path: Path) -> None:
    shutil.copytree(OLD_STORE, tmp_path / "old")
    (run,) = published_runs(tmp_path / "old")
    page = parse(render(run))
    method = {row[0]: row[1] for row in page.table("Method of this run")}
    assert (method["Rule"], method["Precision"], method["Classes that compete"]) == ("linear", "float32", "all 10")
    assert method["Fixed operator"] == method["Channels of the input"] == "–"
    assert plain(page.all("p", class_="audited")[0].text).startswith("Model ")
    assert "11 of 11 with a label" in plain(page.all("section", id="verdict")[0].text)


def test_the_heading_is_the_cosine(small_page: Page) -> None:
    assert heading(small_page, "method") == "By rule linear; the maps of two classes have a cosine of 0.25 (1: all alike)"


def test_classes_of_few_images_are_not_ranked(ranked_page: Page) -> None:
    assert [row[0] for row in ranked_page.table("How far the maps")] == ["ant", "bee", "cow"]
    (method,) = ranked_page.all("section", id="method")
    assert "1 class has fewer than 5 images and is not ranked: it stands last." in method.text
