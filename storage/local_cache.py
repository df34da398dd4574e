"""Copies of a store's files on this machine, for what reads files alone: DuckDB, and the mapping of operators into memory.

A copy is named after the ETag of what it copies: a file that changed is fetched again, any other once.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from storage.filesystems import is_remote, put_files, remote, scratch


def cache_folder(store: Path) -> Path:
    """Where this machine keeps copies of files of a store in S3. It may be removed at any time that none is in use."""
    from platformdirs import user_cache_path

    return user_cache_path("clear-audit") / "stores" / hashlib.sha256(str(store).encode()).hexdigest()[:16]


def local_store(store: Path, runs: Iterable[str]) -> Path:
    """A store on this machine that has the tables of these runs: itself, or its mirror, brought up to date."""
    if not is_remote(store):
        return store
    mirror, wanted = cache_folder(store), {f"run_id={run}" for run in runs}
    if not wanted:
        return mirror
    filesystem, place = remote(store / "tables")
    copies = {}
    for name, facts in filesystem.find(place, detail=True).items():
        table, run, file = (*name.removeprefix(place).lstrip("/").split("/"), "", "", "")[:3]
        if run in wanted and file.endswith(".parquet"):
            copies[copy_path(mirror / "tables" / table / run / file, facts)] = facts
    fetch(filesystem, copies)
    there = {path for run in wanted for path in (mirror / "tables").glob(f"*/{run}/*.parquet")}
    for path in there - copies.keys():
        path.unlink(missing_ok=True)
    return mirror


def local_file(store: Path, path: Path) -> Path:
    """A file of a store on this machine: itself, or a copy. Raises FileNotFoundError."""
    if not is_remote(store):
        return path
    filesystem, place = remote(path)
    facts = filesystem.info(place)
    copy = copy_path(cache_folder(store) / path.relative_to(store).as_posix(), facts)
    fetch(filesystem, {copy: facts})
    for older in set(copy.parent.glob(f"{path.stem}-*{path.suffix}")) - {copy}:
        older.unlink(missing_ok=True)
    return copy


def copy_path(path: Path, facts: Mapping[str, Any]) -> Path:
    """A name for the copy of a file that no other content of the file has. facts: what fsspec knows of the file."""
    tag = re.sub(r"\W+", "-", facts["ETag"]).strip("-")
    return path.with_name(f"{path.stem}-{tag}{path.suffix}")


def fetch(filesystem: Any, copies: Mapping[Path, Mapping[str, Any]]) -> None:
    """Has copies on this machine, whole; one of the right size is there already. copies: what is known of each original."""
    missing = {copy: facts["name"] for copy, facts in copies.items() if not copy.exists() or copy.stat().st_size != facts["size"]}
    if not missing:
        return
    for folder in {copy.parent for copy in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    with scratch(Path(os.path.commonpath([copy.parent for copy in missing]))) as folder:
        fetched = {folder / str(number): copy for number, copy in enumerate(missing)}
        filesystem.get(list(missing.values()), list(map(str, fetched)))
        put_files(fetched)
