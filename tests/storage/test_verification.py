"""Whether a finished run's files are what was written: on a run that is damaged in every way."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from storage.maps import MapShape, create_maps
from storage.places import files_below, put_folder, scratch
from storage.runs import Run, read_manifest
from storage.verification import Verification, verify
from tests.reports.stores import SMALL, make_store

Damage = Callable[[Run], Path]


@pytest.fixture
def run(store_place: Path) -> Run:
    return make_run(store_place)


def make_run(store_place: Path) -> Run:
    """A finished run of 12 samples whose manifest has the hashes of its files, worked out here."""
    made = make_store(store_place, SMALL)
    with scratch(store_place) as folder:
        for name, array in create_maps(folder / "maps", MapShape(12, 4, 5, 16), {}).items():
            array[:] = 1 if name == "response_peak" else np.ones((12, 4, 5))
        put_folder(folder / "maps", made.maps)
    files = [path for path in files_below(made.folder) if path.suffix == ".png" or "/c/" in path.as_posix()]
    files += [*(store_place / "tables").rglob("*.parquet"), made.gallery / "gallery.json"]
    hashes = {path.relative_to(store_place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    plan_hash = hashlib.sha256((made.folder / "plan.json").read_bytes()).hexdigest()
    manifest = read_manifest(made).model_copy(update={"artefacts": hashes, "plan_hash": plan_hash})
    made.manifest.write_text(manifest.model_dump_json())
    return made


def test_a_run_as_it_was_written_is_sound(run: Run) -> None:
    heard: list[tuple[int, int]] = []
    found = verify(run, lambda done, total: heard.append((done, total)))
    assert found.is_sound
    assert found.checked > 10
    assert heard == [(done, found.checked) for done in range(1, found.checked + 1)]


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


def add(path: Path) -> Path:
    path.write_bytes(b"more")
    return path


@pytest.mark.parametrize("store_place", ["disk"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda run: flip_a_byte(run.table("samples")), "changed"),
        (lambda run: cut(run.maps / "dominant_class" / "c" / "0" / "0" / "0"), "changed"),
        (lambda run: flip_a_byte(run.folder / "plan.json"), "changed"),
        (lambda run: remove(run.table("confusion")), "missing"),
        (lambda run: remove(run.maps / "response_peak" / "c" / "0"), "missing"),
        (lambda run: add(run.table("samples").with_name("part-1.parquet")), "unknown"),
        (lambda run: add(run.maps / "dominant_class" / "c" / "0" / "0" / "9"), "unknown"),
        (lambda run: add(run.gallery / "000099-clear.png"), "unknown"),
    ],
)
def test_damage_is_found_and_named(run: Run, damage: Damage, kind: str) -> None:
    checked = verify(run).checked
    path = damage(run).relative_to(run.store).as_posix()
    assert verify(run) == Verification(checked, **{"changed": [], "missing": [], "unknown": []} | {kind: [path]})
    done = CliRunner().invoke(app, ["verify", run.run_id, "--store", str(run.store)])
    assert done.exit_code == 3
    assert done.stdout.split() == [kind, path]
    assert f"run '{run.run_id}' is not as it was written" in done.stderr


def test_damage_in_s3_is_found_and_named(s3_store: Path) -> None:
    run = make_run(s3_store)
    checked = verify(run).checked
    changed, missing = run.maps / "dominant_class" / "c" / "0" / "0" / "0", run.table("confusion")
    unknown = run.gallery / "000099-clear.png"
    flip_a_byte(changed), remove(missing), add(unknown)
    found = verify(run)
    names = ([path.relative_to(run.store).as_posix()] for path in (changed, missing, unknown))
    assert found == Verification(checked, *names)
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
