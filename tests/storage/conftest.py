"""Shared by the tests of `storage`: plans and tables made by hand, and what a folder holds."""

import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.filesystems import files_below
from storage.runs.manifest import Manifest
from storage.runs.plan import Plan
from storage.runs.run import Run
from storage.tables import SCHEMA_VERSION, SCHEMAS, write_table

MakePlan = Callable[..., Plan]
PutRows = Callable[..., Path]
Publish = Callable[[Run], Manifest]
FilesOf = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="session")
def make_plan() -> MakePlan:
    def make(**changes: Any) -> Plan:
        facts: dict[str, Any] = {
            "run_id": "20261121T030000Z-audit-0001",
            "created_at": datetime(2026, 11, 21, 3, tzinfo=UTC),
            "schema_version": SCHEMA_VERSION,
            "tool_version": "0.1.0",
            "name": "audit",
            "config": {"method": {"rule": "linear"}},
            "config_hash": "c0",
            "model_hash": "m0",
            "dataset_hash": "d0",
            "class_names": ["cat", "dog"],
            "sample_count": 40,
            "height": 4,
            "width": 5,
            "shard_samples": 16,
        }
        return Plan(**(facts | changes))

    return make


@pytest.fixture(scope="session")
def make_manifest() -> Publish:
    def make(run: Run) -> Manifest:
        return Manifest(
            run_id=run.run_id,
            plan_hash="p0",
            started_at=datetime(2026, 11, 21, 3, tzinfo=UTC),
            finished_at=datetime(2026, 11, 21, 4, tzinfo=UTC),
            expected_count=40,
            processed_count=39,
            failed_count=1,
            readings=["one"],
            environment={"python": "3.11"},
            artefacts={"maps.zarr/zarr.json": "a0"},
        )

    return make


@pytest.fixture
def put_rows(tmp_path: Path) -> PutRows:
    """Writes rows of a table where a run of the store `tmp_path` has them; columns that are not given are NULL."""

    def put(run_id: str, table: str, rows: list[dict[str, Any]], meta: Iterable[pa.Field] = ()) -> Path:
        path = Run(tmp_path, run_id).table(table)
        path.parent.mkdir(parents=True)
        write_table(pa.Table.from_pylist(rows, schema=pa.schema([*SCHEMAS[table], *meta])), path)
        return path

    return put


@pytest.fixture(scope="session")
def files_of() -> FilesOf:
    """SHA-256 of every file below a folder, hidden ones too, by its path."""

    def hashes(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files_below(folder)
        }

    return hashes
