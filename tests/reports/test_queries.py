"""The report's SQL: what is shown is what was run, and anyone can run it."""

import pytest

from reports import queries
from storage.runs.run import Run
from storage.sql.read_only import connect, select
from tests.reports.page import Page
from tests.reports.stores import SMALL, Content, make_store

NAMES = sorted(path.stem for folder in (queries.FOLDER, queries.SECTIONS) for path in folder.glob("*.sql"))
NOT_SHOWN = {"gallery_all", "gallery_measured"}
"""They give no figure: which samples there are, in which order."""


def test_parameters_become_literals() -> None:
    sql = "SELECT $text, $number, $numbers"
    filled = queries.fill(sql, {"text": "it's $number", "number": 3, "numbers": [1, 2]})
    assert filled == "SELECT 'it''s $number', 3, [1, 2]"


def test_a_missing_parameter_is_an_error() -> None:
    with pytest.raises(KeyError, match="run_id"):
        queries.fill("SELECT $run_id", {})


def test_each_query_is_named_in_the_report(small_page: Page) -> None:
    assert sorted(small_page.queries()) == sorted(set(NAMES) - NOT_SHOWN)


def test_a_name_is_of_one_query() -> None:
    assert len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_each_query_speaks_of_one_run_only(name: str) -> None:
    assert "run_id = $run_id" in queries.load(name)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small run in a store that holds a second one, of other samples."""
    store = tmp_path_factory.mktemp("two")
    run = make_store(store, SMALL)
    make_store(store, Content(SMALL.classes, SMALL.samples[:4], SMALL.responses, run_id="20261122T030000Z-digits-0000"))
    return run


@pytest.mark.parametrize("name", sorted(set(NAMES) - NOT_SHOWN))
def test_each_query_runs_as_shown_among_other_runs(name: str, small_page: Page, two_runs: Run) -> None:
    shown = small_page.queries()[name]
    alone = select(connect(two_runs.store, [two_runs.run_id]), shown).to_pylist()
    among = select(connect(two_runs.store, [two_runs.run_id, "20261122T030000Z-digits-0000"]), shown).to_pylist()
    assert alone
    assert among == alone
