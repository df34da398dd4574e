"""Commands that show what a store has, and ask it."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.exit_codes import exit_codes, write
from flows.cli.options import DEFAULT_STORE, RunId, Store, row_of, run_ids
from flows.cli.printing import Form, write_rows


def list_runs(store: Store = DEFAULT_STORE, form: Annotated[Form, typer.Option("--format")] = Form.table) -> None:
    """List the finished runs of a store, latest first."""
    columns = "run_id, name, started_at, processed_count, failed_count, correct_frac, agreement_frac, sparseness_mean"
    query(f"SELECT {columns} FROM runs ORDER BY started_at DESC", store, form)


def show(run_id: RunId = "latest", store: Store = DEFAULT_STORE) -> None:
    """Show one run: its facts, its figures, and where its files are."""
    with exit_codes():
        from reports.pages.template import of_damage
        from storage.datasets.dataset import say_empty, say_passed_over
        from storage.runs.lookup import find_run
        from storage.runs.run import read_manifest

        found = find_run(store, run_id)
        manifest = read_manifest(found)
        with of_damage(found):
            row = row_of(found)
            classes = ", ".join(row["class_names"])
        facts = {name: value for name, value in row.items() if name != "class_names"}
        if manifest.passed_over:
            facts["passed_over"] = say_passed_over(manifest.passed_over)
        if manifest.empty_classes:
            facts["empty_classes"] = say_empty(manifest.empty_classes)
        facts |= {"classes": classes, "maps": found.maps, "report": found.report}
        for name, value in facts.items():
            write(f"{name:<25} {value}")


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT over the tables runs, samples, responses, …")],
    store: Store = DEFAULT_STORE,
    form: Annotated[Form, typer.Option("--format", help="How rows are written.")] = Form.table,
    output: Annotated[Path | None, typer.Option(help="File to write instead of stdout; needed for parquet.")] = None,
    timeout_secs: Annotated[int, typer.Option(min=1, help="Seconds after which the query is stopped.")] = 60,
) -> None:
    """Ask the tables of all finished runs, in SQL."""
    with exit_codes():
        from storage.errors import InputError
        from storage.sql.sandboxed_query import ask

        if form is Form.parquet and output is None:
            raise InputError("--format parquet writes a file: name it with --output")
        try:
            table = ask(store, run_ids(store), sql, timeout_secs=timeout_secs, values=form.values)
        except InputError as error:
            from flows.analyses import name_analysis

            raise InputError(name_analysis(str(error))) from error
        try:
            write_rows(table, form, output)
        except OSError as error:
            if output is None:
                raise
            raise InputError(f"output '{output}' cannot be written ({error.strerror}): name another path") from error
