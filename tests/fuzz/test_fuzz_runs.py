"""Whatever lies in a run's folder: it is read, or refused by an InputError, and names nothing outside."""

import json
import shutil
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import InputError
from storage.runs.commits import read_commits
from storage.runs.lookup import find_reference, find_run, find_unfinished, list_runs, published_runs
from storage.runs.run import MAPS, Run, read_additions, read_manifest, read_plan
from tests.fuzz.conftest import Watch, check_sentence
from tests.fuzz.mutations import changed_json

RUN = "20261121T030000Z-audit-0001"
EXAMINATION = {
    "sample_count": 40,
    "fold": {"where": "image", "rows": 10, "shape": [1, 2]},
    "fold_deviation": 1e-7,
    "conservation": {"kept": 0.5, "size": 2.0, "operation": "'conv2d' (1 of 2)", "taken": 0.5},
    "notes": ["z_L has one position"],
}
PLAN: dict[str, Any] = {
    "run_id": RUN,
    "created_at": "2026-11-21T03:00:00Z",
    "schema_version": 3,
    "tool_version": "0.1.0",
    "name": "audit",
    "config": {"method": {"rule": "linear"}, "folder": "/"},
    "config_hash": "c0",
    "model_hash": "m0",
    "dataset_hash": "d0",
    "class_names": ["cat", "dog"],
    "sample_count": 40,
    "height": 4,
    "width": 5,
    "shard_samples": 16,
    "examination": EXAMINATION,
}
COMMIT: dict[str, Any] = {
    "run_id": RUN,
    "analysis": "maps",
    "unit": 0,
    "attempt": "maps-00000-00ff00ff",
    "identity": "i0",
    "processed_count": 16,
    "failed_count": 0,
    "duration_secs": 1.5,
    "files": {"maps.zarr/dominant_class/c/0/0/0": "a0", "samples.parquet": "b0"},
}
MANIFEST: dict[str, Any] = {
    "run_id": RUN,
    "plan_hash": "p0",
    "started_at": "2026-11-21T03:00:00Z",
    "finished_at": "2026-11-21T04:00:00Z",
    "expected_count": 40,
    "processed_count": 39,
    "failed_count": 1,
    "readings": ["one"],
    "examination": EXAMINATION,
    "environment": {"python": "3.11"},
    "analyses": {"evidence": {"run": True}},
    "artefacts": {"maps.zarr/zarr.json": "a0"},
}
ADDITION: dict[str, Any] = {
    "run_id": RUN,
    "analysis": "evidence",
    "options": {"run": True},
    "started_at": "2026-11-21T03:00:00Z",
    "finished_at": "2026-11-21T04:00:00Z",
    "tool_version": "0.1.0",
    "processed_count": 40,
    "failed_count": 0,
    "environment": {"python": "3.11"},
    "artefacts": {"tables/evidence/part-0.parquet": "a0"},
}


def is_below(path: Path, folder: Path) -> bool:
    return path.resolve() != folder.resolve() and path.resolve().is_relative_to(folder.resolve())


def read_all(run: Run) -> None:
    """What the tool reads of a run, and what it does with the names in it."""
    try:
        for commit in read_commits(run, MAPS).values():
            attempt = run.attempts / commit.attempt
            assert attempt.parent.resolve() == run.attempts.resolve()
            assert is_below(attempt, run.attempts)
            assert all(is_below(attempt / name, attempt) for name in commit.files)
    except InputError as error:
        check_sentence(error)
    try:
        manifest = read_manifest(run)
        assert all(is_below(run.store / name, run.store) for name in manifest.artefacts)
        assert all(is_below(run.commits_of(analysis), run.commits) for analysis in manifest.analyses)
    except InputError as error:
        check_sentence(error)
    try:
        for addition in read_additions(run):
            assert all(is_below(run.store / name, run.store) for name in addition.artefacts)
            assert is_below(run.commits_of(addition.analysis), run.commits)
    except InputError as error:
        check_sentence(error)
    try:
        plan = read_plan(run)
    except InputError as error:
        check_sentence(error)
        return
    assert is_below(Run(run.store, plan.run_id).folder, run.store / "runs")
    if plan.sample_count < 10_000 * plan.shard_samples:
        assert sum(shard.stop - shard.start for shard in plan.shards()) == plan.sample_count
    assert find_unfinished(run.store, plan) is None
    assert find_reference(run, "previous") is None


def test_records_of_any_content(tmp_path: Path, trials: settings, watch: Watch) -> None:
    run = Run(tmp_path / "store", RUN)
    for folder in (run.commits_of(MAPS), run.added):
        folder.mkdir(parents=True)
    (tmp_path / "x").write_text("outside")

    records = {
        run.folder / "plan.json": PLAN,
        run.commits_of(MAPS) / "00000.json": COMMIT,
        run.manifest: MANIFEST,
        run.added / "evidence.json": ADDITION,
    }
    changed = st.one_of(st.tuples(st.just(path), changed_json(record)) for path, record in records.items())

    for path, record in records.items():
        path.write_text(json.dumps(record))
    assert read_commits(run, MAPS)[0].files == COMMIT["files"]
    assert read_manifest(run).artefacts == MANIFEST["artefacts"]
    assert read_additions(run)[0].artefacts == ADDITION["artefacts"]

    @trials
    @given(changes=st.lists(changed, min_size=1, max_size=2))
    def check(changes: list[tuple[Path, bytes]]) -> None:
        for path, content in changes:
            path.write_bytes(content)
        with watch():
            read_all(run)
        for path, _ in changes:
            path.write_text(json.dumps(records[path]))

    check()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "x"]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 5


def test_folders_of_any_name(tmp_path: Path, trials: settings, watch: Watch) -> None:
    names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40)

    @trials
    @given(name=names.filter(lambda name: name not in (".", "..")), asked=st.text(max_size=10) | st.just(""))
    def check(name: str, asked: str) -> None:
        run = Run(tmp_path, name)
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        try:
            run.folder.mkdir(parents=True)
            (run.folder / "plan.json").write_text("{}")
            run.manifest.write_text("{}")
        except OSError:  # more than the file system takes
            return
        with watch():
            assert (
                [found.run_id for found in published_runs(tmp_path)] == [found.run_id for found in list_runs(tmp_path)] == [name]
            )
            try:
                assert find_run(tmp_path, asked).run_id == name
            except InputError as error:
                assert asked != name
                check_sentence(error)
            try:
                find_reference(run, "previous")
            except InputError as error:
                check_sentence(error)

    check()
