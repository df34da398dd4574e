"""A small analysis of the tests' own: how bright each image is. It shows that what protects the maps protects any analysis.

python -m tests.flows.brightness …    is the command line, with this analysis among those that there are
"""

import os
import sys

import numpy as np
import pyarrow as pa

from flows.analyses.analysis import Analysis, Context, Options, Result
from reports.figures import Figure
from storage.joins import Aggregate, Reduce, Table
from storage.runs.plan import Plan, Unit
from storage.tables import column, read_table, table_schema

UNIT_SAMPLES = 30

ROWS = table_schema(
    [column("sample_index", pa.int64(), "position in the dataset"), column("brightness", pa.float64(), "mean pixel, in [0, 1]")]
)
TOTAL = table_schema([column("unit_count", pa.int64(), "units"), column("total", pa.float64(), "sum of what each unit's is")])
BY_LABEL = table_schema([column("label", pa.int32(), "the label"), column("brightness_mean", pa.float64(), "of its images")])


class BrightnessOptions(Options):
    """scale: what the brightness is multiplied by. deadly_unit: the unit that ends whoever works on it; None: none does."""

    run: bool = False
    scale: float = 1.0
    deadly_unit: int | None = None


def units(plan: Plan, options: Options) -> list[Unit]:
    starts = range(0, plan.sample_count, UNIT_SAMPLES)
    return [Unit(index, start, min(start + UNIT_SAMPLES, plan.sample_count)) for index, start in enumerate(starts)]


def work(unit: Unit, context: Context) -> Result:
    options = context.options
    assert isinstance(options, BrightnessOptions)
    assert context.worker is not None
    if unit.index == options.deadly_unit:
        os._exit(9)
    images = context.worker.dataset.read(unit.start, unit.stop).images
    values = [0.0 if image is None else options.scale * float(image.mean()) / 255 for image in images]
    rows = pa.table([pa.array(range(unit.start, unit.stop), pa.int64()), pa.array(values)], schema=ROWS)
    total = pa.table([pa.array([1], pa.int64()), pa.array([float(np.sum(values))])], schema=TOTAL)
    return Result(unit.size, 0, {"brightness": rows, "brightness_total": total})


def add_up(parts: list[object], plan: Plan) -> pa.Table:
    whole = pa.concat_tables([read_table(part) for part in parts])  # type: ignore[arg-type]
    count, total = (sum(whole[name].to_pylist()) for name in whole.column_names)
    return pa.table([pa.array([count], pa.int64()), pa.array([total], pa.float64())], schema=TOTAL)


ANALYSIS = Analysis(
    name="brightness",
    about="how bright each image is",
    options=BrightnessOptions,
    tables=(
        Table("brightness", ROWS),
        Table("brightness_total", TOTAL, Reduce(TOTAL, add_up)),  # type: ignore[arg-type]
        Table(
            "brightness_by_label",
            BY_LABEL,
            Aggregate(
                "SELECT label, avg(brightness) AS brightness_mean FROM brightness JOIN samples USING (sample_index) "
                "GROUP BY label ORDER BY label"
            ),
        ),
    ),
    units=units,
    work=work,
    figures=(
        Figure(
            "brightness",
            "mean pixel of all images, in [0, 1]",
            "brightness",
            "SELECT avg(brightness) FROM brightness",
            "SELECT sample_index FROM brightness ORDER BY brightness, sample_index LIMIT 3",
            "Brightness",
        ),
    ),
)


def register() -> None:
    """Among the analyses that there are, before a config is read by them."""
    from flows.analyses import add_analysis

    add_analysis(ANALYSIS)


if __name__ == "__main__":
    # By its own name: workers look the functions up there.
    from tests.flows import brightness

    brightness.register()
    from flows.cli.app import app

    app(sys.argv[1:])
