"""Charts as SVG, drawn when the report is written: text in the colour of the page, marks clear on light and on dark."""

import re
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from markupsafe import Markup

from reports.queries import Row
from storage.text import printable_all

ACCENT = "#3d7ab8"
SECOND = "#c8691c"
THIRD = "#808890"
DEEP_ACCENT = "#1f5fa8"

MEASURES = {"accuracy": "circle", "agreement": "diamond", "label's energy share": "triangle-up"}

WIDTH = 600
PANEL_WIDTH = 138
CELL_WIDTH = 44
ROW_STEP = 24
CHARACTER_WIDTH = 7.4
"""Width of a character in pixels. The browser's font is not known here, so the widest usual one is assumed."""
NAME_LENGTH = 26
SHORT_NAME = "length(datum.label) > 26 ? slice(datum.label, 0, 13) + '…' + slice(datum.label, -12) : datum.label"
FONT = "system-ui, sans-serif"

LINK = re.compile(r'xlink:href="[^"#]*#([^"]*)"')
TAG = re.compile(r"<[^>]*>")
LONG_NUMBER = re.compile(r"\d+\.\d{3,}(?:e-?\d+)?")
"""Coordinates of more than two decimal places: nobody sees a hundredth of a pixel. Numbers in a chart's text are left alone."""
ROLES = re.compile(r' (?:role="graphics-[a-z]+"|aria-roledescription="[^"]*"|aria-hidden="true")')
"""What the drawing library says of parts without names: it is removed, for the page says what a chart shows."""


def accuracy_evidence(rows: Sequence[Row]) -> Markup:
    """Three dots a class, joined by a line. rows: `name`, and a value or None for each of MEASURES, in order."""
    import altair as alt

    names = [row["name"] for row in rows]
    points = [{"name": row["name"], "measure": measure, "value": row[measure]} for row in rows for measure in MEASURES]
    base = alt.Chart(values_of(points)).encode(y=class_axis(names))
    spans = base.mark_rule(color=THIRD, opacity=0.6, strokeWidth=2).encode(
        x=share_axis("min(value)", "Share"), x2=alt.X2("max(value):Q")
    )
    palette = alt.Scale(domain=list(MEASURES), range=[ACCENT, SECOND, THIRD])
    shapes = alt.Scale(domain=list(MEASURES), range=list(MEASURES.values()))
    legend = alt.Legend(orient="top", title=None, labelLimit=0, columnPadding=28)
    dots = base.mark_point(filled=True, size=80, opacity=1).encode(
        x=share_axis("value", "Share"),
        color=alt.Color("measure:N", scale=palette, sort=None, legend=legend),
        shape=alt.Shape("measure:N", scale=shapes, sort=None, legend=legend),
    )
    return draw((spans + dots).properties(width=WIDTH, height={"step": ROW_STEP}))


def confusion(cells: Sequence[Row], labels: Sequence[str], dominants: Sequence[str], titles: Mapping[str, str]) -> Markup:
    """A heat map of counts. cells: `anchor`, `name` of the label, `dominant`, `count`, `share` of the label's samples.

    titles: the name of a cell's link, by the cell's anchor, for cells that can be linked to.
    """
    import altair as alt

    room = room_for(dominants)
    is_slanted = room > CELL_WIDTH
    across = alt.Axis(
        orient="top",
        title="dominant class",
        labelExpr=SHORT_NAME,
        labelAngle=-40 if is_slanted else 0,
        minExtent=0.65 * room if is_slanted else 0,
        labelLimit=0,
        ticks=False,
        domain=False,
    )
    base = alt.Chart(values_of(cells)).encode(
        x=alt.X("dominant:N", sort=list(dominants), scale=alt.Scale(domain=list(dominants)), axis=across),
        y=class_axis(labels, title="label"),
    )
    shade = alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.06, 1]), legend=None)
    tiles = base.mark_rect(color=DEEP_ACCENT, cornerRadius=3).encode(opacity=shade)
    linked = [cell | {"href": f"#{cell['anchor']}"} for cell in cells if cell["anchor"] in titles]
    if linked:
        # A transparent layer over the tiles: the library makes links of all marks of a layer, or of none.
        tiles += base.properties(data=values_of(linked)).mark_rect(opacity=0).encode(href="href:N")
    text_color = alt.condition("datum.share > 0.62", alt.value("#fff"), alt.value("currentColor"))
    numbers = base.mark_text(fontSize=11).encode(text=alt.Text("count:Q", format=","), color=text_color)
    overhang = 0.5 * room if is_slanted else 5
    sizes = {"width": {"step": CELL_WIDTH}, "height": {"step": 28}}
    padding = {"left": 5, "top": 5, "bottom": 5, "right": overhang}
    return name_links(draw((tiles + numbers).properties(**sizes, padding=padding)), titles)


def name_links(svg: Markup, titles: Mapping[str, str]) -> Markup:
    """The drawing with its links named, and made links within the page: the library writes them as links to another page."""
    return Markup(LINK.sub(lambda link: Markup('href="#{}" aria-label="{}"').format(link[1], titles[link[1]]), svg))


def sparseness(rows: Sequence[Row]) -> Markup:
    """A bar from the 10th to the 90th percentile a class, a tick at the median. rows: `name`, `p10`, `p50`, `p90`."""
    import altair as alt

    base = alt.Chart(values_of(rows)).encode(y=class_axis([row["name"] for row in rows]))
    title = "Sparseness (0 = energy spread evenly, 1 = all in one pixel)"
    bars = base.mark_bar(height=10, cornerRadius=5, color=ACCENT, opacity=0.6).encode(
        x=share_axis("p10", title, ".1f"), x2=alt.X2("p90:Q")
    )
    medians = base.mark_tick(thickness=3, size=16, color=SECOND, opacity=1).encode(x=share_axis("p50", title, ".1f"))
    return draw((bars + medians).properties(width=WIDTH, height={"step": ROW_STEP}))


def localization(rows: Sequence[Row], height: int, width: int) -> Markup:
    """Four panels side by side, a row a class. rows: `name` and the columns of table `localization`."""
    import altair as alt

    base = alt.Chart(values_of(rows))
    panels = [
        centroid_panel(base, rows, "centroid_y", height, "Centroid's row", shows_names=True),
        centroid_panel(base, rows, "centroid_x", width, "Centroid's column"),
        bar_panel(base, rows, "spread_mean", "Spread, in pixels", "~f"),
        bar_panel(base, rows, "half_energy_area_frac_mean", "Half-energy area", ".0%"),
    ]
    return draw(alt.hconcat(*panels, spacing=18))


def centroid_panel(base: Any, rows: Sequence[Row], column: str, pixels: int, title: str, shows_names: bool = False) -> Any:
    """A dot at the mean, a line over one standard deviation to both sides; the axis is the whole picture."""
    import altair as alt

    scale = alt.Scale(domain=[0, max(pixels - 1, 1)], nice=False, clamp=True)
    axis = alt.Axis(tickCount=3, format="d")
    names = class_axis([row["name"] for row in rows], shows_names=shows_names)
    middle = alt.Chart(values_of([{"middle": (pixels - 1) / 2}])).mark_rule(strokeDash=[3, 3], color=THIRD)
    lines = (
        base.transform_calculate(
            low=f"datum.{column}_mean - datum.{column}_std", high=f"datum.{column}_mean + datum.{column}_std"
        )
        .mark_rule(color=ACCENT, opacity=0.55, strokeWidth=3)
        .encode(x=alt.X("low:Q", scale=scale, axis=axis, title=title), x2="high:Q", y=names)
    )
    dots = base.mark_point(filled=True, size=70, color=ACCENT, opacity=1).encode(
        x=alt.X(f"{column}_mean:Q", scale=scale, axis=axis, title=title), y=names
    )
    return (middle.encode(x=alt.X("middle:Q", scale=scale)) + lines + dots).properties(
        width=PANEL_WIDTH, height={"step": ROW_STEP}
    )


def bar_panel(base: Any, rows: Sequence[Row], column: str, title: str, number_format: str) -> Any:
    import altair as alt

    names = class_axis([row["name"] for row in rows], shows_names=False)
    x = alt.X(
        f"{column}:Q",
        stack=None,
        title=title,
        axis=alt.Axis(tickCount=3, format=number_format, labelFlush=False),
        scale=alt.Scale(zero=True),
    )
    bars = base.mark_bar(height=10, cornerRadiusEnd=5, color=ACCENT).encode(x=x, y=names)
    return bars.properties(width=PANEL_WIDTH, height={"step": ROW_STEP})


def class_axis(names: Sequence[str], title: str | None = None, shows_names: bool = True) -> Any:
    import altair as alt

    axis = alt.Axis(
        title=title,
        labels=shows_names,
        labelExpr=SHORT_NAME,
        labelLimit=0,
        labelPadding=8,
        minExtent=room_for(names) + 8 if shows_names else 0,
        ticks=False,
        domain=False,
        grid=False,
    )
    return alt.Y("name:N", sort=list(names), scale=alt.Scale(domain=list(names)), axis=axis)


def room_for(names: Sequence[str]) -> float:
    """Pixels that the longest of the names, shortened, may need."""
    return CHARACTER_WIDTH * min(NAME_LENGTH, max(map(len, names)))


def trend(rows: Sequence[Row]) -> Markup:
    """Three lines over runs, in order. rows: `run_id`, `correct_frac`, `agreement_frac`, `sparseness_mean`, each may be None."""
    import altair as alt

    measures = {"accuracy": "correct_frac", "agreement": "agreement_frac", "sparseness": "sparseness_mean"}
    points = [
        {"position": position, "measure": measure, "value": row[column]}
        for position, row in enumerate(rows, 1 - len(rows))
        for measure, column in measures.items()
        if row[column] is not None
    ]
    names = list(measures)
    # Ticks are given one by one: by default the axis of three runs has a tick at one and a half.
    ticks = list(range(0, -len(rows), -ceil(len(rows) / 6)))
    across = alt.Axis(title="runs before the latest", format="d", values=ticks, grid=False)
    legend = alt.Legend(orient="top", title=None, labelLimit=0, columnPadding=28)
    base = alt.Chart(values_of(points)).encode(
        x=alt.X("position:Q", scale=alt.Scale(domain=[1 - len(rows), 0], nice=False), axis=across),
        y=alt.Y("value:Q", title=None, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".0%", tickCount=5)),
        color=alt.Color("measure:N", scale=alt.Scale(domain=names, range=[ACCENT, SECOND, THIRD]), sort=None, legend=legend),
    )
    shapes = alt.Scale(domain=names, range=list(MEASURES.values()))
    dots = base.mark_point(filled=True, size=36, opacity=1).encode(
        shape=alt.Shape("measure:N", scale=shapes, sort=None, legend=legend)
    )
    return draw((base.mark_line(strokeWidth=1.5) + dots).properties(width=WIDTH, height=160))


def share_axis(field: str, title: str, number_format: str = ".0%") -> Any:
    import altair as alt

    return alt.X(f"{field}:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=number_format, tickCount=5))


def values_of(rows: Sequence[Row]) -> Any:
    import altair as alt

    return alt.InlineData(values=list(rows))


def start_engine() -> None:
    """Draws one mark and drops it: the first chart of a process takes a second, which can pass during other work."""
    import altair as alt

    draw(alt.Chart().mark_point())


def draw(chart: Any) -> Markup:
    """The chart as SVG: transparent, without fonts of its own, its text in the colour of the text around it."""
    import altair as alt
    import vl_convert

    page = "currentColor"
    text = {
        "labelColor": page,
        "titleColor": page,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    lines = {"gridColor": page, "gridOpacity": 0.14, "domainColor": page, "domainOpacity": 0.4, "tickColor": page}
    specification = (
        chart.configure(aria=False, background="transparent", font=FONT)
        .configure_axis(**text, **lines, tickOpacity=0.4, titlePadding=10)
        .configure_legend(labelColor=page, labelFontSize=12, symbolSize=90)
        .configure_text(color=page)
        .configure_view(stroke=None)
        .to_dict()
    )
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    try:
        # Some characters make the library end the process.
        svg = ROLES.sub("", vl_convert.vegalite_to_svg(printable_all(specification), vl_version=version))
    except ValueError as error:
        # A report without a chart is better than none: its table has the numbers.
        return Markup('<p class="note">This chart could not be drawn ({}).</p>').format(str(error)[:200])
    return Markup(TAG.sub(lambda tag: LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", tag[0]), svg))
