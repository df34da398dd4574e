"""Whether a finished run's files are what was written: on a run that is damaged in every way."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.analyses import known_schemas
from flows.cli.app import app
from storage.filesystems import files_below, hash_file, put_folder, scratch
from storage.maps import MapShape, create_maps
from storage.runs.lookup import published_runs
from storage.runs.retention import sweep
from storage.runs.run import MAPS, Run, read_manifest, read_plan
from storage.runs.verification import Verification, verify
from storage.tables import write_table
from tests.reports.stores import SMALL, make_store

Damage = Callable[[Run], Path]


@pytest.fixture
def run(store_place: Path) -> Run:
    return make_run(store_place)


def make_run(store_place: Path) -> Run:
    """A finished run whose manifest has the hashes of its files, worked out here."""
    made = make_store(store_place, SMALL)
    shape = MapShape(read_plan(made).sample_count, 28, 28, 16)
    with scratch(store_place) as folder:
        for name, array in create_maps(folder / "maps", shape, {"run_id": made.run_id}).items():
            array[:] = 1 if name == "response_peak" else np.ones((shape.samples, 28, 28))
        put_folder(folder / "maps", made.maps)
    files = [path for path in files_below(made.folder) if path.name not in ("plan.json", "manifest.json")]
    files += (store_place / "tables").rglob("*.parquet")
    hashes = {path.relative_to(store_place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    plan_hash = hashlib.sha256((made.folder / "plan.json").read_bytes()).hexdigest()
    manifest = read_manifest(made).model_copy(update={"artefacts": hashes, "plan_hash": plan_hash})
    made.manifest.write_text(manifest.model_dump_json())
    return made


def test_a_run_as_it_was_written_is_sound(run: Run) -> None:
    heard: list[tuple[int, int]] = []
    found = verify(run, known_schemas(), lambda done, total: heard.append((done, total)))
    assert found.is_sound
    assert found.checked > 10
    assert heard == [(done, found.checked) for done in range(1, found.checked + 1)]


@pytest.mark.parametrize("version", ["v1", "v5", "v6"])
def test_a_run_of_an_older_version_is_sound(version: str) -> None:
    store = Path(__file__).parents[1] / "old_stores" / version
    (run,) = published_runs(store)
    found = verify(run, known_schemas())
    # Of the first, no arrays are kept here.
    assert all("/maps.zarr/" in path for path in found.missing) == (version == "v1") or not found.missing
    assert replace(found, missing=[]).is_sound


def test_half_of_a_record_that_a_kill_left_is_no_part_of_the_run_and_swept(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for name in (".manifest.json-de360174", "commits/maps/.00000.json-0a1b2c3d"):
        (run.folder / name).write_text("{")
    assert verify(run, known_schemas()).is_sound
    sweep(tmp_path)
    assert not list(run.folder.glob(".*"))
    assert verify(run, known_schemas()).is_sound


def flip_a_byte(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-1])
    return path


def remove(path: Path) -> Path:
    path.unlink()
    return path


def add_to(path: Path) -> Path:
    path.write_text(path.read_text() + "\n")
    return path


def add(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"more")
    return path


@pytest.mark.parametrize("store_place", ["disk"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda run: flip_a_byte(run.table("samples")), "changed"),
        (lambda run: cut(run.maps / "dominant_class" / "c" / "0" / "0" / "0"), "changed"),
        (lambda run: flip_a_byte(run.folder / "plan.json"), "changed"),
        (lambda run: add_to(run.maps / "zarr.json"), "changed"),
        (lambda run: add_to(run.maps / "dominant_class" / "zarr.json"), "changed"),
        (lambda run: add_to(commit(run)), "changed"),
        (lambda run: remove(run.maps / "response_peak" / "zarr.json"), "missing"),
        (lambda run: remove(commit(run)), "missing"),
        (lambda run: add(run.commits_of(MAPS) / "00001.json"), "unknown"),
        (lambda run: add(run.folder / "notes.txt"), "unknown"),
        (lambda run: add(run.maps / "more" / "zarr.json"), "unknown"),
        (lambda run: remove(run.table("confusion")), "missing"),
        (lambda run: remove(run.maps / "response_peak" / "c" / "0"), "missing"),
        (lambda run: add(run.table("samples").with_name("part-1.parquet")), "unknown"),
        (lambda run: add(run.maps / "dominant_class" / "c" / "0" / "0" / "9"), "unknown"),
        (lambda run: add(run.gallery / "000099-clear.png"), "unknown"),
    ],
)
def test_damage_is_found_and_named(run: Run, damage: Damage, kind: str) -> None:
    checked = verify(run, known_schemas()).checked
    path = damage(run).relative_to(run.store).as_posix()
    found = verify(run, known_schemas())
    nothing: dict[str, list[str]] = {"changed": [], "missing": [], "unknown": []}
    assert found == Verification(checked, **nothing | {kind: [path]}, faults=found.faults)
    done = CliRunner().invoke(app, ["verify", run.run_id, "--store", str(run.store)])
    assert done.exit_code == 3
    assert done.stdout.splitlines()[0].split() == [kind, path]
    assert f"run '{run.run_id}' is not as it was written" in done.stderr


def test_damage_in_s3_is_found_and_named(s3_store: Path) -> None:
    run = make_run(s3_store)
    checked = verify(run, known_schemas()).checked
    changed, missing = run.maps / "dominant_class" / "c" / "0" / "0" / "0", run.table("confusion")
    unknown = run.gallery / "000099-clear.png"
    flip_a_byte(changed), remove(missing), add(unknown)
    found = verify(run, known_schemas())
    names = ([path.relative_to(run.store).as_posix()] for path in (changed, missing, unknown))
    assert found == Verification(checked, *names, faults=[])
    done = CliRunner().invoke(app, ["verify", run.run_id, "--store", str(run.store)])
    assert done.exit_code == 3
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["changed", "missing", "unknown"]


def test_the_command_says_that_all_is_well(run: Run) -> None:
    done = CliRunner().invoke(app, ["verify", "--store", str(run.store)])
    assert (done.exit_code, done.stdout.endswith("files are as they were written\n")) == (0, True)


def test_a_store_with_damaged_tables_says_how_to_find_them(tmp_path: Path) -> None:
    run = make_store(tmp_path, SMALL)
    cut(run.table("samples"))
    done = CliRunner().invoke(app, ["query", "SELECT 1", "--store", str(tmp_path)])
    assert done.exit_code == 2
    assert "table 'samples' cannot be read: 'clear-audit verify RUN' says what is damaged" in done.stderr


# What the hashes do not tell: whoever wrote the files has written the manifest to fit.


def sign(run: Run) -> None:
    """Has the manifest name the files as they are."""
    manifest = read_manifest(run)
    hashes = {path: hash_file(run.store / path) for path in manifest.artefacts if (run.store / path).exists()}
    signed = manifest.model_copy(update={"artefacts": hashes, "plan_hash": hash_file(run.plan)})
    run.manifest.write_text(signed.model_dump_json())


def rewrite(table: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Run], None]:
    return lambda run: write_table(change(pq.read_table(run.table(table), partitioning=None)), run.table(table))


def edit(path: Callable[[Run], Path], **changes: object) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        record = json.loads(path(run).read_text())
        path(run).write_text(json.dumps(record | changes))

    return change


def commit(run: Run) -> Path:
    return run.commits_of(MAPS) / "00000.json"


def retype(name: str, **changes: object) -> Callable[[Run], None]:
    return edit(lambda run: run.maps / name / "zarr.json", **changes)


@pytest.mark.parametrize("store_place", ["disk"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (rewrite("samples", lambda rows: rows.slice(1)), "part-0.parquet' has 9 of 10 rows"),
        (rewrite("failures", lambda rows: rows.slice(1)), "part-0.parquet' has 1 of 2 rows"),
        (rewrite("class_stats", lambda rows: rows.slice(1)), "part-0.parquet' has 2 of 3 rows"),
        (rewrite("evidence", lambda rows: rows.slice(1)), "part-0.parquet' has 2 of 3 rows"),
        (rewrite("samples", lambda rows: rows.drop_columns(["label"])), "has no column 'label'"),
        (rewrite("evidence", lambda rows: rows.drop_columns(["evidence_count"])), "has no column 'evidence_count'"),
        (
            rewrite("samples", lambda rows: rows.set_column(3, "label", rows["label"].cast(pa.int64()))),
            "has 'label' as int64, which is int32",
        ),
        (lambda run: add(run.table("confusion")), "is no table that can be read"),
        (retype("dominant_class", data_type="int32"), "maps.zarr/dominant_class' is "),
        (retype("dominant_response", shape=[4, 28, 28]), "maps.zarr/dominant_response' is ((4, 28, 28), 'float16')"),
        (retype("response_peak", shape="x"), "maps.zarr' cannot be opened"),
        (retype("", attributes={"run_id": "another"}), "maps.zarr' is of run 'another'"),
        (lambda run: (run.maps / "zarr.json").write_text("null"), "maps.zarr' cannot be opened"),
        (lambda run: (run.maps / "dominant_class" / "zarr.json").write_text("[" * 100_000), "maps.zarr' cannot be opened"),
        (
            rewrite("samples", lambda rows: rows.append_column(rows.schema.field("label"), rows["label"])),
            "has several columns 'label'",
        ),
        (edit(commit, failed_count=5), "the commits count"),
        (
            edit(commit, run_id="another"),
            "is of unit 0 of analysis 'maps' of run 'another'",
        ),
        (edit(lambda run: run.plan, sample_count=5), "the manifest counts 12 of 12 images, and the plan 5"),
        (edit(lambda run: run.plan, run_id="another"), "is of run 'another', and lies in the folder of run"),
        (edit(lambda run: run.plan, height=1 << 30), "plan.json' is not a plan of this version: height"),
    ],
)
def test_what_does_not_fit_together_is_found(run: Run, damage: Callable[[Run], None], fault: str) -> None:
    damage(run)
    sign(run)
    found = verify(run, known_schemas())
    assert (found.changed, found.missing, found.unknown) == ([], [], [])
    assert any(fault in said for said in found.faults), found.faults
    done = CliRunner().invoke(app, ["verify", run.run_id, "--store", str(run.store)])
    assert done.exit_code == 3
    assert "in what they hold" in done.stderr
    assert done.stdout.startswith("fault")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for path in (run.maps / "zarr.json", run.table("samples")):
        path.unlink()
        os.mkfifo(path)
    manifest = read_manifest(run)
    edited = manifest.model_copy(update={"artefacts": manifest.artefacts | {f"runs/{'x' * 300}": "0"}})
    run.manifest.write_text(edited.model_dump_json())
    assert len(verify(run, known_schemas()).missing) == 3


@pytest.mark.parametrize("changes", [{"run_id": "another"}, {"processed_count": 1 << 50}, {"expected_count": -1}, {"more": 1}])
def test_a_manifest_that_does_not_hold_is_named(tmp_path: Path, changes: dict[str, object]) -> None:
    run = make_run(tmp_path)
    edit(lambda run: run.manifest, **changes)(run)
    done = CliRunner().invoke(app, ["verify", run.run_id, "--store", str(run.store)])
    assert done.exit_code == 2
    assert "manifest.json' is " in done.stderr
