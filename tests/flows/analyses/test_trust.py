"""The trust analysis: what a unit writes, what is made of it, and what is said."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch

from auditor.trust.assess import assess
from flows.analyses.analysis import Context
from flows.analyses.trust import (
    ANALYSIS,
    MEANS,
    MEASURES,
    SAMPLES,
    VERDICTS,
    TrustOptions,
    as_rows,
    join_means,
    join_verdict,
    units,
    work,
)
from flows.runtime.worker import AuditWorker, Work
from reports.sections.trust import CONTROLS
from reports.sections.trust import MEASURES as TOLD
from storage.runs.run import Run
from tests.flows.conftest import SAMPLES as DIGITS
from tests.reports.stores import SMALL, make_plan
from tests.storage.schemas import check_schema

PLAN = make_plan(SMALL).model_copy(update={"sample_count": DIGITS, "config": {"method": {"rule": "linear"}}})
OPTIONS = TrustOptions(samples=20)


@pytest.fixture
def connection() -> Any:
    """Three images: two of which the rule's contrast is known, and a control."""
    values = {
        "rule": {"contrast": [1, 0, None], "moved_along": [0.5, 0.7, 0.9], "class_gain": [1, 2, 3], "deletion": [0.5, 0.5, 0.5]},
        "ink": {"moved_along": [1, 1, 1], "deletion": [0.1, 0.1, 0.1]},
        "edges": {"moved_along": [0.9, 0.9, 0.9], "deletion": [0.2, 0.2, 0.2]},
        "random_pixels": {"moved_along": [None, None, None]},
    }
    rows = [
        {"sample_index": index, "source": source, "measure": name, "value": value}
        for source, measured in values.items()
        for name, of_images in measured.items()
        for index, value in enumerate(of_images)
    ]
    with duckdb.connect() as made:
        made.from_arrow(pa.Table.from_pylist(rows, schema=SAMPLES)).create("trust_samples")
        yield made


@pytest.mark.parametrize("schema", [SAMPLES, MEANS, VERDICTS], ids=["samples", "means", "verdicts"])
def test_schemas_are_those_of_tables_of_ours(schema: pa.Schema, tmp_path: Path) -> None:
    check_schema(schema, tmp_path)


def test_no_samples_are_no_analysis() -> None:
    assert TrustOptions(samples=0).run is False
    assert TrustOptions().run is True
    assert [unit.size for unit in units(PLAN, TrustOptions(samples=130))] == [64, 64, 2]


def test_a_unit_writes_what_was_measured_of_its_images(digits_work: Work, tmp_path: Path) -> None:
    worker = AuditWorker(digits_work)
    (unit,) = units(PLAN, OPTIONS)
    result = work(unit, Context(Run(tmp_path, "x"), PLAN, OPTIONS, worker))
    assert (result.processed, result.failed) == (20, 0)
    drawn = np.random.default_rng(0).permutation(DIGITS)[:20]
    samples = [worker.dataset.read(index, index + 1) for index in drawn.tolist()]
    images = torch.stack([torch.from_numpy(np.array(one.images[0])) for one in samples])[:, None].float() / 255
    expected = assess(worker.clear, images, torch.tensor([int(one.labels[0]) for one in samples]), 0)
    rows = result.tables["trust_samples"].to_pylist()
    assert {(row["source"], row["measure"]) for row in rows} == {(one, name) for one in expected for name in expected[one]}
    for source, name in (("rule", "insertion"), ("rule", "contrast"), ("cam", "moved_along"), ("ink", "kept_correct")):
        own = {row["sample_index"]: row["value"] for row in rows if (row["source"], row["measure"]) == (source, name)}
        found = np.array([np.nan if own[index] is None else own[index] for index in drawn.tolist()])
        np.testing.assert_allclose(found, expected[source][name].numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
    again = work(unit, Context(Run(tmp_path, "x"), PLAN, OPTIONS, AuditWorker(digits_work)))
    assert again.tables["trust_samples"].equals(result.tables["trust_samples"])


def test_undefined_is_null_and_nothing_is_no_row() -> None:
    rows = as_rows(np.array([7, 3]), {"rule": {"contrast": np.array([np.nan, 1], np.float32)}})
    assert rows.to_pylist() == [
        {"sample_index": 7, "source": "rule", "measure": "contrast", "value": None},
        {"sample_index": 3, "source": "rule", "measure": "contrast", "value": 1.0},
    ]
    assert as_rows(np.zeros(0, np.int64), {}).equals(SAMPLES.empty_table())


def test_means_stand_beside_the_control_that_does_best(connection: Any) -> None:
    rows = {(row["source"], row["measure"]): row for row in join_means(connection, PLAN).to_pylist()}
    along = rows["rule", "moved_along"]
    assert (along["question"], along["control"], along["control_value"], along["sample_count"]) == ("image", "ink", 1.0, 3)
    assert along["value"] == pytest.approx(0.7)
    assert rows["rule", "deletion"]["control"] == "ink", "the lower the better"
    contrast = rows["rule", "contrast"]
    assert (contrast["value"], contrast["sample_count"], contrast["control"]) == (0.5, 2, None)
    assert rows["rule", "class_gain"]["control"] is None
    nothing = rows["random_pixels", "moved_along"]
    assert (nothing["value"], nothing["low"], nothing["sample_count"]) == (None, None, 0)
    assert rows["ink", "deletion"]["control"] is None


def test_the_verdict_names_the_rule_and_gives_its_reasons(connection: Any) -> None:
    connection.from_arrow(join_means(connection, PLAN)).create("trust")
    (row,) = join_verdict(connection, PLAN).to_pylist()
    assert (row["rule"], row["is_usable_for_place"], row["is_usable_for_classes"]) == ("linear", None, False)
    assert row["test_outcomes"] == ["not measured", "failed", "passed", "not measured"]
    connection.from_arrow(join_verdict(connection, PLAN)).create("trust_verdicts")
    (said,) = ANALYSIS.warn(connection)
    assert said.startswith(
        "maps: those of rule 'linear' cannot be used to say which class it is for: Where the maps of two classes"
    )
    where, label = sorted(ANALYSIS.figures, key=lambda figure: figure.name, reverse=True)
    assert connection.sql(where.sql).fetchall() == [(None,)]
    assert connection.sql(label.sql).fetchall() == [(0,)]


def test_every_measure_and_control_is_told_in_the_report(digits_work: Work) -> None:
    assert set(TOLD) == set(MEASURES)
    images = torch.rand((4, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    found = assess(AuditWorker(digits_work).clear, images, torch.full((4,), -1), 0)
    assert {name for measured in found.values() for name in measured} == set(MEASURES)
    assert set(found) == {"rule", *CONTROLS}
