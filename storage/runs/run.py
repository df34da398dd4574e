"""A run on disk: its plan, the attempts at its units of work, their commits, and the manifest that publishes it.

runs/<run_id>/plan.json                       frozen when the run begins
runs/<run_id>/attempts/                       work in progress; swept when the run ends
runs/<run_id>/commits/<analysis>/00012.json   created exclusively: the commit point of the analysis's unit 12
runs/<run_id>/maps.zarr                       published from the attempts
runs/<run_id>/gallery/                        pictures for the report
runs/<run_id>/manifest.json                   written last: a run without it is not read by anyone
runs/<run_id>/analyses/<analysis>.json        the manifest of an analysis that was added later
tables/<table>/run_id=<run_id>/part-0.parquet
"""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from storage.errors import InputError
from storage.filesystems import create_file, make_folder, sweep_tree
from storage.json_records import read_record
from storage.runs.manifest import Addition, Manifest
from storage.runs.plan import Plan

MAPS = "maps"
"""The analysis that every run has: the one that measures the samples."""

OfRun = TypeVar("OfRun", Plan, Manifest, Addition)


@dataclass(frozen=True)
class Run:
    """Where the parts of one run lie."""

    store: Path
    run_id: str

    @property
    def folder(self) -> Path:
        return self.store / "runs" / self.run_id

    @property
    def plan(self) -> Path:
        return self.folder / "plan.json"

    @property
    def attempts(self) -> Path:
        return self.folder / "attempts"

    @property
    def commits(self) -> Path:
        return self.folder / "commits"

    def commits_of(self, analysis: str) -> Path:
        return self.commits / analysis

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def maps(self) -> Path:
        return self.folder / "maps.zarr"

    @property
    def gallery(self) -> Path:
        return self.folder / "gallery"

    @property
    def added(self) -> Path:
        """The manifests of analyses that were added to the finished run."""
        return self.folder / "analyses"

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def report(self) -> Path:
        return self.store / "reports" / f"{self.run_id}.html"

    def table(self, name: str) -> Path:
        return self.store / "tables" / name / f"run_id={self.run_id}" / "part-0.parquet"

    def table_folders(self) -> list[Path]:
        """The folders of the tables that there are of the run."""
        return sorted((self.store / "tables").glob(f"*/run_id={self.run_id}"))

    @property
    def is_published(self) -> bool:
        return self.manifest.exists()


STAMP = len("20261121T030000Z")


def new_run_id(name: str, now: datetime) -> str:
    """Sorts by time, and is a valid file name everywhere: `20261121T030000Z-mnist-4f2a`."""
    short = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{short}-{secrets.token_hex(2)}"


def create_run(store: Path, plan: Plan) -> Run:
    """Writes the plan: from here on the run exists."""
    run = Run(store, plan.run_id)
    for folder in (run.attempts, run.commits):
        make_folder(folder)
    create_file(run.plan, plan.model_dump_json(indent=1))
    return run


def read_plan(run: Run) -> Plan:
    """Raises InputError where it is damaged, or another run's."""
    return of_run(run, read_record(Plan, run.plan), run.plan)


def readable_plan(run: Run) -> Plan | None:
    """None where the plan is damaged, or of another version."""
    try:
        return read_plan(run)
    except InputError:
        return None


def planned_rule(run: Run) -> str | None:
    """The rule that a run's maps were planned by; None where its plan does not say."""
    plan = readable_plan(run)
    method = None if plan is None else plan.config.get("method")
    rule = method.get("rule") if isinstance(method, dict) else None
    return rule if isinstance(rule, str) else None


def read_manifest(run: Run) -> Manifest:
    """Raises InputError where it is damaged, or another run's."""
    return of_run(run, read_record(Manifest, run.manifest), run.manifest)


def read_additions(run: Run) -> list[Addition]:
    """The manifests of the analyses that were added to a finished run. Raises InputError where one is damaged, or another's."""
    return [of_run(run, read_record(Addition, path), path) for path in sorted(run.added.glob("*.json"))]


def of_run(run: Run, record: OfRun, path: Path) -> OfRun:
    if record.run_id != run.run_id:
        raise InputError(f"'{path}' is of run '{record.run_id}', and lies in the folder of run '{run.run_id}'")
    return record


def publish(run: Run, manifest: Manifest) -> None:
    """Writes the manifest, by which the run becomes visible, and sweeps what work left behind."""
    create_file(run.manifest, manifest.model_dump_json(indent=1))
    # A worker that was presumed dead may still be writing there: what it leaves is swept another time.
    sweep_tree(run.attempts)
