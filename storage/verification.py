"""Whether the files of a finished run are those that its manifest names."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from storage.places import files_below, hash_file
from storage.runs import Run, read_manifest
from storage.tables import SCHEMAS


@dataclass(frozen=True)
class Verification:
    """Paths in the store: files whose content is not what was written, that are gone, and that the manifest does not know.

    checked: how many files the manifest names, the plan among them.
    """

    checked: int
    changed: list[str]
    missing: list[str]
    unknown: list[str]

    @property
    def is_sound(self) -> bool:
        return not (self.changed or self.missing or self.unknown)


def verify(run: Run, progress: Callable[[int, int], None] = lambda done, total: None) -> Verification:
    """Hashes every file of a finished run again. progress: is told how many of how many are done. Raises InputError.

    Commits, the report and the arrays' metadata stand in no manifest: a report can be written again, the others say nothing
    that the hashed files do not.
    """
    manifest = read_manifest(run)
    plan = (run.folder / "plan.json").relative_to(run.store).as_posix()
    expected = manifest.artefacts | {plan: manifest.plan_hash}
    changed, missing = [], []
    for done, (path, digest) in enumerate(sorted(expected.items()), 1):
        file = run.store / path
        if not file.is_file():
            missing.append(path)
        elif hash_file(file) != digest:
            changed.append(path)
        progress(done, len(expected))
    found = {path.relative_to(run.store).as_posix() for path in data_files(run)}
    return Verification(len(expected), changed, missing, sorted(found - expected.keys()))


def data_files(run: Run) -> list[Path]:
    """The files that a reader takes for the run's data: chunks, tables and pictures."""
    chunks = [path for path in files_below(run.maps) if path.name != "zarr.json"]
    tables = [path for name in SCHEMAS for path in files_below(run.table(name).parent)]
    return [*chunks, *tables, *files_below(run.gallery)]
