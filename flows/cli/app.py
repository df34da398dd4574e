"""The command line: `clear-audit …`. stdout is data, stderr is progress.

Heavy packages are imported by the commands that need them: `--help` must answer at once.
"""

from collections.abc import Callable
from typing import Annotated

import typer

from flows.cli import audits, judging, queries, reporting, upkeep
from flows.cli.exit_codes import write

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


VERBS: dict[str, Callable[..., None]] = {
    "demo": audits.demo,
    "init": audits.init,
    "run": audits.run,
    "schedule": audits.schedule,
    "analyse": audits.analyse,
    "ls": queries.list_runs,
    "show": queries.show,
    "query": queries.query,
    "report": reporting.report,
    "check": judging.check,
    "verify": upkeep.verify,
    "gc": upkeep.gc,
    "compare": reporting.compare,
}
for name, verb in VERBS.items():
    app.command(name)(verb)
