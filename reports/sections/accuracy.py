"""Accuracy beside evidence, class by class."""

from collections.abc import Sequence
from typing import Any

from reports.context import ReportContext
from reports.formats import percent
from reports.parts import charts
from reports.parts.blocks import Block, Chart, tabulate
from reports.parts.columns import IMAGES, NO_LABELS, NOT_RANKED, RANKED_FROM, class_column, ranked, say_unranked, share, worst
from reports.queries import Row
from reports.sections.section import Section
from reports.sections.verdict import ask_suspicion


def make_content(context: ReportContext) -> dict[str, Any]:
    block = accuracy_block(context)
    return {
        "accuracy": block,
        "of_first_screen": [context.verdict, ask_suspicion(context)],
        "heading": say_heading(context, block.answer.rows),
    }


def say_heading(context: ReportContext, rows: Sequence[Row]) -> str:
    """rows: of query `accuracy_evidence`."""
    if not ranked(rows):
        return NOT_RANKED if rows else "Nothing is known class by class: no image has a label"
    lowest = ranked(rows)[0]
    name, agreement, accuracy = context.name(lowest["class_index"]), lowest["agreement_frac"], lowest["correct_frac"]
    return f"Agreement is lowest in class {name}: {percent(agreement)}, at an accuracy of {percent(accuracy)}"


def accuracy_block(context: ReportContext) -> Block:
    answer = context.ask("accuracy_evidence", ranked_from=RANKED_FROM)
    if not answer.rows:
        return Block(answer, note=NO_LABELS)
    shown, sentence = worst(ranked(answer.rows), "agreement, lowest first")
    columns = ("correct_frac", "agreement_frac", "label_energy_frac_mean")
    points = [
        {"name": context.name(row["class_index"])}
        | {measure: row[column] for measure, column in zip(charts.MEASURES, columns, strict=True)}
        for row in shown
    ]
    table = tabulate(
        "Accuracy beside evidence, by label; lowest agreement first.",
        [
            class_column(context),
            IMAGES,
            share("Accuracy", "correct_frac"),
            share("Agreement", "agreement_frac"),
            share("Label's energy share", "label_energy_frac_mean"),
            share("Mean probability", "probability_mean"),
        ],
        answer.rows,
    )
    if not points:
        return Block(answer, table=table, note=say_unranked(answer.rows))
    lowest = shown[0]
    see = "a diamond far to the left of its dot: images of the class are predicted correctly, with evidence for another class."
    alt = (
        f"Dots for {len(shown)} classes. Lowest agreement: class "
        f"{context.name(lowest['class_index'])}, {percent(lowest['agreement_frac'])}, at an accuracy of "
        f"{percent(lowest['correct_frac'])}. The table below has all three measures."
    )
    caption = f"Accuracy beside evidence, by label. {sentence}"
    return Block(answer, Chart(charts.accuracy_evidence(points), see, caption, alt), table, say_unranked(answer.rows))


SECTION = Section("accuracy", "Accuracy beside evidence", "accuracy.html.j2", make_content)
