"""The units of the analyses of a pass, computed until all are committed."""

import time
from collections.abc import Callable, Sequence

from flows.analyses.analysis import Job
from flows.analyses.runner import give_up, submit_units, take_commits
from flows.stages.plan import Planned
from flows.stages.session import Session
from reports.formats import plural
from storage.errors import StoreLost
from storage.runs.commits import ensure_folders
from storage.runs.plan import Unit
from storage.runs.run import MAPS

TRIES_TO_KEEP = 3
"""How often a unit is computed that does not lie in the store as it was written."""

Show = Callable[[int, int], None]


def take(session: Session, planned: Planned, jobs: Sequence[Job]) -> list[str]:
    """Takes the commits whose files are as they were written; says of the others, and returns, why they are not."""
    ensure_folders(planned.run, [job.analysis.name for job in jobs])
    said = []
    for job in jobs:
        session.commits[job.analysis.name], faults = take_commits(planned.run, planned.plan, job)
        said += faults
    for fault in said:
        session.progress.say(fault)
    return said


def remaining(session: Session, planned: Planned, jobs: Sequence[Job]) -> list[Unit]:
    """The units of a pass that are not committed in all of its analyses."""
    units = jobs[0].analysis.units(planned.plan, jobs[0].options)
    return [unit for unit in units if any(unit.index not in session.commits[job.analysis.name] for job in jobs)]


def compute_all(session: Session, planned: Planned, jobs: Sequence[Job], show: Show) -> float:
    """Computes until all units of a pass are committed and lie in the store as they were; returns the seconds it took.

    show: is told how many items of how many are done.
    """
    secs = 0.0
    for _ in range(TRIES_TO_KEEP):
        secs += compute(session, planned, jobs, show)
        faults = take(session, planned, jobs)
        if not faults:
            return secs
    raise StoreLost(f"what was written is not what is read, {TRIES_TO_KEEP} times in a row: {faults[0]}")


def compute(session: Session, planned: Planned, jobs: Sequence[Job], show: Show) -> float:
    """Does the units of a pass that are not committed yet on the cluster; returns the seconds it took."""
    run, plan, name = planned.run, planned.plan, jobs[0].analysis.name
    left = remaining(session, planned, jobs)
    undone = {unit.index for unit in left}
    commits = [commit for unit, commit in session.commits[name].items() if unit not in undone]
    total = sum(unit.size for unit in jobs[0].analysis.units(plan, jobs[0].options))
    done = sum(commit.processed_count + commit.failed_count for commit in commits)
    failed = sum(commit.failed_count for commit in commits)
    session.progress.stage("computing" if name == MAPS else name)
    session.progress.advance(done, failed, total)
    started = time.perf_counter()

    def count(counts: dict[str, int]) -> None:
        nonlocal done, failed
        done += counts["processed"] + counts["failed"]
        failed += counts["failed"]
        session.progress.advance(done, failed, total)
        show(done, total)

    client, _ = session.cluster.wait()
    tries = session.config.compute.shard_tries
    with session.cluster.losses():
        given_up = submit_units(client, session.work.key, run, plan, planned.fold, jobs, left, count, tries)
    for unit in given_up:
        count(quarantine(session, planned, jobs, unit, tries))
    return time.perf_counter() - started


def quarantine(session: Session, planned: Planned, jobs: Sequence[Job], unit: Unit, tries: int) -> dict[str, int]:
    """Commits, as failed, a unit of which workers die; returns its counts."""
    deaths = plural(tries, "time")
    what = "shard" if jobs[0].analysis.name == MAPS else f"unit of '{jobs[0].analysis.name}'"
    session.progress.say(f"{what} {unit.index} is given up, for a worker died of it {deaths}")
    reason = f"its {what}, {unit.index}, was given up: a worker died of it {deaths} (compute.shard_tries)"
    return give_up(planned.run, planned.plan, session.dataset, jobs, unit, reason)
