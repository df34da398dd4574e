"""Faults in how data reach a model: each is found where it was put, and none where there is none."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from flows.analyses.analysis import Context, Result
from flows.analyses.data_checks import (
    ANALYSIS,
    AS_CONFIGURED,
    CHECKS,
    IMAGES,
    SHOWN_IMAGES,
    VARIANTS,
    DataChecksOptions,
    add_up,
    find_faults,
    reduced,
    work,
)
from flows.runtime.worker import AuditWorker, Work
from storage.runs.run import Run
from storage.tables import write_table
from tests.flows.conftest import SAMPLES, Digits
from tests.reports.stores import SMALL, make_plan
from tests.storage.schemas import check_schema

OPTIONS = DataChecksOptions(samples=100)
PLAN = make_plan(SMALL).model_copy(update={"sample_count": SAMPLES, "class_names": list("abcdefghij")})


def do_all(worker: AuditWorker, folder: Path) -> tuple[pa.Table, pa.Table]:
    """Tables `input_variants` and `input_images` of all units."""
    parts, images = [], []
    for unit in ANALYSIS.units(PLAN, OPTIONS):
        result: Result = work(unit, Context(Run(folder, "x"), PLAN, OPTIONS, worker))
        assert (result.processed, result.failed) == (unit.size, 0)
        write_table(result.tables["input_variants"], folder / f"{unit.index}.parquet")
        parts.append(folder / f"{unit.index}.parquet")
        images.append(result.tables["input_images"])
    return add_up(parts, PLAN), pa.concat_tables(images)


def judge(confusion: np.ndarray, variants: pa.Table) -> dict[str, dict[str, Any]]:
    """Rows of table `data_checks`, by check. confusion: (C, C), a row a label."""
    pairs = list(np.ndindex(confusion.shape))
    with duckdb.connect() as connection:
        rows = {
            "label": [label for label, _ in pairs],
            "prediction": [prediction for _, prediction in pairs],
            "sample_count": confusion.ravel().tolist(),
        }
        # Half of each cell is dominated by another class.
        connection.from_arrow(pa.table(rows)).create("confusion")
        connection.from_arrow(variants).create("input_variants")
        plan = PLAN.model_copy(update={"class_names": PLAN.class_names[: len(confusion)]})
        return {row["check_name"]: row for row in find_faults(connection, plan).to_pylist()}


def variants(*rows: tuple[str, int, int, int, int]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(VARIANTS.names, row, strict=True)) for row in rows], schema=VARIANTS)


SOUND = variants((AS_CONFIGURED, 100, 97, 0, 0), ("values in [−1, 1]", 100, 91, 1, 7))


@pytest.mark.parametrize("schema", [VARIANTS, IMAGES, CHECKS], ids=["variants", "images", "checks"])
def test_schemas_are_those_of_tables_of_ours(schema: pa.Schema, tmp_path: Path) -> None:
    check_schema(schema, tmp_path)


def test_digits_as_in_training_pass(digits_work: Work, digits: Digits, tmp_path: Path) -> None:
    worker = AuditWorker(digits_work)
    found, images = do_all(worker, tmp_path)
    configured = found.to_pylist()[0]
    assert (configured["variant"], configured["labelled_count"]) == (AS_CONFIGURED, 100)
    drawn = np.random.default_rng(0).permutation(SAMPLES)[:100]
    with torch.no_grad():
        predicted = worker.clear.model(torch.from_numpy(digits.pixels[drawn] / np.float32(255))[:, None]).argmax(1).numpy()
        inverted = worker.clear.model(torch.from_numpy(1 - digits.pixels[drawn] / np.float32(255))[:, None]).argmax(1).numpy()
    assert configured["correct_count"] == (predicted == digits.labels[drawn]).sum() >= 98
    (other,) = [row for row in found.to_pylist() if row["variant"] == "dark and bright swapped"]
    assert other["correct_count"] == (inverted == digits.labels[drawn]).sum()
    assert other["lost_count"] == ((predicted == digits.labels[drawn]) & (inverted != digits.labels[drawn])).sum()
    assert images["sample_index"].to_pylist() == drawn[:SHOWN_IMAGES].tolist()
    assert images["prediction"].to_pylist() == predicted[:SHOWN_IMAGES].tolist()
    shown = np.asarray(Image.open(io.BytesIO(images["png"][3].as_py())))
    assert np.array_equal(shown, digits.pixels[drawn[3]])
    assert judge(np.diag([30] * 10), found)["input"]["is_passed"]


def test_inverted_digits_are_found(digits_work: Work, tmp_path: Path) -> None:
    worker = AuditWorker(replace(digits_work, input=replace(digits_work.input, mean=(1.0,), std=(1.0,))))
    worker.tensor = lambda pixels: 1 - torch.from_numpy(pixels / np.float32(255))  # type: ignore[method-assign]
    found, _ = do_all(worker, tmp_path)
    fault = judge(np.diag([30] * 10), found)["input"]
    assert fault["is_passed"] is False
    assert "with values in [0, 1], accuracy on 100 images is " in fault["finding"]
    assert fault["control_value"] > 0.95 > fault["value"]


@pytest.mark.parametrize(
    ("other", "is_passed"),
    [(("x", 100, 90, 10, 0), False), (("x", 100, 84, 4, 0), True), (("x", 100, 90, 30, 20), True), (("x", 100, 70, 0, 10), True)],
    ids=["clearly better", "too little better", "may be chance", "worse"],
)
def test_another_way_must_be_clearly_better(other: tuple[str, int, int, int, int], is_passed: bool) -> None:
    found = judge(np.diag([30] * 10), variants((AS_CONFIGURED, 100, 80, 0, 0), other))["input"]
    assert found["is_passed"] is is_passed
    assert (found["value"], found["control_value"]) == (0.8, other[2] / 100)


def test_classes_in_another_order_are_found() -> None:
    """Of ten classes each is predicted as the next; one in ten images is predicted as labelled."""
    confusion = np.roll(np.diag([90] * 10), 1, axis=1) + np.diag([10] * 10)
    found = judge(confusion, SOUND)
    assert found["class_order"]["is_passed"] is False
    assert (found["class_order"]["value"], found["class_order"]["control_value"]) == (0.1, 0.9)
    assert "'a' are predicted as 'b' (90%); 'b' are predicted as 'c' (90%)" in found["class_order"]["finding"]
    # One in ten right is what guessing comes to.
    assert found["better_than_chance"]["is_passed"] is False


@pytest.mark.parametrize(
    "spoil",
    [
        lambda confusion: confusion,
        lambda confusion: np.roll(confusion, 1, axis=1) // 20 + confusion,
        # One class that is taken for another is an error of the model, and no order of classes.
        lambda confusion: confusion - np.diag([80, *[0] * 9]) + np.eye(10, k=1, dtype=int) * np.array([80] + [0] * 9)[:, None],
    ],
    ids=["none", "a few errors", "one class taken for another"],
)
def test_errors_are_no_order(spoil: Callable[[np.ndarray], np.ndarray]) -> None:
    found = judge(spoil(np.diag([100] * 10)), SOUND)
    assert found["class_order"]["is_passed"] is True
    assert found["better_than_chance"]["is_passed"] is True


def test_few_images_and_none_with_a_label_are_not_judged() -> None:
    found = judge(np.roll(np.diag([4, 4, 4]), 1, axis=1), variants((AS_CONFIGURED, 0, 0, 0, 0), ("x", 0, 0, 0, 0)))
    assert [found[name]["is_passed"] for name in ("class_order", "input")] == [None, None]
    found = judge(np.zeros((3, 3), int), SOUND)
    assert [found[name]["is_passed"] for name in ("better_than_chance", "class_order")] == [None, None]


def test_what_is_found_is_said(tmp_path: Path) -> None:
    rows = [dict.fromkeys(CHECKS.names) | {"is_passed": passed, "finding": str(passed)} for passed in (True, False, None)]
    with duckdb.connect() as connection:
        connection.from_arrow(pa.Table.from_pylist(rows, schema=CHECKS)).create("data_checks")
        assert ANALYSIS.warn(connection) == ["data: False"]
        (figure,) = ANALYSIS.figures
        assert connection.sql(figure.sql).fetchall() == [(1,)]


def test_large_images_are_reduced_for_the_report() -> None:
    picture = Image.open(io.BytesIO(reduced(np.zeros((3, 300, 150), np.uint8))))
    assert (picture.size, picture.mode) == ((48, 96), "RGB")
