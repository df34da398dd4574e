"""The report's sections: what is asked of the tables, and how each answer is shown."""

from collections.abc import Sequence

from markupsafe import Markup

from reports.context import Scope
from reports.parts import charts
from reports.parts.blocks import CHART_CLASSES, TABLE_ROWS, Block, Chart, Column, tabulate
from reports.parts.cells import Cell, anchor
from reports.parts.formats import NO_CLASS, NO_LABEL, UNDEFINED, count, decimal, percent, plural, significant
from reports.queries import Row

NO_LABELS = "No measured image of this run has a label, so nothing can be said class by class."
GLYPHS = {"passed": "✓", "warned": "!", "failed": "✗", "error": "⚠", "not evaluated": "?"}
LARGEST_CELLS = 10
"""Rows of the table beside the confusion chart, which shows all cells."""


def class_column(scope: Scope) -> Column:
    return Column("Class", lambda row: scope.name(row["class_index"]), is_number=False)


IMAGES = Column("Images", lambda row: count(row["sample_count"]))


def share(title: str, column: str) -> Column:
    return Column(title, lambda row: percent(row[column]))


def number(title: str, column: str, digits: int = 2) -> Column:
    return Column(title, lambda row: decimal(row[column], digits))


def worst(rows: Sequence[Row], order: str) -> tuple[Sequence[Row], str]:
    """The rows that a chart has room for, and a sentence on what it leaves out. order: what they are sorted by."""
    if len(rows) <= CHART_CLASSES:
        return rows, f"Classes are in order of {order}."
    return rows[:CHART_CLASSES], f"The chart shows the worst {CHART_CLASSES} of {len(rows):,} classes, by {order}."


def gates_block(scope: Scope) -> Block:
    answer = scope.ask("gates")
    if not answer.rows:
        return Block(answer, note="No gate was set for this audit: what its figures mean is for the reader to judge.")
    columns = [GATE, OUTCOME, answer_column("Value", "value"), ALLOWED, answer_column("Reference", "reference_value"), WHY]
    return Block(answer, table=tabulate("What was asked of this run, worst first.", columns, answer.rows, limit=len(answer.rows)))


def say_outcome(row: Row) -> str:
    """A glyph and a word: nothing is said by colour alone."""
    is_warning = row["severity"] == "warn" and row["outcome"] in ("error", "not evaluated")
    return f"{GLYPHS[row['outcome']]} {row['outcome']}" + (", a warning" if is_warning else "")


def answer_column(title: str, column: str) -> Column:
    """Of the number that answers a gate."""
    return Column(title, lambda row: UNDEFINED if row[column] is None else significant(row[column]))


def say_limits(row: Row) -> str:
    limits = {"least": "≥ {}", "most": "≤ {}", "max_drop": "no more than {} below", "max_rise": "no more than {} above"}
    return ", ".join(text.format(significant(row[name])) for name, text in limits.items() if row[name] is not None)


GATE = Column("Gate", lambda row: row["gate_name"], is_number=False)
OUTCOME = Column("Outcome", say_outcome, is_number=False)
ALLOWED = Column("Allowed", say_limits, is_number=False)
WHY = Column("Why", lambda row: row["message"], is_number=False)

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


def not_evaluated_block(scope: Scope) -> Block:
    """What no number of the report speaks of, and what follows."""
    answer = scope.ask("not_evaluated")
    (found,) = answer.rows
    rows = [{"what": what, "count": found[name], "follows": follows} for name, (what, follows) in NOT_EVALUATED.items()]
    columns = [
        Column("What", lambda row: row["what"], is_number=False),
        Column("How many", lambda row: count(row["count"])),
        Column("What follows", lambda row: row["follows"], is_number=False),
    ]
    return Block(answer, table=tabulate("What was not evaluated.", columns, rows))


def accuracy_block(scope: Scope) -> Block:
    answer = scope.ask("accuracy_evidence")
    if not answer.rows:
        return Block(answer, note=NO_LABELS)
    shown, sentence = worst(answer.rows, "agreement, lowest first")
    columns = ("correct_frac", "agreement_frac", "label_energy_frac_mean")
    points = [
        {"name": scope.name(row["class_index"])}
        | {measure: row[column] for measure, column in zip(charts.MEASURES, columns, strict=True)}
        for row in shown
    ]
    lowest = answer.rows[0]
    alt = (
        f"Dots for {len(shown)} classes. Lowest agreement: class "
        f"{scope.name(lowest['class_index'])}, {percent(lowest['agreement_frac'])}, at an accuracy of "
        f"{percent(lowest['correct_frac'])}. The table below has all three measures."
    )
    caption = f"Accuracy beside evidence, by label. {sentence}"
    table = tabulate(
        "Accuracy beside evidence, by label; lowest agreement first.",
        [
            class_column(scope),
            IMAGES,
            share("Accuracy", "correct_frac"),
            share("Agreement", "agreement_frac"),
            share("Label's energy share", "label_energy_frac_mean"),
            share("Mean probability", "probability_mean"),
        ],
        answer.rows,
    )
    return Block(answer, Chart(charts.accuracy_evidence(points), caption, alt), table)


def confusion_chart_block(scope: Scope, listed: Sequence[Cell]) -> Block | None:
    """None where there are too many classes for a chart, or nothing to draw. listed: the cells that a reader can go to."""
    if len(scope.labels) > CHART_CLASSES:
        return None
    answer = scope.ask("dominant_confusion")
    if not answer.rows:
        return None
    titles = {cell.anchor: cell.title for cell in listed}
    cells = [
        {
            "anchor": anchor(row["label"], row["dominant_class"]),
            "name": scope.name(row["label"], NO_LABEL),
            "dominant": scope.name(row["dominant_class"]),
            "count": row["cell_count"],
            "share": row["label_frac"],
        }
        for row in answer.rows
    ]
    found = {cell["name"] for cell in cells}
    labels = [name for name in [*scope.labels, NO_LABEL] if name in found]
    dominants = [*scope.labels, *([NO_CLASS] if any(row["dominant_class"] is None for row in answer.rows) else [])]
    diagonal = sum(row["cell_count"] for row in answer.rows if row["label"] is not None and row["label"] == row["dominant_class"])
    labelled = sum(row["cell_count"] for row in answer.rows if row["label"] is not None)
    alt = (
        f"Heat map of {len(labels)} labels by {len(dominants)} dominant classes. "
        f"For {count(diagonal)} of {count(labelled)} labelled images the dominant class is the label."
    )
    caption = (
        "Images by label (rows) and dominant class (columns). The deeper the colour, the greater the cell's share of "
        "its row; evidence that is where it should be lies on the diagonal. A cell leads to its images."
    )
    return Block(answer, Chart(charts.confusion(cells, labels, dominants, titles), caption, alt, has_links=True))


def confusion_table_block(scope: Scope, listed: Sequence[Cell]) -> Block:
    """listed: the cells that a reader can go to."""
    anchors = {cell.anchor for cell in listed}

    def linked_count(row: Row) -> str:
        target, images = anchor(row["label"], row["dominant_class"]), count(row["cell_count"])
        return Markup('<a href="#{}">{}</a>').format(target, images) if target in anchors else images

    answer = scope.ask("dominant_confusion_largest")
    if not answer.rows:
        return Block(answer, note="There is no labelled image whose evidence is for another class than its label.")
    is_charted = len(scope.labels) <= CHART_CLASSES
    table = tabulate(
        "Where the evidence is for another class than the label; most images first.",
        [
            Column("Label", lambda row: scope.name(row["label"], NO_LABEL), is_number=False),
            Column("Dominant class", lambda row: scope.name(row["dominant_class"]), is_number=False),
            Column("Images", linked_count),
            Column("Of these predicted correctly", lambda row: count(row["correct_count"])),
            share("Share of the label's images", "label_frac"),
        ],
        answer.rows,
        limit=LARGEST_CELLS if is_charted else TABLE_ROWS,
    )
    too_many = f"{count(len(scope.labels))} classes are too many for a chart: these are the largest cells."
    return Block(answer, table=table, note="" if is_charted else too_many)


def sparseness_block(scope: Scope) -> Block:
    answer = scope.ask("sparseness")
    if not answer.rows:
        return Block(answer, note=NO_LABELS)
    drawable = [row for row in answer.rows if row["sparseness_p50"] is not None]
    shown, sentence = worst(drawable, "median sparseness, lowest first")
    points = [
        {"name": scope.name(row["class_index"])} | {key: row[f"sparseness_{key}"] for key in ("p10", "p50", "p90")}
        for row in shown
    ]
    table = tabulate(
        "Sparseness and complexity of the dominant response map, by label; lowest median first.",
        [
            class_column(scope),
            IMAGES,
            number("10th percentile", "sparseness_p10"),
            number("Median sparseness", "sparseness_p50"),
            number("90th percentile", "sparseness_p90"),
            number("Mean sparseness", "sparseness_mean"),
            number("Complexity, in nats", "complexity_mean"),
        ],
        answer.rows,
    )
    if not points:
        return Block(answer, table=table)
    alt = (
        f"Bars for {len(points)} classes. Lowest median: class {points[0]['name']}, {decimal(points[0]['p50'])}. "
        "The table below has all values."
    )
    caption = f"Sparseness by label: median (tick), 10th to 90th percentile (bar). {sentence}"
    return Block(answer, Chart(charts.sparseness(points), caption, alt), table)


def localization_block(scope: Scope) -> Block:
    answer = scope.ask("localization")
    if not answer.rows:
        return Block(answer, note=NO_LABELS)
    drawable = [row for row in answer.rows if row["half_energy_area_frac_mean"] is not None]
    shown, sentence = worst(drawable, "half-energy area, largest first")
    points = [row | {"name": scope.name(row["class_index"])} for row in shown]
    table = tabulate(
        f"Where in {scope.height} × {scope.width} pixels the evidence lies, by label; largest half-energy area first.",
        [
            class_column(scope),
            IMAGES,
            Column("Centroid's row ± std", lambda row: with_deviation(row, "centroid_y")),
            Column("Centroid's column ± std", lambda row: with_deviation(row, "centroid_x")),
            number("Spread, in pixels", "spread_mean"),
            share("Half-energy area", "half_energy_area_frac_mean"),
            share("Positive area", "positive_area_frac_mean"),
        ],
        answer.rows,
    )
    if not points:
        return Block(answer, table=table)
    alt = (
        f"Four panels for {len(points)} classes: the centroid's row and column, spread and half-energy area. Largest "
        f"area: class {points[0]['name']}, {percent(points[0]['half_energy_area_frac_mean'])} of the pixels. "
        "The table below has all values."
    )
    caption = (
        "Where the evidence lies, by label. Centroid: mean (dot) and one standard deviation (line) over the whole "
        f"height and width of the picture, its middle dashed. {sentence}"
    )
    return Block(answer, Chart(charts.localization(points, scope.height, scope.width), caption, alt), table)


def with_deviation(row: Row, column: str) -> str:
    if row[f"{column}_mean"] is None:
        return decimal(None)
    return f"{decimal(row[f'{column}_mean'], 1)} ± {decimal(row[f'{column}_std'], 1)}"


def sensitivity_block(scope: Scope) -> Block:
    answer = scope.ask("class_sensitivity")
    if not answer.rows:
        return Block(answer, note=NO_LABELS)
    columns = [
        class_column(scope),
        IMAGES,
        number("Class cosine", "class_cosine_mean"),
        number("Dominance margin", "dominance_margin_mean"),
    ]
    return Block(
        answer,
        table=tabulate("How far the maps of different classes differ, by label; most alike first.", columns, answer.rows),
    )


def say_not_finite(found: Row) -> list[str]:
    """What no accuracy tells: that scores or maps are no numbers. found: the row of query `verdict`."""
    images = plural(found["processed_count"] + found["failed_count"], "image")
    counts = {
        "the model's scores are not finite": found["scores_not_finite_count"],
        "the maps are not finite": found["maps_not_finite_count"],
    }
    return [f"{said} for {count(number)} of {images}" for said, number in counts.items() if number]


def failures_block(scope: Scope, found: Row) -> Block:
    """found: the row of query `verdict`."""
    answer = scope.ask("failures", count=TABLE_ROWS)
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
