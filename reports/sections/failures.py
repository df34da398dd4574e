"""The images that could not be measured."""

from typing import Any

from reports.context import ReportContext
from reports.formats import count, plural
from reports.parts.blocks import TABLE_ROWS, Block, Column, tabulate
from reports.queries import Row
from reports.sections.section import Section


def make_content(context: ReportContext) -> dict[str, Any]:
    (found,) = context.verdict.rows
    failed = found["failed_count"]
    heading = f"{plural(failed, 'image')} could not be measured" if failed else "Every image could be measured"
    return {"failures": failures_block(context, found), "failed_count": failed, "heading": heading}


def failures_block(context: ReportContext, found: Row) -> Block:
    """found: the row of query `verdict`."""
    answer = context.ask("failures", count=TABLE_ROWS)
    if not answer.rows:
        return Block(answer, note="No image failed.")
    columns = [
        Column("Sample", lambda row: count(row["sample_index"])),
        Column("Name", lambda row: row["sample_id"], is_number=False),
        Column("Stage", lambda row: row["stage"], is_number=False),
        Column("Reason", lambda row: row["reason"], is_number=False),
    ]
    return Block(
        answer,
        table=tabulate(
            "Images without maps and statistics, in the dataset's order.", columns, answer.rows, total=found["failed_count"]
        ),
        note="".join(f"{said[0].upper()}{said[1:]}. " for said in say_not_finite(found)).strip(),
    )


def say_not_finite(found: Row) -> list[str]:
    """Sentences on scores and maps that are not finite, of which accuracy says nothing. found: the row of query `verdict`."""
    images = plural(found["processed_count"] + found["failed_count"], "image")
    counts = {
        "the model's scores are not finite": found["scores_not_finite_count"],
        "the maps are not finite": found["maps_not_finite_count"],
    }
    return [f"{said} for {count(number)} of {images}" for said, number in counts.items() if number]


SECTION = Section("failures", "Failures", "failures.html.j2", make_content)
