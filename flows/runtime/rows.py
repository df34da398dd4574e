"""Measurements as rows of the tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from auditor.measurement import Measurement
from auditor.statistics.map_statistics import SCORES
from storage.datasets import Samples
from storage.statistics import STATISTICS
from storage.tables import SCHEMAS


def sample_rows(samples: Samples, start: int, chosen: np.ndarray, measured: Measurement, meta: pa.Schema) -> pa.Table:
    """Rows of `samples`. chosen: positions in `samples`, whose first is sample `start`, that were measured, in order."""
    labels = torch.from_numpy(samples.labels[chosen])
    predictions = measured.maps.logits.argmax(1).cpu()
    shares = measured.class_energy_frac.cpu()
    has_label, has_dominant = labels >= 0, ~shares.isnan().any(1)
    dominant = shares.nan_to_num(-1).argmax(1)
    columns: dict[str, Any] = {
        "sample_index": start + chosen,
        "sample_id": [samples.ids[position] for position in chosen],
        "content_hash": [samples.hashes[position] for position in chosen],
        "label": where_known(labels, has_label),
        "prediction": predictions.numpy(),
        "probability": pick(measured.probability.cpu(), predictions),
        "is_correct": where_known(labels == predictions, has_label),
        "dominant_class": where_known(dominant, has_dominant),
        "dominant_energy_frac": pick(shares, dominant),
        "prediction_energy_frac": pick(shares, predictions),
        "label_energy_frac": pick(shares, labels.clamp(min=0)).masked_fill(~has_label, torch.nan),
    }
    columns |= {
        statistic.name: measured_as(statistic.name, measured) for statistic in STATISTICS if statistic.name not in columns
    }
    table = as_table(columns, SCHEMAS["samples"])
    if samples.meta is not None:
        for field in meta:
            table = table.append_column(field, samples.meta.column(field.name).take(pa.array(chosen)))
    return table


def response_rows(start: int, chosen: np.ndarray, measured: Measurement) -> pa.Table:
    """Rows of `responses`: one for each measured sample and kept class."""
    kept = measured.kept
    columns: dict[str, Any] = {
        "sample_index": np.repeat(start + chosen, kept.shape[1]),
        "class_index": kept.flatten(),
        "logit": measured.maps.logits.gather(1, kept).flatten(),
        "probability": measured.probability.gather(1, kept).flatten(),
        "dominant_area_frac": measured.class_area_frac.gather(1, kept).flatten(),
        "dominant_energy_frac": measured.class_energy_frac.gather(1, kept).flatten(),
    }
    columns |= {name: getattr(measured.responses, name).flatten() for name in SCORES}
    return as_table(columns, SCHEMAS["responses"])


def failure_rows(ids: Sequence[str], start: int, failures: dict[int, tuple[str, str]]) -> pa.Table:
    """Rows of `failures`. ids: of samples, the first of which is `start`. failures: stage and reason by position in `ids`."""
    rows = [
        {"sample_index": start + position, "sample_id": ids[position], "stage": stage, "reason": reason}
        for position, (stage, reason) in sorted(failures.items())
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMAS["failures"])


def measured_as(name: str, measured: Measurement) -> Tensor:
    """The statistic that the measurement has by this name, (N,); a score is the dominant response map's."""
    values: Tensor = getattr(measured.dominant, name)[:, 0] if name in SCORES else getattr(measured, name)
    return values


def pick(values: Tensor, classes: Tensor) -> Tensor:
    return values.gather(1, classes[:, None])[:, 0]


def where_known(values: Tensor, known: Tensor) -> pa.Array:
    return pa.array(values.numpy(), mask=~known.numpy())


def as_table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    """NaN, which stands for undefined in a tensor, is NULL in a table."""
    arrays = []
    for field in schema:
        values = columns[field.name]
        if isinstance(values, Tensor):
            values = values.cpu().numpy()
        if not isinstance(values, pa.Array):
            values = pa.array(values, from_pandas=True)
        arrays.append(values.cast(field.type))
    return pa.table(arrays, schema=schema)
