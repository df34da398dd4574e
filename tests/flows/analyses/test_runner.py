"""The one runner: what a unit's commits hold, which are taken, and what is done again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr

import flows.analyses.runner
from auditor import measure
from auditor.statistics.evidence import label_evidence
from flows.analyses.analysis import Analysis, Job, Options, Result, shards
from flows.analyses.runner import passes, run_unit, take_commits
from flows.runtime.worker import AuditWorker
from storage.aggregates import TABLES
from storage.joins import join_maps, join_parts
from storage.runs.commits import read_commits
from storage.runs.plan import Plan, Unit
from storage.runs.run import Run
from tests.flows.conftest import Digits
from tests.flows.units import JOBS

Begun = tuple[Run, Plan]
MAPS, EVIDENCE = JOBS


class ToyOptions(Options):
    count: int = 3


def toy(name: str, of_maps: bool = False) -> Job:
    analysis = Analysis(name, "nothing", ToyOptions, (), shards, lambda unit, context: Result(unit.size, 0, {}), of_maps)
    return Job(analysis, ToyOptions())


def test_jobs_that_are_of_maps_are_done_in_one_pass_with_these() -> None:
    own, of_maps = toy("own"), toy("of_maps", of_maps=True)
    assert passes([MAPS]) == [[MAPS]]
    assert passes(JOBS) == [[MAPS, EVIDENCE]]
    assert passes([MAPS, own, EVIDENCE, of_maps]) == [[MAPS, EVIDENCE, of_maps], [own]]
    assert passes([own, of_maps, MAPS]) == [[MAPS, of_maps], [own]]


def test_without_maps_each_job_is_a_pass() -> None:
    own, of_maps = toy("own"), toy("of_maps", of_maps=True)
    assert passes([of_maps, own]) == [[of_maps], [own]]
    assert passes([]) == []


def test_a_pass_commits_what_each_of_its_analyses_makes_of_a_unit(begun: Begun, worker: AuditWorker, digits: Digits) -> None:
    run, plan = begun
    unit = Unit(1, 16, 32)
    assert run_unit("digits", run, plan, None, JOBS, unit) == {"processed": 16, "failed": 0}
    known = torch.from_numpy(digits.labels[16:32].astype(np.int64))
    measured = measure(worker.clear, worker.tensor(digits.pixels[16:32, None]), known)
    taken = {job.analysis.name: take_commits(run, plan, job) for job in JOBS}
    assert all((list(commits), faults) == ([1], []) for commits, faults in taken.values())
    folders = {name: run.attempts / commits[1].attempt for name, (commits, _) in taken.items()}
    assert sorted(path.name for path in run.attempts.iterdir()) == sorted(folder.name for folder in folders.values())
    maps = zarr.open_group(folders["maps"] / "maps.zarr", mode="r")
    np.testing.assert_array_equal(np.asarray(maps["dominant_class"]), measured.maps.dominant_class.numpy())
    assert pq.read_table(folders["maps"] / "samples.parquet")["label"].to_pylist() == digits.labels[16:32].tolist()
    labels, counts, own, other = label_evidence(measured.maps.dominant_class, measured.maps.dominant_response, known, 1)
    assert [path.name for path in folders["evidence"].iterdir()] == ["evidence.parquet"]
    sums = pq.read_table(folders["evidence"] / "evidence.parquet")
    assert sums["label"].to_pylist() == labels.tolist()
    assert sums["evidence_count"].to_pylist() == counts.tolist()
    for name, expected in (("label_energy_frac_sum", own), ("other_energy_frac_sum", other)):
        np.testing.assert_allclose(sums[name].to_pylist(), expected.flatten(1).numpy(), rtol=1e-5, atol=1e-8)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("lost", [0, 1])
def test_a_unit_of_which_one_analysis_is_not_committed_is_done_again_and_comes_out_the_same(begun: Begun, lost: int) -> None:
    run, plan = begun
    unit, job, kept = Unit(2, 32, 40), JOBS[lost], JOBS[1 - lost]
    run_unit("digits", run, plan, None, JOBS, unit)
    before = {name: read_commits(run, name)[2] for name in ("maps", "evidence")}
    files = files_of(run.attempts / before[job.analysis.name].attempt)
    (run.commits_of(job.analysis.name) / "00002.json").unlink()
    assert run_unit("digits", run, plan, None, JOBS, unit) == {"processed": 8, "failed": 0}
    assert take_commits(run, plan, kept) == ({2: before[kept.analysis.name]}, [])
    commits, faults = take_commits(run, plan, job)
    assert (list(commits), faults) == ([2], [])
    assert commits[2].attempt != before[job.analysis.name].attempt
    assert files_of(run.attempts / commits[2].attempt) == files
    # The first ones, of both analyses, and the second of the one whose commit was lost.
    assert len(list(run.attempts.iterdir())) == 3


def test_where_the_maps_of_a_unit_are_committed_all_is(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    run, plan = begun
    commit_attempt = flows.analyses.runner.commit_attempt
    order = []

    def commit_and_die(run: Run, analysis: str, *more: object) -> bool:
        order.append(analysis)
        if len(order) == 2:
            raise KeyboardInterrupt
        return commit_attempt(run, analysis, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(flows.analyses.runner, "commit_attempt", commit_and_die)
    with pytest.raises(KeyboardInterrupt):
        run_unit("digits", run, plan, None, JOBS, Unit(2, 32, 40))
    assert order == ["evidence", "maps"]
    assert (list(read_commits(run, "maps")), list(read_commits(run, "evidence"))) == ([], [2])


def test_units_that_were_done_by_other_options_are_done_again(begun: Begun) -> None:
    run, plan = begun
    run.commits_of("toy").mkdir()
    job, counted = toy("toy"), Job(toy("toy").analysis, ToyOptions(count=4))
    unit = Unit(0, 0, 16)
    run_unit("digits", run, plan, None, [job], unit)
    assert list(take_commits(run, plan, job)[0]) == [0]
    commits, (fault,) = take_commits(run, plan, counted)
    assert commits == {}
    assert "its unit is computed again: analysis 'toy' was done by other options" in fault
    assert read_commits(run, "toy") == {}
    run_unit("digits", run, plan, None, [counted], unit)
    assert list(take_commits(run, plan, counted)[0]) == [0]


def finish_maps(run: Run, plan: Plan) -> None:
    """The maps of all shards in the run's arrays, and their tables."""
    for unit in plan.shards():
        run_unit("digits", run, plan, None, [MAPS], unit)
    commits = list(read_commits(run, "maps").values())
    join_maps(run, plan, commits, {})
    join_parts(run, plan, TABLES, commits)


def test_an_analysis_of_maps_is_done_of_those_that_a_run_stored(begun: Begun) -> None:
    """It gives what it gives of maps as they are measured, but for the 16 bits that they are stored by."""
    run, plan = begun
    finish_maps(run, plan)
    unit = Unit(1, 16, 32)

    def sums(jobs: list[Job]) -> dict[str, list[object]]:
        run_unit("digits", run, plan, None, jobs, unit)
        record = run.commits_of("evidence") / "00001.json"
        attempt = read_commits(run, "evidence")[1].attempt
        record.unlink()
        found: dict[str, list[object]] = pq.read_table(run.attempts / attempt / "evidence.parquet").to_pydict()
        return found

    stored, measured = sums([EVIDENCE]), sums(JOBS)
    for name in ("label", "evidence_count"):
        assert stored[name] == measured[name]
    for name in ("label_energy_frac_sum", "other_energy_frac_sum"):
        np.testing.assert_allclose(stored[name], measured[name], rtol=4e-3, atol=1e-6)


@pytest.mark.parametrize("change", [lambda rows: rows.slice(1), lambda rows: rows.drop_columns(["label"])])
def test_damage_to_a_part_is_found_by_its_analysis(begun: Begun, change: Callable[[object], object]) -> None:
    run, plan = begun
    run_unit("digits", run, plan, None, JOBS, Unit(2, 32, 40))
    commit = read_commits(run, "maps")[2]
    path = run.attempts / commit.attempt / "samples.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    commits, (fault,) = take_commits(run, plan, MAPS)
    assert commits == {}
    assert "'samples.parquet' of its attempt is not as it was committed" in fault
    assert list(take_commits(run, plan, EVIDENCE)[0]) == [2]


def test_an_analysis_is_asked_what_is_wrong_with_its_parts(begun: Begun) -> None:
    run, plan = begun
    run_unit("digits", run, plan, None, JOBS, Unit(2, 32, 40))
    asked = []

    def check(plan: Plan, unit: Unit, commit: object, parts: dict[str, object]) -> str:
        asked.append((unit, list(parts)))
        return "it is not to my taste"

    commits, (fault,) = take_commits(run, plan, Job(replace(EVIDENCE.analysis, check=check), Options()))
    assert commits == {}
    assert "it is not to my taste" in fault
    assert asked == [(Unit(2, 32, 40), ["evidence"])]
