"""A run on disk: what is planned, who commits first, and what a reader finds."""

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
from storage.filesystems import replace_file
from storage.runs.commits import commit_attempt, open_attempt, read_commits
from storage.runs.lookup import find_resumable, find_run, find_unfinished, id_after, list_runs, published_runs, what_changed
from storage.runs.manifest import Manifest
from storage.runs.plan import ConservedRelevance, Examination, Plan, Trigger, Unit
from storage.runs.run import Run, create_run, new_run_id, publish, read_manifest, read_plan
from storage.tables import SCHEMA_VERSION

MakePlan = Callable[..., Plan]
MakeManifest = Callable[[Run], Manifest]
FilesOf = Callable[[Path], dict[str, str]]

ON_DISK = pytest.mark.parametrize("store_place", ["disk"], indirect=True)
"""Of what is read, not of where it lies: not asked of S3 too."""


@given(samples=st.integers(0, 5000), size=st.integers(1, 600))
def test_shards_cover_the_samples_once_and_in_order(make_plan: MakePlan, samples: int, size: int) -> None:
    shards = make_plan(sample_count=samples, shard_samples=size).shards()
    assert [index for shard in shards for index in range(shard.start, shard.stop)] == list(range(samples))
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(shard.stop - shard.start == size for shard in shards[:-1])
    assert all(shard.stop > shard.start for shard in shards)


def test_shards_of_forty_samples(make_plan: MakePlan) -> None:
    assert make_plan().shards() == [Unit(0, 0, 16), Unit(1, 16, 32), Unit(2, 32, 40)]


def test_records_of_an_older_version_are_read() -> None:
    (old,) = published_runs(Path(__file__).parents[1] / "old_stores" / "v1")
    plan, manifest = read_plan(old), read_manifest(old)
    assert (plan.schema_version, plan.sample_count, plan.examination, plan.trigger) == (1, 12, None, None)
    assert (manifest.processed_count, manifest.failed_count, manifest.examination, manifest.trigger) == (11, 1, None, None)


def test_what_was_found_of_the_model_is_kept_in_plan_and_manifest(
    store_place: Path, make_plan: MakePlan, make_manifest: MakeManifest
) -> None:
    fold = {"where": "image", "shape": (4, 5), "rows": 40}
    found = Examination(
        sample_count=8,
        precision_agreement_frac=0.5,
        fold=fold,
        fold_deviation=1e-7,
        conservation=ConservedRelevance(kept=-0.5, size=3.25, operation="'conv2d' (1 of 2)", taken=1.5),
        notes=["two classes"],
    )
    run = create_run(store_place, make_plan(examination=found))
    read = read_plan(run).examination
    publish(run, make_manifest(run).model_copy(update={"examination": read}))
    for kept in (read, read_manifest(run).examination):
        assert kept is not None
        assert kept.model_dump() == found.model_dump() | {"fold": fold | {"shape": [4, 5]}}
    assert find_unfinished(store_place, make_plan(examination=None)) is None


def test_what_started_a_run_is_kept_and_another_may_resume_it(
    store_place: Path, make_plan: MakePlan, make_manifest: MakeManifest
) -> None:
    nightly = Trigger(
        kind="schedule",
        flow_run_id="f1",
        parent_flow_run_id="f0",
        deployment_id="d0",
        deployment_name="nightly",
        scheduled_at=datetime(2026, 11, 21, 3, tzinfo=UTC),
    )
    by_hand = Trigger(kind="command line", flow_run_id="f2")
    run = create_run(store_place, make_plan(trigger=nightly))
    assert find_unfinished(store_place, make_plan(run_id="another", trigger=by_hand)) == run
    publish(run, make_manifest(run).model_copy(update={"trigger": by_hand}))
    assert (read_plan(run).trigger, read_manifest(run).trigger) == (nightly, by_hand)


def test_an_unfinished_run_is_found_whatever_was_found_of_its_model(store_place: Path, make_plan: MakePlan) -> None:
    run = create_run(store_place, make_plan(examination=Examination(sample_count=8, fold_reason="it has gates")))
    assert find_unfinished(store_place, make_plan(run_id="another")) == run


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


def test_an_id_follows_those_of_the_store_whatever_the_clock_says(store_place: Path, make_plan: MakePlan) -> None:
    early, late = "20261121T030000Z-audit-0001", "20261121T040000Z-audit-0002"
    assert id_after(store_place, early) == early
    create_run(store_place, make_plan(run_id=late))
    assert id_after(store_place, early) == "20261121T040001Z-audit-0001"
    assert id_after(store_place, late) == "20261121T040001Z-audit-0002"
    assert id_after(store_place, "20261121T040001Z-other-0003") == "20261121T040001Z-other-0003"
    create_run(store_place, make_plan(run_id="99991231T235959Z-audit-0001"))
    assert id_after(store_place, early) == early
    create_run(store_place, make_plan(run_id="of-somebody-else"))
    assert id_after(store_place, early) == early


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
    attempt = open_attempt(run, shard)
    (attempt / "samples").write_text(text)
    return attempt


@pytest.fixture
def run(store_place: Path, make_plan: MakePlan) -> Run:
    return create_run(store_place, make_plan())


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
    commit_attempt(run, attempt_with(run, shard, "x"), shard, 16, 0, 1)
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
    commit_attempt(run, attempt_with(run, shard, "x"), shard, 16, 0, 1)
    finish(run, make_manifest)
    before = files_of(run.store)
    again = find_run(run.store, run.run_id)
    assert again == run
    assert (read_plan(again).run_id, read_manifest(again).run_id) == (run.run_id, run.run_id)
    assert read_commits(again)[0].processed_count == 16
    assert files_of(run.store) == before


@pytest.fixture
def store(store_place: Path, make_plan: MakePlan, make_manifest: MakeManifest) -> Path:
    """Three published runs and a later one that is not, created out of order; and what is no run."""
    for run_id in ("20260102T000000Z-b-0000", "20260101T000000Z-a-0000", "20260102T000000Z-a-0000"):
        finish(create_run(store_place, make_plan(run_id=run_id)), make_manifest)
    create_run(store_place, make_plan(run_id="20260103T000000Z-a-0000"))
    replace_file(store_place / "runs" / "notes" / "README", "")
    replace_file(store_place / "runs" / "README", "")
    return store_place


def test_runs_are_listed_oldest_first(store: Path) -> None:
    published = ["20260101T000000Z-a-0000", "20260102T000000Z-a-0000", "20260102T000000Z-b-0000"]
    assert [run.run_id for run in list_runs(store)] == [*published, "20260103T000000Z-a-0000"]
    assert [run.run_id for run in published_runs(store)] == published


@ON_DISK
@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("latest", "20260102T000000Z-b-0000"),
        ("20260101T000000Z-a-0000", "20260101T000000Z-a-0000"),
        ("20260101", "20260101T000000Z-a-0000"),
        ("20260102T000000Z-a", "20260102T000000Z-a-0000"),
    ],
)
def test_a_run_is_found_by_its_id_or_an_unambiguous_beginning(store: Path, asked: str, found: str) -> None:
    assert find_run(store, asked) == Run(store, found)


@ON_DISK
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("20260102", "'20260102' names several finished runs"),
        ("2026", "'2026' names several finished runs"),
        ("20260103", "'20260103' names no finished run"),
        ("20260103T000000Z-a-0000", "names no finished run"),
        ("a-0000", "'a-0000' names no finished run"),
        ("../runs/20260101T000000Z-a-0000", "names no finished run"),
    ],
)
def test_a_run_that_cannot_be_told_is_an_input_error(store: Path, asked: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        find_run(store, asked)
    assert message in str(caught.value)
    assert f"clear-audit ls --store {store}" in str(caught.value)


def test_an_id_that_is_another_ones_beginning_names_itself(
    store_place: Path, make_plan: MakePlan, make_manifest: MakeManifest
) -> None:
    for run_id in ("20260101T000000Z-a-00001", "20260101T000000Z-a-0000"):
        finish(create_run(store_place, make_plan(run_id=run_id)), make_manifest)
    assert find_run(store_place, "20260101T000000Z-a-0000").run_id == "20260101T000000Z-a-0000"


@pytest.mark.parametrize("asked", ["latest", "2026"])
def test_a_store_without_a_finished_run_says_how_to_make_one(store_place: Path, make_plan: MakePlan, asked: str) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="has no finished run: make one with 'clear-audit run CONFIG"):
            find_run(store_place, asked)
        if not list_runs(store_place):
            create_run(store_place, make_plan())


def test_the_latest_unfinished_run_of_the_same_work_is_resumed(
    store_place: Path, make_plan: MakePlan, make_manifest: MakeManifest
) -> None:
    assert find_unfinished(store_place, make_plan()) is None
    finish(create_run(store_place, make_plan(run_id="1")), make_manifest)
    assert find_unfinished(store_place, make_plan()) is None
    for run_id in ("2", "3"):
        create_run(store_place, make_plan(run_id=run_id))
    finish(create_run(store_place, make_plan(run_id="4")), make_manifest)
    found = find_unfinished(store_place, make_plan(run_id="5", created_at=datetime(2030, 1, 1, tzinfo=UTC), name="other"))
    assert found == Run(store_place, "3")


@ON_DISK
@pytest.mark.parametrize(
    "change",
    [{"schema_version": 99}, {"tool_version": "9"}, {"config_hash": "c1"}, {"model_hash": "m1"}, {"dataset_hash": "d1"}],
)
def test_a_run_of_other_work_is_not_resumed(run: Run, make_plan: MakePlan, change: dict[str, Any]) -> None:
    assert find_unfinished(run.store, make_plan(**change)) is None
    assert find_unfinished(run.store, make_plan()) == run


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
    commit_attempt(run, attempt_with(run, shard, "x"), shard, 16, 0, 1)
    finish(run, make_manifest)
    records: list[tuple[Path, Callable[[Run], object]]] = [
        (run.folder / "plan.json", read_plan),
        (run.commits / "00000.json", read_commits),
        (run.manifest, read_manifest),
    ]
    for path, read in records:
        path.write_text(damage(path.read_text()), errors="surrogateescape")
        with pytest.raises(InputError) as caught:
            read(run)
        assert f"'{path}' is not a" in str(caught.value)


@ON_DISK
@pytest.mark.parametrize("key", ["run_id", "sample_count", "shard_samples", "model_hash"])
def test_a_plan_that_lacks_a_key_names_it(run: Run, key: str) -> None:
    path = run.folder / "plan.json"
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"plan.json' is not a plan of this version: {key}: "):
        read_plan(run)


def test_a_record_that_is_not_there_is_named(run: Run) -> None:
    with pytest.raises(InputError, match=r"manifest\.json' cannot be read \(No such file"):
        read_manifest(run)


OUTSIDE = ["../x", "a/../../x", "/etc/passwd", "..", ".", "", "a//b", "a/", "C:/x", "..\\x", "a\0b", "./a"]


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@ON_DISK
@pytest.mark.parametrize("name", [*OUTSIDE, "a/b"])
def test_a_record_that_names_what_is_outside_is_refused(run: Run, name: str, make_manifest: MakeManifest) -> None:
    attempt = open_attempt(run, Unit(0, 0, 16))
    (attempt / "a").write_text("b")
    commit_attempt(run, attempt, Unit(0, 0, 16), 16, 0, 1)
    change(run.commits / "00000.json", attempt=name)
    with pytest.raises(InputError, match=r"00000\.json' is not a commit of this version: attempt: "):
        read_commits(run)
    change(run.folder / "plan.json", run_id=name)
    with pytest.raises(InputError, match=r"plan\.json' is not a plan of this version: run_id: "):
        read_plan(run)
    change(run.commits / "00000.json", attempt=attempt.name, files={name: "0"})
    publish(run, make_manifest(run))
    change(run.manifest, artefacts={name: "0"})
    if name in OUTSIDE:
        with pytest.raises(InputError, match=r"00000\.json' is not a commit of this version: files"):
            read_commits(run)
        with pytest.raises(InputError, match=r"manifest\.json' is not a manifest of this version: artefacts"):
            read_manifest(run)
    else:
        assert read_commits(run)[0].files == read_manifest(run).artefacts == {name: "0"}


@ON_DISK
@pytest.mark.parametrize(
    "changes",
    [
        {"shard_samples": 0},
        {"shard_samples": -16},
        {"sample_count": -1},
        {"sample_count": 10**30},
        {"sample_count": 1 << 40, "shard_samples": 16},
        {"height": 0},
        {"created_at": "2026-11-21T03:00:00"},
    ],
)
def test_a_plan_without_an_end_is_refused(run: Run, changes: dict[str, Any]) -> None:
    change(run.folder / "plan.json", **changes)
    with pytest.raises(InputError, match=r"plan\.json' is not a plan of this version"):
        read_plan(run)


@ON_DISK
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"config_hash": "c1"}, ["the config"]),
        ({"model_hash": "m1", "dataset_hash": "d1"}, ["the model", "the dataset"]),
        ({"tool_version": "0.2.0"}, ["the version of clear-audit, from 0.1.0 to 0.2.0,"]),
        ({"schema_version": 99}, [f"the version of the tables, from {SCHEMA_VERSION} to 99,"]),
        ({"sample_count": 4}, ["what the plan says of images and classes"]),
        ({"class_names": ["dog", "cat"]}, ["what the plan says of images and classes"]),
        ({"dataset_hash": "d1", "sample_count": 4}, ["the dataset"]),
        ({"name": "other", "run_id": "x"}, []),
    ],
)
def test_what_changed_since_a_run_was_planned(run: Run, make_plan: MakePlan, change: dict[str, Any], said: list[str]) -> None:
    now = make_plan(**change)
    assert what_changed(read_plan(run), now) == said
    assert (read_plan(run).identity == now.identity) == (not said)
    if not said:
        assert find_resumable(run.store, run.run_id, now) == run
        return
    with pytest.raises(InputError, match="cannot be gone on with") as caught:
        find_resumable(run.store, run.run_id, now)
    assert f": {' and '.join(said)} changed since it was planned; leave --resume out" in str(caught.value)


def test_only_an_unfinished_run_can_be_gone_on_with(run: Run, make_plan: MakePlan, make_manifest: MakeManifest) -> None:
    with pytest.raises(InputError, match="has no run 'nonesuch'"):
        find_resumable(run.store, "nonesuch", make_plan())
    publish(run, make_manifest(run))
    with pytest.raises(InputError, match="is finished: leave --resume out"):
        find_resumable(run.store, run.run_id, make_plan())
