"""What a worker measures of one shard: maps and rows of its samples."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from auditor import Measurement, measure
from auditor.errors import check_memory
from flows.runtime.batches import compute_batches, feed_device
from flows.runtime.rows import failure_rows, response_rows, sample_rows
from flows.runtime.worker import AuditWorker
from storage.datasets import Dataset, Samples
from storage.datasets.preprocessing import read_prepared
from storage.runs.plan import Unit
from storage.tables import SCHEMAS

NOT_FINITE = {"scores": "the model's scores are not finite", "maps": "the maps are not finite"}
"""Why a sample that was measured is a failure all the same: of NaN there is no largest, and class 0 would pass for it."""

Failures = dict[int, tuple[str, str]]
"""Stage and reason, by a sample's position in its shard."""


@dataclass(frozen=True)
class Findings:
    """What there is to say of a shard's n samples. start: the first of them. labels: (n,) int64, −1 = unknown.

    dominant_class: (n, height, width) int16, −1 = none. dominant_response: the same shape, float32 ≥ 0. samples, responses:
    rows of these tables, in parts. meta: the dataset's further columns of `samples`.
    """

    start: int
    ids: list[str]
    labels: np.ndarray
    dominant_class: np.ndarray
    dominant_response: np.ndarray
    meta: pa.Schema
    failures: Failures
    samples: list[pa.Table] = field(default_factory=list)
    responses: list[pa.Table] = field(default_factory=list)

    @property
    def tables(self) -> dict[str, pa.Table]:
        """The shard's part of each table of samples."""
        samples = pa.schema([*SCHEMAS["samples"], *self.meta], metadata=SCHEMAS["samples"].metadata)
        return {
            "samples": pa.concat_tables(self.samples) if self.samples else samples.empty_table(),
            "responses": pa.concat_tables(self.responses) if self.responses else SCHEMAS["responses"].empty_table(),
            "failures": failure_rows(self.ids, self.start, self.failures),
        }


def nothing_found(
    start: int, ids: list[str], labels: np.ndarray, height: int, width: int, meta: pa.Schema, failures: Failures
) -> Findings:
    """Empty maps, and no rows but of failures."""
    dominant_class = np.full((len(ids), height, width), -1, np.int16)
    dominant_response = np.zeros(dominant_class.shape, np.float32)
    return Findings(start, ids, labels, dominant_class, dominant_response, meta, failures)


def measure_shard(worker: AuditWorker, shard: Unit) -> Findings:
    """Maps and rows of a shard's samples; what cannot be read, prepared or measured is a failure of its sample."""
    spec, meta = worker.work.input, worker.dataset.meta_schema
    samples, pixels, failures = read_prepared(worker.dataset, spec, shard.start, shard.stop)
    measured = np.array([position for position in range(len(samples.ids)) if position not in failures], dtype=np.int64)
    found = nothing_found(shard.start, samples.ids, samples.labels, spec.height, spec.width, meta, failures)
    for batch, measurement in measure_batches(worker, samples, pixels, measured, failures):
        chosen, measurement = leave_out_not_finite(batch, measurement, failures)
        found.dominant_class[chosen] = measurement.maps.dominant_class.cpu().numpy()
        found.dominant_response[chosen] = measurement.maps.dominant_response.cpu().numpy()
        found.samples.append(sample_rows(samples, shard.start, chosen, measurement, meta))
        found.responses.append(response_rows(shard.start, chosen, measurement))
    return found


def give_up(dataset: Dataset, shard: Unit, height: int, width: int, reason: str) -> Findings:
    """Of a shard that cannot be measured: all its samples are failures. Nothing of them is read, for that may be why."""
    ids = dataset.ids(shard.start, shard.stop)
    failures = dict.fromkeys(range(len(ids)), ("compute", reason))
    return nothing_found(shard.start, ids, np.full(len(ids), -1), height, width, dataset.meta_schema, failures)


def leave_out_not_finite(batch: np.ndarray, measurement: Measurement, failures: Failures) -> tuple[np.ndarray, Measurement]:
    """The samples of a batch whose scores and maps are finite, and their measurement; the others are put to `failures`."""
    has_scores = measurement.has_finite_scores.cpu().numpy()
    is_sound = has_scores & measurement.has_finite_maps.cpu().numpy()
    if is_sound.all():
        return batch, measurement
    for position, has_score in zip(batch[~is_sound].tolist(), has_scores[~is_sound], strict=True):
        failures[position] = ("compute", NOT_FINITE["maps" if has_score else "scores"])
    return batch[is_sound], measurement.of(torch.from_numpy(is_sound).to(measurement.kept.device))


def measure_batches(
    worker: AuditWorker, samples: Samples, pixels: np.ndarray, measured: np.ndarray, failures: Failures
) -> Iterator[tuple[np.ndarray, Measurement]]:
    """Yields the positions of `measured`, batch by batch, with what was measured of them. pixels: of all the samples.

    failures: by position; gets the samples that the model itself raises on, which are not measured.
    """

    def feed(batches: list[np.ndarray]) -> Iterator[torch.Tensor]:
        return feed_device(pixels, worker.work.input, worker.device, batches)

    def measure_batch(batch: np.ndarray, images: torch.Tensor) -> tuple[np.ndarray, Measurement | None]:
        labels = torch.from_numpy(samples.labels[batch]).to(worker.device)
        try:
            return batch, measure(worker.clear, images, labels, worker.work.method.kept_classes)
        except Exception as error:
            check_memory(error)
            refusals = worker.refusals(images)
            if not refusals:
                raise
        failures.update({int(batch[position]): ("compute", f"the model {reason}") for position, reason in refusals.items()})
        kept = [position for position in range(len(batch)) if position not in refusals]
        if not kept:
            return batch[kept], None
        return batch[kept], measure(worker.clear, images[kept], labels[kept], worker.work.method.kept_classes)

    for _, (taken, measurement) in compute_batches(worker.measured_size, measured, feed, measure_batch):
        if measurement is not None:
            yield taken, measurement
