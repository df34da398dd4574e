"""What several commands take, and how a store and its runs are found."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.exit_codes import USAGE, say

if TYPE_CHECKING:
    from storage.runs.run import Run


def open_store(text: str) -> Path:
    """A place that the command line names, in reach. Ends the program where it is not."""
    from storage.errors import InputError
    from storage.filesystems import check_reachable, parse_store

    try:
        store = parse_store(str(text))
        check_reachable(store)
    except InputError as error:
        say(str(error))
        raise typer.Exit(USAGE) from error
    return store


Store = Annotated[
    Path,
    typer.Option(
        help="Folder that keeps runs, tables and reports, or s3://bucket/prefix.",
        envvar="CLEAR_AUDIT_STORE",
        parser=open_store,
        metavar="PLACE",
    ),
]
Setting = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set a key of the config; may be repeated.")
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, an unambiguous beginning of it, or 'latest'.")]
DEFAULT_STORE = Path("audits")


def run_ids(store: Path) -> list[str]:
    """The published runs of a store. Raises InputError where there is no such store."""
    from storage.errors import InputError
    from storage.runs.lookup import published_runs

    if not store.is_dir():
        raise InputError(f"store '{store}' does not exist: name it with --store, or make it with 'clear-audit run CONFIG'")
    return [found.run_id for found in published_runs(store)]


def row_of(run: "Run") -> dict[str, Any]:
    """A run's row of the table `runs`. Raises InputError where it is damaged."""
    from storage.errors import InputError
    from storage.sql.read_only import connect, select

    with connect(run.store, [run.run_id]) as connection:
        rows: list[dict[str, Any]] = select(connection, "SELECT * FROM runs").to_pylist()
    if len(rows) != 1:
        raise InputError(f"table 'runs' of run '{run.run_id}' has {len(rows):,} rows: 'clear-audit verify' says what is damaged")
    return rows[0]
