"""A run on disk: its plan, the attempts at its shards, their commits, and the manifest that publishes it.

runs/<run_id>/plan.json            frozen when the run begins
runs/<run_id>/attempts/            work in progress; swept when the run ends
runs/<run_id>/commits/00012.json   created exclusively: the commit point of shard 12
runs/<run_id>/maps.zarr            published from the attempts
runs/<run_id>/gallery/             pictures for the report
runs/<run_id>/manifest.json        written last: a run without it is not read by anyone
"""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, Field, model_validator

from storage.errors import InputError
from storage.filesystems import create_file, make_folder, sweep_tree
from storage.json_records import Count, Fraction, Inside, Name, Record, Size, read_record

MOST_SHARDS = 1 << 24
MOST_CLASSES = 1 << 15
Pixels = Annotated[int, Field(gt=0, le=1 << 16)]
PREVIOUS = "previous"


class ConservedRelevance(Record):
    """How much of what classes send back arrives at the image, medians over a few samples and their strongest classes.

    kept: Σ R(x|c) over the image, in units of what class c sent back; size: the same of |R(x|c)|. taken: what the operation
    `operation` took of all that was sent back, most of all operations; None where none took anything.
    """

    kept: float
    size: float
    operation: str | None
    taken: float


class Examination(Record):
    """What one worker found of the model on the dataset's first samples, and what follows for the whole run.

    sample_count: how many samples it saw. precision_agreement_frac: share of their pixels whose dominant class is that of
    float32; None where the run is in float32. fold: the fixed operator that makes the maps, field by field, None where each
    class is sent back for each sample; then fold_reason says why. fold_deviation: the largest deviation of the operator's
    responses from the network's, relative to the peak. conservation: None under a rule that is to conserve nothing. notes: how
    the model was read, where that is not plain, in sentences.
    """

    sample_count: Count
    precision_agreement_frac: Fraction | None = None
    fold: dict[str, Any] | None = None
    fold_deviation: float | None = None
    fold_reason: str | None = None
    conservation: ConservedRelevance | None = None
    notes: list[str] = Field(default=[])


class Trigger(Record):
    """What started an audit. Times are UTC; what there is not is None.

    kind: `command line`; `schedule`, a deployment's; `deployment`, run by hand or through Prefect's API; or `python`, a
    program that called the flow. flow_run_id: of the audit's flow run in Prefect. parent_flow_run_id: of the flow run that
    it is a part of. scheduled_at: when the deployment's run was to start.
    """

    kind: Literal["command line", "schedule", "deployment", "python"]
    flow_run_id: str
    parent_flow_run_id: str | None = None
    deployment_id: str | None = None
    deployment_name: str | None = None
    scheduled_at: datetime | None = None


class Plan(Record):
    """What a run will do, frozen: a run is resumed only where all that identifies it still holds.

    passed_over, empty_classes: of the dataset, see `Dataset`; empty where an older version planned. examination, trigger: None
    where one did.
    """

    run_id: Name
    created_at: AwareDatetime
    schema_version: int
    tool_version: str
    name: str
    config: dict[str, Any]
    config_hash: str
    model_hash: str
    dataset_hash: str
    class_names: Annotated[list[str], Field(max_length=MOST_CLASSES)]
    sample_count: Count
    height: Pixels
    width: Pixels
    shard_samples: Size
    passed_over: dict[str, Count] = Field(default={})
    empty_classes: list[str] = Field(default=[])
    examination: Examination | None = None
    trigger: Trigger | None = None

    @model_validator(mode="after")
    def check_shards(self) -> "Plan":
        if self.sample_count > MOST_SHARDS * self.shard_samples:
            raise ValueError(f"{self.sample_count} samples in shards of {self.shard_samples} are too many shards")
        return self

    @property
    def layout(self) -> tuple[list[str], int, int, int, int]:
        """What follows from config and dataset."""
        return self.class_names, self.sample_count, self.height, self.width, self.shard_samples

    @property
    def identity(self) -> tuple[Any, ...]:
        """What must be equal for a run to be resumed."""
        return self.schema_version, self.tool_version, self.config_hash, self.model_hash, self.dataset_hash, self.layout

    def shards(self) -> "list[Shard]":
        starts = range(0, self.sample_count, self.shard_samples)
        return [Shard(i, start, min(start + self.shard_samples, self.sample_count)) for i, start in enumerate(starts)]


@dataclass(frozen=True)
class Shard:
    """Samples [start, stop): one task, one Zarr shard, one Parquet part, one commit."""

    index: int
    start: int
    stop: int


class Manifest(Record):
    """What a finished run holds and how it was made.

    passed_over, empty_classes, examination: the plan's; empty, and None, where an older version planned. trigger: of what
    finished the run, which is not what the plan says where it was resumed. artefacts: SHA-256 by path in the store.
    """

    run_id: Name
    plan_hash: str
    started_at: AwareDatetime
    finished_at: AwareDatetime
    expected_count: Count
    processed_count: Count
    failed_count: Count
    readings: list[str]
    passed_over: dict[str, Count] = Field(default={})
    empty_classes: list[str] = Field(default=[])
    examination: Examination | None = None
    trigger: Trigger | None = None
    environment: dict[str, str]
    artefacts: dict[Inside, str]


OfRun = TypeVar("OfRun", Plan, Manifest)


@dataclass(frozen=True)
class Run:
    """Where the parts of one run lie."""

    store: Path
    run_id: str

    @property
    def folder(self) -> Path:
        return self.store / "runs" / self.run_id

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def attempts(self) -> Path:
        return self.folder / "attempts"

    @property
    def commits(self) -> Path:
        return self.folder / "commits"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def maps(self) -> Path:
        return self.folder / "maps.zarr"

    @property
    def gallery(self) -> Path:
        return self.folder / "gallery"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def report(self) -> Path:
        return self.store / "reports" / f"{self.run_id}.html"

    def table(self, name: str) -> Path:
        return self.store / "tables" / name / f"run_id={self.run_id}" / "part-0.parquet"

    @property
    def is_published(self) -> bool:
        return self.manifest.exists()


STAMP = len("20261121T030000Z")


def new_run_id(name: str, now: datetime) -> str:
    """Sorts by time, and is a valid file name everywhere: `20261121T030000Z-mnist-4f2a`."""
    short = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{short}-{secrets.token_hex(2)}"


def id_after(store: Path, run_id: str) -> str:
    """A new run's id, or, where the clock stands behind a run of the store, one just after that: ids are in the runs' order."""
    runs = [run.run_id for run in list_runs(store)]
    if not runs or run_id[:STAMP] > runs[-1][:STAMP]:
        return run_id
    try:
        latest = datetime.strptime(runs[-1][:STAMP], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) + timedelta(seconds=1)
    except (ValueError, OverflowError):  # no run of ours
        return run_id
    return f"{latest:%Y%m%dT%H%M%SZ}{run_id[STAMP:]}"


def create_run(store: Path, plan: Plan) -> Run:
    """Writes the plan: from here on the run exists."""
    run = Run(store, plan.run_id)
    for folder in (run.attempts, run.commits):
        make_folder(folder)
    create_file(run.plan, plan.model_dump_json(indent=1))
    return run


def read_plan(run: Run) -> Plan:
    """Raises InputError where it is damaged, or another run's."""
    return of_run(run, read_record(Plan, run.plan), run.plan)


def readable_plan(run: Run) -> Plan | None:
    """None where the plan is damaged, or of another version."""
    try:
        return read_plan(run)
    except InputError:
        return None


def read_manifest(run: Run) -> Manifest:
    """Raises InputError where it is damaged, or another run's."""
    return of_run(run, read_record(Manifest, run.manifest), run.manifest)


def of_run(run: Run, record: OfRun, path: Path) -> OfRun:
    if record.run_id != run.run_id:
        raise InputError(f"'{path}' is of run '{record.run_id}', and lies in the folder of run '{run.run_id}'")
    return record


def list_runs(store: Path) -> list[Run]:
    """All runs of a store, published or not, oldest first."""
    folder = store / "runs"
    return [Run(store, path.parent.name) for path in sorted(folder.glob("*/plan.json"))]


def published_runs(store: Path) -> list[Run]:
    return [run for run in list_runs(store) if run.is_published]


def find_run(store: Path, run_id: str) -> Run:
    """A published run by its id, an unambiguous beginning of it, or `latest`. Raises InputError."""
    runs = published_runs(store)
    if not runs:
        raise InputError(f"store '{store}' has no finished run: make one with 'clear-audit run CONFIG --store {store}'")
    if run_id == "latest":
        return runs[-1]
    matches = [run for run in runs if run.run_id == run_id] or [run for run in runs if run.run_id.startswith(run_id)]
    if len(matches) != 1:
        found = "several finished runs" if matches else "no finished run"
        raise InputError(f"'{run_id}' names {found} of store '{store}': 'clear-audit ls --store {store}' lists them")
    return matches[0]


def find_reference(run: Run, wanted: str) -> Run | None:
    """The run that a run is compared with.

    wanted: `previous`, the latest finished run before it whose audit has the same name, None where there is none; or as
    for `find_run`. Raises InputError.
    """
    if wanted != PREVIOUS:
        return find_run(run.store, wanted)
    name = read_plan(run).name
    for earlier in reversed(published_runs(run.store)):
        if earlier.run_id >= run.run_id:
            continue
        plan = readable_plan(earlier)
        if plan is not None and plan.name == name:
            return earlier
    return None


def find_unfinished(store: Path, plan: Plan) -> Run | None:
    """The latest run of the store that planned the same work and did not end.

    A plan that is damaged, or of another version, is of no work that can be gone on with, and is passed over.
    """
    for run in reversed(list_runs(store)):
        if run.is_published:
            continue
        found = readable_plan(run)
        if found is not None and found.identity == plan.identity:
            return run
    return None


def find_resumable(store: Path, run_id: str, plan: Plan) -> Run:
    """A run that did not end and planned the same work. Raises InputError, which says what changed."""
    run = Run(store, run_id)
    if run not in list_runs(store):
        raise InputError(f"store '{store}' has no run '{run_id}': its folder 'runs' has the ids of all, finished or not")
    if run.is_published:
        raise InputError(f"run '{run_id}' is finished: leave --resume out, and a new run begins")
    changed = what_changed(read_plan(run), plan)
    if changed:
        raise InputError(
            f"run '{run_id}' cannot be gone on with: {' and '.join(changed)} changed since it was planned; "
            "leave --resume out, and a new run begins"
        )
    return run


def publish(run: Run, manifest: Manifest) -> None:
    """Writes the manifest, by which the run becomes visible, and sweeps what work left behind."""
    create_file(run.manifest, manifest.model_dump_json(indent=1))
    # A worker that was presumed dead may still be writing there: what it leaves is swept another time.
    sweep_tree(run.attempts)


def what_changed(plan: Plan, now: Plan) -> list[str]:
    """Why a run that was planned is not gone on with: what differs from what is planned now. Empty where nothing does."""
    differences = {
        "the config": plan.config_hash != now.config_hash,
        "the model": plan.model_hash != now.model_hash,
        "the dataset": plan.dataset_hash != now.dataset_hash,
        f"the version of clear-audit, from {plan.tool_version} to {now.tool_version},": plan.tool_version != now.tool_version,
        "what the plan says of images and classes": plan.layout != now.layout and plan.identity[:-1] == now.identity[:-1],
        f"the version of the tables, from {plan.schema_version} to {now.schema_version},": plan.schema_version
        != now.schema_version,
    }
    return [what for what, differs in differences.items() if differs]
