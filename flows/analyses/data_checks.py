"""Whether images and labels reach the model as it was trained on them: before anything else is believed.

Three faults that an audit would otherwise explain in all earnest: labels that the model knows nothing of, classes in another
order than the model's outputs, images with other channels or values than those of training.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image

from flows.analyses.analysis import Analysis, Context, Result
from flows.analyses.sample import SampleOptions, read_unit, units
from flows.runtime.sampling import Drawn
from reports.figures import Figure
from reports.parts.pictures import as_png
from storage.joins import Append, Derive, Reduce, Table
from storage.runs.plan import Plan, Unit
from storage.sql.read_only import select
from storage.tables import INDEX, column, mean, read_table, table_schema

if TYPE_CHECKING:
    import duckdb

    from flows.runtime.worker import AuditWorker

SHOWN_IMAGES = 24
SHOWN_SIDE = 96
"""Pixels of the longer side to which the images that are kept for the report are reduced."""

SURE = 0.01
"""A fault is one where chance makes it, or worse, in less than one of a hundred audits."""
CLEARLY = 0.05
"""Accuracy must be better by so much for another way of giving images to be the right one."""
LABELLED = 5
"""Images that a class needs for something to be said of its place in the order."""

VARIANTS = table_schema(
    [
        column("variant", pa.string(), "how the images were given to the model: `as configured`, or another usual way"),
        column("labelled_count", pa.int64(), "images with a label that were given to the model"),
        column("correct_count", pa.int64(), "of these, how many were predicted correctly"),
        column("gained_count", pa.int64(), "how many were predicted correctly that are not as configured"),
        column("lost_count", pa.int64(), "how many were not that are as configured"),
    ]
)
IMAGES = table_schema(
    [
        INDEX,
        column("label", pa.int32(), "the label; NULL = unknown"),
        column("prediction", pa.int32(), "the predicted class"),
        column("png", pa.binary(), f"the image as the model takes it, reduced to at most {SHOWN_SIDE} pixels a side, as PNG"),
    ]
)
CHECKS = table_schema(
    [
        column("check_name", pa.string(), "what was checked: `better_than_chance`, `class_order` or `input`"),
        column("is_passed", pa.bool_(), "whether nothing was found; NULL = too few images with a label to tell"),
        mean("value", "accuracy as configured"),
        mean("control_value", "what it is compared with: by chance, in the best order, of the best other way of giving images"),
        mean("p_value", "of so large a difference by chance; NULL where there is no test"),
        column("finding", pa.string(), "what was found, in a sentence"),
    ]
)
AS_CONFIGURED = "as configured"


class DataChecksOptions(SampleOptions):
    """samples: images that are given to the model in other ways as well."""


def work(unit: Unit, context: Context) -> Result:
    worker, drawn = read_unit(unit, context)
    predictions = predict(worker, drawn)
    tables = {
        "input_variants": count_variants(predictions, drawn.labels),
        "input_images": as_rows(drawn, predictions[AS_CONFIGURED], SHOWN_IMAGES if unit.index == 0 else 0),
    }
    return Result(len(drawn.indices), drawn.failed, tables)


def predict(worker: "AuditWorker", drawn: Drawn) -> dict[str, np.ndarray]:
    """The predicted classes, (n,) each, by the way in which the images are given."""
    import torch

    from auditor.data_checks import changes
    from auditor.trust.networks import scores_of

    spec = worker.work.input
    ways = {AS_CONFIGURED: None, **changes(spec.channels, spec.mean, spec.std)}
    if not len(drawn.indices):
        return dict.fromkeys(ways, np.zeros(0, np.int64))
    configured = worker.tensor(drawn.pixels)
    plain = torch.from_numpy(drawn.pixels).to(worker.device).float() / 255

    def predict_all(samples: int) -> dict[str, np.ndarray]:
        network = scores_of(worker.clear, configured[:1])
        found = {}
        for name, change in ways.items():
            images = configured if change is None else change(plain)
            parts = [network(part).argmax(1) for part in images.split(samples)]
            found[name] = torch.cat(parts).cpu().numpy()
        return found

    return worker.batch_size.fitting(predict_all)


def count_variants(predictions: dict[str, np.ndarray], labels: np.ndarray) -> pa.Table:
    """The part of table `input_variants`. labels: (n,), −1 = unknown."""
    is_labelled = labels >= 0
    configured = predictions[AS_CONFIGURED][is_labelled] == labels[is_labelled]
    rows = []
    for name, predicted in predictions.items():
        correct = predicted[is_labelled] == labels[is_labelled]
        counts = len(correct), correct.sum(), (correct & ~configured).sum(), (configured & ~correct).sum()
        rows.append(dict(zip(VARIANTS.names, (name, *map(int, counts)), strict=True)))
    return pa.Table.from_pylist(rows, schema=VARIANTS)


def as_rows(drawn: Drawn, predictions: np.ndarray, count: int) -> pa.Table:
    """The part of table `input_images`: the first `count`."""
    rows = [
        {"sample_index": index, "label": None if label < 0 else label, "prediction": prediction, "png": reduced(pixels)}
        for index, label, prediction, pixels in zip(
            drawn.indices[:count].tolist(),
            drawn.labels[:count].tolist(),
            predictions[:count].tolist(),
            drawn.pixels[:count],
            strict=True,
        )
    ]
    return pa.Table.from_pylist(rows, schema=IMAGES)


def reduced(pixels: np.ndarray) -> bytes:
    """A PNG. pixels: (1 or 3, H, W) uint8."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return as_png(image)


def add_up(parts: Iterable[Path], plan: Plan) -> pa.Table:
    """The counts of all units, by variant, in the order of the first."""
    whole = pa.concat_tables([read_table(part) for part in parts])
    counts = whole.group_by("variant", use_threads=False).aggregate([(name, "sum") for name in VARIANTS.names[1:]])
    return counts.rename_columns(VARIANTS.names).select(VARIANTS.names)


CONFUSION = """
SELECT label, prediction, sum(sample_count)::BIGINT AS n FROM confusion WHERE label IS NOT NULL GROUP BY ALL
"""


def find_faults(connection: "duckdb.DuckDBPyConnection", plan: Plan) -> pa.Table:
    """Rows of table `data_checks`."""
    found = select(connection, CONFUSION)
    confusion = np.zeros((len(plan.class_names),) * 2, np.int64)
    confusion[found["label"].to_numpy(), found["prediction"].to_numpy()] = found["n"].to_numpy()
    variants = select(connection, "SELECT * FROM input_variants").to_pylist()
    rows = [check_chance(confusion), check_order(confusion, plan.class_names), check_input(variants)]
    return pa.Table.from_pylist(rows, schema=CHECKS)


def row(name: str, is_passed: bool | None, value: Any, control: Any, p_value: Any, finding: str) -> dict[str, Any]:
    return dict(zip(CHECKS.names, (name, is_passed, value, control, p_value, finding), strict=True))


def check_chance(confusion: np.ndarray) -> dict[str, Any]:
    from auditor.data_checks import chance

    name = "better_than_chance"
    if not confusion.sum():
        return row(name, None, None, None, None, "No measured image has a label, so that the accuracy is not known.")
    found = chance(confusion)
    is_better = found.p_value < SURE
    shown = f"{found.accuracy:.1%}, and {found.expected:.1%} is what comes of guessing"
    finding = f"Accuracy is {shown}."
    if not is_better:
        finding = f"The predictions know nothing of the labels: accuracy is {shown}. Maps of such a model explain nothing."
    return row(name, is_better, found.accuracy, found.expected, found.p_value, finding)


def check_order(confusion: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Classes are out of order where most images of each, of two or more, are predicted as one other, and no two as the same."""
    from auditor.data_checks import reordered

    name, total = "class_order", int(confusion.sum())
    counts, order = confusion.sum(1), reordered(confusion)
    places = np.arange(len(names))
    if not (counts >= LABELLED).any():
        return row(name, None, None, None, None, f"No class has {LABELLED} measured images with its label.")
    shares = confusion[places, order] / np.maximum(counts, 1)
    moved = np.flatnonzero((order != places) & (counts >= LABELLED) & (shares > 0.5))
    accuracy, best = np.trace(confusion) / total, confusion[places, order].sum() / total
    if len(moved) < 2 or best - accuracy < CLEARLY:
        return row(name, True, accuracy, best, None, "The classes are in the order of the model's outputs, as far as is known.")
    examples = [f"'{names[label]}' are predicted as '{names[order[label]]}' ({shares[label]:.0%})" for label in moved[:3]]
    finding = (
        f"The classes seem to be in another order than the model's outputs: in the best order accuracy is {best:.1%} and not "
        f"{accuracy:.1%}. Images labelled {'; '.join(examples)}. Name the classes in the order of the outputs, in "
        "dataset.classes."
    )
    return row(name, False, accuracy, best, None, finding)


def check_input(variants: list[dict[str, Any]]) -> dict[str, Any]:
    from auditor.data_checks import paired_p_value

    name = "input"
    configured, others = variants[0], variants[1:]
    count = configured["labelled_count"]
    if not count:
        return row(name, None, None, None, None, "No image that was tried has a label.")
    best = max(others, key=lambda variant: variant["correct_count"])
    accuracy, other = (variant["correct_count"] / count for variant in (configured, best))
    # Each of the other ways has its own chance of being better by accident.
    p_value = min(1.0, len(others) * paired_p_value(best["gained_count"], best["lost_count"]))
    if p_value >= SURE or other - accuracy < CLEARLY:
        finding = f"No other usual way of giving the images does better: at best {other:.1%}, and {accuracy:.1%} as configured."
        return row(name, True, accuracy, other, p_value, finding)
    finding = (
        f"The images seem to reach the model otherwise than in its training: with {best['variant']}, accuracy on {count:,} "
        f"images is {other:.1%} and not {accuracy:.1%}. See input.mean, input.std, and how the model's own code reads images."
    )
    return row(name, False, accuracy, other, p_value, finding)


def warn(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    faults = select(connection, "SELECT finding FROM data_checks WHERE NOT is_passed")
    return [f"data: {finding}" for finding in faults["finding"].to_pylist()]


ANALYSIS = Analysis(
    name="data_checks",
    about="whether images and labels reach the model as it was trained on them",
    options=DataChecksOptions,
    tables=(
        Table("input_variants", VARIANTS, Reduce(VARIANTS, add_up)),
        Table("input_images", IMAGES, Append()),
        Table("data_checks", CHECKS, Derive(find_faults)),
    ),
    units=units,
    work=work,
    figures=(
        Figure(
            "data_faults",
            "faults found in how images and labels reach the model",
            "data_checks",
            "SELECT count(*) FILTER (NOT is_passed) FROM data_checks",
        ),
    ),
    warn=warn,
)
