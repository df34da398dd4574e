"""The commits of a run: who was first at a unit of an analysis, and whether what was committed is still there as it was."""

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pydantic import AliasChoices, Field

from storage.errors import InputError
from storage.filesystems import (
    create_file,
    files_below,
    flush,
    flush_folder,
    halves_in,
    hash_file,
    is_remote,
    put_folder,
    remove_any,
    remove_tree,
)
from storage.json_records import Count, Inside, Name, Record, Seconds, read_record
from storage.runs.plan import Unit
from storage.runs.run import MAPS, Run

THREADS = 8
"""That read what was committed: in S3 most of the time is waiting."""

FaultOf = Callable[[Unit, "Commit"], str | None]
"""What is wrong with the files of a unit's attempt, in words; None where they are as they were committed."""


class Commit(Record):
    """The unit's work is done and lies under `attempts/<attempt>`. files: SHA-256 by path in the attempt.

    identity: of the options that the analysis was done by. processed_count, failed_count: of the unit's items.
    is_quarantined: nothing was computed, for the unit killed whoever tried.
    Up to version 6 there was one analysis, the unit was called shard, and quarantined set aside.
    """

    run_id: Name
    analysis: Name = MAPS
    unit: Count = Field(validation_alias=AliasChoices("unit", "shard"))
    attempt: Name
    identity: str = ""
    processed_count: Count
    failed_count: Count
    duration_secs: Seconds
    files: dict[Inside, str]
    is_quarantined: bool = Field(default=False, validation_alias=AliasChoices("is_quarantined", "is_set_aside"))


def open_attempt(run: Run, analysis: str, unit: Unit) -> Path:
    """A folder of its own, on this machine, for one try at a unit; `leave_attempt` when it was made."""
    beginning = attempt_beginning(analysis, unit)
    if is_remote(run.store):
        return Path(tempfile.mkdtemp(prefix=beginning))
    path = run.attempts / f"{beginning}{secrets.token_hex(4)}"
    path.mkdir()
    return path


def attempt_beginning(analysis: str, unit: Unit) -> str:
    return f"{analysis}-{unit.index:05d}-"


def leave_attempt(run: Run, attempt: Path) -> None:
    """Removes what lies outside the store of an attempt; on a disk it was made in its place."""
    if is_remote(run.store):
        shutil.rmtree(attempt, ignore_errors=True)


def commit_attempt(
    run: Run,
    analysis: str,
    unit: Unit,
    attempt: Path,
    identity: str,
    processed: int,
    failed: int,
    duration: float,
    is_quarantined: bool = False,
) -> bool:
    """Makes an attempt the unit's result; False, and the attempt is discarded, where another was first."""
    files = {}
    for path in files_below(attempt):
        flush(path)
        files[path.relative_to(attempt).as_posix()] = hash_file(path)
    for folder in {path.parent for path in files_below(attempt)} | {attempt}:
        flush_folder(folder)
    place = run.attempts / attempt.name
    if place != attempt:
        put_folder(attempt, place)
    record = Commit(
        run_id=run.run_id,
        analysis=analysis,
        unit=unit.index,
        attempt=attempt.name,
        identity=identity,
        processed_count=processed,
        failed_count=failed,
        duration_secs=round(duration, 3),
        files=files,
        is_quarantined=is_quarantined,
    )
    try:
        create_file(run.commits_of(analysis) / commit_name(unit.index), record.model_dump_json(indent=1))
    except FileExistsError:
        remove_tree(place)
        leave_attempt(run, attempt)
        return False
    return True


def read_commits(run: Run, analysis: str) -> dict[int, Commit]:
    """The committed units, by index. Raises InputError where a record is damaged, or is not the one of its unit."""
    folder = run.commits_of(analysis)
    if analysis == MAPS and not folder.exists():  # up to version 6 it was the only one
        folder = run.commits
    commits = [read_commit(run, analysis, path) for path in sorted(folder.glob("*.json"))]
    return {commit.unit: commit for commit in commits}


def read_commit(run: Run, analysis: str, path: Path) -> Commit:
    """Raises InputError where a record is damaged, or is not the one of its run, analysis and unit."""
    commit = read_record(Commit, path)
    if (commit.run_id, commit.analysis, commit_name(commit.unit)) != (run.run_id, analysis, path.name):
        raise InputError(f"'{path}' is of unit {commit.unit} of analysis '{commit.analysis}' of run '{commit.run_id}'")
    return commit


def ensure_folders(run: Run, analyses: Iterable[str]) -> None:
    """Has a run the folders that its analyses commit to: a copy of an unfinished one may have left out empty ones."""
    if not is_remote(run.store):
        for folder in (run.attempts, *(run.commits_of(analysis) for analysis in analyses)):
            folder.mkdir(parents=True, exist_ok=True)


def sound_commits(
    run: Run, analysis: str, identity: str, units: Sequence[Unit], fault_of: FaultOf
) -> tuple[dict[int, Commit], list[str]]:
    """The commits that are as they were written, by unit, and what is wrong with the others, a sentence each.

    The others are removed: their units are to be computed again. Only to be called by who holds the run.
    """

    def check(path: Path) -> Commit | str:
        try:
            commit = read_commit(run, analysis, path)
        except InputError as error:
            return str(error)
        return commit_fault(analysis, identity, units, commit) or fault_of(units[commit.unit], commit) or commit

    paths = sorted(path for path in run.commits_of(analysis).glob("*") if not path.name.startswith("."))
    with ThreadPoolExecutor(THREADS) as pool:
        checked = dict(zip(paths, pool.map(check, paths), strict=True))
    faults = []
    for path, found in checked.items():
        if isinstance(found, str):
            remove_any(path)
            faults.append(f"'{path.relative_to(run.store).as_posix()}' does not hold, and its unit is computed again: {found}")
    commits = [found for found in checked.values() if isinstance(found, Commit)]
    return {commit.unit: commit for commit in commits}, faults


def commit_fault(analysis: str, identity: str, units: Sequence[Unit], commit: Commit) -> str | None:
    """What is wrong with a commit by itself, in words."""
    if commit.identity != identity:
        return f"analysis '{analysis}' was done by other options"
    if commit.unit >= len(units):
        return f"it is of unit {commit.unit}, and there are {len(units)}"
    unit = units[commit.unit]
    counted = commit.processed_count + commit.failed_count
    if counted != unit.size:
        return f"it counts {counted:,} items, and the unit has {unit.size:,}"
    if not commit.attempt.startswith(attempt_beginning(analysis, unit)):
        return f"it names the attempt '{commit.attempt}', which is not of unit {unit.index}"
    return None


def commit_name(unit: int) -> str:
    return f"{unit:05d}.json"


def sweep_orphans(run: Run, commits: Iterable[Commit]) -> None:
    """Removes what ended work left in an unfinished run: attempts that no commit names, and halves of records."""
    named = {commit.attempt for commit in commits}
    for path in run.attempts.glob("*"):
        if path.name not in named:
            remove_any(path)
    for folder in (run.folder, *run.commits.glob("*")):
        for path in halves_in(folder):
            remove_any(path)
