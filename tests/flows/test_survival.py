"""What an audit goes through without losing anything, as whole processes: a deadly shard, a second process, a lost store."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from flows.analyses import known_schemas
from flows.analyses.runner import give_up
from flows.runtime.worker import Work
from storage.datasets.formats import open_dataset
from storage.runs.commits import read_commits
from storage.runs.lookup import published_runs
from storage.runs.plan import Unit
from storage.runs.run import MAPS, Run, read_plan
from storage.tables import PER_SHARD, SCHEMAS
from tests.flows.conftest import Digits, clear_audit, write_deadly, write_idx
from tests.flows.units import JOBS, begin_run

DEADLY_SAMPLE = 200
SHARD = range(192, 256)


@pytest.fixture
def deadly_config(digits: Digits, digits_config: Path, tmp_path: Path) -> Path:
    pixels = digits.pixels.copy()
    pixels[DEADLY_SAMPLE, 0, 0] = 255
    write_idx(tmp_path, replace(digits, pixels=pixels))
    # Where the first pixel of an image is bright.
    write_deadly(tmp_path / "deadly.py", "images.detach()[:, 0, 0, 0].max() > 0.5")
    text = digits_config.read_text().replace("flows.demo.allcnn:build", "deadly:build")
    (tmp_path / "audit.toml").write_text(text.replace("[compute]", "[compute]\nshard_tries = 2\noperator_gb = 0"))
    return tmp_path / "audit.toml"


def read(run: Run, table: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(run.table(table), partitioning=None).to_pylist()
    return found


@pytest.mark.soak
def test_a_shard_that_kills_its_worker_is_given_up_and_the_rest_completes(
    deadly_config: Path, finished: Path, prefect_api: str, tmp_path: Path
) -> None:
    done = clear_audit("run", deadly_config, "--store", tmp_path / "audits", api=prefect_api)
    assert done.returncode == 3, done.stderr
    assert "shard 3 is given up, for a worker died of it 2 times" in done.stderr
    assert "1 shard given up, for a worker died of each of 2 tries: their images are in the table 'failures'" in done.stderr
    assert "Traceback" not in done.stderr
    (run,), (whole,) = published_runs(tmp_path / "audits"), published_runs(finished)
    failures = read(run, "failures")
    assert [row["sample_index"] for row in failures] == list(SHARD)
    assert {(row["stage"], row["reason"]) for row in failures} == {
        ("compute", "its shard, 3, was given up: a worker died of it 2 times (compute.shard_tries)")
    }
    kept = [row for row in read(whole, "samples") if row["sample_index"] not in SHARD]
    names = ("sample_index", "sample_id", "label", "prediction", "dominant_class")
    assert [[row[name] for name in names] for row in read(run, "samples")] == [[row[name] for name in names] for row in kept]


def test_a_shard_that_is_given_up_has_empty_maps_and_a_failure_a_sample(digits_work: Work, tmp_path: Path) -> None:
    run, plan = begin_run(tmp_path / "store", 300, 64)
    dataset = open_dataset(digits_work.dataset)
    assert give_up(run, plan, dataset, JOBS, Unit(4, 256, 300), "it kills") == {"processed": 0, "failed": 44}
    commit = read_commits(run, MAPS)[4]
    assert commit.is_quarantined
    folder = run.attempts / commit.attempt
    rows = pq.read_table(folder / "failures.parquet").to_pylist()
    assert [(row["sample_index"], row["sample_id"]) for row in rows] == [(index, f"{index:05d}") for index in range(256, 300)]
    for name in PER_SHARD:
        table = pq.read_table(folder / f"{name}.parquet")
        assert table.schema.names == SCHEMAS[name].names
        assert table.num_rows == (44 if name == "failures" else 0)
    maps = zarr.open_group(folder / "maps.zarr", mode="r")
    assert (np.asarray(maps["dominant_class"])[:44] == -1).all()
    assert (np.asarray(maps["dominant_response"]) == 0).all()
    evidence = read_commits(run, "evidence")[4]
    assert evidence.is_quarantined
    assert pq.read_table(run.attempts / evidence.attempt / "evidence.parquet").num_rows == 0


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 700 kB, less than the maps and tables of the digits take."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.soak
def test_a_full_disk_is_said_and_the_run_goes_on_when_there_is_room(
    full_disk: Path, digits_config: Path, finished: Path, prefect_api: str
) -> None:
    store = full_disk / "audits"
    failed = clear_audit("run", digits_config, "--store", store, api=prefect_api)
    assert failed.returncode == 3, failed.stderr
    print(failed.stderr)
    assert "No space left on device" in failed.stderr
    assert "the same command resumes the run" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not published_runs(store)
    subprocess.run(["mount", "-o", "remount,size=50m", str(full_disk)], check=True)
    done = clear_audit("run", digits_config, "--store", store, api=prefect_api)
    assert done.returncode == 0, done.stderr
    assert_same(published_runs(store)[0], published_runs(finished)[0])


@pytest.mark.soak
def test_a_store_that_is_read_only_is_said(full_disk: Path, digits_config: Path, prefect_api: str) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(full_disk)], check=True)
    failed = clear_audit("run", digits_config, "--store", full_disk / "audits", api=prefect_api)
    assert failed.returncode == 3
    assert "Read-only file system" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert list(full_disk.iterdir()) == []


def assert_same(run: Run, other: Run) -> None:
    """Maps and tables to the last byte, but for what says when and where they were made."""
    assert read_plan(run).dataset_hash == read_plan(other).dataset_hash
    for name in [name for name in known_schemas() if name not in ("runs", "gates")]:
        assert run.table(name).read_bytes() == other.table(name).read_bytes(), name
    chunks = {path.relative_to(run.maps) for path in run.maps.glob("*/c/**/*") if path.is_file()}
    assert chunks == {path.relative_to(other.maps) for path in other.maps.glob("*/c/**/*") if path.is_file()}
    for path in chunks:
        assert (run.maps / path).read_bytes() == (other.maps / path).read_bytes(), path


def test_a_worker_that_was_presumed_dead_cannot_spoil_a_finished_run(finished: Path, digits_work: Work, tmp_path: Path) -> None:
    """It begins its shard, is thought dead; the run ends; it comes back and commits."""
    shutil.copytree(finished, tmp_path / "store")
    (run,) = published_runs(tmp_path / "store")
    before = {path: path.read_bytes() for path in run.store.rglob("*") if path.is_file()}
    run.attempts.mkdir()
    plan, dataset = read_plan(run), open_dataset(digits_work.dataset)
    give_up(run, plan, dataset, JOBS, Unit(0, 0, 64), "late")
    assert {path: path.read_bytes() for path in run.store.rglob("*") if path.is_file()} == before
    assert list(run.attempts.iterdir()) == []
    run.attempts.rmdir()
    with pytest.raises(FileNotFoundError):
        give_up(run, plan, dataset, JOBS, Unit(0, 0, 64), "later")
    assert {path: path.read_bytes() for path in run.store.rglob("*") if path.is_file()} == before
