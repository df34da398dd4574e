"""Commands that audit: now, by the clock, and what is added to an audit that is done."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.exit_codes import FAILED, exit_codes, say, write
from flows.cli.judging import exit_by_gates
from flows.cli.options import DEFAULT_STORE, RunId, Setting, Store, open_store, row_of

if TYPE_CHECKING:
    from flows.config import AuditConfig
    from flows.runtime.progress import Progress
    from reports.gates.judgement import Judgement


HERE = Path(__file__).parents[1]


def demo(store: Store = DEFAULT_STORE) -> None:
    """Audit 10,000 handwritten digits with the classifier that comes along."""
    with exit_codes():
        from flows.config import load_config

        audit_and_tell(load_config(HERE / "demo" / "demo.toml"), store)


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
    rechoose: Annotated[
        bool,
        typer.Option("--rechoose", help="Choose the rule anew, where method.rule is auto."),
    ] = False,
) -> None:
    """Audit a dataset. A run that was interrupted is resumed, where config, model and dataset are as it planned."""
    with exit_codes():
        from flows.config import load_config

        audit_and_tell(load_config(config, settings or []), store, resume, rechoose)


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


def analyse(
    run_id: RunId,
    names: Annotated[list[str], typer.Argument(metavar="ANALYSIS…", help="The analyses to add, as 'evidence'.")],
    store: Store = DEFAULT_STORE,
    settings: Setting = None,
) -> None:
    """Add an analysis to a finished run, whose maps stay as they are, and write its report again."""
    with exit_codes(lambda: "the same command goes on"):
        from flows.config import load_config
        from flows.orchestration.addition import add_analyses
        from flows.runtime.progress import ProgressBar
        from reports.pages.index import write_index
        from reports.pages.report import write_report
        from reports.pages.template import of_damage
        from storage.runs.lookup import find_run

        found = find_run(store, run_id)
        with ProgressBar() as progress:
            add_analyses(found, names, load_config(found.plan, settings or []), progress)
        with of_damage(found):
            write(write_report(found))
        write_index(store, [found.run_id])


def audit_and_tell(config: "AuditConfig", store: Path, resume: str | None = None, rechoose: bool = False) -> None:
    """Runs an audit with a progress bar, prints what it came to, and exits with the code that says so."""
    from flows.runtime.progress import ProgressBar

    progress = ProgressBar()
    with exit_codes(lambda: say_resumption(progress)), progress:
        from flows.orchestration.launch import run_audit, say_excess

        outcome = run_audit(config, store, progress, resume, rechoose)
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


def say_gates(judgements: "Sequence[Judgement]") -> str:
    """How many gates came to what: `3 passed, 1 failed`."""
    from collections import Counter

    counts = Counter(judgement.outcome.value for judgement in judgements)
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "none"


def say_resumption(progress: "Progress") -> str:
    """What becomes of a run that was cut short; nothing where none was planned."""
    if progress.run is None:
        return ""
    if progress.is_published:
        return f"all of run '{progress.run.run_id}' but its report is there, and 'clear-audit report' writes that"
    return "the same command resumes the run"
