"""The one runner: any analysis, unit by unit, over the cluster."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from distributed import Client

from flows.analyses.analysis import Context, Job, Result
from flows.analyses.stored_maps import read_shard
from flows.runtime.operator import Fold, adopt_planned
from flows.runtime.submit import submit_all, try_alone
from flows.runtime.worker import this_worker
from storage.datasets import Dataset
from storage.maps import MapShape, write_shard
from storage.runs.commits import Commit, commit_attempt, leave_attempt, open_attempt, sound_commits
from storage.runs.parts import MAPS_FILE, part_fault
from storage.runs.plan import Plan, Unit
from storage.runs.run import MAPS, Run
from storage.tables import write_table

Counts = dict[str, int]
"""Of a unit's items: processed and failed."""

Commits = dict[int, Commit]
"""By unit."""


def run_unit(key: str, run: Run, plan: Plan, fold: Fold | None, jobs: Sequence[Job], unit: Unit) -> Counts:
    """What a worker does: one unit of the jobs of one pass, from the samples to the commits. Returns the first one's counts.

    fold: the run's operator, if it has one.
    """
    started = time.perf_counter()
    worker = this_worker(key)
    adopt_planned(worker, fold)
    context = Context(run, plan, jobs[0].options, worker)
    if jobs[0].analysis.of_maps:
        context = replace(context, maps=read_shard(run, unit))
    first = jobs[0].analysis.work(unit, context)
    return commit_pass(context, jobs, unit, first, started)


def commit_pass(
    context: Context, jobs: Sequence[Job], unit: Unit, first: Result, started: float, is_quarantined: bool = False
) -> Counts:
    """Commits what came of a unit, and what the other jobs of the pass make of its maps. started: by time.perf_counter.

    The first job's result last: where it is committed, all are.
    """
    others = [(job, job.analysis.work(unit, replace(context, options=job.options, maps=first.maps))) for job in jobs[1:]]
    for job, result in [*others, (jobs[0], first)]:
        commit_result(context, job, unit, result, time.perf_counter() - started, is_quarantined)
    return {"processed": first.processed, "failed": first.failed}


def give_up(run: Run, plan: Plan, dataset: Dataset, jobs: Sequence[Job], unit: Unit, reason: str) -> Counts:
    """Commits a unit of a pass that killed whoever tried it, as one whose items all failed; returns the first job's counts."""
    started = time.perf_counter()
    first = jobs[0].analysis.failed(plan, dataset, unit, reason)
    return commit_pass(Context(run, plan, jobs[0].options, None), jobs, unit, first, started, is_quarantined=True)


def commit_result(context: Context, job: Job, unit: Unit, result: Result, duration: float, is_quarantined: bool) -> None:
    run, plan, name = context.run, context.plan, job.analysis.name
    attempt = open_attempt(run, name, unit)
    try:
        if result.maps is not None:
            shape = MapShape(plan.sample_count, plan.height, plan.width, plan.shard_samples)
            write_shard(attempt / MAPS_FILE, shape, result.maps.dominant_class, result.maps.dominant_response)
        for table, rows in result.tables.items():
            write_table(rows, attempt / f"{table}.parquet")
        commit_attempt(run, name, unit, attempt, job.identity, result.processed, result.failed, duration, is_quarantined)
    finally:
        leave_attempt(run, attempt)


def take_commits(run: Run, plan: Plan, job: Job) -> tuple[Commits, list[str]]:
    """The commits of a job whose files are as they were written, and why the others are not; see `sound_commits`."""
    analysis = job.analysis
    schemas = analysis.part_schemas

    def fault_of(unit: Unit, commit: Commit) -> str | None:
        return part_fault(run, plan, unit, commit, schemas, analysis.check)

    return sound_commits(run, analysis.name, job.identity, analysis.units(plan, job.options), fault_of)


def submit_units(
    client: Client,
    key: str,
    run: Run,
    plan: Plan,
    fold: Fold | None,
    jobs: Sequence[Job],
    units: Sequence[Unit],
    progress: Callable[[Counts], None],
    tries: int,
) -> list[Unit]:
    """Does units of the jobs of one pass over the cluster.

    Returns those that killed their worker each of `tries` times, the last of them alone on the cluster.
    """

    def submit(unit: Unit, deaths: int = 0) -> Any:
        task = f"{run.run_id}-{jobs[0].analysis.name}-{unit.index:05d}-{deaths}"
        return client.submit(run_unit, key, run, plan, fold, jobs, unit, key=task, pure=False)

    def is_done(unit: Unit) -> bool:
        return try_alone(lambda deaths: submit(unit, deaths), progress, tries)

    return [unit for unit in submit_all(client, submit, units, progress) if not is_done(unit)]


def passes(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs in the order in which they are done: those that are of maps in one pass with these, where they are made."""
    if not any(job.analysis.name == MAPS for job in jobs):
        return [[job] for job in jobs]
    maps = [job for job in jobs if job.analysis.name == MAPS]
    return [[*maps, *(job for job in jobs if job.analysis.of_maps)], *([job] for job in jobs if not is_in_first(job))]


def is_in_first(job: Job) -> bool:
    return job.analysis.of_maps or job.analysis.name == MAPS
