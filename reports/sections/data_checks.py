"""Whether images and labels reach the model as it was trained on them."""

from dataclasses import dataclass
from typing import Any

from reports.context import ReportContext
from reports.formats import NO_LABEL, percent
from reports.parts.blocks import Block, Column, tabulate
from reports.parts.pictures import are_pixelated, as_uri
from reports.queries import Row
from reports.sections.section import Section

CHECKS = {
    "better_than_chance": ("The model knows the labels", "by guessing", "the predictions know nothing of the labels"),
    "class_order": ("The classes are in the model's order", "in the best order", "the classes seem to be in another order"),
    "input": ("Images are given as in training", "given otherwise", "the images seem to be given otherwise than in training"),
}
"""Of each check, what it asks, what the accuracy is compared with, and what is wrong where it fails."""


@dataclass(frozen=True)
class Received:
    """An image as the model received it. caption: its label, and its prediction where that differs."""

    uri: str
    alt: str
    caption: str


def make_content(context: ReportContext) -> dict[str, Any] | None:
    """None where the analysis did not run."""
    if not context.has_table("data_checks"):
        return None
    answer = context.ask("data_checks")
    columns = [
        Column("Check", lambda row: CHECKS[row["check_name"]][0], is_number=False),
        Column("Outcome", say_outcome, is_number=False),
        Column("Accuracy", lambda row: percent(row["value"])),
        Column("Compared with", lambda row: f"{percent(row['control_value'])} {CHECKS[row['check_name']][1]}"),
        Column("What was found", lambda row: row["finding"], is_number=False),
    ]
    received = context.ask("input_images")
    table = tabulate("Checks of the data, before anything else is believed.", columns, answer.rows)
    return {
        "checks": Block(answer, table=table),
        "images": [receive(context, row) for row in received.rows],
        "received": received,
        "heading": say_heading(answer.rows),
        "is_pixelated": are_pixelated(context.plan.height, context.plan.width),
    }


def say_outcome(row: Row) -> str:
    return {True: "✓ passed", False: "✗ failed", None: "– not evaluated"}[row["is_passed"]]


def say_heading(rows: list[Row]) -> str:
    failed = [CHECKS[row["check_name"]][2] for row in rows if row["is_passed"] is False]
    if failed:
        return f"Not as it should be: {', and '.join(failed)}"
    if all(row["is_passed"] is None for row in rows):
        return "Nothing could be checked of how the data reach the model"
    return "The data reach the model as in its training, as far as can be told"


def receive(context: ReportContext, row: Row) -> Received:
    label, prediction = (context.name(row[name], NO_LABEL) for name in ("label", "prediction"))
    caption = label if label == prediction else f"{label}, predicted {prediction}"
    return Received(as_uri(row["png"]), f"Sample {row['sample_index']:,} as the model received it.", caption)


SECTION = Section("data", "Data", "data_checks.html.j2", make_content)
