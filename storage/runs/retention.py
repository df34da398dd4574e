"""Which runs of a store may go, and their removal."""

import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import InputError
from storage.filesystems import create_file, files_below, halves_in, is_remote, readable, sweep_tree
from storage.operators import REFUSED, last_used
from storage.runs.lock import hold_alone, is_held
from storage.runs.lookup import PREVIOUS, list_runs, published_runs
from storage.runs.plan import Plan
from storage.runs.run import Run, readable_plan

TRASH = "trash"
REMOVED = re.compile(r"([^.]+)(?:\.[0-9a-f]{8})?")
"""What a run's folder is called there: the run's id, and what tells two removals apart."""


def removable(store: Path, keep: int | None, before: datetime | None) -> list[Run]:
    """The runs before the latest `keep` finished ones of each audit, and those begun before `before`, oldest first.

    Finished or not; where both are given, a run goes that is both. Never a run that one which stays refers to: the reference of
    its gates or of its config. Never one that cannot be read, is being worked on, or whose folder is a link.
    """
    plans = {run.run_id: plan for run in list_runs(store) if (plan := readable_plan(run)) is not None}
    finished = {run.run_id for run in published_runs(store)}
    kept: set[str] = set()
    for name in {plan.name for plan in plans.values()}:
        own = [run_id for run_id in sorted(plans) if plans[run_id].name == name]
        latest = [run_id for run_id in own if run_id in finished][-keep:] if keep else []
        # With what began after the first of them: it may yet be finished.
        kept |= {run_id for run_id in own if latest and run_id >= latest[0]}
    chosen = {run_id for run_id, plan in plans.items() if run_id not in kept and (before is None or plan.created_at < before)}
    chosen -= {run_id for run_id in chosen if is_link(Run(store, run_id).folder) or is_held(Run(store, run_id))}
    references = find_references(store, plans, finished)
    while needed := {old for run_id, olds in references.items() if run_id not in chosen for old in olds} & chosen:
        chosen -= needed
    return [Run(store, run_id) for run_id in sorted(chosen)]


def find_references(store: Path, plans: dict[str, Plan], finished: Iterable[str]) -> dict[str, set[str]]:
    """The runs that each run refers to."""
    found: dict[str, set[str]] = {run_id: set() for run_id in plans}
    for run_id, plan in plans.items():
        named = plan.config.get("reference")
        if isinstance(named, str) and named not in (PREVIOUS, "latest"):
            found[run_id] |= {other for other in plans if other.startswith(named)}
    for run_id in set(finished) & plans.keys():
        found[run_id] |= read_references(Run(store, run_id))
    return found


def read_references(run: Run) -> set[str]:
    """The runs that a run's gates were compared with; none where its table is damaged, or of a version without."""
    try:
        table = pq.read_table(readable(run.table("gates")), columns=["reference_run_id"], partitioning=None)
    except (OSError, pa.ArrowException):
        return set()
    return {name for name in table["reference_run_id"].to_pylist() if isinstance(name, str)}


def is_link(folder: Path) -> bool:
    """Whether a folder only leads to where files are, which are then not ours to remove."""
    return not is_remote(folder) and folder.is_symlink()


def remove(run: Run) -> bool:
    """Removes a run with all its files; False where a process works on it, or has just removed it.

    It is out of sight at once: on a disk its folder is renamed, in S3 its plan goes first. What a crash leaves behind is swept
    by `sweep`.
    """
    trash = run.store / TRASH / f"{run.run_id}.{secrets.token_hex(4)}"
    try:
        with hold_alone(run):
            if not run.plan.exists() or is_link(run.folder) or is_link(trash.parent):
                return False
            if is_remote(run.store):
                create_file(trash / "removed.json", "{}")
                run.plan.unlink()
            else:
                trash.parent.mkdir(exist_ok=True)
                run.folder.rename(trash)
            sweep_removed(run, trash)
    except (InputError, OSError):
        return False
    return True


def sweep_removed(run: Run, trash: Path) -> None:
    """Removes what is left of a run that is out of sight. trash: what says so, and goes last."""
    for folder in run.table_folders():
        sweep_tree(folder)
    run.report.unlink(missing_ok=True)
    if is_remote(run.store):
        sweep_tree(run.folder)
    sweep_tree(trash)


def sweep(store: Path) -> None:
    """Removes what runs left behind that are gone, or finished."""
    folder = store / TRASH
    for trash in [] if is_link(folder) else folder.glob("*"):
        named = REMOVED.fullmatch(trash.name)
        if named is None:  # nothing of ours
            continue
        run = Run(store, named[1])
        if run.plan.exists():  # its removal ended before it began
            sweep_tree(trash)
        elif not is_held(run):
            sweep_removed(run, trash)
    for run in published_runs(store):
        # Of one that is held, an analysis is being added.
        if run.attempts.exists() and not is_held(run):
            sweep_tree(run.attempts)
        for half in [] if is_remote(store) else halves_in(run.folder):
            half.unlink()


def unused_operators(store: Path, gone: Iterable[Run]) -> list[Path]:
    """The fixed operators, and refusals of some, that were last used before the first of the runs that stay began.

    All where none stays.
    """
    stay = [plan for run in list_runs(store) if run not in set(gone) and (plan := readable_plan(run)) is not None]
    first = min((plan.created_at.timestamp() for plan in stay), default=float("inf"))
    files = [path for suffix in (".safetensors", REFUSED) for path in (store / "operators").glob(f"*{suffix}")]
    return [path for path in sorted(files) if path.exists() and last_used(path) < first]


def size_of(run: Run) -> int:
    """Bytes of a run's maps, tables, pictures and report."""
    files = [path for folder in (run.folder, *run.table_folders()) for path in files_below(folder)]
    return sum(path.stat().st_size for path in [*files, *([run.report] if run.report.exists() else [])])
