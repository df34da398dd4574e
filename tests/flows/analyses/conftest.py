"""Shared by the tests of analyses: a run of which a worker in this process does the units."""

from pathlib import Path

import pytest

import flows.analyses.runner
from flows.runtime.worker import AuditWorker, Work
from storage.runs.plan import Plan
from storage.runs.run import Run
from tests.flows.units import begin_run


@pytest.fixture
def worker(digits_work: Work, monkeypatch: pytest.MonkeyPatch) -> AuditWorker:
    made = AuditWorker(digits_work)
    monkeypatch.setattr(flows.analyses.runner, "this_worker", lambda key: made)
    return made


@pytest.fixture
def begun(worker: AuditWorker, tmp_path: Path) -> tuple[Run, Plan]:
    """A run of 40 digits in shards of 16, 16 and 8, that nobody has begun to measure."""
    return begin_run(tmp_path / "store", 40, 16)
