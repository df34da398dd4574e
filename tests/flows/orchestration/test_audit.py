"""Whole audits of real digits, read back through DuckDB, Zarr and the files themselves."""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from distributed import LocalCluster
from PIL import Image

from auditor import Clear
from flows.analyses import known_schemas
from flows.demo.allcnn import build
from flows.stages.compute import remaining
from flows.stages.publish import git_state
from storage.maps import open_maps
from storage.models.factories import FactorySpec
from storage.models.sources import load_model
from storage.runs.commits import read_commits
from storage.runs.lock import hold
from storage.runs.lookup import list_runs, published_runs
from storage.runs.plan import Trigger
from storage.runs.run import MAPS, Run, read_manifest, read_plan
from storage.runs.verification import verify
from storage.sql.read_only import connect, select
from storage.tables import write_table
from tests.flows.conftest import DEMO, MODEL, SAMPLES, Digits, clear_audit
from tests.flows.units import JOBS
from tests.reports.stores import SMALL, make_plan


def only_run(store: Path) -> Run:
    (run,) = published_runs(store)
    return run


def rows(store: Path, sql: str) -> list[dict[str, object]]:
    result: list[dict[str, object]] = select(connect(store, [only_run(store).run_id]), sql).to_pylist()
    return result


@pytest.fixture(scope="module")
def expected(digits: Digits) -> dict[str, np.ndarray]:
    """Maps and predictions computed here, in one batch, without pipeline, storage or statistics."""
    model = load_model(FactorySpec("flows.demo.allcnn:build", str(DEMO / "allcnn.safetensors")))
    images = torch.from_numpy(digits.pixels / np.float32(255))[:, None]
    maps = Clear(model, "linear")(images)
    with torch.no_grad():
        predictions = model(images).argmax(1)
    return {
        "dominant_class": maps.dominant_class.numpy(),
        "dominant_response": maps.dominant_response.numpy(),
        "prediction": predictions.numpy(),
    }


def test_zarr_holds_the_maps_of_every_digit(finished: Path, expected: dict[str, np.ndarray]) -> None:
    maps = open_maps(only_run(finished).maps)
    peaks = maps["response_peak"][:]
    response = maps["dominant_response"][:].astype(np.float32) * peaks[:, None, None]
    np.testing.assert_allclose(peaks, expected["dominant_response"].max((1, 2)), rtol=1e-4)
    np.testing.assert_allclose(response, expected["dominant_response"], atol=peaks.max() * 2**-11, rtol=2**-10)
    # Batches of another size round differently: a class may change where two classes are equally strong.
    differs = maps["dominant_class"][:] != expected["dominant_class"]
    assert differs.mean() < 1e-4


def test_samples_hold_prediction_and_label_of_every_digit(
    finished: Path, digits: Digits, expected: dict[str, np.ndarray]
) -> None:
    found = rows(finished, "SELECT * FROM samples ORDER BY sample_index")
    assert [row["sample_index"] for row in found] == list(range(SAMPLES))
    assert [row["label"] for row in found] == digits.labels.tolist()
    assert [row["prediction"] for row in found] == expected["prediction"].tolist()
    assert [row["is_correct"] for row in found] == (expected["prediction"] == digits.labels).tolist()
    assert found[7]["content_hash"] == hashlib.sha256(digits.pixels[7].tobytes()).hexdigest()


def test_energy_shares_follow_from_the_maps(finished: Path) -> None:
    maps = open_maps(only_run(finished).maps)
    classes, response = maps["dominant_class"][:], maps["dominant_response"][:].astype(np.float64)
    for row in rows(finished, "SELECT * FROM samples ORDER BY sample_index LIMIT 50"):
        own_classes, own_response = classes[row["sample_index"]], response[row["sample_index"]]
        shares = np.array([own_response[own_classes == c].sum() for c in range(10)]) / own_response.sum()
        assert row["dominant_class"] == shares.argmax()
        assert row["dominant_energy_frac"] == pytest.approx(shares.max(), rel=1e-3)
        assert row["prediction_energy_frac"] == pytest.approx(shares[row["prediction"]], rel=1e-3)
        assert row["label_energy_frac"] == pytest.approx(shares[row["label"]], rel=1e-3)
        assert row["positive_area_frac"] == pytest.approx((own_classes >= 0).mean())


def test_responses_have_a_row_for_each_digit_and_class(finished: Path) -> None:
    (row,) = rows(finished, "SELECT count(*) AS n, count(DISTINCT (sample_index, class_index)) AS keys FROM responses")
    assert row == {"n": SAMPLES * 10, "keys": SAMPLES * 10}
    (row,) = rows(
        finished, "SELECT max(abs(s - 1)) AS off FROM (SELECT sum(probability) AS s FROM responses GROUP BY sample_index)"
    )
    assert row["off"] == pytest.approx(0, abs=1e-5)


def test_aggregates_agree_with_the_samples(finished: Path, digits: Digits, expected: dict[str, np.ndarray]) -> None:
    (run,) = rows(finished, "SELECT * FROM runs")
    assert (run["sample_count"], run["processed_count"], run["failed_count"]) == (SAMPLES, SAMPLES, 0)
    assert run["correct_frac"] == pytest.approx((expected["prediction"] == digits.labels).mean())
    counts = rows(finished, "SELECT class_index, sample_count FROM class_stats ORDER BY class_index")
    assert [row["sample_count"] for row in counts] == np.bincount(digits.labels, minlength=10).tolist()
    (total,) = rows(finished, "SELECT sum(sample_count)::INT AS n FROM confusion")
    assert total["n"] == SAMPLES


def test_manifest_hashes_are_those_of_the_files(finished: Path) -> None:
    run = only_run(finished)
    manifest = read_manifest(run)
    for path, digest in manifest.artefacts.items():
        assert hashlib.sha256((finished / path).read_bytes()).hexdigest() == digest, path
    written = {path.relative_to(finished).as_posix() for path in run.maps.glob("*/c/**/*") if path.is_file()}
    written |= {run.table(name).relative_to(finished).as_posix() for name in known_schemas()}
    written |= {path.relative_to(finished).as_posix() for path in run.commits.glob("*/*.json")}
    assert written <= set(manifest.artefacts)
    assert not run.attempts.exists()


@pytest.mark.parametrize(
    ("maps", "evidence", "left"),
    [([], [], [0, 1, 2]), ([0, 1], [1, 2], [0, 2]), ([0, 1, 2], [0, 2], [1]), ([0, 1, 2], [2, 1, 0], [])],
)
def test_a_unit_is_done_that_is_not_committed_in_all_analyses_of_its_pass(
    maps: list[int], evidence: list[int], left: list[int]
) -> None:
    plan = make_plan(SMALL).model_copy(update={"sample_count": 40})
    session = SimpleNamespace(commits={"maps": dict.fromkeys(maps), "evidence": dict.fromkeys(evidence)})
    found = remaining(session, SimpleNamespace(plan=plan), JOBS)  # type: ignore[arg-type]
    assert found == [plan.shards()[index] for index in left]


def test_summary_names_the_figures_and_the_files(finished: Path) -> None:
    summary = (finished / "stdout.txt").read_text()
    run = only_run(finished)
    (row,) = rows(finished, "SELECT * FROM runs")
    assert f"{100 * row['correct_frac']:.2f} %" in summary
    assert f"{100 * row['agreement_frac']:.2f} %" in summary
    assert f"{row['sparseness_mean']:.3f}" in summary
    assert str(run.report) in summary
    assert run.report.is_file()


def test_gallery_shows_input_heatmap_and_clear_map(finished: Path, digits: Digits) -> None:
    run = only_run(finished)
    gallery = json.loads((run.gallery / "gallery.json").read_text())
    assert len(gallery["colors"]) == 10
    assert gallery["samples"]
    for sample in gallery["samples"]:
        index = sample["sample_index"]
        shown = np.asarray(Image.open(run.gallery / f"{index:06d}-input.png"))
        np.testing.assert_array_equal(shown, np.repeat(digits.pixels[index][:, :, None], 3, axis=2))
        for kind in ("heatmap", "clear"):
            assert np.asarray(Image.open(run.gallery / f"{index:06d}-{kind}.png")).shape == (28, 28, 4)


def test_what_was_found_of_the_model_is_said_wherever_one_looks(finished: Path) -> None:
    """300 digits and ten classes are worth the 490 passes of an operator."""
    run = only_run(finished)
    found = read_plan(run).examination
    assert found is not None
    assert found.fold is not None
    assert (found.sample_count, found.precision_agreement_frac, found.fold_reason) == (64, None, None)
    assert read_manifest(run).examination == found
    (row,) = rows(finished, "SELECT * FROM runs")
    assert (row["is_folded"], row["fold_deviation"], row["fold_reason"]) == (True, found.fold_deviation, None)
    assert (row["reduction"], row["head"], row["competing_count"], row["model_program"]) == ("sum", None, None, None)
    assert (row["left_out_frac_mean"], row["left_out_frac_max"]) == (0, 0)
    assert open_maps(run.maps).attrs["is_folded"] is True
    assert [path.suffix for path in (finished / "operators").iterdir()] == [".safetensors"]
    assert "maps: a fixed operator, from the classes back to " in (finished / "stderr.txt").read_text()
    assert "built by 490 passes through the network" in run.report.read_text(encoding="utf-8")


def test_what_started_the_run_is_recorded(finished: Path) -> None:
    run = only_run(finished)
    trigger = read_plan(run).trigger
    assert trigger is not None
    assert read_manifest(run).trigger == trigger
    assert trigger == Trigger(kind="command line", flow_run_id=trigger.flow_run_id)
    with sqlite3.connect(Path(os.environ["PREFECT_HOME"]) / "prefect.db") as database:
        named = database.execute(
            "SELECT f.name FROM flow_run r JOIN flow f ON f.id = r.flow_id WHERE r.id = ?", [trigger.flow_run_id]
        )
        assert named.fetchall() == [("audit",)]
    assert f"command line; flow run {trigger.flow_run_id}" in run.report.read_text(encoding="utf-8")


def test_killed_run_is_resumed_by_one_process_and_equals_one_that_was_not(
    digits_config: Path, finished: Path, prefect_api: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    store = tmp_path / "audits"
    command = [sys.executable, "-m", "flows.cli", "run", str(digits_config), "--store", str(store)]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (commits := list(store.glob("runs/*/commits/maps/00*.json"))) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert commits
    with hold(list_runs(store)[0]):
        refused = clear_audit("run", digits_config, "--store", store, api=prefect_api)
    assert refused.returncode == 2
    assert f"run '{list_runs(store)[0].run_id}' is being worked on by another process: wait until it has" in refused.stderr
    assert len(list_runs(store)) == 1
    assert not published_runs(store)
    # What lies in the store is not what was written: other probabilities, and arrays of another run.
    (unfinished,) = list_runs(store)
    damaged = min(read_commits(unfinished, MAPS).values(), key=lambda commit: commit.unit)
    samples = unfinished.attempts / damaged.attempt / "samples.parquet"
    rows = pq.read_table(samples)
    write_table(rows.set_column(rows.column_names.index("prediction"), "prediction", rows["label"]), samples)
    unfinished.maps.mkdir()
    (unfinished.maps / "zarr.json").write_text("{")
    (unfinished.maps / "left.txt").write_text("x")
    first = {path: path.stat().st_mtime_ns for path in store.glob("runs/*/commits/*/00*.json")}
    del first[unfinished.commits_of(MAPS) / f"{damaged.unit:05d}.json"]

    done = clear_audit("run", digits_config, "--store", store, api=prefect_api)
    assert done.returncode == 0, done.stderr
    assert "(resumed)" in done.stdout or not first
    record = f"commits/maps/{damaged.unit:05d}.json"
    assert f"{record}' does not hold, and its unit is computed again: 'samples.parquet'" in done.stderr
    assert len(list_runs(store)) == 1
    assert verify(only_run(store), known_schemas()).is_sound
    assert read_plan(only_run(store)).trigger != read_manifest(only_run(store)).trigger
    assert {path: path.stat().st_mtime_ns for path in first} == first
    names = {"samples", "responses", "failures", "confusion", "class_stats", "localization", "evidence"}
    for name in names:
        assert only_run(store).table(name).read_bytes() == only_run(finished).table(name).read_bytes(), name
    for path in only_run(finished).maps.glob("*/c/**/*"):
        if path.is_file():
            assert (only_run(store).maps / path.relative_to(only_run(finished).maps)).read_bytes() == path.read_bytes()


def test_interrupted_run_ends_with_code_130_and_is_resumed(digits_config: Path, prefect_api: str, tmp_path: Path) -> None:
    store = tmp_path / "audits"
    command = [sys.executable, "-m", "flows.cli", "run", str(digits_config), "--store", str(store)]
    environment = os.environ | {"PREFECT_API_URL": prefect_api}
    # A session of its own: Ctrl-C reaches every process of a terminal's foreground group.
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)
    deadline = time.monotonic() + 120
    while not list(store.glob("runs/*/plan.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGINT)
    _, stderr = running.communicate(timeout=120)
    assert running.returncode == 130, stderr
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert not published_runs(store)
    done = clear_audit("run", digits_config, "--store", store, api=prefect_api)
    assert done.returncode == 0, done.stderr
    assert len(list_runs(store)) == 1


def as_program(digits_config: Path, folder: Path) -> Path:
    """A config beside the digits' own, whose model is the same network as an exported program."""
    model = load_model(FactorySpec("flows.demo.allcnn:build", str(DEMO / "allcnn.safetensors")))
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (torch.zeros(2, 1, 28, 28),), dynamic_shapes=shapes)  # type: ignore[arg-type]
    torch.export.save(program, folder / "network.pt2")
    text = digits_config.read_text().replace(f'weights = "{(DEMO / "allcnn.safetensors").as_posix()}"', "")
    text = text.replace('factory = "flows.demo.allcnn:build"', 'program = "network.pt2"')
    for name in ("images.idx", "labels.idx"):
        text = text.replace(name, (digits_config.parent / name).as_posix())
    path = folder / "program.toml"
    path.write_text(text)
    return path


@pytest.mark.soak
def test_exported_program_gives_the_tables_of_its_module(
    digits_config: Path, finished: Path, prefect_api: str, tmp_path: Path
) -> None:
    store = tmp_path / "audits"
    config = as_program(digits_config, tmp_path)
    done = clear_audit("run", config, "--store", store, api=prefect_api)
    assert done.returncode == 0, done.stderr
    for table in ("samples", "responses", "class_stats", "confusion", "localization"):
        own, other = (rows(place, f"SELECT * EXCLUDE run_id FROM {table} ORDER BY ALL") for place in (store, finished))
        assert len(own) == len(other)
        for mine, theirs in zip(own, other, strict=True):
            # A pixel whose two strongest classes are equal but for rounding may go to the other.
            assert mine == {
                name: pytest.approx(value, rel=2e-3, abs=2e-3) if isinstance(value, float) else value
                for name, value in theirs.items()
            }
    (run,) = rows(store, "SELECT * FROM runs")
    assert (run["model_factory"], run["model_program"]) == (None, str(tmp_path / "network.pt2"))
    assert run["model_hash"] != rows(finished, "SELECT * FROM runs")[0]["model_hash"]


@pytest.mark.soak
def test_half_precision_few_classes_and_another_rule(digits_config: Path, prefect_api: str, tmp_path: Path) -> None:
    store = tmp_path / "audits"
    settings = {"method.precision": "bfloat16", "method.top_k": 3, "method.rule": "lrp_epsilon", "method.head": "15"}
    flags = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    done = clear_audit("run", digits_config, "--store", store, *flags, api=prefect_api)
    assert done.returncode == 0, done.stderr
    assert "without a fixed operator" not in done.stderr
    assert "precision: bfloat16 has the dominant class of float32 at " in done.stderr
    (run,) = rows(store, "SELECT * FROM runs")
    found = read_manifest(only_run(store)).examination
    assert found is not None
    assert (run["is_folded"], run["fold_reason"]) == (False, found.fold_reason)
    assert run["precision_agreement_frac"] == found.precision_agreement_frac
    assert (run["competing_count"], run["head"], run["rule"]) == (3, "15", "lrp_epsilon")
    assert not (store / "operators").exists()
    # Of three of ten classes something is left out, and the logits of all are in no table: from the seeds themselves.
    (left,) = rows(store, "SELECT avg(left_out_frac) AS mean, max(left_out_frac) AS max, count(*) AS n FROM samples")
    assert 0 < left["mean"] < left["max"] < 1
    assert (run["left_out_frac_mean"], run["left_out_frac_max"]) == pytest.approx((left["mean"], left["max"]))


FLOW_ALONE = """
import sys
from pathlib import Path
from flows.orchestration.audit import audit
from flows.config import load_config

if __name__ == "__main__":
    print(audit(load_config(Path(sys.argv[1])).model_dump(mode="json"), sys.argv[2]).processed)
"""


@pytest.mark.soak
def test_flow_that_prefect_starts_opens_what_it_needs(
    digits_config: Path, finished: Path, prefect_api: str, tmp_path: Path
) -> None:
    (tmp_path / "alone.py").write_text(FLOW_ALONE)
    store = tmp_path / "audits"
    done = subprocess.run(
        [sys.executable, tmp_path / "alone.py", digits_config, store],
        env=os.environ | {"PREFECT_API_URL": prefect_api, "PYTHONPATH": str(DEMO.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(SAMPLES)
    assert only_run(store).table("samples").read_bytes() == only_run(finished).table("samples").read_bytes()


def test_same_config_again_is_a_new_run_that_is_judged_against_the_first(
    digits_config: Path, finished: Path, prefect_api: str, tmp_path: Path
) -> None:
    store = tmp_path / "audits"
    shutil.copytree(finished, store)
    # What another run has of damage, and what can be made anew, holds up nothing.
    (store / "reports" / "index.json").write_text('{"schema": "clear-audit/index/1", "runs": [{"run_id": "x", "name": "x"}]}')
    broken_run = Run(store, "20200101T000000Z-digits-0000")
    shutil.copytree(only_run(store).folder, broken_run.folder)
    for name in known_schemas():
        broken_run.table(name).parent.mkdir()
        broken_run.table(name).write_bytes(b"PAR1")
    moved = '{ name = "accuracy", max_drop = 0, max_rise = 0 }'
    broken = '{ name = "too_many", sql = "SELECT count(*) FROM samples", max = 7 }'
    done = clear_audit("run", digits_config, "--store", store, "--set", f"gates=[{moved}, {broken}]", api=prefect_api)
    assert done.returncode == 1, done.stderr
    assert "clear-audit: gate 'too_many' failed: 300 is above the most allowed, 7" in done.stderr
    assert "1 passed, 1 failed" in done.stdout
    assert "(resumed)" not in done.stdout
    _, first, second = published_runs(store)
    assert first.table("samples").read_bytes() == second.table("samples").read_bytes()
    sql = "SELECT gate_name, outcome, value = reference_value AS same, reference_run_id FROM gates ORDER BY ALL"
    judged = select(connect(store, [second.run_id]), sql).to_pylist()
    assert judged == [
        {"gate_name": "accuracy", "outcome": "passed", "same": True, "reference_run_id": first.run_id},
        {"gate_name": "too_many", "outcome": "failed", "same": True, "reference_run_id": first.run_id},
    ]
    assert second.table("gates").relative_to(store).as_posix() in read_manifest(second).artefacts
    assert clear_audit("check", second.run_id, "--store", store).returncode == 1
    compared = clear_audit("compare", "--store", store)
    assert compared.returncode == 1
    assert "0 went from right to wrong" in compared.stderr
    index = (store / "reports" / "index.html").read_text(encoding="utf-8")
    assert f'href="{first.run_id}.html"' in index
    assert f"cannot be read, and is not shown: {broken_run.run_id}" in index


def write_folder(folder: Path, digits: Digits) -> None:
    """Twenty digits as PNG files in class folders, one of them cut short and one empty."""
    for index in range(20):
        path = folder / str(digits.labels[index]) / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.pixels[index]).save(path)
    damaged = sorted(folder.glob("*/*.png"))[:2]
    damaged[0].write_bytes(damaged[0].read_bytes()[:60])
    damaged[1].write_bytes(b"")


FOLDER_CONFIG = (
    """
[dataset]
format = "folder"
path = "images"
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
"""
    + MODEL
    + """
[method]
rule = "gradient"
[compute]
workers = 1
"""
)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names that are text")
def test_corrupt_images_are_failures_and_too_many_end_with_code_3(digits: Digits, prefect_api: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "images", digits)
    last = sorted((tmp_path / "images").glob("*/*.png"))[-1]
    last.rename(last.with_name(os.fsdecode(b"\xe9.png")))
    (last.parent / "1.heic").write_bytes(b"")
    config = tmp_path / "audit.toml"
    config.write_text(FOLDER_CONFIG.format(weights=(DEMO / "allcnn.safetensors").as_posix()))
    store = tmp_path / "audits"

    done = clear_audit("run", config, "--store", store, api=prefect_api)
    assert done.returncode == 3
    assert "2 of 20 samples failed" in done.stderr
    assert "limits.failed_frac_max" in done.stderr
    assert "18 of 20, 2 failed" in done.stdout
    assert "dataset: 1 file with other suffixes (.heic 1) passed over" in done.stderr
    damaged = sorted(path.relative_to(tmp_path / "images").as_posix() for path in (tmp_path / "images").glob("*/*.png"))[:2]
    failures = rows(store, "SELECT * FROM failures ORDER BY sample_index")
    assert [(row["sample_id"], row["stage"]) for row in failures] == [(name, "read") for name in damaged]
    assert all(row["reason"] for row in failures)
    measured = rows(store, "SELECT sample_index, sample_id FROM samples ORDER BY sample_index")
    assert [row["sample_index"] for row in measured] == list(range(2, 20))
    assert measured[-1]["sample_id"] == f"{last.parent.name}/\\xe9.png"
    maps = open_maps(only_run(store).maps)
    assert (maps["dominant_class"][:2] == -1).all()
    assert (maps["response_peak"][:2] == 0).all()

    allowed = clear_audit("run", config, "--store", tmp_path / "allowed", "--set", "limits.failed_frac_max=0.1", api=prefect_api)
    assert allowed.returncode == 0, allowed.stderr


def test_classes_that_are_not_the_models_write_nothing(digits_config: Path, prefect_api: str, tmp_path: Path) -> None:
    eleven = json.dumps([str(index) for index in range(11)])
    done = clear_audit("run", digits_config, "--store", tmp_path / "a", "--set", f"dataset.classes={eleven}", api=prefect_api)
    assert done.returncode == 2
    assert "11 classes" in done.stderr
    assert "10 outputs" in done.stderr
    assert not (tmp_path / "a").exists()


def test_weights_that_do_not_fit_write_nothing(digits_config: Path, prefect_api: str, tmp_path: Path) -> None:
    done = clear_audit("run", digits_config, "--store", tmp_path / "a", "--set", "model.arguments.width=16", api=prefect_api)
    assert done.returncode == 2
    assert "'0.weight' is (32, 1, 3, 3) in the file and (16, 1, 3, 3) in the model" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.soak
def test_existing_scheduler_is_used_and_left_running(
    digits_config: Path, finished: Path, prefect_api: str, tmp_path: Path
) -> None:
    store = tmp_path / "audits"
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        # Its workers have another working directory, in which the store must not be looked for.
        arguments = ["run", digits_config, "--store", "audits", "--set", f"compute.cluster={address}"]
        done = clear_audit(*arguments, api=prefect_api, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(cluster.scheduler.workers) == 1
    assert only_run(store).table("samples").read_bytes() == only_run(finished).table("samples").read_bytes()


@pytest.mark.soak
def test_scheduler_that_does_not_answer_is_named(digits_config: Path, prefect_api: str, tmp_path: Path) -> None:
    done = clear_audit(
        "run", digits_config, "--store", tmp_path / "a", "--set", "compute.cluster=tcp://127.0.0.1:9", api=prefect_api
    )
    assert done.returncode == 2
    assert "tcp://127.0.0.1:9" in done.stderr
    assert not (tmp_path / "a").exists()


FACTORY = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(3, 4, 7, stride=8), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def test_config_that_init_writes_runs_after_three_edits(prefect_api: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for index in range(3):
            path = tmp_path / "photographs" / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (240, 300, 3), dtype=np.uint8)).save(path)
    (tmp_path / "pets.py").write_text(FACTORY)
    namespace: dict[str, object] = {}
    exec(FACTORY, namespace)
    torch.manual_seed(0)
    torch.save(namespace["build"]().state_dict(), tmp_path / "pets.pt")  # type: ignore[operator]

    assert clear_audit("init", tmp_path / "audit.toml").returncode == 0
    text = (tmp_path / "audit.toml").read_text()
    edits = {'"images"': '"photographs"', '"my_model:build"': '"pets:build"', '"model.safetensors"': '"pets.pt"'}
    assert text.count("# EDIT") == len(edits)
    for before, after in edits.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    (tmp_path / "audit.toml").write_text(text)
    done = clear_audit(
        "run", tmp_path / "audit.toml", "--store", tmp_path / "audits", "--set", "compute.workers=1", api=prefect_api
    )
    assert done.returncode == 0, done.stderr
    assert "6 of 6, 0 failed" in done.stdout


def test_demo_model_is_the_papers_kind() -> None:
    """3 × 3 convolutions, a last 1 × 1 convolution with one kernel a class, then the global average."""
    *body, last, average, _flatten = list(build())
    kernels = [module.kernel_size for module in body if isinstance(module, torch.nn.Conv2d)]
    assert set(kernels) == {(3, 3)}
    assert last.kernel_size == (1, 1)
    assert last.out_channels == 10
    assert isinstance(average, torch.nn.AdaptiveAvgPool2d)
    assert (DEMO / "allcnn.safetensors").stat().st_size <= 4_000_000


def test_git_names_the_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_state(str(tmp_path)) == {}
    git("init")
    (tmp_path / "audit.toml").write_text("one")
    git("add", ".")
    git("commit", "-m", "one")
    git("tag", "-a", "v1", "-m", "v1")
    commit = git("rev-parse", "HEAD")
    assert git_state(str(tmp_path)) == {"git": commit}
    (tmp_path / "audit.toml").write_text("two")
    assert git_state(str(tmp_path)) == {"git": f"{commit}-dirty"}
    assert git_state(str(tmp_path / "none")) == {}
