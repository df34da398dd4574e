"""The units of the analyses of a pass, joined into the run's arrays and tables."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from auditor.clear import competing_count
from auditor.interpretation import READINGS
from auditor.operations.rule_table import RULES
from flows.analyses.analysis import Job
from flows.config import AuditConfig
from flows.stages.plan import Planned
from flows.stages.session import Session
from storage.aggregates import place_run
from storage.joins import aggregate, join_maps, join_parts
from storage.runs.commits import Commit
from storage.runs.plan import Plan
from storage.runs.run import MAPS


def finalise(session: Session, planned: Planned, jobs: Sequence[Job], now: datetime) -> dict[str, str]:
    """Joins the units of a pass and aggregates; returns the SHA-256 of the maps' files by path in the store."""
    session.progress.stage("finalising")
    session.check_held()
    run, plan = planned.run, planned.plan
    known = run_facts(session.config, plan)
    attributes = known | {"run_id": run.run_id, "class_names": plan.class_names, "readings": list(READINGS)}
    artefacts = {}
    if jobs[0].analysis.name == MAPS:
        artefacts = join_maps(run, plan, in_order(session, planned, jobs[0]), attributes)
    for job in jobs:
        join_parts(run, plan, job.analysis.tables, in_order(session, planned, job))
        aggregate(run, plan, job.analysis.tables)
    if jobs[0].analysis.name == MAPS:
        place_run(run, plan, in_order(session, planned, jobs[0]), known, now)
    return artefacts


def in_order(session: Session, planned: Planned, job: Job) -> list[Commit]:
    return [session.commits[job.analysis.name][unit.index] for unit in job.analysis.units(planned.plan, job.options)]


def run_facts(config: AuditConfig, plan: Plan) -> dict[str, Any]:
    """How the maps were made: columns of the run's row, and attributes of its arrays."""
    found, classes = plan.examination, len(plan.class_names)
    competing = competing_count(classes, config.method.rule, config.method.top_k)
    return {
        "model_factory": getattr(config.model, "factory", None),
        "model_program": getattr(config.model, "program", None),
        "dataset_path": config.dataset.path,
        "rule": config.method.rule,
        "reduction": None if RULES[config.method.rule].enlarges else config.method.reduction,
        "head": config.method.head,
        "precision": config.method.precision,
        "competing_count": competing if competing < classes else None,
        "precision_agreement_frac": None if found is None else found.precision_agreement_frac,
        "is_folded": None if found is None else found.fold is not None,
        "fold_reason": None if found is None else found.fold_reason,
        "fold_deviation": None if found is None else found.fold_deviation,
    }
