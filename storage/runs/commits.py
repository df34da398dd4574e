"""The commits of a run: who was first at a shard, and whether what was committed is still there as it was."""

import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from storage.errors import InputError
from storage.filesystems import (
    create_file,
    files_below,
    flush,
    flush_folder,
    hash_file,
    is_remote,
    put_folder,
    remove_any,
    remove_tree,
)
from storage.json_records import Count, Inside, Name, Record, Seconds, read_record
from storage.runs.plan import Unit
from storage.runs.run import Run

THREADS = 8
"""That read what was committed: in S3 most of the time is waiting."""

FaultOf = Callable[[Unit, "Commit"], str | None]
"""What is wrong with the files of a shard's attempt, in words; None where they are as they were committed."""


class Commit(Record):
    """The shard's work is done and lies under `attempts/<attempt>`. files: SHA-256 by path in the attempt.

    is_set_aside: nothing was measured, for the shard killed whoever tried.
    """

    run_id: Name
    shard: Count
    attempt: Name
    processed_count: Count
    failed_count: Count
    duration_secs: Seconds
    files: dict[Inside, str]
    is_set_aside: bool = False


def open_attempt(run: Run, shard: Unit) -> Path:
    """A folder of its own, on this machine, for one try at a shard; `leave_attempt` when it was made."""
    if is_remote(run.store):
        return Path(tempfile.mkdtemp(prefix=f"{shard.index:05d}-"))
    path = run.attempts / f"{shard.index:05d}-{secrets.token_hex(4)}"
    path.mkdir()
    return path


def leave_attempt(run: Run, attempt: Path) -> None:
    """Removes what lies outside the store of an attempt; on a disk it was made in its place."""
    if is_remote(run.store):
        shutil.rmtree(attempt, ignore_errors=True)


def commit_attempt(
    run: Run, attempt: Path, shard: Unit, processed: int, failed: int, duration: float, is_set_aside: bool = False
) -> bool:
    """Makes an attempt the shard's result; False, and the attempt is discarded, where another was first."""
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
        shard=shard.index,
        attempt=attempt.name,
        processed_count=processed,
        failed_count=failed,
        duration_secs=round(duration, 3),
        files=files,
        is_set_aside=is_set_aside,
    )
    try:
        create_file(run.commits / commit_name(shard.index), record.model_dump_json(indent=1))
    except FileExistsError:
        remove_tree(place)
        leave_attempt(run, attempt)
        return False
    return True


def read_commits(run: Run) -> dict[int, Commit]:
    """The committed shards, by index. Raises InputError where a record is damaged, or is not the one of its shard."""
    commits = [read_commit(run, path) for path in sorted(run.commits.glob("*.json"))]
    return {commit.shard: commit for commit in commits}


def read_commit(run: Run, path: Path) -> Commit:
    """Raises InputError where a record is damaged, or is not the one of its run and shard."""
    commit = read_record(Commit, path)
    if (commit.run_id, commit_name(commit.shard)) != (run.run_id, path.name):
        raise InputError(f"'{path}' is of shard {commit.shard} of run '{commit.run_id}'")
    return commit


def ensure_folders(run: Run) -> None:
    """Has a run that is gone on with the folders that it began with: a copy may have left out empty ones."""
    if not is_remote(run.store):
        for folder in (run.attempts, run.commits):
            folder.mkdir(exist_ok=True)


def sound_commits(run: Run, shards: Sequence[Unit], fault_of: FaultOf) -> tuple[dict[int, Commit], list[str]]:
    """The commits that are as they were written, by shard, and what is wrong with the others, a sentence each.

    The others are removed: their shards are to be computed again. Only to be called by who holds the run.
    """

    def check(path: Path) -> Commit | str:
        try:
            commit = read_commit(run, path)
        except InputError as error:
            return str(error)
        return commit_fault(shards, commit) or fault_of(shards[commit.shard], commit) or commit

    paths = sorted(path for path in run.commits.glob("*") if not path.name.startswith("."))
    with ThreadPoolExecutor(THREADS) as pool:
        checked = dict(zip(paths, pool.map(check, paths), strict=True))
    faults = []
    for path, found in checked.items():
        if isinstance(found, str):
            remove_any(path)
            faults.append(f"'{path.relative_to(run.store).as_posix()}' does not hold, and its shard is computed again: {found}")
    commits = [found for found in checked.values() if isinstance(found, Commit)]
    return {commit.shard: commit for commit in commits}, faults


def commit_fault(shards: Sequence[Unit], commit: Commit) -> str | None:
    """What is wrong with a commit by itself, in words."""
    if commit.shard >= len(shards):
        return f"it is of shard {commit.shard}, and there are {len(shards)}"
    shard = shards[commit.shard]
    counted = commit.processed_count + commit.failed_count
    if counted != shard.stop - shard.start:
        return f"it counts {counted:,} images, and the shard has {shard.stop - shard.start:,}"
    if not commit.attempt.startswith(f"{shard.index:05d}-"):
        return f"it names the attempt '{commit.attempt}', which is not of shard {shard.index}"
    return None


def commit_name(shard: int) -> str:
    return f"{shard:05d}.json"


def sweep_orphans(run: Run, commits: Iterable[Commit]) -> None:
    """Removes what ended work left in an unfinished run: attempts that no commit names, and halves of records."""
    named = {commit.attempt for commit in commits}
    for path in run.attempts.glob("*"):
        if path.name not in named:
            remove_any(path)
    for folder in (run.folder, run.commits):
        for path in folder.glob(".*.json-*"):
            remove_any(path)
