"""An analysis that is added to a finished run, whose maps are not computed again."""

import importlib.metadata
from collections.abc import Sequence
from datetime import UTC, datetime

from flows.analyses import ANALYSES
from flows.analyses.analysis import Job
from flows.config import AuditConfig
from flows.orchestration.interruption import heeding_interrupts
from flows.runtime.progress import Progress
from flows.stages.compute import compute_all, take
from flows.stages.finalise import finalise
from flows.stages.plan import Planned, draft_plan, plan_again
from flows.stages.publish import environment
from flows.stages.session import Session
from storage.datasets import Dataset
from storage.datasets.formats import open_dataset
from storage.errors import InputError, nearest
from storage.filesystems import create_file, files_below, hash_file, make_folder, sweep_tree
from storage.runs.commits import sweep_orphans
from storage.runs.lock import check_own_folders, hold_alone
from storage.runs.manifest import Addition
from storage.runs.run import MAPS, Run, read_additions, read_manifest, read_plan


def add_analyses(run: Run, names: Sequence[str], config: AuditConfig, progress: Progress) -> None:
    """Does analyses that a finished run has not, and gives each a manifest of its own beside the run's.

    config: the run's, with the options of these analyses. An addition that was interrupted goes on. Raises InputError where one
    is not known, or is there already, and where model or dataset are not those of the run.
    """
    for place, name in enumerate(names):
        check_addable(run, name, names[:place])
    dataset = open_dataset(config.dataset)
    check_same(run, config, dataset)
    with heeding_interrupts(progress), Session(config, run.store, dataset, progress) as session:
        progress.stage("starting")
        check_own_folders(run)
        session.check_held = session.held.enter_context(hold_alone(run))
        planned = plan_again(run, session.cluster, progress)
        for name in names:
            add(session, planned, Job(ANALYSES[name], config.analyses[name]))


def check_addable(run: Run, name: str, before: Sequence[str]) -> None:
    """before: the analyses that are added before it. Raises InputError."""
    further = [other for other in ANALYSES if other != MAPS]
    if name not in further:
        raise InputError(
            f"'{name}' is no analysis that can be added: did you mean '{nearest(name, further)}'? There are {', '.join(further)}"
        )
    manifest = read_manifest(run)
    tables = {run.table(table.name).relative_to(run.store).as_posix() for table in ANALYSES[name].tables}
    added = {addition.analysis for addition in read_additions(run)}
    if name in manifest.analyses or name in added or tables & manifest.artefacts.keys():
        raise InputError(f"run '{run.run_id}' has analysis '{name}' already: 'clear-audit query' asks its tables")
    present = {*manifest.analyses, *added, *before}
    missing = next((read for read in ANALYSES[name].reads if read not in present), None)
    if missing is not None:
        raise InputError(f"analysis '{name}' asks the tables of '{missing}', which run '{run.run_id}' has not: add that before")


def check_same(run: Run, config: AuditConfig, dataset: Dataset) -> None:
    """Raises InputError where the run's model or dataset is another by now."""
    plan, now = read_plan(run), draft_plan(config, dataset)
    changed = [what for what in ("model", "dataset") if getattr(plan, f"{what}_hash") != getattr(now, f"{what}_hash")]
    if changed:
        raise InputError(
            f"nothing can be added to run '{run.run_id}': the {' and the '.join(changed)} changed since; audit the dataset anew"
        )


def add(session: Session, planned: Planned, job: Job) -> None:
    run, started = planned.run, datetime.now(UTC)
    take(session, planned, [job])
    sweep_orphans(run, session.commits[job.analysis.name].values())
    compute_all(session, planned, [job], lambda done, total: None)
    finalise(session, planned, [job], started)
    commits = session.commits[job.analysis.name].values()
    files = [*(run.table(table.name) for table in job.analysis.tables), *files_below(run.commits_of(job.analysis.name))]
    addition = Addition(
        run_id=run.run_id,
        analysis=job.analysis.name,
        options=job.options.model_dump(mode="json"),
        started_at=started,
        finished_at=datetime.now(UTC),
        tool_version=importlib.metadata.version("clear-audit"),
        processed_count=sum(commit.processed_count for commit in commits),
        failed_count=sum(commit.failed_count for commit in commits),
        environment=environment(session, planned),
        artefacts={path.relative_to(run.store).as_posix(): hash_file(path) for path in files},
    )
    session.check_held()
    make_folder(run.added)
    create_file(run.added / f"{job.analysis.name}.json", addition.model_dump_json(indent=1))
    sweep_tree(run.attempts)
