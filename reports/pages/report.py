"""A run's report: one HTML file that a reviewer opens offline."""

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from reports.context import ReportContext, open_context
from reports.formats import moment
from reports.pages.template import fill_section, fill_template
from reports.sections import (
    accuracy,
    data_checks,
    dominant_confusion,
    evidence,
    failures,
    gallery,
    gates,
    method,
    not_evaluated,
    provenance,
    review,
    run_facts,
    sparseness_and_place,
    suspects,
    trust,
    verdict,
)
from reports.sections.section import Section
from storage.filesystems import replace_file
from storage.runs.run import Run

SECTIONS = (
    trust.SECTION,
    gates.SECTION,
    run_facts.SECTION,
    data_checks.SECTION,
    not_evaluated.SECTION,
    accuracy.SECTION,
    dominant_confusion.SECTION,
    sparseness_and_place.SECTION,
    evidence.SECTION,
    gallery.SECTION,
    failures.SECTION,
    method.SECTION,
    provenance.SECTION,
)
"""The sections below the first screen and the contents, folded, in order. To add one, add its file and a line here."""

FIRST_SCREEN = (verdict.SECTION, suspects.SECTION, review.SECTION)


def write_report(run: Run) -> Path:
    """Renders the report of a published run, writes it atomically and returns its path. Raises InputError."""
    replace_file(run.report, render(run))
    return run.report


def render(run: Run, pages: Mapping[str, str] | None = None) -> str:
    """The page: the same text for the same run, every time. pages: see `ReportContext`."""
    with open_context(run, pages) as context:
        rendered = [(section, render_section(section, context)) for section in SECTIONS]
        return fill_template(
            "report.html.j2",
            plan=context.plan,
            first_screen=[render_section(section, context) for section in FIRST_SCREEN],
            sections=[(section, body) for section, body in rendered if body is not None],
            finished=moment(context.manifest.finished_at),
        )


def render_section(section: Section, context: ReportContext) -> Markup | None:
    """None where the run has nothing for the section."""
    content = section.make_content(context)
    return None if content is None else fill_section(section.template, section=section, context=context, **content)
