"""The command line: `clear-audit …`. stdout is data, stderr is progress.

Heavy packages are imported by the commands that need them: `--help` must answer at once.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.exit_codes import FAILED, GATE_FAILED, USAGE, exit_codes, say, tell, write
from flows.cli.printing import Form, draw_table, write_rows, write_text

if TYPE_CHECKING:
    from flows.config import AuditConfig
    from flows.runtime.progress import Listener
    from reports.gates.judgement import Judgement
    from storage.runs.run import Run


HERE = Path(__file__).parents[1]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def say_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        write(f"clear-audit {version('clear-audit')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Say the version and exit.", callback=say_version, is_eager=True)
    ] = False,
) -> None:
    """Audits image classifiers: which pixels spoke for which class, over a whole dataset."""


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
GATE_COLUMNS = ["gate_name", "outcome", "severity", "value", "reference_value", "least", "most", "max_drop", "max_rise"]


@app.command()
def demo(store: Store = DEFAULT_STORE) -> None:
    """Audit 10,000 handwritten digits with the classifier that comes along."""
    with exit_codes():
        from flows.config import load_config

        audit_and_tell(load_config(HERE / "demo" / "demo.toml"), store)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="The config file to write.")] = Path("audit.toml"), store: Store = DEFAULT_STORE
) -> None:
    """Write a config with every key explained, to be edited."""
    with exit_codes():
        from storage.errors import InputError

        try:
            with path.open("x", encoding="utf-8") as file:
                file.write((HERE / "init.toml").read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"config '{path}' cannot be written ({error.strerror}): name another path") from error
        typer.echo(f"{path}: edit the three lines marked EDIT, then: clear-audit run {path} --store {store}", err=True)


@app.command()
def run(
    config: Annotated[
        Path, typer.Argument(help="The audit's config, as 'clear-audit init' writes it.", parser=open_store, metavar="CONFIG")
    ],
    store: Store = DEFAULT_STORE,
    settings: Setting = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="The unfinished run to go on with; an error where what it planned has changed."),
    ] = None,
) -> None:
    """Audit a dataset. A run that was interrupted is resumed, where config, model and dataset are as it planned."""
    with exit_codes():
        from flows.config import load_config

        audit_and_tell(load_config(config, settings or []), store, resume)


@app.command()
def schedule(
    config: Annotated[Path, typer.Argument(help="The audit's config; it is read anew for each run.")],
    cron: Annotated[str, typer.Option(metavar="FIELDS", help="When: minute, hour, day, month, weekday, as in '0 3 * * *'.")],
    timezone: Annotated[str, typer.Option(metavar="ZONE", help="The time zone of --cron, as in 'Europe/Berlin'.")] = "UTC",
    store: Store = DEFAULT_STORE,
    name: Annotated[str | None, typer.Option(help="The deployment's name in Prefect; default: the audit's.")] = None,
) -> None:
    """Audit a dataset by the clock, one run at a time, until Ctrl-C."""
    with exit_codes(lambda: "the next run goes on with what was begun"):
        from flows.orchestration.environment import prepare_environment

        prepare_environment()
        from flows.orchestration.schedule import plan_deployment, serve_deployment

        serve_deployment(plan_deployment(config, store, cron, timezone, name))


@app.command("ls")
def list_runs(store: Store = DEFAULT_STORE, form: Annotated[Form, typer.Option("--format")] = Form.table) -> None:
    """List the finished runs of a store, latest first."""
    columns = "run_id, name, started_at, processed_count, failed_count, correct_frac, agreement_frac, sparseness_mean"
    query(f"SELECT {columns} FROM runs ORDER BY started_at DESC", store, form)


@app.command()
def show(run_id: RunId = "latest", store: Store = DEFAULT_STORE) -> None:
    """Show one run: its facts, its figures, and where its files are."""
    with exit_codes():
        from reports.pages.template import of_damage
        from storage.datasets.dataset import say_empty, say_passed_over
        from storage.runs.run import find_run, read_manifest

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


@app.command()
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
        table = ask(store, run_ids(store), sql, timeout_secs=timeout_secs, values=form.values)
        try:
            write_rows(table, form, output)
        except OSError as error:
            if output is None:
                raise
            raise InputError(f"output '{output}' cannot be written ({error.strerror}): name another path") from error


@app.command()
def report(
    run_id: RunId = "latest",
    store: Store = DEFAULT_STORE,
    folder: Annotated[Path | None, typer.Option(help="Empty folder for a report with all images of the run.")] = None,
) -> None:
    """Write a run's HTML report, and the index page of the store, again; print where the report is.

    With --folder the report goes there instead, with pages that show every image and its maps.
    """
    with exit_codes():
        from reports.pages.index import write_index
        from reports.pages.report import write_report
        from reports.pages.template import of_damage
        from storage.runs.run import find_run

        run = find_run(store, run_id)
        with of_damage(run):
            if folder is not None:
                write(write_gallery(run, folder))
                return
            write(write_report(run))
        write_index(store)


def write_gallery(run: "Run", folder: Path) -> Path:
    """The report with all images of a run. Raises InputError."""
    from flows.config import planned_config
    from flows.runtime.progress import ProgressBar
    from flows.stages.gallery import draw_all
    from flows.stages.map_renderer import open_studio
    from reports.pages.folder import write_folder
    from storage.datasets import open_dataset

    config = planned_config(run)
    studio = open_studio(run, config, open_dataset(config.dataset_spec))
    with ProgressBar() as listener:
        return write_folder(run, folder, lambda place, shown: draw_all(place, studio, shown, listener), studio.hexadecimal)


@app.command()
def check(
    run_id: RunId = "latest",
    store: Store = DEFAULT_STORE,
    config: Annotated[Path | None, typer.Option(help="A config with other gates than the run's own.")] = None,
    reference: Annotated[str | None, typer.Option(metavar="RUN", help="The earlier run to compare with.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the outcomes here as JSON.")] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", help="Write the outcomes here as JUnit XML.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="Write the outcomes here as markdown.")] = None,
) -> None:
    """Judge a finished run by its gates. Exit code 1: a gate failed, or could not be evaluated."""
    with exit_codes():
        from flows.config import load_config, planned_config
        from reports.gates import exports
        from reports.gates.judgement import as_rows, worst_first
        from reports.gates.judging import judge
        from storage.errors import InputError
        from storage.runs.run import find_reference, find_run

        run = find_run(store, run_id)
        chosen = planned_config(run) if config is None else load_config(config)
        if not chosen.gates:
            raise InputError(f"run '{run.run_id}' has no gates: name a config that has [[gates]] with --config")
        against = find_reference(run, reference or chosen.reference)
        judgements = judge(chosen.gate_list, run, against)
        files = {
            json_file: exports.as_json(run, against, judgements),
            junit_file: exports.as_junit(run, judgements),
            markdown_file: exports.as_markdown(run, against, judgements),
        }
        for path, text in files.items():
            if path is not None:
                write_text(path, text)
        sys.stdout.write(draw_table(as_rows(worst_first(judgements), against).select(GATE_COLUMNS)))
        exit_by_gates(judgements)


@app.command()
def verify(run_id: RunId = "latest", store: Store = DEFAULT_STORE) -> None:
    """Hash all files of a finished run again, and say which are not as its manifest has them. Exit code 3: some are not."""
    with exit_codes():
        from flows.runtime.progress import ProgressBar
        from reports.formats import plural
        from storage.runs import verification
        from storage.runs.run import find_run

        run = find_run(store, run_id)
        with ProgressBar() as listener:
            listener.stage("verifying")
            found = verification.verify(run, lambda done, total: listener.advance(done, 0, total, "files"))
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


@app.command()
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


@app.command()
def compare(
    before: Annotated[
        str,
        typer.Argument(metavar="BEFORE", help="The run to compare with; 'previous': the latest before AFTER of its name."),
    ] = "previous",
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The run that is compared, and judged by its gates.")] = "latest",
    store: Store = DEFAULT_STORE,
) -> None:
    """Compare two finished runs, image by image, and judge the later one against the earlier one.

    Writes a page and a JSON file into the store's reports, and prints where. Exit code 1: a gate failed, or could not be
    evaluated.
    """
    with exit_codes():
        from flows.config import planned_config
        from flows.stages.comparison import draw_flips
        from reports.comparison import compare as compare_runs
        from reports.gates.judging import judge
        from reports.pages import comparison as comparison_page
        from storage.errors import InputError
        from storage.runs.run import find_reference, find_run

        second = find_run(store, after)
        first = find_reference(second, before)
        if first is None:
            raise InputError(f"there is no run before '{second.run_id}' with its name: name one ('clear-audit ls' lists them)")
        comparison = compare_runs(first, second)
        judgements = judge(planned_config(second).gate_list, second, first)
        shown = [flip for flips in comparison_page.chosen_flips(comparison).values() for flip in flips]
        page = comparison_page.write_comparison(comparison, judgements, draw_flips(comparison, shown))
        tell(comparison_page.say_comparison(comparison))
        write(page)
        write(page.with_suffix(".json"))
        exit_by_gates(judgements)


def exit_by_gates(judgements: "Sequence[Judgement]") -> None:
    """Says what did not pass, on stderr, and exits with 1 where that fails the audit."""
    from reports.gates.judgement import GateOutcome, say_judgement, worst_first

    for judgement in worst_first(judgements):
        if judgement.outcome is not GateOutcome.passed:
            say(say_judgement(judgement))
    if any(judgement.fails for judgement in judgements):
        raise typer.Exit(GATE_FAILED)


def run_ids(store: Path) -> list[str]:
    """The published runs of a store. Raises InputError where there is no such store."""
    from storage.errors import InputError
    from storage.runs.run import published_runs

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


def say_gates(judgements: "Sequence[Judgement]") -> str:
    """How many gates came to what: `3 passed, 1 failed`."""
    from collections import Counter

    counts = Counter(judgement.outcome.value for judgement in judgements)
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "none"


def say_resumption(listener: "Listener") -> str:
    """What becomes of a run that was cut short; nothing where none was planned."""
    if listener.run is None:
        return ""
    if listener.is_published:
        return f"all of run '{listener.run.run_id}' but its report is there, and 'clear-audit report' writes that"
    return "the same command resumes the run"


def audit_and_tell(config: "AuditConfig", store: Path, resume: str | None = None) -> None:
    """Runs an audit with a progress bar, prints what it came to, and exits with the code that says so."""
    from flows.runtime.progress import ProgressBar

    listener = ProgressBar()
    with exit_codes(lambda: say_resumption(listener)), listener:
        from flows.orchestration.launch import run_audit, say_excess

        outcome = run_audit(config, store, listener, resume)
    row = row_of(outcome.run)

    def percent(value: float | None) -> str:
        return "not known" if value is None else f"{100 * value:.2f} %"

    def number(value: float | None) -> str:
        return "not known" if value is None else f"{value:.3f}"

    lines = {
        "run": outcome.run.run_id + (" (resumed)" if outcome.resumed else ""),
        "images": f"{outcome.processed:,} of {outcome.expected:,}, {outcome.failed:,} failed",
        "accuracy": percent(row["correct_frac"]),
        "agreement": f"{percent(row['agreement_frac'])} (images that have their prediction as dominant class)",
        "sparseness": f"{number(row['sparseness_mean'])} (mean Gini index of the dominant response)",
        "class cosine": f"{number(row['class_cosine_mean'])} (near 1, maps hardly depend on the class)",
        "time": f"{outcome.startup_secs:.1f} s to start, {outcome.compute_secs:.1f} s for the images",
        "gates": say_gates(outcome.judgements),
        "maps": str(outcome.run.maps),
        "tables": f"{store / 'tables'}  (clear-audit query 'SELECT …' --store {store})",
        "report": str(outcome.run.report),
        "all runs": str(outcome.run.report.with_name("index.html")),
    }
    for name, text in lines.items():
        write(f"{name:<13} {text}")
    excess = say_excess(outcome, config)
    if excess is not None:
        say(excess)
        raise typer.Exit(FAILED)
    exit_by_gates(outcome.judgements)
