"""An analysis beside the maps, as whole processes: done with an audit, added to a finished one, killed, given up, resumed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from storage.filesystems import files_below
from storage.runs.commits import read_commits
from storage.runs.lookup import list_runs, published_runs
from storage.runs.run import Run, read_additions, read_manifest
from tests.flows.brightness import UNIT_SAMPLES
from tests.flows.conftest import SAMPLES, Digits, clear_audit

TABLES = ("brightness", "brightness_total", "brightness_by_label")
UNITS = -(-SAMPLES // UNIT_SAMPLES)


def audit(*arguments: object, module: str = "tests.flows.brightness", api: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PREFECT_API_URL": api} if api else {})
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)


def column(run: Run, table: str, name: str) -> np.ndarray:
    found: np.ndarray = pq.ParquetFile(run.table(table)).read()[name].to_numpy()
    return found


def content_of(run: Run) -> dict[str, bytes]:
    files = [path for path in files_below(run.maps) if path.name != "zarr.json"]
    files += [folder / "part-0.parquet" for folder in run.table_folders() if folder.parent.name not in ("runs", "gates")]
    return {path.relative_to(run.store).as_posix().replace(run.run_id, "RUN"): path.read_bytes() for path in files}


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Run:
    """A finished run that has not the analysis."""
    shutil.copytree(finished, tmp_path / "audits")
    (run,) = published_runs(tmp_path / "audits")
    return run


def test_it_is_added_to_a_finished_run_whose_maps_stay(copied: Run, digits: Digits) -> None:
    question = "SELECT count(*) FROM brightness"
    asked = audit("query", question, "--store", copied.store)
    assert asked.returncode == 2
    assert "table 'brightness' is of analysis 'brightness'" in asked.stderr
    assert "clear-audit analyse RUN brightness" in asked.stderr
    before = {path: path.read_bytes() for path in files_below(copied.folder) if path != copied.lock}

    done = audit("analyse", "latest", "brightness", "--store", copied.store, "--set", "brightness.scale=2.0")

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(copied.report)
    np.testing.assert_allclose(column(copied, "brightness", "brightness"), 2 * digits.pixels.mean((1, 2)) / 255, rtol=1e-12)
    assert column(copied, "brightness_total", "unit_count").tolist() == [UNITS]
    means = [2 * digits.pixels[digits.labels == label].mean() / 255 for label in range(10)]
    np.testing.assert_allclose(column(copied, "brightness_by_label", "brightness_mean"), means, rtol=1e-12)
    assert {path: path.read_bytes() for path in before} == before
    (addition,) = read_additions(copied)
    assert (addition.analysis, addition.processed_count, addition.options["scale"]) == ("brightness", SAMPLES, 2.0)
    assert not copied.attempts.exists()
    assert audit("query", question, "--store", copied.store, "--format", "csv").stdout.split()[-1] == str(SAMPLES)
    verified = audit("verify", "--store", copied.store)
    assert verified.returncode == 0, verified.stdout
    index = (copied.store / "reports" / "index.html").read_text(encoding="utf-8")
    assert f'<td class="number">{2 * digits.pixels.mean() / 255:.3f}</td></tr>' in index
    damaged = copied.table("brightness")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    changed = audit("verify", "--store", copied.store)
    assert (changed.returncode, "tables/brightness/" in changed.stdout) == (3, True)
    again = audit("analyse", "latest", "brightness", "--store", copied.store)
    assert again.returncode == 2
    assert "has analysis 'brightness' already" in again.stderr
    assert clear_audit("gc", "--keep", 0, "--delete", "--store", copied.store).returncode == 0
    assert not list(files_below(copied.folder))
    assert not list((copied.store / "tables").glob("*/run_id=*"))


def test_what_cannot_be_added_is_said(copied: Run) -> None:
    for name, message in {
        "brightnes": "'brightnes' is no analysis that can be added: did you mean 'brightness'?",
        "maps": "'maps' is no analysis that can be added",
        "evidence": "has analysis 'evidence' already",
    }.items():
        done = audit("analyse", "latest", name, "--store", copied.store)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not copied.added.exists()
    assert not copied.attempts.exists()


@pytest.mark.soak
def test_killed_while_it_computes_it_goes_on_and_other_options_compute_it_alone_again(
    digits_config: Path, prefect_api: str, tmp_path: Path
) -> None:
    """Killed in its own units, after the maps; resumed with another option; equal to one that was left alone."""
    asked = ("run", digits_config, "--set", "brightness.run=true", "--store")
    whole = audit("none", "-1", *asked, tmp_path / "whole", module="tests.flows.killing", api=prefect_api)
    assert whole.returncode == 0, whole.stderr
    events = json.loads(whole.stdout.splitlines()[-1])["computing"]
    killed = audit("computing", events - 3, *asked, tmp_path / "killed", module="tests.flows.killing", api=prefect_api)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (unfinished,) = list_runs(tmp_path / "killed")
    assert 0 < len(read_commits(unfinished, "brightness")) <= UNITS
    maps = {path.name: path.read_bytes() for path in files_below(unfinished.commits_of("maps"))}

    done = audit(*asked, tmp_path / "killed", "--set", "brightness.scale=3.0", api=prefect_api)

    assert done.returncode == 0, done.stderr
    assert "(resumed)" in done.stdout
    assert "analysis 'brightness' was done by other options" in done.stderr
    (run,), (left_alone,) = published_runs(tmp_path / "killed"), published_runs(tmp_path / "whole")
    assert run == unfinished
    assert {path.name: path.read_bytes() for path in files_below(run.commits_of("maps"))} == maps
    assert read_manifest(run).analyses["brightness"] == {"run": True, "scale": 3.0, "deadly_unit": None}
    found, expected = content_of(run), content_of(left_alone)
    ours = {f"tables/{name}/run_id=RUN/part-0.parquet" for name in TABLES}
    assert found.keys() == expected.keys() > ours
    assert {path for path in found if found[path] != expected[path]} == ours
    tripled = 3 * column(left_alone, "brightness", "brightness")
    np.testing.assert_allclose(column(run, "brightness", "brightness"), tripled, rtol=1e-15)


@pytest.mark.soak
def test_a_unit_that_kills_its_workers_is_given_up_and_the_others_are_there(
    digits_config: Path, prefect_api: str, tmp_path: Path
) -> None:
    settings = ("--set", "brightness.run=true", "--set", "brightness.deadly_unit=2", "--set", "compute.shard_tries=2")
    done = audit("run", digits_config, "--store", tmp_path, *settings, api=prefect_api)
    assert done.returncode == 3, done.stderr
    assert "unit of 'brightness' 2 is given up, for a worker died of it 2 times" in done.stderr
    (run,) = published_runs(tmp_path)
    dead = range(2 * UNIT_SAMPLES, 3 * UNIT_SAMPLES)
    assert column(run, "brightness", "sample_index").tolist() == [index for index in range(SAMPLES) if index not in dead]
    assert read_manifest(run).failed_count == 0
    commits = read_commits(run, "brightness")
    assert [index for index, commit in commits.items() if commit.is_quarantined] == [2]
    assert audit("verify", "--store", tmp_path).returncode == 0
