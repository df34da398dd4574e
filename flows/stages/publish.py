"""The manifest, which names every file of a run and how it was made: with it the run is published."""

import importlib.metadata
import importlib.util
import platform
import subprocess
from datetime import datetime

from auditor.interpretation import READINGS
from flows.stages.plan import Planned
from flows.stages.session import Session
from storage.filesystems import files_below, hash_file
from storage.runs.manifest import Manifest
from storage.runs.plan import Trigger
from storage.runs.run import MAPS, publish

GIT_SECS = 10

PACKAGES = ("torch", "dask", "zarr", "pyarrow", "duckdb", "prefect", "numpy")
EXTRAS = ("numba",)
"""Packages that need not be there, and on which the arithmetic depends if they are."""


def publish_run(session: Session, planned: Planned, trigger: Trigger, artefacts: dict[str, str], now: datetime) -> Manifest:
    """Publishes the run by its manifest."""
    run, plan = planned.run, planned.plan
    own = [run.table(table.name) for job in session.config.jobs for table in job.analysis.tables]
    own += [run.table(name) for name in ("runs", "gates")]
    measured = session.commits[MAPS].values()
    for path in [*own, *files_below(run.gallery), *files_below(run.commits)]:
        artefacts[path.relative_to(run.store).as_posix()] = hash_file(path)
    manifest = Manifest(
        run_id=run.run_id,
        plan_hash=hash_file(run.plan),
        started_at=plan.created_at,
        finished_at=now,
        expected_count=plan.sample_count,
        processed_count=sum(commit.processed_count for commit in measured),
        failed_count=sum(commit.failed_count for commit in measured),
        readings=list(READINGS),
        passed_over=plan.passed_over,
        empty_classes=plan.empty_classes,
        examination=plan.examination,
        trigger=trigger,
        environment=environment(session, planned),
        analyses={job.analysis.name: job.options.model_dump(mode="json") for job in session.config.jobs[1:]},
        artefacts=artefacts,
    )
    session.check_held()
    publish(run, manifest)
    return manifest


def environment(session: Session, planned: Planned) -> dict[str, str]:
    """What the arithmetic depends on beside model and dataset."""
    there = [*PACKAGES, *(name for name in EXTRAS if importlib.util.find_spec(name) is not None)]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: importlib.metadata.version(name) for name in there},
        "device": planned.facts["device"],
        **git_state(session.config.folder),
    }


def git_state(folder: str) -> dict[str, str]:
    """The commit of the folder that the config lies in, with whether it was changed since; nothing where git knows none."""
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECS, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git": found.stdout.strip()}
