"""The plan of a run: what is to be done, what was found of the model, and how its maps are made."""

import importlib.metadata
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

from auditor import CannotFold, Conservation
from auditor.clear import competing_count
from flows.config import AuditConfig
from flows.runtime.cluster import Cluster
from flows.runtime.operator import Fold, ensure_operator, make_fold, restore_plan
from flows.runtime.preflight import Finding, examine, in_bytes, why_not
from flows.runtime.progress import Progress
from storage.datasets import Dataset
from storage.datasets.dataset import say_empty, say_passed_over
from storage.errors import InputError
from storage.maps import shard_samples
from storage.models.sources import model_hash
from storage.operators import read_refusal, write_refusal
from storage.rule_choices import RuleChoice
from storage.runs.lookup import find_resumable, find_unfinished, id_after, list_runs, what_changed
from storage.runs.plan import ConservedRelevance, Examination, Plan, Trigger
from storage.runs.run import Run, create_run, new_run_id, read_plan, readable_plan
from storage.tables import SCHEMA_VERSION


@dataclass(frozen=True)
class Planned:
    """A run that can begin, or go on. fold: the operator that makes its maps. facts: of the workers, see `warm_up`."""

    run: Run
    plan: Plan
    fold: Fold | None
    facts: dict[str, Any]


def draft_plan(config: AuditConfig, dataset: Dataset) -> Plan:
    """All of a plan that is known before the model is loaded. Raises InputError."""
    now = datetime.now(UTC)
    return Plan(
        run_id=new_run_id(config.name, now),
        created_at=now,
        schema_version=SCHEMA_VERSION,
        tool_version=importlib.metadata.version("clear-audit"),
        name=config.name,
        config=config.model_dump(mode="json"),
        config_hash=config.config_hash,
        model_hash=model_hash(config.model),
        dataset_hash=dataset.content_hash(),
        class_names=list(dataset.classes),
        sample_count=len(dataset),
        passed_over=dict(dataset.passed_over),
        empty_classes=list(dataset.empty_classes),
        height=config.input.height,
        width=config.input.width,
        shard_samples=config.compute.shard_samples or shard_samples(config.input.height, config.input.width),
    )


def plan_run(
    config: AuditConfig,
    store: Path,
    dataset: Dataset,
    cluster: Cluster,
    progress: Progress,
    trigger: Trigger,
    resumed: str | None = None,
    choice: RuleChoice | None = None,
) -> Planned:
    """Plans a run, or finds the unfinished one that planned the same and does as it did. Raises InputError.

    resumed: the id of the run that is to be gone on with; an error where it cannot be. choice: how the rule was chosen.

    Nothing of a run is written before all is checked.
    """
    for sentence in say_missing(dataset):
        progress.say(sentence)
    # Before the dataset is hashed, which may take long.
    _, facts = cluster.wait()
    check_classes(config, dataset, facts["class_count"])
    for note in facts["notes"]:
        progress.say(f"model: {note}")
    draft = draft_plan(config, dataset)
    unfinished = find_unfinished(store, draft) if resumed is None else find_resumable(store, resumed, draft)
    if unfinished is None:
        for sentence in say_left(store, draft):
            progress.say(sentence)
        examination, fold = examine_model(config, store, draft, cluster, progress)
        run_id = id_after(store, draft.run_id)
        if run_id != draft.run_id:
            progress.say(
                f"the clock stands behind an earlier run of the store, or with it: this one is called '{run_id}', to follow it"
            )
        plan = draft.model_copy(update={"run_id": run_id, "examination": examination, "trigger": trigger, "rule_choice": choice})
        return Planned(create_run(store, plan), plan, fold, facts)
    return plan_again(unfinished, cluster, progress)


def plan_again(run: Run, cluster: Cluster, progress: Progress) -> Planned:
    """A run as it was planned before. Raises InputError."""
    _, facts = cluster.wait()
    plan, fold = read_plan(run), None
    if plan.examination is not None and plan.examination.fold is not None:
        fold = make_fold(run.store, restore_plan(plan.examination.fold), cluster.work, plan.model_hash, facts["torch"])
        build(fold, cluster, progress)
    return Planned(run, plan, fold, facts)


def say_missing(dataset: Dataset) -> Iterator[str]:
    """What somebody may think is audited, and is not."""
    if dataset.passed_over:
        yield f"dataset: {say_passed_over(dataset.passed_over)} passed over: they are not audited"
    if dataset.empty_classes:
        yield f"dataset: classes without an image: {say_empty(dataset.empty_classes)}"


def check_classes(config: AuditConfig, dataset: Dataset, outputs: int) -> None:
    """Raises InputError where the dataset has not as many classes as the model has outputs."""
    if outputs == len(dataset.classes):
        return
    named = config.dataset.classes is not None
    where = "dataset.classes names" if named else f"dataset '{config.dataset.path}' has"
    way_out = f"name all {outputs} of the model's" if named else "name the model's classes"
    raise InputError(
        f"{where} {len(dataset.classes)} classes and {config.model.title} has {outputs} outputs: "
        f"{way_out}, in the order of its outputs, {'there' if named else 'in dataset.classes'}"
    )


def say_left(store: Path, draft: Plan) -> Iterator[str]:
    """Of each unfinished run of the same audit: that it is not gone on with, and why."""
    for run in list_runs(store):
        plan = None if run.is_published else readable_plan(run)
        if plan is not None and plan.name == draft.name:
            changed = " and ".join(what_changed(plan, draft))
            yield f"run '{run.run_id}' did not end and is not gone on with: {changed} changed since it was planned"


def examine_model(
    config: AuditConfig, store: Path, draft: Plan, cluster: Cluster, progress: Progress
) -> tuple[Examination, Fold | None]:
    """Has a worker examine the model on the first samples, and decides from that, for the whole run, how maps are made."""
    client, facts = cluster.wait()
    progress.stage("examining")
    found: Finding = client.submit(examine, cluster.work.key, config.compute.operator_gb, pure=False).result()
    fold, deviation, reason = None, None, found.reason
    if found.fold is not None:
        competing = competing_count(len(draft.class_names), config.method.rule, config.method.top_k)
        reason = why_not(found.fold, draft.sample_count, competing, found.memory)
    if found.fold is not None and reason is None:
        fold = make_fold(store, found.fold, cluster.work, draft.model_hash, facts["torch"])
        reason = read_refusal(fold.path, found.memory)
    if fold is not None and reason is None:
        began = time.perf_counter()
        try:
            deviation = build(fold, cluster, progress, found.memory)
        except CannotFold as error:
            reason = str(error)
            write_refusal(fold.path, reason, found.memory)
        else:
            progress.say(folded_line(fold, deviation, time.perf_counter() - began))
    if reason is not None:
        fold = None
        if config.method.rule == "linear":
            # Of other rules nobody expects one.
            progress.say(f"maps: each class is sent back for each image, without a fixed operator: {reason}")
    if found.agreement is not None:
        progress.say(
            f"precision: {config.method.precision} has the dominant class of float32 at {100 * found.agreement:.2f} % of the "
            f"pixels of the first {found.sample_count:,} images"
        )
    conserved = found.conservation
    if conserved is not None:
        progress.say(conserved_line(config.method.rule, conserved))
    examination = Examination(
        sample_count=found.sample_count,
        precision_agreement_frac=found.agreement,
        fold=None if fold is None else asdict(fold.plan),
        fold_deviation=deviation,
        fold_reason=reason,
        conservation=None if conserved is None else ConservedRelevance(**asdict(conserved)),
        notes=facts["notes"],
    )
    return examination, fold


def conserved_line(rule: str, conserved: Conservation) -> str:
    taken = ""
    if conserved.operation is not None:
        taken = f"; constants take most at operation {conserved.operation}: {conserved.taken:.3g}"
    return (
        f"relevance: under {rule}, what arrives at the image adds up to {conserved.kept:.3g} of what a class sends back, without "
        f"signs to {conserved.size:.3g}{taken}"
    )


def build(fold: Fold, cluster: Cluster, progress: Progress, memory: float = inf) -> float:
    """The operator lies in the store and a worker has verified it; returns its deviation. memory: see `ensure_operator`."""
    client, _ = cluster.wait()
    progress.stage("folding")

    def advance(done: int, total: int) -> None:
        progress.advance(done, 0, total, "rows")

    return ensure_operator(client, cluster.work.key, fold, progress.say, advance, memory)


def reach(where: str) -> str:
    return "the image" if where == "image" else f"the output of '{where}'"


def folded_line(fold: Fold, deviation: float, secs: float) -> str:
    built = f"{in_bytes(fold.path.stat().st_size)}, {fold.plan.rows:,} passes to build, ready in {secs:.1f} s"
    return (
        f"maps: a fixed operator, from the classes back to {reach(fold.plan.where)}, makes them ({built}); it deviates from the "
        f"network by at most {deviation:.1e} of the peak"
    )
