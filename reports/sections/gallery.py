"""The gallery: the samples a reviewer should see first."""

from typing import Any

from reports.context import ReportContext
from reports.parts.cards import make_gallery
from reports.parts.pictures import are_pixelated
from reports.sections.section import Section


def make_content(context: ReportContext) -> dict[str, Any]:
    return {"gallery": make_gallery(context), "is_pixelated": are_pixelated(context.plan.height, context.plan.width)}


SECTION = Section("gallery", "Gallery", "gallery.html.j2", make_content)
