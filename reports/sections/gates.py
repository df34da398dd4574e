"""The gates, and what became of them."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from reports.context import ReportContext
from reports.formats import count, plural
from reports.parts.blocks import Block, tabulate
from reports.parts.gate_columns import ALLOWED, GATE, OUTCOME, WHY, answer_column
from reports.queries import Row
from reports.sections.section import Section


def make_content(context: ReportContext) -> dict[str, Any]:
    return {"gates": gates_block(context), "heading": say_heading(context.gates.rows)}


def say_heading(rows: Sequence[Row]) -> str:
    """How many gates have which outcome, and the worst of those that did not pass. rows: in table `gates`, worst first."""
    if not rows:
        return "No gate was set"
    tally = Counter(row["outcome"] for row in rows)
    passed = tally.pop("passed", 0)
    if not tally:
        return f"All {count(passed)} gates passed" if passed > 1 else "The one gate passed"
    said = ", ".join(f"{count(number)} {outcome}" for outcome, number in tally.items())
    return f"{plural(passed, 'gate')} passed, {said} ({rows[0]['gate_name']}: {rows[0]['message']})"


def gates_block(context: ReportContext) -> Block:
    answer = context.gates
    if not answer.rows:
        return Block(answer, note="No gate was set for this audit: what its figures mean is for the reader to judge.")
    columns = [GATE, OUTCOME, answer_column("Value", "value"), ALLOWED, answer_column("Reference", "reference_value"), WHY]
    return Block(answer, table=tabulate("What was asked of this run, worst first.", columns, answer.rows, limit=len(answer.rows)))


SECTION = Section("gates", "Gates", "gates.html.j2", make_content)
