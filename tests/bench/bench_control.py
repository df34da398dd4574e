"""What a run's bookkeeping costs when there are many shards: python -m tests.bench.bench_control

Shards of 16 pixels go through the loop, the cluster, the commits and the finaliser of an audit. Each number of shards has a
process of its own, which holds the Dask scheduler, so that memory can be compared.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client
from rich.console import Console
from rich.table import Table

from flows.analyses import known_schemas
from flows.analyses.analysis import Context, Options
from flows.analyses.maps import as_result
from flows.analyses.runner import commit_pass
from flows.runtime.cluster import open_cluster
from flows.runtime.shard import Findings
from flows.runtime.submit import WINDOW, submit_all
from flows.sections import ComputeSection
from reports.gates.judgement import as_rows
from storage.aggregates import place_run
from storage.filesystems import hash_file
from storage.joins import aggregate, join_maps, join_parts
from storage.maps import CHUNK_SAMPLES
from storage.runs.commits import ensure_folders, read_commits, sweep_orphans
from storage.runs.lookup import find_unfinished
from storage.runs.manifest import Manifest
from storage.runs.plan import Plan, Unit
from storage.runs.run import MAPS, Run, create_run, publish
from storage.tables import SCHEMAS, write_table
from tests.flows.units import JOBS
from tests.reports.stores import SMALL, make_plan, response, sample

SIZES = (2_500, 5_000, 10_000, 20_000)
CLASSES = 10
WORKERS = 2
SETTLED = 1_000
"""Shards after which the scheduler's process has what it needs for any number: modules, buffers, logs of fixed length."""


@dataclass(frozen=True)
class Costs:
    """Of one run. Times in seconds, memory in bytes of the process that holds the scheduler.

    commit_secs: in a worker, of a shard. held: most futures at once. tasks: most tasks the scheduler knew at once.
    """

    shards: int
    submit_secs: float
    commit_secs: float
    settled_bytes: int
    submitted_bytes: int
    held: int
    tasks: int
    resume_secs: float
    gather_secs: float
    publish_secs: float
    peak_bytes: int


def noop_shard(run: Run, plan: Plan, shard: Unit) -> dict[str, float]:
    """Commits samples of one pixel by what commits a real shard; returns the seconds that took."""
    started = time.perf_counter()
    samples, responses = first_rows()
    findings = Findings(
        shard.start,
        [str(index) for index in range(shard.start, shard.stop)],
        np.arange(CHUNK_SAMPLES) % CLASSES,
        np.zeros((CHUNK_SAMPLES, 1, 1), np.int16),
        np.ones((CHUNK_SAMPLES, 1, 1), np.float32),
        pa.schema([]),
        {},
        [beginning_at(shard.start, samples)],
        [beginning_at(shard.start, responses)],
    )
    commit_pass(Context(run, plan, Options(), None), JOBS, shard, as_result(findings), started)
    return {"secs": time.perf_counter() - started}


@cache
def first_rows() -> tuple[pa.Table, pa.Table]:
    """`samples` and `responses` of shard 0."""
    labels = [(index, index % CLASSES) for index in range(CHUNK_SAMPLES)]
    samples = [sample(index, label, label, 0.5, label, (0.5, 0.5, 0.5)) for index, label in labels]
    responses = [response(index, number, 1 / CLASSES) for index, _ in labels for number in range(CLASSES)]
    return pa.Table.from_pylist(samples, schema=SCHEMAS["samples"]), pa.Table.from_pylist(responses, schema=SCHEMAS["responses"])


def beginning_at(start: int, rows: pa.Table) -> pa.Table:
    return rows.set_column(0, rows.schema.field("sample_index"), pc.add(rows["sample_index"], start))


def nothing(index: int) -> int:
    return index


def make_run(store: Path, shards: int) -> tuple[Run, Plan]:
    plan = make_plan(SMALL).model_copy(
        update={
            "sample_count": shards * CHUNK_SAMPLES,
            "shard_samples": CHUNK_SAMPLES,
            "height": 1,
            "width": 1,
            "class_names": [str(number) for number in range(CLASSES)],
        }
    )
    run = create_run(store, plan)
    ensure_folders(run, [job.analysis.name for job in JOBS])
    return run, plan


def memory() -> int:
    return int(psutil.Process().memory_info().rss)


def measure(shards: int, folder: Path) -> Costs:
    run, plan = make_run(folder, shards)
    held = tasks = done = settled = 0
    worked = 0.0
    with open_cluster(ComputeSection(workers=WORKERS, threads=1)) as cluster, Client(cluster, set_as_default=False) as client:

        def submit(shard: Unit) -> Any:
            nonlocal held, tasks
            key = f"{run.run_id}-{shard.index:05d}-0"
            future = client.submit(noop_shard, run, plan, shard, key=key, pure=False)
            held, tasks = max(held, len(client.futures)), max(tasks, len(cluster.scheduler.tasks))
            return future

        def progress(taken: dict[str, float]) -> None:
            nonlocal done, settled, worked
            done += 1
            worked += taken["secs"]
            if done == SETTLED:
                settled = memory()

        started = time.perf_counter()
        assert submit_all(client, submit, plan.shards(), progress) == []
        submit_secs = time.perf_counter() - started
        submitted = memory()
    assert done == shards
    resume_secs, remaining = resume(run, plan)
    assert remaining == []
    started = time.perf_counter()
    artefacts = finalise_like_an_audit(run, plan)
    gathered = time.perf_counter()
    publish_like_an_audit(run, plan, artefacts)
    ended = time.perf_counter()
    return Costs(
        shards=shards,
        submit_secs=submit_secs,
        commit_secs=worked / shards,
        settled_bytes=settled,
        submitted_bytes=submitted,
        held=held,
        tasks=tasks,
        resume_secs=resume_secs,
        gather_secs=gathered - started,
        publish_secs=ended - gathered,
        peak_bytes=peak_memory(),
    )


def resume(run: Run, plan: Plan) -> tuple[float, list[Unit]]:
    """Seconds in which a run that was cut off finds what is left to do, and what that is."""
    started = time.perf_counter()
    assert find_unfinished(run.store, plan) == run
    commits = [read_commits(run, job.analysis.name) for job in JOBS]
    sweep_orphans(run, [commit for found in commits for commit in found.values()])
    remaining = [shard for shard in plan.shards() if any(shard.index not in found for found in commits)]
    return time.perf_counter() - started, remaining


def finalise_like_an_audit(run: Run, plan: Plan) -> dict[str, str]:
    commits = {job.analysis.name: [commit for _, commit in sorted(read_commits(run, job.analysis.name).items())] for job in JOBS}
    artefacts = join_maps(run, plan, commits[MAPS], {})
    for job in JOBS:
        join_parts(run, plan, job.analysis.tables, commits[job.analysis.name])
        aggregate(run, plan, job.analysis.tables)
    place_run(run, plan, commits[MAPS], {}, datetime.now(UTC))
    return artefacts


def publish_like_an_audit(run: Run, plan: Plan, artefacts: dict[str, str]) -> None:
    """The part of `publish_run` that grows with the shards: the manifest, and the sweeping of attempts."""
    run.table("gates").parent.mkdir(parents=True)
    write_table(as_rows([], None), run.table("gates"))
    artefacts |= {run.table(name).relative_to(run.store).as_posix(): hash_file(run.table(name)) for name in known_schemas()}
    counts = {"expected_count": plan.sample_count, "processed_count": plan.sample_count, "failed_count": 0}
    publish(
        run,
        Manifest(
            run_id=run.run_id,
            plan_hash=hash_file(run.folder / "plan.json"),
            started_at=plan.created_at,
            finished_at=datetime.now(UTC),
            readings=[],
            environment={},
            artefacts=artefacts,
            **counts,
        ),
    )


def peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def task_rates(tasks: int) -> tuple[float, float]:
    """Tasks without work a second: one by one through the loop, and all at once, which is what the scheduler can do."""
    with open_cluster(ComputeSection(workers=WORKERS, threads=1)) as cluster, Client(cluster, set_as_default=False) as client:

        def submit(index: int) -> Any:
            return client.submit(nothing, index, pure=False)

        submit_all(client, submit, range(SETTLED), lambda _: None)
        started = time.perf_counter()
        submit_all(client, submit, range(tasks), lambda _: None)
        submitted = time.perf_counter()
        client.gather(client.map(nothing, range(tasks), pure=False))
        return tasks / (submitted - started), tasks / (time.perf_counter() - submitted)


def measured_apart(shards: int, folder: Path | None) -> Costs:
    """The costs of a run in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        command = [sys.executable, "-m", "tests.bench.bench_control", "--only", str(shards), "--folder", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return Costs(**json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, nargs="+", default=SIZES, help="numbers of shards to measure")
    parser.add_argument("--folder", type=Path, help="where the stores are made; default: a temporary folder")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(vars(measure(options.only, options.folder))))
        return
    title = f"{os.cpu_count()} cores, {WORKERS} workers, window at most {WINDOW * WORKERS}, load {os.getloadavg()[0]:.1f}"
    table = Table(
        "shards", "ms a shard", "in a worker", "held", "tasks known", "MB at 1,000", "MB at the end", "resume", "finalise",
        "of 1,000 shards", "publish", "of 1,000 shards", "peak MB", title=title,
    )  # fmt: skip
    for shards in options.shards:
        costs = measured_apart(shards, options.folder)
        print(costs, f"load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        thousands = shards / 1000
        table.add_row(
            f"{shards:,}",
            f"{1000 * costs.submit_secs / shards:.1f}",
            f"{1000 * costs.commit_secs:.1f}",
            f"{costs.held}",
            f"{costs.tasks}",
            f"{costs.settled_bytes / 1e6:.0f}",
            f"{costs.submitted_bytes / 1e6:.0f}",
            f"{costs.resume_secs:.2f} s",
            f"{costs.gather_secs:.1f} s",
            f"{costs.gather_secs / thousands:.2f} s",
            f"{costs.publish_secs:.1f} s",
            f"{costs.publish_secs / thousands:.2f} s",
            f"{costs.peak_bytes / 1e6:.0f}",
        )
    console = Console(width=160)
    console.print(table)
    submitted, at_once = task_rates(max(options.shards))
    console.print(f"tasks without work: {submitted:.0f} a second through the loop, {at_once:.0f} a second all at once")
    console.print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    from tests.bench import bench_control

    bench_control.main()
