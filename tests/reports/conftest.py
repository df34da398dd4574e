"""Shared by the tests of `reports`."""

from pathlib import Path

import pytest

from reports.pages.report import write_report
from storage.runs.run import Run
from tests.reports.page import Page, parse
from tests.reports.stores import SMALL, make_store


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Ten measured samples of three classes, two failures and a gallery. Only to be read."""
    return make_store(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="session")
def small_html(small_run: Run) -> str:
    path: Path = write_report(small_run)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def small_page(small_html: str) -> Page:
    return parse(small_html)
