"""JSON, JUnit XML and markdown of gates, read back by other readers, with names that would break each of them."""

import json
from xml.etree import ElementTree

import pytest

from reports.gates.exports import as_json, as_junit, as_markdown, cell
from reports.gates.gate import Gate
from reports.gates.judgement import Judgement
from reports.gates.judging import judge
from storage.runs.run import Run
from tests.reports.stores import GATES, RUN_ID, SCRIPT, SMALL, make_store

HOSTILE = Gate('a"]]>&<b>\x00|`*\n', "SELECT '\x07'", min=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_store(tmp_path_factory.mktemp("store"), SMALL)


@pytest.fixture(scope="module")
def judgements(run: Run) -> list[Judgement]:
    return judge([*GATES, HOSTILE], run, None)


def test_json_has_every_gate_in_the_configs_order(run: Run, judgements: list[Judgement]) -> None:
    document = json.loads(as_json(run, None, judgements))
    assert (document["schema"], document["run_id"], document["reference_run_id"]) == ("clear-audit/gates/1", RUN_ID, None)
    assert document["outcome"] == "failed"
    assert [gate["name"] for gate in document["gates"]] == [gate.name for gate in [*GATES, HOSTILE]]
    outcomes = ["passed", "warned", "failed", "not evaluated", "error", "error"]
    assert [gate["outcome"] for gate in document["gates"]] == outcomes
    assert document["gates"][0] == {
        "name": "accuracy",
        "sql": "SELECT avg(is_correct::INT) FROM samples",
        "min": 0.5,
        "max": None,
        "max_drop": None,
        "max_rise": None,
        "severity": "error",
        "min_samples": 1,
        "samples": "SELECT sample_index FROM samples WHERE NOT is_correct ORDER BY probability DESC NULLS LAST, sample_index",
        "outcome": "passed",
        "value": 0.75,
        "reference_value": None,
        "message": "0.75 is within the limits",
    }


def test_json_of_no_gates(run: Run) -> None:
    document = json.loads(as_json(run, run, []))
    assert (document["outcome"], document["gates"], document["reference_run_id"]) == ("not judged", [], RUN_ID)


def test_junit_counts_what_fails_the_audit(run: Run, judgements: list[Judgement]) -> None:
    suite = ElementTree.fromstring(as_junit(run, judgements))
    assert suite.tag == "testsuite"
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "6",
        "failures": "1",
        "errors": "2",
        "skipped": "2",
    }
    results = {case.get("name"): [child.tag for child in case] for case in suite}
    assert results["accuracy"] == []
    assert results["agreement"] == results["sparseness_shift"] == ["skipped"]
    assert results["class_cosine"] == ["failure"]
    assert results[SCRIPT] == ["error"]
    (failure,) = suite.iter("failure")
    assert failure.get("message") == "failed: 0.25 is above the most allowed, 0.125"
    assert failure.text == "SELECT avg(class_cosine) FROM samples"


def test_junit_holds_what_xml_cannot(run: Run, judgements: list[Judgement]) -> None:
    names = [case.get("name") for case in ElementTree.fromstring(as_junit(run, judgements))]
    assert names[-1] == 'a"]]>&<b>\\x00|`*\\x0a'


def test_markdown_is_worst_first_and_keeps_its_table(run: Run, judgements: list[Judgement]) -> None:
    lines = as_markdown(run, None, judgements).split("\n")
    assert lines[0] == "### clear-audit: gates failed"
    rows = [line for line in lines if line.startswith("| ")][1:]
    assert [row.split(" | ")[1] for row in rows] == [
        "failed",
        "error",
        "error",
        "not evaluated (warn)",
        "warned (warn)",
        "passed",
    ]
    assert rows[0] == "| class\\_cosine | failed | 0.25 |  | 0.25 is above the most allowed, 0.125 |"
    unescaped = [row.replace("\\|", "").count("|") for row in rows]
    assert unescaped == [6] * 6, "five cells each"
    assert not any("<script>" in row.replace("\\<", "") for row in rows)


def test_markdown_names_the_reference(run: Run) -> None:
    assert f"against `{RUN_ID}`" in as_markdown(run, run, [])


def test_cell_by_hand() -> None:
    assert cell("a|b\n<i>*c*") == "a\\|b \\<i\\>\\*c\\*"
