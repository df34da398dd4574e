"""What a worker does: one shard, from samples to a commit."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from auditor import Measurement, measure
from auditor.errors import check_memory
from auditor.statistics.evidence import label_evidence
from flows.analyses.rows import failure_rows, response_rows, sample_rows
from flows.runtime.batches import compute_batches, feed_device
from flows.runtime.operator import Fold, adopt_planned
from flows.runtime.worker import AuditWorker, this_worker
from storage.datasets import Dataset, Samples
from storage.datasets.preparation import read_prepared
from storage.evidence import EVIDENCE_SUMS, cell_pixels, write_sums
from storage.maps import MapShape, write_shard
from storage.runs.commits import commit_attempt, leave_attempt, open_attempt
from storage.runs.plan import Unit
from storage.runs.run import Run
from storage.tables import SCHEMAS, write_table

NOT_FINITE = {"scores": "the model's scores are not finite", "maps": "the maps are not finite"}
"""Why a sample that was measured is a failure all the same: of NaN there is no largest, and class 0 would pass for it."""


@dataclass(frozen=True)
class Findings:
    """What there is to say of a shard's n samples. labels: (n,) int64, −1 = unknown.

    dominant_class: (n, height, width) int16, −1 = none. dominant_response: the same shape, float32 ≥ 0. samples, responses:
    rows of these tables, in parts.
    """

    ids: list[str]
    labels: np.ndarray
    dominant_class: np.ndarray
    dominant_response: np.ndarray
    samples: list[pa.Table] = field(default_factory=list)
    responses: list[pa.Table] = field(default_factory=list)


def nothing_found(ids: list[str], labels: np.ndarray, shape: MapShape) -> Findings:
    dominant_class = np.full((len(ids), shape.height, shape.width), -1, np.int16)
    return Findings(ids, labels, dominant_class, np.zeros(dominant_class.shape, np.float32))


def audit_shard(key: str, run: Run, shape: MapShape, fold: Fold | None, shard: Unit) -> dict[str, int]:
    """Measures a shard, writes its maps and rows, and commits it. Returns its counts. fold: the run's operator, if it has one."""
    started = time.perf_counter()
    worker = this_worker(key)
    adopt_planned(worker, fold)
    samples, pixels, failures = read_prepared(worker.dataset, worker.work.input, shard.start, shard.stop)
    measured = np.array([position for position in range(len(samples.ids)) if position not in failures], dtype=np.int64)
    findings = nothing_found(samples.ids, samples.labels, shape)
    for batch, measurement in measure_batches(worker, samples, pixels, measured, failures):
        chosen, measurement = leave_out_not_finite(batch, measurement, failures)
        findings.dominant_class[chosen] = measurement.maps.dominant_class.cpu().numpy()
        findings.dominant_response[chosen] = measurement.maps.dominant_response.cpu().numpy()
        findings.samples.append(sample_rows(samples, shard.start, chosen, measurement, worker.dataset.meta_schema))
        findings.responses.append(response_rows(shard.start, chosen, measurement))
    return commit(run, shape, shard, worker.dataset, findings, failures, started)


def leave_out_not_finite(
    batch: np.ndarray, measurement: Measurement, failures: dict[int, tuple[str, str]]
) -> tuple[np.ndarray, Measurement]:
    """The samples of a batch whose scores and maps are finite, and their measurement; the others are put to `failures`."""
    has_scores = measurement.has_finite_scores.cpu().numpy()
    is_sound = has_scores & measurement.has_finite_maps.cpu().numpy()
    if is_sound.all():
        return batch, measurement
    for position, has_score in zip(batch[~is_sound].tolist(), has_scores[~is_sound], strict=True):
        failures[position] = ("compute", NOT_FINITE["maps" if has_score else "scores"])
    return batch[is_sound], measurement.of(torch.from_numpy(is_sound).to(measurement.kept.device))


def set_aside(run: Run, shape: MapShape, shard: Unit, dataset: Dataset, reason: str) -> dict[str, int]:
    """Commits a shard that cannot be computed: all its samples are failures. Nothing of them is read, for that may be why."""
    ids = dataset.ids(shard.start, shard.stop)
    findings = nothing_found(ids, np.full(len(ids), -1), shape)
    failures = dict.fromkeys(range(len(ids)), ("compute", reason))
    return commit(run, shape, shard, dataset, findings, failures, time.perf_counter(), is_set_aside=True)


def commit(
    run: Run,
    shape: MapShape,
    shard: Unit,
    dataset: Dataset,
    findings: Findings,
    failures: dict[int, tuple[str, str]],
    started: float,
    is_set_aside: bool = False,
) -> dict[str, int]:
    """Writes a shard's maps and rows, and commits it; returns its counts. started: by time.perf_counter."""
    counts = {"processed": len(findings.ids) - len(failures), "failed": len(failures)}
    attempt = open_attempt(run, shard)
    try:
        write_attempt(attempt, shape, shard, dataset, findings, failures)
        commit_attempt(run, attempt, shard, **counts, duration=time.perf_counter() - started, is_set_aside=is_set_aside)
    finally:
        leave_attempt(run, attempt)
    return counts


def write_attempt(
    attempt: Path, shape: MapShape, shard: Unit, dataset: Dataset, findings: Findings, failures: dict[int, tuple[str, str]]
) -> None:
    write_shard(attempt / "maps.zarr", shape, findings.dominant_class, findings.dominant_response)
    maps = torch.from_numpy(findings.dominant_class), torch.from_numpy(findings.dominant_response)
    evidence = label_evidence(*maps, torch.from_numpy(findings.labels), cell_pixels(shape.height, shape.width))
    write_sums(attempt / EVIDENCE_SUMS, *(sums.numpy() for sums in evidence))
    for name, parts in {"samples": findings.samples, "responses": findings.responses}.items():
        write_table(pa.concat_tables(parts) if parts else empty_table(name, dataset), attempt / f"{name}.parquet")
    write_table(failure_rows(findings.ids, shard.start, failures), attempt / "failures.parquet")


def measure_batches(
    worker: AuditWorker, samples: Samples, pixels: np.ndarray, measured: np.ndarray, failures: dict[int, tuple[str, str]]
) -> Iterator[tuple[np.ndarray, Measurement]]:
    """Yields the positions of `measured`, batch by batch, with what was measured of them. pixels: of all the samples.

    failures: by position; gets the samples that the model itself raises on, which are not measured.
    """

    def feed(batches: list[np.ndarray]) -> Iterator[torch.Tensor]:
        return feed_device(pixels, worker.work.input, worker.device, batches)

    def measure_batch(batch: np.ndarray, images: torch.Tensor) -> tuple[np.ndarray, Measurement | None]:
        labels = torch.from_numpy(samples.labels[batch]).to(worker.device)
        try:
            return batch, measure(worker.clear, images, labels, worker.work.kept_classes)
        except Exception as error:
            check_memory(error)
            refusals = worker.refusals(images)
            if not refusals:
                raise
        failures.update({int(batch[position]): ("compute", f"the model {reason}") for position, reason in refusals.items()})
        kept = [position for position in range(len(batch)) if position not in refusals]
        if not kept:
            return batch[kept], None
        return batch[kept], measure(worker.clear, images[kept], labels[kept], worker.work.kept_classes)

    for _, (taken, measurement) in compute_batches(worker.measured_size, measured, feed, measure_batch):
        if measurement is not None:
            yield taken, measurement


def empty_table(name: str, dataset: Dataset) -> pa.Table:
    fields = [*SCHEMAS[name], *(dataset.meta_schema if name == "samples" else [])]
    return pa.schema(fields, metadata=SCHEMAS[name].metadata).empty_table()
