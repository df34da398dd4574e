"""Which runs may go: small stores worked out by hand, and the least that must stay."""

import os
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from reports.gates.gate import Gate
from reports.gates.judgement import as_rows
from reports.gates.judging import judge
from reports.pages.index import write_index
from reports.pages.report import write_report
from storage.errors import InputError
from storage.filesystems import files_below, make_folder, remote, replace_file, sweep_tree
from storage.joins import place_table
from storage.operators import last_used, mark_used, remove_operator
from storage.runs import retention
from storage.runs.lock import hold
from storage.runs.lookup import list_runs, published_runs
from storage.runs.retention import removable, remove, sweep, unused_operators
from storage.runs.run import Run, create_run
from storage.tables import write_table
from tests.reports.stores import PLANNED, SMALL, Content, make_plan, make_store

DAY = timedelta(days=1)

ON_DISK = pytest.mark.parametrize("store_place", ["disk"], indirect=True)
"""Of what is decided, not of where it lies: not asked of S3 too."""


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
    make_folder(run.attempts)
    place_table(run, "gates", lambda path: write_table(rows, path))
    sweep_tree(run.attempts)


def days(runs: list[Run]) -> list[int]:
    return [int(run.run_id[6:8]) for run in runs]


@ON_DISK
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
def test_runs_go_by_age_by_count_or_by_both(store_place: Path, keep: int | None, before: int | None, gone: list[int]) -> None:
    """Runs of the first and the fifth day did not end: the latter may yet be finished, and is none of those that are counted."""
    for day in (1, 2, 3, 4, 5):
        make_run(store_place, day, finished=day not in (1, 5))
    assert days(removable(store_place, keep, None if before is None else PLANNED.replace(day=before))) == gone


@ON_DISK
def test_count_is_of_each_audit(store_place: Path) -> None:
    for day in (1, 2):
        make_run(store_place, day, "a")
        make_run(store_place, day, "b")
    assert [run.run_id[-6:] for run in removable(store_place, 1, None)] == ["a-0000", "b-0000"]


@ON_DISK
def test_what_a_run_that_stays_refers_to_stays(store_place: Path) -> None:
    """4 was judged against 3, whose config names 1; 2 goes."""
    runs = {day: make_run(store_place, day, reference="20261101" if day == 3 else "previous") for day in (1, 2, 3, 4)}
    refer(runs[4], runs[3])
    assert days(removable(store_place, 1, None)) == [2]
    assert days(removable(store_place, 0, None)) == [1, 2, 3, 4]


def test_a_run_that_is_worked_on_stays(store_place: Path) -> None:
    run = make_run(store_place, 1, finished=False)
    with hold(run):
        assert removable(store_place, 0, None) == []
    assert removable(store_place, 0, None) == [run]


@ON_DISK
def test_a_run_that_cannot_be_read_stays(store_place: Path) -> None:
    run = make_run(store_place, 1)
    (run.folder / "plan.json").write_text("{}")
    assert removable(store_place, 0, None) == []


@ON_DISK
def test_a_damaged_table_of_gates_refers_to_nothing(store_place: Path) -> None:
    first, second = make_run(store_place, 1), make_run(store_place, 2)
    refer(second, first)
    second.table("gates").write_bytes(b"PAR1")
    assert days(removable(store_place, 1, None)) == [1]


def files(store: Path) -> set[str]:
    return {path.relative_to(store).as_posix() for path in files_below(store)}


def test_removing_leaves_nothing_of_a_run_and_all_of_the_others(store_place: Path) -> None:
    make_run(store_place, 1)
    write_index(store_place)
    before = files(store_place)
    run = make_run(store_place, 2)
    write_report(run)
    remove(run)
    assert files(store_place) == before
    assert days(published_runs(store_place)) == [1]


@ON_DISK
@pytest.mark.parametrize("left", ["all", "tables", "nothing"])
def test_a_removal_that_was_cut_short_is_out_of_sight_and_ended_by_the_next(store_place: Path, left: str) -> None:
    run = make_run(store_place, 1)
    (store_place / "trash").mkdir()
    run.folder.rename(store_place / "trash" / run.run_id)
    if left == "nothing":
        for path in (store_place / "tables").rglob("*.parquet"):
            path.unlink()
    assert list_runs(store_place) == []
    sweep(store_place)
    assert files(store_place) == set()


def test_a_removal_that_crashed_is_ended_by_the_next(store_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(store_place, 1)
    with monkeypatch.context() as patch:
        patch.setattr("storage.runs.retention.sweep_removed", lambda run, trash: None)
        assert remove(run)
    assert list_runs(store_place) == []
    assert run.table("samples").exists()
    sweep(store_place)
    assert files(store_place) == set()


def test_a_removal_that_crashed_before_its_run_was_out_of_sight_has_removed_nothing(store_place: Path) -> None:
    run = make_run(store_place, 1)
    before = files(store_place)
    for name in (run.run_id, f"{run.run_id}.0a1b2c3d"):
        replace_file(store_place / "trash" / name / "removed.json", "{}")
    sweep(store_place)
    assert files(store_place) == before


def test_a_run_that_is_resumed_meanwhile_is_not_removed(store_place: Path) -> None:
    """The command has listed it; then another process goes on with it."""
    run = make_run(store_place, 1, finished=False)
    assert [one.run_id for one in removable(store_place, 0, None)] == [run.run_id]
    with hold(run) as check:
        before = files(store_place)
        assert not remove(run)
        check()
        assert files(store_place) == before
    assert remove(run)
    assert files(store_place) == set()
    assert not remove(run)


def test_a_run_that_was_removed_meanwhile_is_not_gone_on_with(store_place: Path) -> None:
    run = make_run(store_place, 1, finished=False)
    assert remove(run)
    with pytest.raises(InputError, match="was removed by another process just now: the same command begins a new one"), hold(run):
        pytest.fail("held")
    assert files(store_place) == set()
    assert list_runs(store_place) == []


def test_while_a_run_is_being_removed_others_sweep_around_it(store_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two commands finds what the other is removing."""
    run, other = make_run(store_place, 1), make_run(store_place, 2)
    removing = retention.sweep_removed

    def meanwhile(run: Run, trash: Path) -> None:
        monkeypatch.setattr(retention, "sweep_removed", removing)
        with pytest.raises(InputError), hold(run):
            pytest.fail("held")
        assert list_runs(store_place) == [other]
        assert not remove(run)
        sweep(store_place)
        removing(run, trash)

    monkeypatch.setattr(retention, "sweep_removed", meanwhile)
    assert remove(run)
    assert list_runs(store_place) == [other]
    assert runs_with_files(store_place) == {"20261102T030000Z-digits-0000"}
    assert not list((store_place / "trash").glob("*"))


def runs_with_files(store: Path) -> set[str]:
    """The runs that have any file in the store."""
    return set(re.findall(r"2026\d{4}T030000Z-digits-0000", " ".join(map(str, files(store)))))


@ON_DISK
def test_links_are_not_followed(store_place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    linked, run = make_run(store_place, 1), make_run(store_place, 2)
    linked.folder.rename(elsewhere / "run")
    linked.folder.symlink_to(elsewhere / "run")
    run.table("samples").parent.rename(elsewhere / "table")
    run.table("samples").parent.symlink_to(elsewhere / "table")
    before = files(elsewhere)
    assert removable(store_place, 0, None) == [run]
    assert not remove(linked)
    assert remove(run)
    assert files(elsewhere) == before
    assert published_runs(store_place) == [linked]
    assert not run.table("samples").parent.is_symlink()


def test_what_is_not_ours_in_the_trash_is_let_alone(store_place: Path) -> None:
    make_run(store_place, 1), make_run(store_place, 2, finished=False)
    for name in (".DS_Store", "...", ".0a1b2c3d", "x.y"):
        replace_file(store_place / "trash" / name / "file", "x")
    replace_file(store_place / "trash" / ".hidden", "x")
    before = files(store_place)
    sweep(store_place)
    assert files(store_place) == before


@ON_DISK
def test_a_trash_that_is_a_link_is_let_alone(store_place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "somebodys").mkdir()
    run = make_run(store_place, 1)
    (store_place / "trash").symlink_to(elsewhere)
    sweep(store_place)
    assert not remove(run)
    assert [path.name for path in elsewhere.iterdir()] == ["somebodys"]


@ON_DISK
@pytest.mark.parametrize("odd", ["folder", "link"])
def test_a_lock_that_is_none_keeps_its_run_and_no_other(store_place: Path, odd: str) -> None:
    runs = [make_run(store_place, day) for day in (1, 2)]
    runs[0].lock.mkdir() if odd == "folder" else runs[0].lock.symlink_to(store_place)
    assert removable(store_place, 0, None) == [runs[1]]
    assert not remove(runs[0])
    assert remove(runs[1])


def test_attempts_that_a_finished_run_left_are_swept(store_place: Path) -> None:
    run, unfinished = make_run(store_place, 1), make_run(store_place, 2, finished=False)
    for attempt in (run.attempts / "00000-late", unfinished.attempts / "00000-0"):
        replace_file(attempt / "samples.parquet", "half")
    sweep(store_place)
    assert not run.attempts.exists()
    assert unfinished.attempts.exists()


@ON_DISK
def test_operators_that_no_run_that_stays_can_have_used_go(store_place: Path) -> None:
    runs = [make_run(store_place, day) for day in (1, 2)]
    (store_place / "operators").mkdir()
    paths = {}
    for day, suffix in ((1, "refused"), (2, "safetensors")):
        paths[day] = store_place / "operators" / f"{day}.{suffix}"
        paths[day].touch()
        used = (PLANNED.replace(day=day) + timedelta(minutes=1)).timestamp()
        os.utime(paths[day], (used, used))
    assert unused_operators(store_place, []) == []
    assert unused_operators(store_place, runs[:1]) == [paths[1]]
    assert unused_operators(store_place, runs) == [paths[1], paths[2]]


def test_operators_in_s3_are_used_without_being_written_again(s3_store: Path) -> None:
    run = make_run(s3_store, 1)
    path = s3_store / "operators" / "0a.safetensors"
    replace_file(path, "operator")
    tag = remote(path)[0].info(remote(path)[1])["ETag"]
    mark_used(path)
    assert last_used(path) > PLANNED.timestamp()
    assert remote(path)[0].info(remote(path)[1])["ETag"] == tag
    assert unused_operators(s3_store, []) == []
    assert unused_operators(s3_store, [run]) == [path]
    remove_operator(path)
    assert not [path for path in files(s3_store) if path.startswith("operators")]


def test_the_command_lists_first_and_removes_when_told(store_place: Path) -> None:
    for day in (1, 2):
        make_run(store_place, day)
    before = files(store_place)
    arguments = ["gc", "--store", str(store_place), "--keep", "1"]
    listed = CliRunner().invoke(app, arguments)
    assert listed.exit_code == 0
    assert listed.stdout.startswith("20261101T030000Z-digits-0000  ")
    assert "1 run and 0 fixed operators may go; --delete removes them" in listed.stderr
    assert files(store_place) == before
    assert CliRunner().invoke(app, [*arguments, "--delete"]).exit_code == 0
    assert days(published_runs(store_place)) == [2]
    assert "20261101" not in (store_place / "reports" / "index.html").read_text()


@ON_DISK
def test_the_command_wants_to_be_told_which(store_place: Path) -> None:
    done = CliRunner().invoke(app, ["gc", "--store", str(store_place)])
    assert (done.exit_code, "give --keep, --older-than, or both" in done.stderr) == (2, True)
    old = CliRunner().invoke(app, ["gc", "--store", str(store_place), "--older-than", str((datetime.now(UTC) - PLANNED) // DAY)])
    assert old.exit_code == 0
