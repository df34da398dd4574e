"""A part of the report: what it is called, and what its template is filled with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reports.context import ReportContext


@dataclass(frozen=True)
class Section:
    """A part of the report. Its words stand in a template beside its Python file, and so do the queries that it alone asks.

    anchor: the `id` of its element. title: what the contents call it. template: the name of its file.
    make_content: gives the values of the template's names, besides `section` and `context`; None where the run has nothing for
    the section, which is then left out. Among them `heading`, what was found, where the template extends `section.html.j2`.
    """

    anchor: str
    title: str
    template: str
    make_content: Callable[[ReportContext], dict[str, Any] | None]
