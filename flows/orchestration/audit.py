"""The audit: a Prefect flow whose stages are tasks."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Thread
from typing import Any, TypeVar, cast
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from flows.analyses.runner import passes
from flows.config import AuditConfig
from flows.orchestration.trigger import find_trigger
from flows.runtime.progress import Progress
from flows.stages import begin, compute, draw, finalise, judge, publish, report
from flows.stages.session import Session
from reports.gates.judgement import Judgement
from reports.parts.charts import start_engine
from storage.datasets.formats import open_dataset
from storage.filesystems import parse_store
from storage.runs.commits import sweep_orphans
from storage.runs.plan import Trigger
from storage.runs.run import Run

ARTIFACT_SECS = 5
"""Least time between two updates of the progress that Prefect shows: each costs a round trip."""


Work = TypeVar("Work", bound=Callable[..., Any])


def as_task(name: str, stage: Work) -> Work:
    """A stage that Prefect sees."""
    return cast(Work, task(name=name, cache_policy=NO_CACHE)(stage))


make_plan = as_task("plan", begin.make_plan)
compute_all = as_task("compute", compute.compute_all)
finalise_pass = as_task("finalise", finalise.finalise)
judge_run = as_task("judge", judge.judge_run)
draw_pictures = as_task("draw", draw.draw)
publish_run = as_task("publish", publish.publish_run)
write_reports = as_task("report", report.report)


@dataclass(frozen=True)
class AuditOutcome:
    """What an audit came to. quarantined: units that were given up. startup_secs: until the first shard; compute_secs: all.

    not_finite: what is to be said of images whose scores or maps are not.
    """

    run: Run
    judgements: list[Judgement]
    resumed: bool
    expected: int
    processed: int
    failed: int
    quarantined: int
    startup_secs: float
    compute_secs: float
    not_finite: Sequence[str] = ()


@flow(name="audit", validate_parameters=False, persist_result=False)
def audit(config: dict[str, Any], store: str) -> AuditOutcome:
    """Audits a dataset: plan, compute, finalise, report. config: a resolved `AuditConfig`."""
    resolved = AuditConfig.model_validate_json(json.dumps(config))
    with Session(resolved, parse_store(store), open_dataset(resolved.dataset), Progress()) as session:
        return run_stages(session, find_trigger("python"))


def audit_in(session: Session) -> AuditOutcome:
    """The same in a session that has begun to start. Prefect sees a flow with the same parameters."""

    @flow(name="audit", validate_parameters=False, persist_result=False)
    def audit(config: dict[str, Any], store: str) -> AuditOutcome:
        return run_stages(session, find_trigger("command line"))

    return audit(session.config.model_dump(mode="json"), str(session.store))


def progress_of(description: str) -> Callable[[int, int], None]:
    """What shows in Prefect how many items of how many are done."""
    artifact = cast(UUID, create_progress_artifact(0.0, description=description))
    shown = time.perf_counter()

    def show(done: int, total: int) -> None:
        nonlocal shown
        if time.perf_counter() - shown > ARTIFACT_SECS or done == total:
            update_progress_artifact(artifact, 100 * done / max(total, 1))
            shown = time.perf_counter()

    return show


def run_stages(session: Session, trigger: Trigger) -> AuditOutcome:
    planned = make_plan(session, trigger)
    run = session.progress.run = planned.run
    startup_secs = time.perf_counter() - session.progress.began
    steps = passes(session.config.jobs)
    for jobs in steps:
        compute.take(session, planned, jobs)
    resumed = any(session.commits.values())
    sweep_orphans(run, [commit for commits in session.commits.values() for commit in commits.values()])
    charts = Thread(target=start_engine, daemon=True)
    compute_secs, artefacts = 0.0, dict[str, str]()
    for jobs in steps:
        compute_secs += compute_all(session, planned, jobs, progress_of(f"{jobs[0].analysis.name} of run {run.run_id}"))
        if jobs is steps[-1]:
            session.cluster.release()
            charts.start()
        now = datetime.now(UTC)
        artefacts |= finalise_pass(session, planned, jobs, now)
    not_finite = judge.find_not_finite(session, run)
    judgements = judge_run(session, run)
    draw_pictures(session, planned, judgements)
    manifest = publish_run(session, planned, trigger, artefacts, now)
    session.progress.is_published = True
    session.progress.stage("reporting")
    charts.join()
    write_reports(session, run)
    return AuditOutcome(
        run=run,
        judgements=judgements,
        resumed=resumed,
        expected=manifest.expected_count,
        processed=manifest.processed_count,
        failed=manifest.failed_count,
        quarantined=sum(commit.is_quarantined for commits in session.commits.values() for commit in commits.values()),
        startup_secs=startup_secs,
        compute_secs=compute_secs,
        not_finite=not_finite,
    )
