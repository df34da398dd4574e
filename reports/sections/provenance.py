"""What the run was made from, by whom, and how it is made again."""

import json
import shlex
from typing import Any

from reports.context import ReportContext
from reports.formats import UNDEFINED, count, moment
from reports.parts.blocks import Column, Table, facts_table, tabulate
from reports.sections.section import Section
from storage.runs.manifest import Manifest
from storage.runs.plan import Plan, Trigger
from storage.runs.run import Run


def make_content(context: ReportContext) -> dict[str, Any]:
    return {
        "heading": say_heading(context.plan),
        "about": about_table(context.plan),
        "provenance": provenance_tables(context.plan, context.manifest),
        "config": config_text(context.plan),
        "command": rerun_command(context.run, context.plan),
    }


def say_heading(plan: Plan) -> str:
    return f"Made by clear-audit {plan.tool_version} from model {plan.model_hash[:8]} and dataset {plan.dataset_hash[:8]}"


def provenance_tables(plan: Plan, manifest: Manifest) -> list[Table]:
    """Identity, environment and files of the run, read from its plan and manifest, not from the tables."""
    identity = [
        ("Run", plan.run_id),
        ("clear-audit", plan.tool_version),
        ("Version of the tables", str(plan.schema_version)),
        ("Plan, SHA-256", manifest.plan_hash),
        ("Model, SHA-256", plan.model_hash),
        ("Dataset, SHA-256", plan.dataset_hash),
        ("Config, SHA-256", plan.config_hash),
        ("Planned", moment(plan.created_at)),
        ("Started by", say_trigger(plan.trigger)),
        *([("Resumed by", say_trigger(manifest.trigger))] if manifest.trigger != plan.trigger else []),
        ("Started", moment(manifest.started_at)),
        ("Finished", moment(manifest.finished_at)),
        ("Images expected", count(manifest.expected_count)),
        ("Images measured", count(manifest.processed_count)),
        ("Images failed", count(manifest.failed_count)),
    ]
    files = [
        Column("File in the store", lambda row: row["path"], is_number=False),
        Column("SHA-256", lambda row: row["hash"], is_number=False),
    ]
    artefacts = [{"path": path, "hash": digest} for path, digest in sorted(manifest.artefacts.items())]
    return [
        facts_table("Identity of the run.", identity),
        facts_table("Environment.", sorted(manifest.environment.items())),
        tabulate("Files of the run.", files, artefacts),
    ]


def say_trigger(trigger: Trigger | None) -> str:
    """What started an audit, with the ids by which Prefect finds it."""
    if trigger is None:
        return UNDEFINED
    said: str = trigger.kind
    if trigger.deployment_id is not None:
        said += f": deployment “{trigger.deployment_name}” ({trigger.deployment_id})"
    if trigger.scheduled_at is not None:
        said += f", to start at {moment(trigger.scheduled_at)}"
    said += f"; flow run {trigger.flow_run_id}"
    return said if trigger.parent_flow_run_id is None else f"{said}, a part of flow run {trigger.parent_flow_run_id}"


def about_table(plan: Plan) -> Table:
    """What the config says about the model."""
    about = plan.config.get("about") or {}
    said = {"owner": "Owner", "intended_use": "Intended use", "known_limits": "Known limits"}
    facts = [(title, about.get(key) or "not given in the config") for key, title in said.items()]
    return facts_table("The model, in the words of who is responsible for it.", facts)


def rerun_command(run: Run, plan: Plan) -> str | None:
    """The command that makes the maps again, from the resolved config; None where an older version did not store all of it."""
    if "folder" not in plan.config:
        return None
    return shlex.join(["clear-audit", "run", str(run.folder.absolute() / "plan.json"), "--store", str(run.store.absolute())])


def config_text(plan: Plan) -> str:
    return json.dumps(plan.config, indent=2, ensure_ascii=False)


SECTION = Section("provenance", "Provenance", "provenance.html.j2", make_content)
