"""Which runs may go: small stores worked out by hand, and the least that must stay."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from reports.gates import Gate, as_rows, judge
from reports.index import write_index
from reports.report import write_report
from storage.aggregates import place_table
from storage.lock import hold
from storage.retention import removable, remove, sweep, unused_operators
from storage.runs import Run, create_run, list_runs, published_runs
from storage.tables import write_table
from tests.reports.stores import PLANNED, SMALL, Content, make_plan, make_store

DAY = timedelta(days=1)


def make_run(store: Path, day: int, name: str = "digits", reference: str = "previous", finished: bool = True) -> Run:
    run_id = f"202611{day:02d}T030000Z-{name}-0000"
    content = replace(SMALL, run_id=run_id, gates=())
    if not finished:
        return create_run(store, changed_plan(content, day, name, reference))
    run = make_store(store, content)
    (run.folder / "plan.json").write_text(changed_plan(content, day, name, reference).model_dump_json())
    return run


def changed_plan(content: Content, day: int, name: str, reference: str):  # type: ignore[no-untyped-def]
    plan = make_plan(content)
    created = PLANNED.replace(day=day)
    return plan.model_copy(update={"name": name, "created_at": created, "config": plan.config | {"reference": reference}})


def refer(run: Run, to: Run) -> None:
    """A gate of one run was judged against another."""
    rows = as_rows(judge([Gate("accuracy", max_drop=1)], run, to), to)
    run.attempts.mkdir()
    place_table(run, "gates", lambda path: write_table(rows, path))
    run.attempts.rmdir()


def days(runs: list[Run]) -> list[int]:
    return [int(run.run_id[6:8]) for run in runs]


@pytest.mark.parametrize(
    ("keep", "before", "gone"),
    [
        (None, 4, [1, 2, 3]),
        (2, None, [1, 2]),
        (0, None, [1, 2, 3, 4, 5]),
        (9, None, [1]),
        (1, 3, [1, 2]),
        (3, 4, [1]),
        (None, 1, []),
    ],
)
def test_runs_go_by_age_by_count_or_by_both(tmp_path: Path, keep: int | None, before: int | None, gone: list[int]) -> None:
    """Runs of the first and the fifth day did not end: the latter may yet be finished, and is none of those that are counted."""
    for day in (1, 2, 3, 4, 5):
        make_run(tmp_path, day, finished=day not in (1, 5))
    assert days(removable(tmp_path, keep, None if before is None else PLANNED.replace(day=before))) == gone


def test_count_is_of_each_audit(tmp_path: Path) -> None:
    for day in (1, 2):
        make_run(tmp_path, day, "a")
        make_run(tmp_path, day, "b")
    assert [run.run_id[-6:] for run in removable(tmp_path, 1, None)] == ["a-0000", "b-0000"]


def test_what_a_run_that_stays_refers_to_stays(tmp_path: Path) -> None:
    """4 was judged against 3, whose config names 1; 2 goes."""
    runs = {day: make_run(tmp_path, day, reference="20261101" if day == 3 else "previous") for day in (1, 2, 3, 4)}
    refer(runs[4], runs[3])
    assert days(removable(tmp_path, 1, None)) == [2]
    assert days(removable(tmp_path, 0, None)) == [1, 2, 3, 4]


def test_a_run_that_is_worked_on_stays(tmp_path: Path) -> None:
    run = make_run(tmp_path, 1, finished=False)
    with hold(run):
        assert removable(tmp_path, 0, None) == []
    assert removable(tmp_path, 0, None) == [run]


def test_a_run_that_cannot_be_read_stays(tmp_path: Path) -> None:
    run = make_run(tmp_path, 1)
    (run.folder / "plan.json").write_text("{}")
    assert removable(tmp_path, 0, None) == []


def test_a_damaged_table_of_gates_refers_to_nothing(tmp_path: Path) -> None:
    first, second = make_run(tmp_path, 1), make_run(tmp_path, 2)
    refer(second, first)
    second.table("gates").write_bytes(b"PAR1")
    assert days(removable(tmp_path, 1, None)) == [1]


def files(store: Path) -> set[str]:
    return {path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file()}


def test_removing_leaves_nothing_of_a_run_and_all_of_the_others(tmp_path: Path) -> None:
    make_run(tmp_path, 1)
    write_index(tmp_path)
    before = files(tmp_path)
    run = make_run(tmp_path, 2)
    write_report(run)
    remove(run)
    assert files(tmp_path) == before
    assert days(published_runs(tmp_path)) == [1]


@pytest.mark.parametrize("left", ["all", "tables", "nothing"])
def test_a_removal_that_was_cut_short_is_out_of_sight_and_ended_by_the_next(tmp_path: Path, left: str) -> None:
    run = make_run(tmp_path, 1)
    (tmp_path / "trash").mkdir()
    run.folder.rename(tmp_path / "trash" / run.run_id)
    if left == "nothing":
        for path in (tmp_path / "tables").rglob("*.parquet"):
            path.unlink()
    assert list_runs(tmp_path) == []
    sweep(tmp_path)
    assert files(tmp_path) == set()


def test_attempts_that_a_finished_run_left_are_swept(tmp_path: Path) -> None:
    run, unfinished = make_run(tmp_path, 1), make_run(tmp_path, 2, finished=False)
    (run.attempts / "00000-late").mkdir(parents=True)
    (unfinished.attempts / "00000-0").mkdir()
    sweep(tmp_path)
    assert not run.attempts.exists()
    assert unfinished.attempts.exists()


def test_operators_that_no_run_that_stays_can_have_used_go(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, day) for day in (1, 2)]
    (tmp_path / "operators").mkdir()
    paths = {}
    for day in (1, 2):
        paths[day] = tmp_path / "operators" / f"{day}.safetensors"
        paths[day].touch()
        used = (PLANNED.replace(day=day) + timedelta(minutes=1)).timestamp()
        os.utime(paths[day], (used, used))
    assert unused_operators(tmp_path, []) == []
    assert unused_operators(tmp_path, runs[:1]) == [paths[1]]
    assert unused_operators(tmp_path, runs) == [paths[1], paths[2]]


def test_the_command_lists_first_and_removes_when_told(tmp_path: Path) -> None:
    for day in (1, 2):
        make_run(tmp_path, day)
    before = files(tmp_path)
    arguments = ["gc", "--store", str(tmp_path), "--keep", "1"]
    listed = CliRunner().invoke(app, arguments)
    assert listed.exit_code == 0
    assert listed.stdout.startswith("20261101T030000Z-digits-0000  ")
    assert "1 run and 0 fixed operators may go; --delete removes them" in listed.stderr
    assert files(tmp_path) == before
    assert CliRunner().invoke(app, [*arguments, "--delete"]).exit_code == 0
    assert days(published_runs(tmp_path)) == [2]
    assert "20261101" not in (tmp_path / "reports" / "index.html").read_text()


def test_the_command_wants_to_be_told_which(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["gc", "--store", str(tmp_path)])
    assert (done.exit_code, "give --keep, --older-than, or both" in done.stderr) == (2, True)
    old = CliRunner().invoke(app, ["gc", "--store", str(tmp_path), "--older-than", str((datetime.now(UTC) - PLANNED) // DAY)])
    assert old.exit_code == 0
