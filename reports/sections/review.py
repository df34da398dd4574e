"""What a reviewer fills in."""

from typing import Any

from reports.context import ReportContext
from reports.sections.section import Section


def make_content(context: ReportContext) -> dict[str, Any]:
    return {}


SECTION = Section("review", "Sign-off", "review.html.j2", make_content)
