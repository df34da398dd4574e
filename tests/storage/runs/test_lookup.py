"""Which runs a store has, which of them is meant, and which can be gone on with."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from storage.errors import InputError
from storage.filesystems import replace_file
from storage.runs.lookup import find_resumable, find_run, find_unfinished, id_after, list_runs, published_runs, what_changed
from storage.runs.manifest import Manifest
from storage.runs.plan import Examination, Plan
from storage.runs.run import Run, create_run, publish, read_plan
from storage.tables import SCHEMA_VERSION

MakePlan = Callable[..., Plan]
MakeManifest = Callable[[Run], Manifest]

ON_DISK = pytest.mark.parametrize("store_place", ["disk"], indirect=True)
"""Of what is read, not of where it lies: not asked of S3 too."""


@pytest.fixture
def run(store_place: Path, make_plan: MakePlan) -> Run:
    return create_run(store_place, make_plan())


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


def finish(run: Run, make_manifest: MakeManifest) -> Run:
    publish(run, make_manifest(run))
    return run


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


def test_an_unfinished_run_is_found_whatever_was_found_of_its_model(store_place: Path, make_plan: MakePlan) -> None:
    run = create_run(store_place, make_plan(examination=Examination(sample_count=8, fold_reason="it has gates")))
    assert find_unfinished(store_place, make_plan(run_id="another")) == run


@ON_DISK
@pytest.mark.parametrize(
    "change",
    [{"schema_version": 99}, {"tool_version": "9"}, {"config_hash": "c1"}, {"model_hash": "m1"}, {"dataset_hash": "d1"}],
)
def test_a_run_of_other_work_is_not_resumed(run: Run, make_plan: MakePlan, change: dict[str, Any]) -> None:
    assert find_unfinished(run.store, make_plan(**change)) is None
    assert find_unfinished(run.store, make_plan()) == run


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
