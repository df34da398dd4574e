"""What was audited, as the report shows it."""

from dataclasses import replace
from pathlib import Path

from reports.pages.report import render
from reports.queries import ask
from reports.sections.run_facts import run_facts
from storage.runs.run import Run, read_plan
from storage.sql.read_only import connect
from tests.reports.page import Page, heading, parse
from tests.reports.stores import SMALL, make_store


def test_run_facts(small_page: Page) -> None:
    facts = {row[0]: row[1] for row in small_page.table("What was audited")}
    assert facts["Model"] == "digits:net"
    assert facts["Dataset"] == "data/<digits>"
    assert facts["Images"] == "12, of 28 × 28 pixels"
    assert facts["Started"] == "2026-11-21 03:00:00 UTC"
    assert facts["Took"] == "1 min 15 s"
    assert heading(small_page, "run") == "12 images of 3 classes, by rule linear, in 1 min 15 s"


def test_what_was_passed_over_is_among_the_facts(small_run: Run) -> None:
    plan = read_plan(small_run).model_copy(update={"passed_over": {".heic": 2, "": 1}, "empty_classes": ["owl"]})
    with connect(small_run.store, [small_run.run_id]) as connection:
        answer = ask(connection, "run_facts", run_id=small_run.run_id)
    shown = run_facts(answer, plan).table
    assert shown is not None
    facts = {str(row[0]): str(row[1]) for row in shown.rows}
    assert facts["Files passed over"] == "3 files with other suffixes (.heic 2, none 1)"
    assert facts["Classes without an image"] == "1 ('owl')"
    shown = run_facts(answer, read_plan(small_run)).table
    assert shown is not None
    assert not {"Files passed over", "Classes without an image"} & {str(row[0]) for row in shown.rows}


def test_a_program_is_named_as_the_model(tmp_path: Path) -> None:
    page = parse(render(make_store(tmp_path, replace(SMALL, facts={"model_factory": None, "model_program": "nets/<m>.pt2"}))))
    assert {row[0]: row[1] for row in page.table("What was audited")}["Model"] == "nets/<m>.pt2"


def test_a_model_without_a_column_of_its_own_is_named_as_the_config_does(tmp_path: Path) -> None:
    run = make_store(tmp_path, replace(SMALL, facts={"model_factory": None}))
    plan = read_plan(run).model_copy(update={"config": {"model": {"program": "nets/a.pt2"}}})
    with connect(run.store, [run.run_id]) as connection:
        shown = run_facts(ask(connection, "run_facts", run_id=run.run_id), plan).table
    assert shown is not None
    assert ["Model", "nets/a.pt2"] in shown.rows
