"""Measurements as rows, from a measurement made by hand."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from auditor.clear import Maps
from auditor.measurement import Measurement
from auditor.statistics.map_statistics import SCORES, MapStatistics
from flows.runtime.rows import failure_rows, response_rows, sample_rows
from storage.datasets import Samples
from storage.tables import SCHEMAS

NAN = float("nan")
META = pa.schema([pa.field("meta_site", pa.string()), pa.field("meta_age", pa.int64())])

SAMPLES = Samples(
    ids=["a.png", "b.png", "broken.png", "d.png", "e.png"],
    images=[None] * 5,
    labels=np.array([1, -1, 0, 2, 0], np.int64),
    hashes=["ha", "hb", "hc", "hd", "he"],
    failures={2: "cut off"},
    meta=pa.table({"meta_site": ["s0", None, "s2", "s3", "s4"], "meta_age": [50, 51, 52, None, 54]}, schema=META),
)
"""Of five samples, from sample 100 on, the third failed; the second has no label."""

CHOSEN = np.array([0, 1, 3, 4])


def described(first: float, rows: list[list[float]]) -> MapStatistics:
    """Each score is `rows` plus a number of its own, so that none can be taken for another."""
    return MapStatistics(**{name: torch.tensor(rows) + first + number for number, name in enumerate(SCORES)})


def measurement() -> Measurement:
    """Four samples, three classes, two of them kept. The last sample has no positive response."""
    maps = Maps(
        dominant_class=torch.zeros(4, 2, 2, dtype=torch.int16),
        dominant_response=torch.zeros(4, 2, 2),
        logits=torch.tensor([[0.0, 4.0, 1.0], [3.0, 2.0, 1.0], [5.0, 6.0, 4.0], [-1.0, -3.0, -2.0]]),
    )
    return Measurement(
        maps=maps,
        probability=torch.tensor([[0.25, 0.5, 0.125], [0.75, 0.5, 0.0], [0.25, 0.875, 0.375], [0.5, 0.25, 0.125]]),
        class_area_frac=torch.tensor([[0.25, 0.5, 0.25], [0.125, 0.25, 0.5], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]),
        class_energy_frac=torch.tensor([[0.5, 0.125, 0.375], [0.25, 0.0, 0.75], [0.25, 0.5, 0.25], [NAN, NAN, NAN]]),
        positive_area_frac=torch.tensor([1.0, 0.875, 0.5, 0.0]),
        dominance_margin=torch.tensor([0.5, 0.25, 0.125, NAN]),
        class_cosine=torch.tensor([-0.5, 0.0, 0.5, NAN]),
        left_out_frac=torch.tensor([0.0, 0.375, 1.0, NAN]),
        dominant=described(10, [[0.0], [0.25], [0.5], [NAN]]),
        kept=torch.tensor([[0, 1], [0, 2], [1, 2], [0, 1]]),
        responses=described(50, [[0.0, 0.125], [0.25, 0.375], [0.5, NAN], [NAN, 0.75]]),
        has_finite_scores=torch.ones(4, dtype=torch.bool),
        has_finite_maps=torch.ones(4, dtype=torch.bool),
    )


def test_rows_of_samples() -> None:
    table = sample_rows(SAMPLES, 100, CHOSEN, measurement(), META)
    expected: dict[str, list[Any]] = {
        "sample_index": [100, 101, 103, 104],
        "sample_id": ["a.png", "b.png", "d.png", "e.png"],
        "content_hash": ["ha", "hb", "hd", "he"],
        "label": [1, None, 2, 0],
        "prediction": [1, 0, 1, 0],
        "probability": [0.5, 0.75, 0.875, 0.5],
        "is_correct": [True, None, False, True],
        "dominant_class": [0, 2, 1, None],
        "dominant_energy_frac": [0.5, 0.75, 0.5, None],
        "prediction_energy_frac": [0.125, 0.25, 0.5, None],
        "label_energy_frac": [0.125, None, 0.25, None],
        "positive_area_frac": [1.0, 0.875, 0.5, 0.0],
    }
    expected |= {name: [10.0 + number, 10.25 + number, 10.5 + number, None] for number, name in enumerate(SCORES)}
    expected |= {"dominance_margin": [0.5, 0.25, 0.125, None], "class_cosine": [-0.5, 0.0, 0.5, None]}
    expected |= {"left_out_frac": [0.0, 0.375, 1.0, None]}
    expected |= {"meta_site": ["s0", None, "s3", "s4"], "meta_age": [50, 51, None, 54]}
    assert table.to_pydict() == expected
    assert table.schema.equals(pa.schema([*SCHEMAS["samples"], *META], metadata=SCHEMAS["samples"].metadata), check_metadata=True)


def test_rows_of_samples_without_meta_columns() -> None:
    bare = Samples(SAMPLES.ids, SAMPLES.images, SAMPLES.labels, SAMPLES.hashes)
    table = sample_rows(bare, 0, CHOSEN, measurement(), pa.schema([]))
    assert table.schema.equals(SCHEMAS["samples"], check_metadata=True)
    assert table.column("sample_index").to_pylist() == [0, 1, 3, 4]


def test_rows_of_responses() -> None:
    table = response_rows(100, CHOSEN, measurement())
    expected: dict[str, list[Any]] = {
        "sample_index": [100, 100, 101, 101, 103, 103, 104, 104],
        "class_index": [0, 1, 0, 2, 1, 2, 0, 1],
        "logit": [0.0, 4.0, 3.0, 1.0, 6.0, 4.0, -1.0, -3.0],
        "probability": [0.25, 0.5, 0.75, 0.0, 0.875, 0.375, 0.5, 0.25],
    }
    rows = [0.0, 0.125, 0.25, 0.375, 0.5, None, None, 0.75]
    expected |= {name: [None if row is None else row + 50 + number for row in rows] for number, name in enumerate(SCORES)}
    expected |= {
        "dominant_area_frac": [0.25, 0.5, 0.125, 0.5, 0.0, 1.0, 0.0, 0.0],
        "dominant_energy_frac": [0.5, 0.125, 0.25, 0.75, 0.5, 0.25, None, None],
    }
    assert table.to_pydict() == expected
    assert table.schema.equals(SCHEMAS["responses"], check_metadata=True)


def test_no_nan_reaches_a_table() -> None:
    """NaN counts in every average; NULL does not."""
    for table in (sample_rows(SAMPLES, 0, CHOSEN, measurement(), META), response_rows(0, CHOSEN, measurement())):
        for column in table.columns:
            if pa.types.is_floating(column.type):
                assert not np.isnan(column.drop_null().to_numpy()).any()


@pytest.mark.parametrize("tied", [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
def test_of_classes_with_equal_energy_the_lower_is_dominant(tied: list[float]) -> None:
    one = measurement()
    shares: Tensor = one.class_energy_frac
    shares[0] = torch.tensor(tied)
    table = sample_rows(SAMPLES, 0, CHOSEN, one, META)
    assert table.column("dominant_class")[0].as_py() == tied.index(0.5)


def test_rows_of_failures_come_in_order() -> None:
    table = failure_rows(SAMPLES.ids, 100, {3: ("prepare", "too small"), 2: ("read", "cut off")})
    assert table.to_pylist() == [
        {"sample_index": 102, "sample_id": "broken.png", "stage": "read", "reason": "cut off"},
        {"sample_index": 103, "sample_id": "d.png", "stage": "prepare", "reason": "too small"},
    ]
    assert failure_rows(SAMPLES.ids, 100, {}).schema.equals(SCHEMAS["failures"], check_metadata=True)
