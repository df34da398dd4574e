"""What no number of the report covers."""

from typing import Any

from reports.context import ReportContext
from reports.formats import count, plural
from reports.parts.blocks import Block, Column, tabulate
from reports.queries import Row
from reports.sections.section import Section

NOT_EVALUATED = {
    "failed_count": ("Images that could not be read, prepared or computed", "They are in no other number; see Failures."),
    "unlabelled_count": ("Measured images without a label", "They count for agreement, not for accuracy or any class."),
    "no_dominant_count": (
        "Measured images without positive response for any class",
        "They have no dominant class, no scores.",
    ),
    "empty_class_count": ("Classes without a measured, labelled image", "Nothing is said of them as labels."),
    "open_gate_count": ("Gates that were not evaluated, or whose query failed", "None of them counts as passed."),
}


def make_content(context: ReportContext) -> dict[str, Any]:
    block = not_evaluated_block(context)
    return {"not_evaluated": block, "heading": say_heading(block.answer.rows[0])}


def say_heading(found: Row) -> str:
    """found: the row of query `not_evaluated`."""
    empty = found["empty_class_count"]
    words = {
        "failed_count": f"{plural(found['failed_count'], 'image')} that failed",
        "unlabelled_count": f"{plural(found['unlabelled_count'], 'image')} without a label",
        "no_dominant_count": f"{plural(found['no_dominant_count'], 'image')} without evidence",
        "empty_class_count": f"{count(empty)} empty {'class' if empty == 1 else 'classes'}",
        "open_gate_count": f"{plural(found['open_gate_count'], 'gate')} left open",
    }
    said = [text for name, text in words.items() if found[name]]
    return f"Not in every number: {', '.join(said)}" if said else "Every image, class and gate was evaluated"


def not_evaluated_block(context: ReportContext) -> Block:
    """What no number of the report covers, and what follows from that."""
    answer = context.ask("not_evaluated")
    (found,) = answer.rows
    rows = [{"what": what, "count": found[name], "follows": follows} for name, (what, follows) in NOT_EVALUATED.items()]
    columns = [
        Column("What", lambda row: row["what"], is_number=False),
        Column("How many", lambda row: count(row["count"])),
        Column("What follows", lambda row: row["follows"], is_number=False),
    ]
    return Block(answer, table=tabulate("What was not evaluated.", columns, rows))


SECTION = Section("not-evaluated", "What was not evaluated", "not_evaluated.html.j2", make_content)
