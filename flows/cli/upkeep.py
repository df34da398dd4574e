"""Commands that look after a store: whether its files are as they were written, and which may go."""

from typing import Annotated

import typer

from flows.cli.exit_codes import FAILED, exit_codes, say, write
from flows.cli.options import DEFAULT_STORE, RunId, Store


def verify(run_id: RunId = "latest", store: Store = DEFAULT_STORE) -> None:
    """Hash all files of a finished run again, and say which are not as its manifest has them. Exit code 3: some are not."""
    with exit_codes():
        from flows.analyses import known_schemas
        from flows.runtime.progress import ProgressBar
        from reports.formats import plural
        from storage.runs import verification
        from storage.runs.lookup import find_run

        run = find_run(store, run_id)
        with ProgressBar() as progress:
            progress.stage("verifying")
            found = verification.verify(run, known_schemas(), lambda done, total: progress.advance(done, 0, total, "files"))
        for word, paths in {"changed": found.changed, "missing": found.missing, "unknown": found.unknown}.items():
            for path in paths:
                write(f"{word:<8} {path}")
        for fault in found.faults:
            write(f"{'fault':<8} {fault}")
        if not found.is_sound:
            problems = f"{len(found.changed):,} changed, {len(found.missing):,} missing, {len(found.unknown):,} unknown"
            problems += f", and {plural(len(found.faults), 'fault')} in what they hold" if found.faults else ""
            say(f"run '{run.run_id}' is not as it was written: of {found.checked:,} files {problems}")
            raise typer.Exit(FAILED)
        write(f"{run.run_id}: all {found.checked:,} files are as they were written")


def gc(
    store: Store = DEFAULT_STORE,
    keep: Annotated[int | None, typer.Option(min=0, help="Runs beyond the latest so many of each audit may go.")] = None,
    older_than: Annotated[int | None, typer.Option(metavar="DAYS", min=0, help="Runs begun longer ago may go.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; without it they are only listed.")] = False,
) -> None:
    """List the runs that may go, and remove them with --delete: never one that a run that stays refers to.

    With both --keep and --older-than a run goes that is both. Unfinished runs go by the same rules.
    """
    with exit_codes(lambda: "the same command goes on"):
        from datetime import UTC, datetime, timedelta

        from reports.formats import file_size, plural
        from reports.pages.index import write_index
        from storage.errors import InputError
        from storage.operators import remove_operator
        from storage.runs import retention

        if keep is None and older_than is None:
            raise InputError("nothing says which runs may go: give --keep, --older-than, or both")
        if not store.is_dir():
            raise InputError(f"store '{store}' does not exist: name it with --store")
        before = None if older_than is None else datetime.now(UTC) - timedelta(days=older_than)
        runs = retention.removable(store, keep, before)
        gone = []
        for run in runs:
            size = file_size(retention.size_of(run))
            if delete and not retention.remove(run):
                say(f"run '{run.run_id}' is being worked on by now, and stays")
                continue
            gone.append(run)
            write(f"{run.run_id}  {size}")
        # Not before: a run that began meanwhile may use one.
        operators = retention.unused_operators(store, gone)
        for path in operators:
            write(f"{path.relative_to(store)}  {file_size(path.stat().st_size)}")
            if delete:
                remove_operator(path)
        if delete:
            retention.sweep(store)
            write_index(store)
        what = "removed" if delete else "may go; --delete removes them"
        say(f"{plural(len(gone), 'run')} and {plural(len(operators), 'fixed operator')} {what}")
