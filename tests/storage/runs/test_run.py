"""A run on disk: what is written once, and what a reader finds."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import InputError
from storage.runs.commits import commit_attempt, ensure_folders, open_attempt, read_commits
from storage.runs.lookup import find_run, list_runs, published_runs
from storage.runs.manifest import Manifest
from storage.runs.plan import Plan, Unit
from storage.runs.run import MAPS, Run, create_run, new_run_id, publish, read_manifest, read_plan

MakePlan = Callable[..., Plan]
MakeManifest = Callable[[Run], Manifest]
FilesOf = Callable[[Path], dict[str, str]]

ON_DISK = pytest.mark.parametrize("store_place", ["disk"], indirect=True)
"""Of what is read, not of where it lies: not asked of S3 too."""


@pytest.fixture
def run(store_place: Path, make_plan: MakePlan) -> Run:
    made = create_run(store_place, make_plan())
    ensure_folders(made, [MAPS])
    return made


def test_records_of_an_older_version_are_read() -> None:
    (old,) = published_runs(Path(__file__).parents[1] / "old_stores" / "v1")
    plan, manifest = read_plan(old), read_manifest(old)
    assert (plan.schema_version, plan.sample_count, plan.examination, plan.trigger) == (1, 12, None, None)
    assert (manifest.processed_count, manifest.failed_count, manifest.examination, manifest.trigger) == (11, 1, None, None)


# Names.


@given(name=st.text(max_size=80), now=st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1)))
def test_run_ids_are_file_names_everywhere(name: str, now: datetime) -> None:
    run_id = new_run_id(name, now.replace(tzinfo=UTC))
    assert re.fullmatch(r"[0-9]{8}T[0-9]{6}Z-[a-z0-9-]{0,40}-[0-9a-f]{4}", run_id)
    assert run_id.startswith(now.strftime("%Y%m%dT%H%M%SZ"))


@given(
    times=st.lists(
        st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1)),
        min_size=2,
        max_size=6,
        unique_by=lambda t: t.replace(microsecond=0),
    ),
    names=st.lists(st.text(max_size=5), min_size=6, max_size=6),
)
def test_run_ids_sort_by_time_whatever_their_names(times: list[datetime], names: list[str]) -> None:
    ids = [new_run_id(name, time.replace(tzinfo=UTC)) for name, time in zip(names, sorted(times), strict=False)]
    assert sorted(ids) == ids


def test_run_ids_are_in_utc_and_differ_within_a_second() -> None:
    paris = datetime(2026, 11, 21, 4, 0, 0, tzinfo=timezone(timedelta(hours=1)))
    ids = {new_run_id("MNIST, v2", paris) for _ in range(20)}
    assert {run_id[:-5] for run_id in ids} == {"20261121T030000Z-mnist-v2"}
    assert len(ids) > 15


# Files that are written once.


def test_a_writer_that_dies_leaves_nothing_that_is_read(
    tmp_path: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.link", die)
    with pytest.raises(KeyboardInterrupt):
        create_run(tmp_path, make_plan())
    assert list_runs(tmp_path) == []
    assert not list(tmp_path.rglob("*.json*"))


def attempt_with(run: Run, shard: Unit, text: str) -> Path:
    attempt = open_attempt(run, MAPS, shard)
    (attempt / "samples").write_text(text)
    return attempt


# Runs of a store.


def finish(run: Run, make_manifest: MakeManifest) -> Run:
    publish(run, make_manifest(run))
    return run


def test_a_plan_is_read_as_it_was_written_and_never_replaced(run: Run, make_plan: MakePlan) -> None:
    assert read_plan(run) == make_plan()
    assert read_plan(Run(run.store, run.run_id)).created_at == datetime(2026, 11, 21, 3, tzinfo=UTC)
    with pytest.raises(FileExistsError):
        create_run(run.store, make_plan(sample_count=1))
    assert read_plan(run) == make_plan()


def test_publishing_makes_a_run_visible_and_sweeps_its_attempts(run: Run, make_manifest: MakeManifest) -> None:
    shard = Unit(0, 0, 16)
    commit_attempt(run, MAPS, shard, attempt_with(run, shard, "x"), "i0", 16, 0, 1)
    attempt_with(run, shard, "never committed")
    assert published_runs(run.store) == []
    finish(run, make_manifest)
    assert published_runs(run.store) == [run]
    assert read_manifest(run) == make_manifest(run)
    assert not run.attempts.exists()
    assert sorted(path.name for path in run.folder.iterdir()) == ["commits", "manifest.json", "plan.json"]


def test_a_run_is_published_once(run: Run, make_manifest: MakeManifest) -> None:
    finish(run, make_manifest)
    with pytest.raises(FileExistsError):
        publish(run, make_manifest(run).model_copy(update={"processed_count": 0}))
    assert read_manifest(run).processed_count == 39


def test_reading_a_published_run_again_writes_nothing(run: Run, make_manifest: MakeManifest, files_of: FilesOf) -> None:
    shard = Unit(0, 0, 16)
    commit_attempt(run, MAPS, shard, attempt_with(run, shard, "x"), "i0", 16, 0, 1)
    finish(run, make_manifest)
    before = files_of(run.store)
    again = find_run(run.store, run.run_id)
    assert again == run
    assert (read_plan(again).run_id, read_manifest(again).run_id) == (run.run_id, run.run_id)
    assert read_commits(again, MAPS)[0].processed_count == 16
    assert files_of(run.store) == before


# Damage.


@ON_DISK
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"', "'"),
        lambda text: text.replace("{", '{"unknown": 1,', 1),
        lambda text: "\udcff",
    ],
)
def test_a_damaged_record_is_named(run: Run, make_manifest: MakeManifest, damage: Callable[[str], str]) -> None:
    shard = Unit(0, 0, 16)
    commit_attempt(run, MAPS, shard, attempt_with(run, shard, "x"), "i0", 16, 0, 1)
    finish(run, make_manifest)
    records: list[tuple[Path, Callable[[Run], object]]] = [
        (run.folder / "plan.json", read_plan),
        (run.commits_of(MAPS) / "00000.json", lambda run: read_commits(run, MAPS)),
        (run.manifest, read_manifest),
    ]
    for path, read in records:
        path.write_text(damage(path.read_text()), errors="surrogateescape")
        with pytest.raises(InputError) as caught:
            read(run)
        assert f"'{path}' is not a" in str(caught.value)


def test_a_record_that_is_not_there_is_named(run: Run) -> None:
    with pytest.raises(InputError, match=r"manifest\.json' cannot be read \(No such file"):
        read_manifest(run)


OUTSIDE = ["../x", "a/../../x", "/etc/passwd", "..", ".", "", "a//b", "a/", "C:/x", "..\\x", "a\0b", "./a"]


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@ON_DISK
@pytest.mark.parametrize("name", [*OUTSIDE, "a/b"])
def test_a_record_that_names_what_is_outside_is_refused(run: Run, name: str, make_manifest: MakeManifest) -> None:
    attempt = open_attempt(run, MAPS, Unit(0, 0, 16))
    (attempt / "a").write_text("b")
    commit_attempt(run, MAPS, Unit(0, 0, 16), attempt, "i0", 16, 0, 1)
    change(run.commits_of(MAPS) / "00000.json", attempt=name)
    with pytest.raises(InputError, match=r"00000\.json' is not a commit of this version: attempt: "):
        read_commits(run, MAPS)
    change(run.folder / "plan.json", run_id=name)
    with pytest.raises(InputError, match=r"plan\.json' is not a plan of this version: run_id: "):
        read_plan(run)
    change(run.commits_of(MAPS) / "00000.json", attempt=attempt.name, files={name: "0"})
    publish(run, make_manifest(run))
    change(run.manifest, artefacts={name: "0"})
    if name in OUTSIDE:
        with pytest.raises(InputError, match=r"00000\.json' is not a commit of this version: files"):
            read_commits(run, MAPS)
        with pytest.raises(InputError, match=r"manifest\.json' is not a manifest of this version: artefacts"):
            read_manifest(run)
    else:
        assert read_commits(run, MAPS)[0].files == read_manifest(run).artefacts == {name: "0"}
