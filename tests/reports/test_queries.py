"""The report's SQL: what is shown is what was run, and anyone can run it."""

from dataclasses import replace

import pytest

from reports import queries
from reports.pages.report import render
from storage.runs.run import Run
from storage.sql.read_only import connect, select
from tests.reports.page import Page, parse
from tests.reports.sections.test_data_checks import place as place_data_checks
from tests.reports.sections.test_trust import place_trust
from tests.reports.stores import OTHER, SAMPLES, SMALL, Content, make_store, sample

NAMES = sorted(path.stem for folder in (queries.FOLDER, queries.SECTIONS) for path in folder.glob("*.sql"))
NOT_SHOWN = {"gallery_all", "gallery_measured"}
"""They give no figure: which samples there are, in which order."""


ASKED_OF_ALL = replace(SMALL, samples=[*SAMPLES, *(sample(index, 0, 0, 0.5, 1, OTHER) for index in (12, 13, 15, 16, 17))])
"""Where every query has an answer: five correct images of a class rest on another one; the random draw is the same."""


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with every analysis, in a store that holds a second one, of other samples."""
    store = tmp_path_factory.mktemp("two")
    run = make_store(store, ASKED_OF_ALL)
    place_data_checks(run, True, True, True)
    place_trust(run, True, True)
    make_store(store, Content(SMALL.classes, SMALL.samples[:4], SMALL.responses, run_id="20261122T030000Z-digits-0000"))
    return run


@pytest.fixture(scope="module")
def page(two_runs: Run) -> Page:
    return parse(render(two_runs))


def test_parameters_become_literals() -> None:
    sql = "SELECT $text, $number, $numbers"
    filled = queries.fill(sql, {"text": "it's $number", "number": 3, "numbers": [1, 2]})
    assert filled == "SELECT 'it''s $number', 3, [1, 2]"


def test_a_missing_parameter_is_an_error() -> None:
    with pytest.raises(KeyError, match="run_id"):
        queries.fill("SELECT $run_id", {})


def test_each_query_is_named_in_the_report(page: Page) -> None:
    assert sorted(page.queries()) == sorted(set(NAMES) - NOT_SHOWN)


def test_a_name_is_of_one_query() -> None:
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_each_query_speaks_of_one_run_only(name: str) -> None:
    assert "run_id = $run_id" in queries.load(name)


@pytest.mark.parametrize("name", sorted(set(NAMES) - NOT_SHOWN))
def test_each_query_runs_as_shown_among_other_runs(name: str, page: Page, two_runs: Run) -> None:
    shown = page.queries()[name]
    alone = select(connect(two_runs.store, [two_runs.run_id]), shown).to_pylist()
    among = select(connect(two_runs.store, [two_runs.run_id, "20261122T030000Z-digits-0000"]), shown).to_pylist()
    assert alone
    assert among == alone
