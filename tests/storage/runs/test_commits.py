"""The commits of a run: who is first, what is kept of whom, and which are as they were written."""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.errors import InputError
from storage.filesystems import hash_file
from storage.runs.commits import commit_attempt, ensure_folders, open_attempt, read_commits, sound_commits, sweep_orphans
from storage.runs.lookup import published_runs
from storage.runs.plan import Plan, Unit
from storage.runs.run import MAPS, Run, create_run, read_plan

MakePlan = Callable[..., Plan]
FilesOf = Callable[[Path], dict[str, str]]

ON_DISK = pytest.mark.parametrize("store_place", ["disk"], indirect=True)


@pytest.fixture
def run(store_place: Path, make_plan: MakePlan) -> Run:
    made = create_run(store_place, make_plan())
    ensure_folders(made, [MAPS, "evidence"])
    return made


def attempt_with(run: Run, shard: Unit, **files: str) -> Path:
    attempt = open_attempt(run, MAPS, shard)
    for name, content in files.items():
        path = attempt / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return attempt


def test_a_commit_holds_what_was_done_and_the_hashes_of_its_files(run: Run) -> None:
    shard = Unit(2, 32, 40)
    attempt = attempt_with(run, shard, samples="abc", maps__c__0="", maps__deep__down="x" * 3_000_000)
    assert commit_attempt(run, MAPS, shard, attempt, "i0", 7, 1, 1.23456)
    assert json.loads((run.commits_of(MAPS) / "00002.json").read_text()) == {
        "run_id": run.run_id,
        "analysis": "maps",
        "unit": 2,
        "attempt": attempt.name,
        "identity": "i0",
        "processed_count": 7,
        "failed_count": 1,
        "duration_secs": 1.235,
        "files": {
            "samples": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "maps/c/0": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "maps/deep/down": hashlib.sha256(b"x" * 3_000_000).hexdigest(),
        },
        "is_quarantined": False,
    }
    assert attempt.name.startswith("maps-00002-")
    assert {index: commit.attempt for index, commit in read_commits(run, MAPS).items()} == {2: attempt.name}


def test_the_second_attempt_at_a_shard_is_discarded(run: Run, files_of: FilesOf) -> None:
    shard = Unit(0, 0, 16)
    first, second = attempt_with(run, shard, samples="first"), attempt_with(run, shard, samples="second")
    assert first != second
    assert commit_attempt(run, MAPS, shard, first, "i0", 16, 0, 1)
    after_first = files_of(first)
    assert not commit_attempt(run, MAPS, shard, second, "i0", 15, 1, 1)
    assert not second.exists()
    assert files_of(first) == after_first
    assert [(commit.attempt, commit.processed_count) for commit in read_commits(run, MAPS).values()] == [(first.name, 16)]
    assert [path.name for path in run.commits_of(MAPS).iterdir()] == ["00000.json"]


def test_of_many_attempts_at_once_exactly_one_is_committed(run: Run) -> None:
    shard, barrier, results = Unit(1, 16, 32), threading.Barrier(8), {}
    attempts = [attempt_with(run, shard, samples=str(number)) for number in range(8)]

    def commit(attempt: Path) -> None:
        barrier.wait()
        results[attempt] = commit_attempt(run, MAPS, shard, attempt, "i0", 16, 0, 1)

    threads = [threading.Thread(target=commit, args=(attempt,)) for attempt in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [attempt for attempt, won in results.items() if won]
    assert [path.name for path in run.attempts.iterdir()] == [winner.name]
    assert read_commits(run, MAPS)[1].files == {"samples": hash_file(run.attempts / winner.name / "samples")}


def test_commits_are_read_by_shard(run: Run) -> None:
    for index in (10, 2):
        shard = Unit(index, 0, 1)
        commit_attempt(run, MAPS, shard, attempt_with(run, shard, samples="x"), "i0", index, 0, 1)
    assert {index: commit.processed_count for index, commit in read_commits(run, MAPS).items()} == {2: 2, 10: 10}


def test_commits_of_one_analysis_are_apart_from_those_of_another(run: Run) -> None:
    shard = Unit(0, 0, 16)
    for analysis, identity in ((MAPS, "i0"), ("evidence", "i1")):
        attempt = open_attempt(run, analysis, shard)
        (attempt / "part").write_text(analysis)
        assert commit_attempt(run, analysis, shard, attempt, identity, 16, 0, 1.0)
    assert [path.name for path in sorted(run.commits.iterdir())] == ["evidence", "maps"]
    found = {analysis: read_commits(run, analysis)[0] for analysis in (MAPS, "evidence")}
    assert [(commit.analysis, commit.identity) for commit in found.values()] == [("maps", "i0"), ("evidence", "i1")]
    for analysis, commit in found.items():
        assert (run.attempts / commit.attempt / "part").read_text() == analysis
    commits, faults = sound_commits(run, "evidence", "i0", read_plan(run).shards(), lambda shard, commit: None)
    assert commits == {}
    assert faults == [
        "'runs/20261121T030000Z-audit-0001/commits/evidence/00000.json' does not hold, and its unit is computed again: "
        "analysis 'evidence' was done by other options"
    ]
    assert read_commits(run, "evidence") == {}
    assert read_commits(run, MAPS) == {0: found[MAPS]}


def test_commits_of_version_6_are_those_of_the_maps() -> None:
    (old,) = published_runs(Path(__file__).parents[1] / "old_stores" / "v6")
    records = [json.loads(path.read_text()) for path in sorted(old.commits.glob("*.json"))]
    assert records
    found = read_commits(old, MAPS)
    assert list(found) == [record["shard"] for record in records]
    for commit, record in zip(found.values(), records, strict=True):
        assert (commit.analysis, commit.identity) == (MAPS, "")
        assert commit.is_quarantined == record["is_set_aside"]
        assert (commit.attempt, commit.files) == (record["attempt"], record["files"])
        assert (commit.processed_count, commit.failed_count) == (record["processed_count"], record["failed_count"])


@ON_DISK
def test_a_commit_under_another_ones_name_is_refused(run: Run) -> None:
    attempt = open_attempt(run, MAPS, Unit(1, 16, 32))
    commit_attempt(run, MAPS, Unit(1, 16, 32), attempt, "i0", 16, 0, 1)
    (run.commits_of(MAPS) / "00001.json").rename(run.commits_of(MAPS) / "00000.json")
    with pytest.raises(InputError, match=r"00000\.json' is of unit 1 of analysis 'maps' of run"):
        read_commits(run, MAPS)


def test_what_ended_work_left_is_swept_and_what_is_committed_stays(run: Run, files_of: FilesOf) -> None:
    shard = Unit(0, 0, 16)
    commit_attempt(run, MAPS, shard, attempt_with(run, shard, samples="abc"), "i0", 16, 0, 1.0)
    before = files_of(run.folder)
    attempt_with(run, shard, samples="half")
    (run.attempts / "confusion-0a1b.parquet").write_text("half")
    for folder in (run.folder, run.commits_of(MAPS)):
        (folder / ".00001.json-0a1b2c3d").write_text("half")
    sweep_orphans(run, read_commits(run, MAPS).values())
    assert files_of(run.folder) == before


@ON_DISK
def test_folders_that_a_copy_left_out_are_made_again_and_odd_entries_swept(
    run: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shutil.rmtree(run.attempts)
    shutil.rmtree(run.commits)
    ensure_folders(run, [MAPS])
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "file").write_text("x")
    (run.attempts / "link").symlink_to(elsewhere)
    (run.commits_of(MAPS) / "00001.json").symlink_to(elsewhere)
    (run.folder / ".Trash-1000").mkdir()
    (run.commits_of(MAPS) / ".00001.json-0a1b2c3d").mkdir()
    commits, faults = sound_commits(run, MAPS, "i0", read_plan(run).shards(), lambda shard, commit: None)
    assert (commits, len(faults)) == ({}, 1)
    sweep_orphans(run, [])
    assert list(run.attempts.iterdir()) == list(run.commits_of(MAPS).iterdir()) == []
    assert (elsewhere / "file").exists()
