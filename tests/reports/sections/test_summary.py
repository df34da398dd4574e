"""The report's beginning and end."""

import shlex
import shutil
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from reports.pages.report import render
from reports.queries import ask
from reports.sections import summary
from storage.runs.lookup import published_runs
from storage.runs.plan import ConservedRelevance, Examination, Trigger
from storage.runs.run import Run, read_manifest, read_plan
from storage.sql.read_only import connect
from tests.reports.page import Page, parse, plain
from tests.reports.stores import SCRIPT, SMALL, Content, make_store, sample

OLD_STORE = Path(__file__).parents[2] / "storage" / "old_stores" / "v1"

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
    assert plain(summary.say(FULL | changed)) == sentence


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


def texts(page: Page, name: str) -> list[str]:
    return [plain(element.text) for element in page.all(name)]


def values(page: Page) -> list[str]:
    return [plain(element.text) for element in page.all("dd") if "class" not in element.attributes]


def test_run_facts(small_page: Page) -> None:
    facts = {row[0]: row[1] for row in small_page.table("What was audited")}
    assert facts["Model"] == "digits:net"
    assert facts["Dataset"] == "data/<digits>"
    assert facts["Images"] == "12, of 28 × 28 pixels"
    assert facts["Started"] == "2026-11-21 03:00:00 UTC"
    assert facts["Took"] == "1 min 15 s"


def test_what_was_passed_over_is_among_the_facts(small_run: Run) -> None:
    plan = read_plan(small_run).model_copy(update={"passed_over": {".heic": 2, "": 1}, "empty_classes": ["owl"]})
    with connect(small_run.store, [small_run.run_id]) as connection:
        answer = ask(connection, "run_facts", run_id=small_run.run_id)
    shown = summary.run_facts(answer, plan).table
    assert shown is not None
    facts = {str(row[0]): str(row[1]) for row in shown.rows}
    assert facts["Files passed over"] == "3 files with other suffixes (.heic 2, none 1)"
    assert facts["Classes without an image"] == "1 ('owl')"
    shown = summary.run_facts(answer, read_plan(small_run)).table
    assert shown is not None
    assert not {"Files passed over", "Classes without an image"} & {str(row[0]) for row in shown.rows}


FOLD = {"where": "max_pool2d", "rows": 15680, "memory": 4_917_248_000, "shape": [28, 28]}


def method_of(store: Path, facts: dict[str, Any], examination: Examination | None) -> dict[str, str]:
    """The method's facts in the report of a small run."""
    content = replace(SMALL, facts=facts, examination=examination)
    return {row[0]: row[1] for row in parse(render(make_store(store, content))).table("Method of this run")}


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
    assert plain(page.all("p", class_="verdict")[0].text).startswith("Of 11 images, the model predicted 100.0 % correctly")


def test_a_program_is_named_as_the_model(tmp_path: Path) -> None:
    page = parse(render(make_store(tmp_path, replace(SMALL, facts={"model_factory": None, "model_program": "nets/<m>.pt2"}))))
    assert {row[0]: row[1] for row in page.table("What was audited")}["Model"] == "nets/<m>.pt2"


def test_provenance(small_page: Page) -> None:
    identity = {row[0]: row[1] for row in small_page.table("Identity")}
    assert identity["Run"] == "20261121T030000Z-digits-4f2a"
    assert identity["Model, SHA-256"] == "a" * 64
    assert identity["Plan, SHA-256"] == "c" * 64
    assert identity["Finished"] == "2026-11-21 03:01:15 UTC"
    assert identity["Images failed"] == "2"
    assert identity["Started by"] == "–"
    assert "Resumed by" not in identity
    assert small_page.table("Environment") == [["device", "cpu"], ["python", "3.11.2"]]
    assert [row[1][-1] for row in small_page.table("Files of the run")] == ["0", "1", "2"]
    assert '"path": "</pre><script>alert(2)</script>"' in small_page.all("pre")[-1].text


def test_what_started_a_run_and_what_resumed_it(small_run: Run) -> None:
    paris = datetime(2026, 11, 21, 4, 0, 0, tzinfo=timezone(timedelta(hours=1)))
    nightly = Trigger(
        kind="schedule",
        flow_run_id="f1",
        parent_flow_run_id="f0",
        deployment_id="d0",
        deployment_name=SCRIPT,
        scheduled_at=paris,
    )
    plan = read_plan(small_run).model_copy(update={"trigger": nightly})
    manifest = read_manifest(small_run)
    by_hand = Trigger(kind="command line", flow_run_id="f2")
    rows = {
        resumed: dict(summary.provenance_tables(plan, manifest.model_copy(update={"trigger": trigger}))[0].rows)
        for resumed, trigger in ((False, nightly), (True, by_hand))
    }
    started = f"schedule: deployment “{SCRIPT}” (d0), to start at 2026-11-21 03:00:00 UTC; flow run f1, a part of flow run f0"
    assert rows[False]["Started by"] == rows[True]["Started by"] == started
    assert "Resumed by" not in rows[False]
    assert rows[True]["Resumed by"] == "command line; flow run f2"


def test_what_the_config_says_of_the_model_and_how_to_run_it_again(small_page: Page, small_run: Run) -> None:
    said = dict(small_page.table("The model, in the words"))
    assert said == dict.fromkeys(("Owner", "Intended use", "Known limits"), "not given in the config")
    plan = read_plan(small_run).model_copy(update={"config": {"about": {"owner": SCRIPT, "known_limits": "none"}}})
    assert [row[1] for row in summary.about_table(plan).rows] == [SCRIPT, "not given in the config", "none"]
    shown = summary.rerun_command(small_run, read_plan(small_run))
    assert shown in [code.text for code in small_page.all("code")]
    command = shlex.split(shown or "")
    assert command[:2] == ["clear-audit", "run"]
    assert Path(command[2]).read_bytes() == (small_run.folder / "plan.json").read_bytes()
    assert Path(command[4]) == small_run.store.absolute()
    assert summary.rerun_command(small_run, plan) is None, "it has no folder, in which a factory is looked for"


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
