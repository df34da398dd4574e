"""Audits that are killed in each of their stages, ten in each, at places that are chosen by what they have done: each ends as one
that was left alone, to the last byte, on a disk and in S3.

SOAK_STAGES names the stages, all where it names none.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.analyses import known_schemas
from reports.pages.report import render
from storage.filesystems import files_below, is_remote, remote
from storage.runs.lookup import list_runs, published_runs
from storage.runs.run import Run
from storage.runs.verification import verify
from tests.flows.conftest import clear_audit
from tests.flows.killing import STAGES
from tests.flows.test_kills import workers_of

KILLS = 10
"""In each stage."""

AGAIN_SECS = 4
"""After which what a killed process held in S3 is free."""


@pytest.fixture(scope="module")
def many_shards(digits_config: Path) -> Path:
    """The digits in nineteen shards, with an analysis beside: as many moments at which a shard or a unit has come in."""
    path = digits_config.with_name("shards.toml")
    text = digits_config.read_text().replace("shard_samples = 64", "shard_samples = 16")
    path.write_text(text + "[brightness]\nrun = true\n")
    return path


def run(stage: str, number: int, config: Path, store: Path, api: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.flows.killing", stage, str(number), "run", str(config), "--store", str(store)]
    environment = os.environ | {"PREFECT_API_URL": api}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)


def content_of(run: Run) -> dict[str, bytes]:
    """Maps and tables, but for what says when and where they were made."""
    tables = [folder / "part-0.parquet" for folder in run.table_folders() if folder.parent.name not in ("runs", "gates")]
    files = [*tables, *(path for path in files_below(run.maps) if path.name != "zarr.json"), *files_below(run.gallery)]
    contents = {path.relative_to(run.store).as_posix().replace(run.run_id, "RUN"): path.read_bytes() for path in files}
    assert len(contents) > 30
    return contents


def copy_store(store: Path, target: Path) -> Path:
    if is_remote(store):
        filesystem, place = remote(store)
        filesystem.copy(place, remote(target)[1], recursive=True)
    else:
        shutil.copytree(store, target)
    return target


@pytest.mark.soak
@pytest.mark.parametrize("place", ["disk", "s3"])
def test_killed_in_any_stage_it_ends_as_one_that_was_left_alone(
    many_shards: Path, prefect_api: str, tmp_path: Path, request: pytest.FixtureRequest, place: str
) -> None:
    top: Path = request.getfixturevalue("s3_store") if place == "s3" else tmp_path / "audits"
    done = run("none", -1, many_shards, top / "reference", prefect_api)
    assert done.returncode == 0, done.stderr
    events = json.loads(done.stdout.splitlines()[-1])
    assert set(events) == set(STAGES.values())
    expected = content_of(published_runs(top / "reference")[0])
    # Where all is computed: what the other stages begin with.
    assert run("joining", 0, many_shards, top / "computed", prefect_api).returncode == -signal.SIGKILL
    chosen = os.environ.get("SOAK_STAGES", " ".join(events)).split()
    for stage, count in [(stage, events[stage]) for stage in chosen]:
        for step in range(KILLS):
            store = top / f"{stage}-{step}"
            if stage != "computing":
                copy_store(top / "computed", store)
            done = run(stage, step * (count - 1) // (KILLS - 1), many_shards, store, prefect_api)
            assert done.returncode == -signal.SIGKILL, done.stderr
            if place == "s3":
                time.sleep(AGAIN_SECS)
            if published_runs(store):
                # What is published is whole; its report can be written at any time.
                assert clear_audit("report", "--store", store).returncode == 0
            else:
                done = run("none", -1, many_shards, store, prefect_api)
                assert done.returncode == 0, done.stderr
            (finished,) = published_runs(store)
            assert list_runs(store) == [finished]
            assert content_of(finished) == expected
            assert verify(finished, known_schemas()).is_sound, verify(finished, known_schemas())
            assert finished.report.read_text(encoding="utf-8") == render(finished)
        print(f"{place}: {stage}: {KILLS} kills, spread over {count} events", flush=True)


@pytest.mark.soak
def test_a_worker_that_stands_still_for_a_minute_goes_on(
    many_shards: Path, finished: Path, prefect_api: str, tmp_path: Path
) -> None:
    store = tmp_path / "audits"
    command = [sys.executable, "-m", "tests.flows.brightness", "run", str(many_shards), "--store", str(store)]
    with (tmp_path / "stderr.txt").open("wb") as stderr:
        running = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=stderr, env=os.environ | {"PREFECT_API_URL": prefect_api}
        )
        while not list(store.glob("runs/*/commits/maps/00*.json")):
            assert running.poll() is None, (tmp_path / "stderr.txt").read_text()
            time.sleep(0.05)
        stopped = workers_of(running)[0]
        stopped.suspend()
        time.sleep(60)
        stopped.resume()
        assert running.wait(timeout=120) == 0, (tmp_path / "stderr.txt").read_text()
    (run,), (whole,) = published_runs(store), published_runs(finished)
    for name in ("samples", "responses", "confusion", "class_stats"):
        assert run.table(name).read_bytes() == whole.table(name).read_bytes()
    assert verify(run, known_schemas()).is_sound
