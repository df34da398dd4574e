"""The gates, and what became of them."""

from typing import Any

from reports.context import ReportContext
from reports.parts.blocks import Block, tabulate
from reports.parts.gate_columns import ALLOWED, GATE, OUTCOME, WHY, answer_column
from reports.sections.section import Section


def make_content(context: ReportContext) -> dict[str, Any]:
    return {"gates": gates_block(context)}


def gates_block(context: ReportContext) -> Block:
    answer = context.gates
    if not answer.rows:
        return Block(answer, note="No gate was set for this audit: what its figures mean is for the reader to judge.")
    columns = [GATE, OUTCOME, answer_column("Value", "value"), ALLOWED, answer_column("Reference", "reference_value"), WHY]
    return Block(answer, table=tabulate("What was asked of this run, worst first.", columns, answer.rows, limit=len(answer.rows)))


SECTION = Section("gates", "Gates", "gates.html.j2", make_content)
