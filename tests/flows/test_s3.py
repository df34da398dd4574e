"""Audits whose store is in S3, as whole processes: the same to the last byte as on a disk, whatever befalls them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.analyses import known_schemas
from storage.filesystems import files_below, hash_file
from storage.runs.lookup import list_runs, published_runs
from storage.runs.run import Run, read_manifest
from storage.runs.verification import verify
from tests.flows.conftest import clear_audit
from tests.s3 import Door, environment

SAME_TABLES = [name for name in known_schemas() if name not in ("runs", "gates")]


def assert_same(run: Run, other: Run) -> None:
    """Maps, tables and pictures to the last byte, but for what says when and where they were made."""
    found = {path.relative_to(run.folder).as_posix(): hash_file(path) for path in files_below(run.maps)}
    assert found.keys() == {path.relative_to(other.folder).as_posix() for path in files_below(other.maps)}
    pictures = {path.relative_to(run.folder).as_posix(): hash_file(path) for path in files_below(run.gallery)}
    assert len(pictures) > 5
    for name, digest in (found | pictures).items():
        if name != "maps.zarr/zarr.json":  # its attributes have the run's id
            assert hash_file(other.folder / name) == digest, name
    for name in SAME_TABLES:
        assert run.table(name).read_bytes() == other.table(name).read_bytes(), name
    assert verify(run, known_schemas()).is_sound
    assert not run.attempts.exists()
    assert not run.lock.exists()


def test_an_audit_in_s3_is_the_same_as_on_a_disk_and_is_asked_alike(
    s3_store: Path, digits_config: Path, finished: Path, prefect_api: str
) -> None:
    done = clear_audit("run", digits_config, "--store", s3_store, api=prefect_api)
    assert done.returncode == 0, done.stderr
    ((run,), (other,)) = published_runs(s3_store), published_runs(finished)
    assert_same(run, other)
    assert f"s3://{run.report.path}" in done.stdout  # type: ignore[attr-defined]
    assert b"</html>" in run.report.read_bytes()
    assert (s3_store / "reports" / "index.html").exists()
    question = "SELECT label, prediction, sparseness FROM samples ORDER BY sample_index"
    answers = [clear_audit("query", question, "--format", "csv", "--store", store) for store in (s3_store, finished)]
    assert answers[0].stdout == answers[1].stdout
    assert len(answers[0].stdout.splitlines()) == 301
    assert read_manifest(run).artefacts.keys() == {
        path.replace(other.run_id, run.run_id) for path in read_manifest(other).artefacts
    }
    for path in files_below(finished):
        copy = s3_store / path.relative_to(finished).as_posix()
        if not copy.exists():
            copy.write_bytes(path.read_bytes())
    gated = digits_config.with_name("gated.toml")
    gated.write_text(digits_config.read_text() + '[[gates]]\nname = "accuracy"\nmin = 0.9\nmax_drop = 0\n')
    judged = clear_audit("check", run.run_id, "--reference", other.run_id, "--config", gated, "--store", s3_store)
    assert (judged.returncode, judged.stdout.count("passed")) == (0, 1), judged.stderr
    compared = clear_audit("compare", other.run_id, run.run_id, "--store", s3_store)
    assert compared.returncode == 0, compared.stderr
    assert "Of 300 images in both runs, 0 went from right to wrong and 0 from wrong to right" in compared.stderr
    page = s3_store / "reports" / f"{other.run_id}--{run.run_id}.html"
    assert b"</html>" in page.read_bytes()
    for verb in ("ls", "show"):
        assert other.run_id in clear_audit(verb, *[other.run_id] * (verb == "show"), "--store", s3_store).stdout


# Lost and found.


@pytest.fixture
def door(s3_port: int, s3_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """What the audits of a test reach S3 through; the test itself goes straight there."""
    door = Door(s3_port)
    yield door
    door.close()


def begin(config: Path, store: Path, api: str, port: int, said: Path) -> "subprocess.Popen[bytes]":
    """An audit that is in the middle of its shards. said: the file of what it says."""
    command = [sys.executable, "-m", "flows.cli", "run", str(config), "--store", str(store)]
    variables = os.environ | environment(port) | {"PREFECT_API_URL": api}
    with said.open("wb") as file:
        running = subprocess.Popen(command, stderr=file, stdout=subprocess.DEVNULL, env=variables)
    deadline = time.monotonic() + 120
    while not list(store.glob("runs/*/commits/maps/00*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list_runs(store)
    assert not published_runs(store)
    return running


@pytest.mark.soak
def test_an_audit_that_was_killed_is_resumed(
    s3_store: Path, s3_port: int, digits_config: Path, finished: Path, prefect_api: str, tmp_path: Path
) -> None:
    running = begin(digits_config, s3_store, prefect_api, s3_port, tmp_path / "said")
    running.send_signal(signal.SIGKILL)
    running.wait()
    ((run,), (other,)) = list_runs(s3_store), published_runs(finished)
    done = clear_audit("run", digits_config, "--store", s3_store, api=prefect_api)
    assert done.returncode == 0, done.stderr
    assert f"{run.run_id} (resumed)" in done.stdout
    assert_same(run, other)


@pytest.mark.soak
def test_a_store_that_is_lost_is_said_and_the_run_goes_on_when_it_is_back(
    s3_store: Path, door: Door, digits_config: Path, finished: Path, prefect_api: str, tmp_path: Path
) -> None:
    running = begin(digits_config, s3_store, prefect_api, door.port, tmp_path / "said")
    door.close()
    code, said = running.wait(timeout=240), (tmp_path / "said").read_text()
    assert code == 3, said
    assert "clear-audit: failed, for the store was lost (Could not connect to the endpoint URL" in said
    assert "the same command resumes the run" in said
    assert "Traceback" not in said
    (run,) = list_runs(s3_store)
    assert not published_runs(s3_store)
    before_it_begins = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", str(digits_config), "--store", str(s3_store)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | environment(door.port) | {"PREFECT_API_URL": prefect_api},
    )
    assert before_it_begins.returncode == 2
    assert "cannot be reached" in before_it_begins.stderr
    door.open()
    done = clear_audit("run", digits_config, "--store", s3_store, api=prefect_api)
    assert done.returncode == 0, done.stderr
    assert f"{run.run_id} (resumed)" in done.stdout
    assert_same(run, published_runs(finished)[0])


def test_a_place_that_is_no_store_ends_the_command_before_it_begins(digits_config: Path) -> None:
    for address, said in {
        "gs://bucket/audits": "is of a kind that is not known: name a folder, or s3://bucket/prefix",
        "s3://KEY:xyzzy@bucket/audits": "give credentials in the environment",
    }.items():
        done = clear_audit("run", digits_config, "--store", address)
        assert done.returncode == 2
        assert said in done.stderr
        assert "xyzzy" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
