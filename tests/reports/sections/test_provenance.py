"""What the run was made from, as the report shows it."""

import shlex
from datetime import datetime, timedelta, timezone
from pathlib import Path

from reports.sections.provenance import about_table, provenance_tables, rerun_command
from storage.runs.plan import Trigger
from storage.runs.run import Run, read_manifest, read_plan
from tests.reports.page import Page, heading
from tests.reports.stores import SCRIPT


def test_provenance(small_page: Page) -> None:
    identity = {row[0]: row[1] for row in small_page.table("Identity")}
    assert identity["Run"] == "20261121T030000Z-digits-4f2a"
    assert identity["Model, SHA-256"] == "a" * 64
    assert identity["Plan, SHA-256"] == "c" * 64
    assert identity["Finished"] == "2026-11-21 03:01:15 UTC"
    assert identity["Images failed"] == "2"
    assert heading(small_page, "provenance") == "Made by clear-audit 0.1.0 from model aaaaaaaa and dataset bbbbbbbb"
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
        resumed: dict(provenance_tables(plan, manifest.model_copy(update={"trigger": trigger}))[0].rows)
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
    assert [row[1] for row in about_table(plan).rows] == [SCRIPT, "not given in the config", "none"]
    shown = rerun_command(small_run, read_plan(small_run))
    assert shown in [code.text for code in small_page.all("code")]
    command = shlex.split(shown or "")
    assert command[:2] == ["clear-audit", "run"]
    assert Path(command[2]).read_bytes() == (small_run.folder / "plan.json").read_bytes()
    assert Path(command[4]) == small_run.store.absolute()
    assert rerun_command(small_run, plan) is None, "it has no folder, in which a factory is looked for"
