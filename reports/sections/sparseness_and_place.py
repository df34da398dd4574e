"""How sparse the evidence is, and where it lies, class by class."""

from collections.abc import Sequence
from typing import Any

from reports.context import ReportContext
from reports.formats import decimal, percent
from reports.parts import charts
from reports.parts.blocks import Block, Chart, Column, tabulate
from reports.parts.columns import (
    IMAGES,
    NO_LABELS,
    NOT_RANKED,
    RANKED_FROM,
    class_column,
    number,
    ranked,
    say_unranked,
    share,
    worst,
)
from reports.queries import Row
from reports.sections.section import Section


def make_content(context: ReportContext) -> dict[str, Any]:
    sparseness, localization = sparseness_block(context), localization_block(context)
    heading = say_heading(context, sparseness.answer.rows, localization.answer.rows)
    return {"sparseness": sparseness, "localization": localization, "heading": heading}


def say_heading(context: ReportContext, sparseness: Sequence[Row], localization: Sequence[Row]) -> str:
    """sparseness, localization: the rows of the queries of these names."""
    if not ranked(sparseness):
        return NOT_RANKED if sparseness else "Nothing is known class by class: no image has a label"
    spread, wide = ranked(sparseness)[0], ranked(localization)[0]
    if spread["sparseness_p50"] is None or wide["half_energy_area_frac_mean"] is None:
        return "No image has evidence for any class"
    sparse, area = decimal(spread["sparseness_p50"]), percent(wide["half_energy_area_frac_mean"])
    first, second = context.name(spread["class_index"]), context.name(wide["class_index"])
    return f"Least sparse evidence: class {first}, at {sparse}; widest: class {second}, half of it on {area} of the pixels"


def sparseness_block(context: ReportContext) -> Block:
    answer = context.ask("sparseness", ranked_from=RANKED_FROM)
    if not answer.rows:
        return Block(answer, note=NO_LABELS)
    drawable = [row for row in ranked(answer.rows) if row["sparseness_p50"] is not None]
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
        return Block(answer, table=table, note=say_unranked(answer.rows))
    alt = (
        f"Bars for {len(points)} classes. Lowest median: class {points[0]['name']}, {decimal(points[0]['p50'])}. "
        "The table below has all values."
    )
    caption = f"Sparseness by label: median (tick), 10th to 90th percentile (bar). {sentence}"
    see = "a bar far to the left of the others: the evidence of the class is spread over the picture."
    return Block(answer, Chart(charts.sparseness(points), see, caption, alt), table, say_unranked(answer.rows))


def localization_block(context: ReportContext) -> Block:
    answer = context.ask("localization", ranked_from=RANKED_FROM)
    if not answer.rows:
        return Block(answer, note=NO_LABELS)
    drawable = [row for row in ranked(answer.rows) if row["half_energy_area_frac_mean"] is not None]
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
        return Block(answer, table=table, note=say_unranked(answer.rows))
    alt = (
        f"Four panels for {len(points)} classes: the centroid's row and column, spread and half-energy area. Largest "
        f"area: class {points[0]['name']}, {percent(points[0]['half_energy_area_frac_mean'])} of the pixels. "
        "The table below has all values."
    )
    caption = (
        "Where the evidence lies, by label. Centroid: mean (dot) and one standard deviation (line) over the whole "
        f"height and width of the picture, its middle dashed. {sentence}"
    )
    see = "a dot away from the dashed middle with a short line: evidence always in one place off the centre."
    return Block(answer, Chart(charts.localization(points, height, width), see, caption, alt), table, say_unranked(answer.rows))


def with_deviation(row: Row, column: str) -> str:
    if row[f"{column}_mean"] is None:
        return decimal(None)
    return f"{decimal(row[f'{column}_mean'], 1)} ± {decimal(row[f'{column}_std'], 1)}"


SECTION = Section("where", "Sparseness and place", "sparseness_and_place.html.j2", make_content)
