"""A run of digits that has just begun, for tests of its units of work."""

from pathlib import Path

from flows.analyses import ANALYSES
from flows.analyses.analysis import Job, Options
from storage.runs.commits import ensure_folders
from storage.runs.plan import Plan
from storage.runs.run import Run, create_run
from tests.reports.stores import SMALL, make_plan

JOBS = [Job(ANALYSES["maps"], Options()), Job(ANALYSES["evidence"], Options())]


def begin_run(store: Path, samples: int, shard_samples: int) -> tuple[Run, Plan]:
    facts = {"class_names": list("0123456789"), "sample_count": samples, "shard_samples": shard_samples}
    plan = make_plan(SMALL).model_copy(update=facts)
    run = create_run(store, plan)
    ensure_folders(run, [job.analysis.name for job in JOBS])
    return run, plan
