"""Whether the files of a finished run are those that its manifest names, and hold what it says."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import InputError
from storage.filesystems import HALF, files_below, hash_file
from storage.maps import describe_maps
from storage.runs.commits import read_commits
from storage.runs.manifest import Manifest
from storage.runs.plan import Plan
from storage.runs.run import MAPS, Run, read_additions, read_manifest, read_plan
from storage.tables import SCHEMA_VERSION, SCHEMAS

EVERY_FILE_SINCE = 6
"""The version since which the manifest names every file of a run; before, it left out commits and the arrays' metadata."""


@dataclass(frozen=True)
class Verification:
    """Paths in the store: files whose content is not what was written, that are gone, and that the manifest does not know.

    checked: how many files the manifest names, the plan among them. faults: what does not fit together in what they hold, a
    sentence each.
    """

    checked: int
    changed: list[str]
    missing: list[str]
    unknown: list[str]
    faults: list[str]

    @property
    def is_sound(self) -> bool:
        return not (self.changed or self.missing or self.unknown or self.faults)


def verify(
    run: Run,
    schemas: Mapping[str, pa.Schema] = SCHEMAS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Hashes every file of a finished run again, and opens them.

    schemas: of the tables that are known; of others only the hash is compared. progress: is told how many of how many are done.
    The report stands in no manifest: it can be written again. Raises InputError where a manifest is damaged.
    """
    manifest, additions = read_manifest(run), read_additions(run)
    expected = manifest.artefacts | {in_store(run, run.plan): manifest.plan_hash}
    for addition in additions:
        expected |= addition.artefacts
    changed, missing = [], []
    for done, (path, digest) in enumerate(sorted(expected.items()), 1):
        found = digest_of(run.store / path)
        if found is None:
            missing.append(path)
        elif found != digest:
            changed.append(path)
        progress(done, len(expected))
    names_all = any(path.endswith("zarr.json") for path in manifest.artefacts)
    unknown = {path for path in (in_store(run, path) for path in files_of(run)) if names_all or is_data(path)}
    return Verification(
        len(expected), changed, missing, sorted(unknown - expected.keys()), list(find_faults(run, manifest, schemas))
    )


def digest_of(path: Path) -> str | None:
    """None where no such file is, or can be."""
    try:
        return hash_file(path) if path.is_file() else None
    except OSError:
        return None


def in_store(run: Run, path: Path) -> str:
    return path.relative_to(run.store).as_posix()


def files_of(run: Run) -> Iterator[Path]:
    """All files of a finished run but its manifests, and what work may have left behind, which nobody reads."""
    apart = (run.manifest.name, run.added.name, run.lock.name, run.attempts.name)
    for path in files_below(run.folder):
        if path.relative_to(run.folder).as_posix().split("/")[0] not in apart and not HALF.fullmatch(path.name):
            yield path
    for folder in run.table_folders():
        yield from files_below(folder)


def is_data(path: str) -> bool:
    """Whether the manifest of an older version names a file of this kind."""
    return not (path.endswith("/zarr.json") or path.split("/")[2:3] == ["commits"])


def find_faults(run: Run, manifest: Manifest, schemas: Mapping[str, pa.Schema]) -> Iterator[str]:
    """What does not fit together in records, tables and arrays that can be opened. What is missing is no fault of these."""
    try:
        plan = read_plan(run)
    except InputError as error:
        yield str(error)
        return
    counted = manifest.processed_count + manifest.failed_count
    if not manifest.expected_count == counted == plan.sample_count:
        yield f"the manifest counts {counted:,} of {manifest.expected_count:,} images, and the plan {plan.sample_count:,}"
    if plan.schema_version >= EVERY_FILE_SINCE:
        yield from commit_faults(run, manifest)
    for name, schema in schemas.items():
        yield from table_faults(run, plan, manifest, name, schema)
    if run.maps.exists():
        yield from map_faults(run, plan)


def commit_faults(run: Run, manifest: Manifest) -> Iterator[str]:
    try:
        commits = read_commits(run, MAPS).values()
        for analysis in manifest.analyses:
            read_commits(run, analysis)
    except InputError as error:
        yield str(error)
        return
    counts = sum(commit.processed_count for commit in commits), sum(commit.failed_count for commit in commits)
    if counts != (manifest.processed_count, manifest.failed_count):
        yield f"the commits count {counts[0]:,} measured and {counts[1]:,} failed images, and the manifest others"


def table_faults(run: Run, plan: Plan, manifest: Manifest, name: str, expected: pa.Schema) -> Iterator[str]:
    path = run.table(name)
    counts = {"samples": manifest.processed_count, "failures": manifest.failed_count, "runs": 1}
    if "class_name" in expected.names:
        counts[name] = len(plan.class_names)
    if not path.is_file():
        return
    try:
        with path.open("rb") as file, pq.ParquetFile(file) as table:
            schema, rows = table.schema_arrow, table.metadata.num_rows
    except (OSError, pa.ArrowException) as error:
        yield f"'{in_store(run, path)}' is no table that can be read ({str(error).splitlines()[0]})"
        return
    if name in counts and rows != counts[name]:
        yield f"'{in_store(run, path)}' has {rows:,} of {counts[name]:,} rows"
    for field in expected:
        if schema.names.count(field.name) > 1:
            yield f"'{in_store(run, path)}' has several columns '{field.name}'"
        elif field.name not in schema.names:
            if plan.schema_version == SCHEMA_VERSION:
                yield f"'{in_store(run, path)}' has no column '{field.name}'"
        elif schema.field(field.name).type != field.type:
            yield f"'{in_store(run, path)}' has '{field.name}' as {schema.field(field.name).type}, which is {field.type}"


def map_faults(run: Run, plan: Plan) -> Iterator[str]:
    whole: tuple[int, ...] = (plan.sample_count, plan.height, plan.width)
    expected = {"dominant_class": (whole, "int16"), "dominant_response": (whole, "float16")}
    expected |= {"response_peak": (whole[:1], "float32")}
    try:
        found, run_id = describe_maps(run.maps)
    except Exception as error:  # damaged metadata makes Zarr raise whatever they happen to mean
        yield f"'{in_store(run, run.maps)}' cannot be opened ({(str(error).splitlines() or [type(error).__name__])[0][:200]})"
        return
    if run_id != run.run_id:
        yield f"'{in_store(run, run.maps)}' is of run '{run_id}'"
    for name, (shape, kind) in expected.items():
        if found.get(name) != (shape, kind):
            yield f"'{in_store(run, run.maps / name)}' is {found.get(name, 'not there')}, and the run has {(shape, kind)}"
