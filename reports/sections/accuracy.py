"""Accuracy beside evidence, class by class."""

from typing import Any

from reports.context import ReportContext
from reports.formats import percent
from reports.parts import charts
from reports.parts.blocks import Block, Chart, tabulate
from reports.parts.columns import IMAGES, NO_LABELS, class_column, share, worst
from reports.sections.section import Section


def make_content(context: ReportContext) -> dict[str, Any]:
    return {"accuracy": accuracy_block(context)}


def accuracy_block(context: ReportContext) -> Block:
    answer = context.ask("accuracy_evidence")
    if not answer.rows:
        return Block(answer, note=NO_LABELS)
    shown, sentence = worst(answer.rows, "agreement, lowest first")
    columns = ("correct_frac", "agreement_frac", "label_energy_frac_mean")
    points = [
        {"name": context.name(row["class_index"])}
        | {measure: row[column] for measure, column in zip(charts.MEASURES, columns, strict=True)}
        for row in shown
    ]
    lowest = answer.rows[0]
    alt = (
        f"Dots for {len(shown)} classes. Lowest agreement: class "
        f"{context.name(lowest['class_index'])}, {percent(lowest['agreement_frac'])}, at an accuracy of "
        f"{percent(lowest['correct_frac'])}. The table below has all three measures."
    )
    caption = f"Accuracy beside evidence, by label. {sentence}"
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
    return Block(answer, Chart(charts.accuracy_evidence(points), caption, alt), table)


SECTION = Section("accuracy", "Accuracy beside evidence", "accuracy.html.j2", make_content)
