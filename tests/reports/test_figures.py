"""Figures of analyses, of runs that have the analysis and of one that has not."""

from dataclasses import replace
from pathlib import Path

import pytest

from reports.comparison import compare
from reports.figures import figures_of
from reports.gates.gate import Gate
from reports.gates.judgement import GateOutcome
from reports.gates.judging import judge
from reports.pages.comparison import as_json, write_comparison
from reports.pages.index import write_index
from storage.errors import InputError
from storage.runs.run import Run
from tests.reports.figures import offer, place_light
from tests.reports.page import parse, plain
from tests.reports.stores import SMALL, make_store

EARLIER = "20261120T030000Z-digits-0001"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    offer(monkeypatch)
    return make_store(tmp_path, SMALL)


@pytest.fixture
def earlier(run: Run) -> Run:
    return make_store(run.store, replace(SMALL, run_id=EARLIER))


def test_it_is_read_where_the_analysis_ran(run: Run, earlier: Run) -> None:
    place_light(run, 1.0, 2.0, None, 6.0)
    assert figures_of(run) == {"light": 3.0}
    assert figures_of(earlier) == {"light": None}
    place_light(run, None)
    assert figures_of(run) == {"light": None}
    run.table("light").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="table 'light' cannot be read"):
        figures_of(run)


def test_a_gate_asks_for_it_by_its_name(run: Run, earlier: Run) -> None:
    place_light(run, 1.0, 2.0, 6.0)
    gate = Gate("light", max=2.5, max_rise=1)
    (alone,) = judge([gate], run, None)
    assert (alone.outcome, "no earlier run" in alone.message) == (GateOutcome.not_evaluated, True)
    (without,) = judge([gate], run, earlier)
    assert without.outcome is GateOutcome.not_evaluated
    assert without.message == "the reference has not the analysis that makes table 'light'"
    place_light(earlier, 1.5)
    (judged,) = judge([gate], run, earlier)
    assert (judged.outcome, judged.value, judged.reference_value, judged.samples) == (GateOutcome.failed, 3.0, 1.5, (2, 1))
    assert "3 is above the most allowed, 2.5; 3 is 1.5 above the reference's 1.5, and 1 is allowed" in judged.message


def test_a_run_without_the_analysis_does_not_pass_its_gate(run: Run) -> None:
    (judged,) = judge([Gate("light", max=2.5)], run, None)
    assert judged.outcome is GateOutcome.not_evaluated
    assert judged.message == "the run has not the analysis that makes table 'light'"
    assert judged.fails


def test_its_name_is_taken(run: Run) -> None:
    with pytest.raises(ValueError, match="'light' has 'sql', and its name is that of a built-in gate"):
        Gate("light", "SELECT 1", max=1)
    with pytest.raises(ValueError, match="'lihgt' has no 'sql' and is not built in: did you mean 'light'"):
        Gate("lihgt", max=1)


def test_two_runs_that_have_it_are_compared(run: Run, earlier: Run) -> None:
    assert compare(earlier, run).of_analyses == []
    place_light(run, 1.0, 2.0, 6.0)
    assert compare(earlier, run).of_analyses == []
    place_light(earlier, 1.5)
    comparison = compare(earlier, run)
    (pair,) = comparison.of_analyses
    assert (pair.name, pair.before, pair.after) == ("light", 1.5, 3.0)
    page = parse(write_comparison(comparison, [], {}).read_text(encoding="utf-8"))
    ((*row,),) = page.table("Figures of analyses that both runs have.")
    assert [plain(cell) for cell in row] == ["light", "1.5000", "3.0000", "+1.5000", "mean light of all images"]
    assert '"name": "light"' in as_json(comparison, [])


def test_it_has_a_column_on_the_page_over_all_runs(run: Run, earlier: Run) -> None:
    def column() -> list[str]:
        page = parse(write_index(run.store).read_text(encoding="utf-8"))
        return [plain(row[-1]) for row in page.table("Runs of digits <audit>")]

    assert column() == ["–", "–"]
    place_light(run, 1.0, 2.0)
    assert column() == ["–", "–"], "a run that was read is not read again"
    write_index(run.store, [run.run_id])
    assert column() == ["1.500", "–"]


def test_the_page_reads_again_what_it_read_before_there_was_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_store(tmp_path, SMALL)
    place_light(run, 1.0, 2.0)
    assert "Light" not in write_index(run.store).read_text(encoding="utf-8")
    offer(monkeypatch)
    assert "1.500" in write_index(run.store).read_text(encoding="utf-8")
