"""How sparse the evidence is, and where it lies, class by class."""

from typing import Any

from reports.context import ReportContext
from reports.formats import decimal, percent
from reports.parts import charts
from reports.parts.blocks import Block, Chart, Column, tabulate
from reports.parts.columns import IMAGES, NO_LABELS, class_column, number, share, worst
from reports.queries import Row
from reports.sections.section import Section


def make_content(context: ReportContext) -> dict[str, Any]:
    return {"sparseness": sparseness_block(context), "localization": localization_block(context)}


def sparseness_block(context: ReportContext) -> Block:
    answer = context.ask("sparseness")
    if not answer.rows:
        return Block(answer, note=NO_LABELS)
    drawable = [row for row in answer.rows if row["sparseness_p50"] is not None]
    shown, sentence = worst(drawable, "median sparseness, lowest first")
    points = [
        {"name": context.name(row["class_index"])} | {key: row[f"sparseness_{key}"] for key in ("p10", "p50", "p90")}
        for row in shown
    ]
    table = tabulate(
        "Sparseness and complexity of the dominant response map, by label; lowest median first.",
        [
            class_column(context),
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


def localization_block(context: ReportContext) -> Block:
    answer = context.ask("localization")
    if not answer.rows:
        return Block(answer, note=NO_LABELS)
    drawable = [row for row in answer.rows if row["half_energy_area_frac_mean"] is not None]
    shown, sentence = worst(drawable, "half-energy area, largest first")
    points = [row | {"name": context.name(row["class_index"])} for row in shown]
    height, width = context.plan.height, context.plan.width
    table = tabulate(
        f"Where in {height} × {width} pixels the evidence lies, by label; largest half-energy area first.",
        [
            class_column(context),
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
    return Block(answer, Chart(charts.localization(points, height, width), caption, alt), table)


def with_deviation(row: Row, column: str) -> str:
    if row[f"{column}_mean"] is None:
        return decimal(None)
    return f"{decimal(row[f'{column}_mean'], 1)} ± {decimal(row[f'{column}_std'], 1)}"


SECTION = Section("where", "Sparseness and place", "sparseness_and_place.html.j2", make_content)
