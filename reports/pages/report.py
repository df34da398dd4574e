"""A run's report: one HTML file that a reviewer opens offline."""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports.context import Scope
from reports.parts.cards import drawn_samples, make_gallery
from reports.parts.cells import find_cells
from reports.parts.formats import class_labels, decimal, moment
from reports.sections import summary
from reports.sections import tables as sections
from reports.sections.evidence import mean_maps
from storage.errors import InputError
from storage.filesystems import replace_file
from storage.runs.run import Run, read_manifest, read_plan
from storage.sql.read_only import connect
from storage.text import printable

TEMPLATES = Path(__file__).parents[1] / "templates"
PIXELATED_BELOW = 160
"""Images with fewer pixels a side are shown enlarged: each pixel is then to be seen as it is."""


def write_report(run: Run) -> Path:
    """Renders the report of a published run and puts it in its place whole; returns where. Raises InputError."""
    replace_file(run.report, render(run))
    return run.report


def render(run: Run, pages: Mapping[str, str] | None = None) -> str:
    """The page: the same text for the same run, every time.

    pages: where all images of the run are, by the anchor of a cell, and `first`; nothing where the page stands alone.
    """
    plan, manifest = read_plan(run), read_manifest(run)
    with connect(run.store, [run.run_id]) as connection:
        scope = Scope(connection, run.run_id, class_labels(plan.class_names), plan.height, plan.width)
        facts = scope.ask("run_facts")
        gates = sections.gates_block(scope)
        verdict = summary.make_verdict(scope.ask("verdict"), facts.rows[0], gates.answer.rows)
        gallery = make_gallery(scope, run, plan)
        cells = find_cells(scope, drawn_samples(gallery))
        return fill_template(
            "report.html.j2",
            plan=plan,
            manifest=manifest,
            run=facts.rows[0],
            pages=pages or {},
            verdict=verdict,
            gates=gates,
            facts=summary.run_facts(facts, plan),
            not_evaluated=sections.not_evaluated_block(scope),
            accuracy=sections.accuracy_block(scope),
            confusion=[
                sections.confusion_chart_block(scope, cells.cells),
                sections.confusion_table_block(scope, cells.cells),
            ],
            cells=cells,
            sparseness=sections.sparseness_block(scope),
            localization=sections.localization_block(scope),
            mean_evidence=mean_maps(scope),
            gallery=gallery,
            failures=sections.failures_block(scope, verdict.answer.rows[0]),
            sensitivity=sections.sensitivity_block(scope),
            method=summary.method_table(facts.rows[0], manifest.examination),
            provenance=summary.provenance_tables(plan, manifest),
            about=summary.about_table(plan),
            command=summary.rerun_command(run, plan),
            config=summary.config_text(plan),
            class_cosine=decimal(facts.rows[0]["class_cosine_mean"]),
            dominance_margin=decimal(facts.rows[0]["dominance_margin_mean"]),
            finished=moment(manifest.finished_at),
            is_pixelated=max(plan.height, plan.width) < PIXELATED_BELOW,
        )


@contextmanager
def of_damage(run: Run) -> Iterator[None]:
    """Raises InputError for what a run's records and tables make our code raise where they do not fit together."""
    try:
        yield
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(
            f"run '{run.run_id}' cannot be shown ({type(error).__name__}: {str(error)[:200]}): 'clear-audit verify' says what of "
            "it is damaged; where it says nothing, the fault is ours"
        ) from error


def fill_template(name: str, **values: Any) -> str:
    """A page, whatever the values have in them: characters that control others are written out."""
    return printable(environment().get_template(name).render(**values), lines=True)


def environment() -> Environment:
    """Templates that escape whatever they are given, and fail on a name that they are not given."""
    loader = FileSystemLoader(TEMPLATES)
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script = (TEMPLATES / "filters.js").read_text(encoding="utf-8")
    made.globals["style"] = Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))
    made.globals["filters_script"] = Markup(script)
    # By its hash: whatever else got into a page does not run.
    made.globals["script_source"] = Markup(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'")
    return made
