"""Which runs a store has, and which of them is meant."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from storage.errors import InputError
from storage.runs.plan import Plan
from storage.runs.run import STAMP, Run, read_plan, readable_plan

PREVIOUS = "previous"


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
