"""The audit: a Prefect flow whose stages are tasks, and what starts around it."""

import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any, cast
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from auditor.clear import competing_count
from auditor.interpretation import READINGS
from flows.analyses.maps import set_aside
from flows.config import AuditConfig
from flows.orchestration.trigger import find_trigger
from flows.runtime.cluster import Cluster, drive_shards, worker_threads
from flows.runtime.progress import Listener
from flows.runtime.worker import Work
from flows.stages.gallery import draw_gallery
from flows.stages.map_renderer import open_studio
from flows.stages.plan import Planned, plan_run
from reports.formats import plural
from reports.gates.judgement import Judgement, as_rows
from reports.gates.judging import judge, readable_reference
from reports.pages.index import write_index
from reports.pages.report import write_report
from reports.parts.charts import start_engine
from reports.parts.gallery import choose_samples, shown_classes
from reports.queries import ask
from reports.sections.failures import say_not_finite
from storage.aggregates import gather, place_table
from storage.datasets import Dataset, open_dataset
from storage.errors import InputError, StoreLost
from storage.filesystems import files_below, hash_file, parse_store
from storage.maps import MapShape
from storage.runs.commits import Commit, ensure_folders, sound_commits, sweep_orphans
from storage.runs.lock import hold
from storage.runs.parts import part_fault
from storage.runs.retention import sweep
from storage.runs.run import Manifest, Plan, Run, Trigger, publish, readable_plan
from storage.sql.read_only import connect
from storage.tables import SCHEMAS, write_table

EMPTY = (
    "no image has positive response for any class, so that all maps are empty: nothing is known of the model's evidence; where "
    "its scores are never above 0, name the layer before what makes them so in method.head"
)

ARTIFACT_SECS = 5
"""Least time between two updates of the progress that Prefect shows: each costs a round trip."""

GIT_SECS = 10

TRIES_TO_KEEP = 3
"""How often a shard is computed that does not lie in the store as it was written."""

PACKAGES = ("torch", "dask", "zarr", "pyarrow", "duckdb", "prefect", "numpy")
EXTRAS = ("numba",)
"""Packages that need not be there, and on which the arithmetic depends if they are."""


@dataclass(frozen=True)
class AuditOutcome:
    """What an audit came to. set_aside: shards that were given up. startup_secs: until the first shard; compute_secs: all.

    not_finite: what is to be said of images whose scores or maps are not.
    """

    run: Run
    judgements: list[Judgement]
    resumed: bool
    expected: int
    processed: int
    failed: int
    set_aside: int
    startup_secs: float
    compute_secs: float
    not_finite: Sequence[str] = ()


class Session:
    """What is started once for an audit and used by its stages. resumed: the run to go on with, where one is named."""

    def __init__(
        self, config: AuditConfig, store: Path, dataset: Dataset, listener: Listener, resumed: str | None = None
    ) -> None:
        self.config, self.store, self.dataset, self.listener = config, store, dataset, listener
        self.resumed = resumed
        self.work = Work(
            key=f"clear-audit-{config.config_hash[:16]}",
            model=config.model_spec,
            dataset=config.dataset_spec,
            input=config.input_spec,
            rule=config.method.rule,
            reduction=config.method.reduction,
            head=config.method.head,
            precision=config.method.precision,
            top_k=config.method.top_k,
            kept_classes=config.method.kept_classes,
            batch_samples=config.compute.batch_samples,
            threads=worker_threads(config.compute),
        )
        self.cluster = Cluster(config.compute, self.work)
        self.held = ExitStack()
        self.check_held: Callable[[], None] = lambda: None
        # Not among the stages' parameters: Prefect looks through these, one by one.
        self.commits: dict[int, Commit] = {}

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        with self.held:
            self.cluster.close()


starting: ContextVar[Session | None] = ContextVar("starting", default=None)
"""The session of a run that began to start before its flow did; a flow that Prefect starts has none."""


@flow(name="audit", validate_parameters=False, persist_result=False)
def audit(config: dict[str, Any], store: str) -> AuditOutcome:
    """Audits a dataset: plan, compute, finalise, report. config: a resolved `AuditConfig`."""
    session = starting.get()
    if session is not None:
        return run_stages(session, find_trigger("command line"))
    resolved = AuditConfig.model_validate_json(json.dumps(config))
    with Session(resolved, parse_store(store), open_dataset(resolved.dataset_spec), Listener()) as session:
        return run_stages(session, find_trigger("python"))


def run_stages(session: Session, trigger: Trigger) -> AuditOutcome:
    planned = make_plan(session, trigger)
    run = session.listener.run = planned.run
    startup_secs = time.perf_counter() - session.listener.began
    take_commits(session, planned)
    resumed = bool(session.commits)
    sweep_orphans(run, session.commits.values())
    compute_secs = compute_all(session, planned)
    session.cluster.release()
    charts = Thread(target=start_engine, daemon=True)
    charts.start()
    now = datetime.now(UTC)
    artefacts = finalise(session, planned, now)
    not_finite = find_not_finite(session, run)
    judgements = judge_run(session, run)
    draw(session, planned, judgements)
    manifest = publish_run(session, planned, trigger, artefacts, now)
    session.listener.is_published = True
    session.listener.stage("reporting")
    charts.join()
    report(session, run)
    return AuditOutcome(
        run=run,
        judgements=judgements,
        resumed=resumed,
        expected=manifest.expected_count,
        processed=manifest.processed_count,
        failed=manifest.failed_count,
        set_aside=sum(commit.is_set_aside for commit in session.commits.values()),
        startup_secs=startup_secs,
        compute_secs=compute_secs,
        not_finite=not_finite,
    )


@task(name="plan", cache_policy=NO_CACHE)
def make_plan(session: Session, trigger: Trigger) -> Planned:
    """Freezes what is to be done and how, or finds the unfinished run that planned the same; holds it until the end."""
    with session.cluster.losses():
        planned = plan_run(
            session.config, session.store, session.dataset, session.cluster, session.listener, trigger, session.resumed
        )
    session.check_held = session.held.enter_context(hold(planned.run))
    sweep(session.store)
    return planned


def take_commits(session: Session, planned: Planned) -> list[str]:
    """Takes the commits whose files are as they were written; says of the others, and returns, why they are not."""
    run, plan = planned.run, planned.plan
    ensure_folders(run)
    session.commits, faults = sound_commits(run, plan.shards(), lambda shard, commit: part_fault(run, plan, shard, commit))
    for fault in faults:
        session.listener.say(fault)
    return faults


def compute_all(session: Session, planned: Planned) -> float:
    """Computes until all shards are committed and lie in the store as they were; returns the seconds it took."""
    secs = 0.0
    for _ in range(TRIES_TO_KEEP):
        secs += compute(session, planned)
        faults = take_commits(session, planned)
        if not faults:
            return secs
    raise StoreLost(f"what was written is not what is read, {TRIES_TO_KEEP} times in a row: {faults[0]}")


@task(name="compute", cache_policy=NO_CACHE)
def compute(session: Session, planned: Planned) -> float:
    """Drives the shards that are not committed yet through the cluster; returns the seconds it took."""
    run, plan, commits = planned.run, planned.plan, session.commits
    done = sum(commit.processed_count + commit.failed_count for commit in commits.values())
    failed = sum(commit.failed_count for commit in commits.values())
    session.listener.stage("computing")
    session.listener.advance(done, failed, plan.sample_count)
    artifact = cast(UUID, create_progress_artifact(0.0, description=f"samples of run {run.run_id}"))
    started = published = time.perf_counter()

    def progress(counts: dict[str, int]) -> None:
        nonlocal done, failed, published
        done += counts["processed"] + counts["failed"]
        failed += counts["failed"]
        session.listener.advance(done, failed, plan.sample_count)
        if time.perf_counter() - published > ARTIFACT_SECS or done == plan.sample_count:
            update_progress_artifact(artifact, 100 * done / plan.sample_count)
            published = time.perf_counter()

    client, _ = session.cluster.wait()
    shape = MapShape(plan.sample_count, plan.height, plan.width, plan.shard_samples)
    remaining = [shard for shard in plan.shards() if shard.index not in commits]
    tries = session.config.compute.shard_tries
    with session.cluster.losses():
        given_up = drive_shards(client, session.work, run, shape, planned.fold, remaining, progress, tries)
    for shard in given_up:
        reason = f"its shard, {shard.index}, was given up: a worker died of it {plural(tries, 'time')} (compute.shard_tries)"
        session.listener.say(f"shard {shard.index} is given up, for a worker died of it {plural(tries, 'time')}")
        progress(set_aside(run, shape, shard, session.dataset, reason))
    return time.perf_counter() - started


@task(name="finalise", cache_policy=NO_CACHE)
def finalise(session: Session, planned: Planned, now: datetime) -> dict[str, str]:
    """Joins the shards and aggregates; returns the SHA-256 of the maps' files by path in the store."""
    session.listener.stage("finalising")
    session.check_held()
    run, plan = planned.run, planned.plan
    known = run_facts(session.config, plan)
    attributes = known | {"run_id": run.run_id, "class_names": plan.class_names, "readings": list(READINGS)}
    return gather(run, plan, session.commits, attributes, known, now)


def find_not_finite(session: Session, run: Run) -> list[str]:
    """What is to be said of images whose scores or maps are not finite, and says it; of maps that are all empty as well."""
    with connect(run.store, [run.run_id]) as connection:
        row = ask(connection, "verdict", run_id=run.run_id).rows[0]
    found = say_not_finite(row)
    empty = [EMPTY] if row["processed_count"] and row["no_dominant_count"] == row["processed_count"] else []
    for sentence in [*found, *empty]:
        session.listener.say(sentence)
    return found


@task(name="judge", cache_policy=NO_CACHE)
def judge_run(session: Session, run: Run) -> list[Judgement]:
    """Puts the gates to the run and writes what became of them into its table `gates`."""
    session.listener.stage("judging")
    try:
        reference = readable_reference(run, session.config.reference)
    except InputError as error:
        # Another run's fault loses nothing of this one: a gate that compares with it does not pass.
        session.listener.say(f"gates: there is no reference to compare with: {error}")
        reference = None
    if reference is not None and session.config.gates and (rule := planned_rule(reference)) != session.config.method.rule:
        session.listener.say(
            f"gates: the maps of the reference, run '{reference.run_id}', are by rule '{rule}', and this run's by "
            f"'{session.config.method.rule}': what moved between them may be the rule"
        )
    judgements = judge(session.config.gate_list, run, reference)
    place_table(run, "gates", lambda path: write_table(as_rows(judgements, reference), path))
    return judgements


def planned_rule(run: Run) -> str | None:
    """The rule that a run's maps were planned by; None where its plan does not say."""
    plan = readable_plan(run)
    method = None if plan is None else plan.config.get("method")
    rule = method.get("rule") if isinstance(method, dict) else None
    return rule if isinstance(rule, str) else None


@task(name="publish", cache_policy=NO_CACHE)
def publish_run(session: Session, planned: Planned, trigger: Trigger, artefacts: dict[str, str], now: datetime) -> Manifest:
    """Publishes the run by its manifest."""
    run, plan = planned.run, planned.plan
    for path in [*(run.table(name) for name in SCHEMAS), *files_below(run.gallery), *files_below(run.commits)]:
        artefacts[path.relative_to(run.store).as_posix()] = hash_file(path)
    there = [*PACKAGES, *(name for name in EXTRAS if importlib.util.find_spec(name) is not None)]
    versions = {name: importlib.metadata.version(name) for name in there}
    manifest = Manifest(
        run_id=run.run_id,
        plan_hash=hash_file(run.plan),
        started_at=plan.created_at,
        finished_at=now,
        expected_count=plan.sample_count,
        processed_count=sum(commit.processed_count for commit in session.commits.values()),
        failed_count=sum(commit.failed_count for commit in session.commits.values()),
        readings=list(READINGS),
        passed_over=plan.passed_over,
        empty_classes=plan.empty_classes,
        examination=plan.examination,
        trigger=trigger,
        environment={
            "python": platform.python_version(),
            "platform": platform.platform(),
            **versions,
            "device": planned.facts["device"],
            **git_state(session.config.folder),
        },
        artefacts=artefacts,
    )
    session.check_held()
    publish(run, manifest)
    return manifest


def git_state(folder: str) -> dict[str, str]:
    """The commit of the folder that the config lies in, with whether it was changed since; nothing where git knows none."""
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECS, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git": found.stdout.strip()}


def run_facts(config: AuditConfig, plan: Plan) -> dict[str, Any]:
    """How the maps were made: columns of the run's row, and attributes of its arrays."""
    found, classes = plan.examination, len(plan.class_names)
    competing = competing_count(classes, config.method.rule, config.method.top_k)
    return {
        "model_factory": config.model.factory,
        "model_program": config.model.program,
        "dataset_path": config.dataset.path,
        "rule": config.method.rule,
        "reduction": config.method.reduction,
        "head": config.method.head,
        "precision": config.method.precision,
        "competing_count": competing if competing < classes else None,
        "precision_agreement_frac": None if found is None else found.precision_agreement_frac,
        "is_folded": None if found is None else found.fold is not None,
        "fold_reason": None if found is None else found.fold_reason,
        "fold_deviation": None if found is None else found.fold_deviation,
    }


@task(name="draw", cache_policy=NO_CACHE)
def draw(session: Session, planned: Planned, judgements: list[Judgement]) -> None:
    """Draws the samples that a reviewer should see first."""
    run, config = planned.run, session.config
    classes = len(planned.plan.class_names)
    with connect(run.store, [run.run_id]) as connection:
        choices = choose_samples(connection, run.run_id, config.report.gallery_samples, config.report.seed, classes, judgements)
        indices = sorted({choice.sample_index for choice in choices})
        shown = shown_classes(ask(connection, "gallery_samples", run_id=run.run_id, indices=indices).rows)
    draw_gallery(run, open_studio(run, config, session.dataset), choices, shown)


@task(name="report", cache_policy=NO_CACHE)
def report(session: Session, run: Run) -> Path:
    """Writes the run's report, and the page over all runs of its store, which can be made at any time."""
    path = write_report(run)
    try:
        write_index(run.store)
    except (InputError, OSError) as error:
        session.listener.say(f"the page over all runs cannot be written ({error}): 'clear-audit report' writes it again")
    return path
