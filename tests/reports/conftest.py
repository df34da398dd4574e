"""Shared by the tests of `reports`."""

from pathlib import Path

import pytest

from reports.pages.report import render, write_report
from storage.runs.run import Run
from tests.reports.page import Page, parse
from tests.reports.stores import RANKED, SMALL, make_store


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Ten measured samples of three classes, two failures and a gallery. Only to be read."""
    return make_store(tmp_path_factory.mktemp("small"), SMALL)


@pytest.fixture(scope="session")
def small_html(small_run: Run) -> str:
    path: Path = write_report(small_run)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def ranked_page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Thirteen samples, of classes of five, six and two."""
    return parse(render(make_store(tmp_path_factory.mktemp("ranked"), RANKED)))


@pytest.fixture(scope="session")
def small_page(small_html: str) -> Page:
    return parse(small_html)
