"""The command that judges a run by its gates, and how a command ends that does."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.exit_codes import GATE_FAILED, exit_codes, say
from flows.cli.options import DEFAULT_STORE, RunId, Store
from flows.cli.printing import draw_table, write_text

if TYPE_CHECKING:
    from reports.gates.judgement import Judgement


GATE_COLUMNS = ["gate_name", "outcome", "severity", "value", "reference_value", "least", "most", "max_drop", "max_rise"]


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
        from storage.runs.lookup import find_reference, find_run

        run = find_run(store, run_id)
        chosen = planned_config(run) if config is None else load_config(config)
        if not chosen.gates:
            raise InputError(f"run '{run.run_id}' has no gates: name a config that has [[gates]] with --config")
        against = find_reference(run, reference or chosen.reference)
        judgements = judge(chosen.gates, run, against)
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


def exit_by_gates(judgements: "Sequence[Judgement]") -> None:
    """Says what did not pass, on stderr, and exits with 1 where that fails the audit."""
    from reports.gates.judgement import GateOutcome, say_judgement, worst_first

    for judgement in worst_first(judgements):
        if judgement.outcome is not GateOutcome.passed:
            say(say_judgement(judgement))
    if any(judgement.fails for judgement in judgements):
        raise typer.Exit(GATE_FAILED)
