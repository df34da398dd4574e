"""What a worker does: one shard, from samples to a commit."""

import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch

from auditor import Measurement, measure
from auditor.statistics.evidence import label_evidence
from flows.batches import compute_batches, feed_device
from flows.folding import Fold, adopt_planned
from flows.rows import failure_rows, response_rows, sample_rows
from flows.worker import AuditWorker, this_worker
from storage.datasets import Dataset, Samples
from storage.datasets.preparation import read_prepared
from storage.evidence import EVIDENCE_SUMS, cell_pixels, write_sums
from storage.maps import MapShape, write_shard
from storage.runs import Run, Shard, commit_attempt, open_attempt
from storage.tables import SCHEMAS, write_table


def audit_shard(key: str, run: Run, shape: MapShape, fold: Fold | None, shard: Shard) -> dict[str, int]:
    """Measures a shard, writes its maps and rows, and commits it. Returns its counts. fold: the run's operator, if it has one."""
    started = time.perf_counter()
    worker = this_worker(key)
    adopt_planned(worker, fold)
    samples, pixels, failures = read_prepared(worker.dataset, worker.work.input, shard.start, shard.stop)
    measured = np.array([position for position in range(len(samples.ids)) if position not in failures], dtype=np.int64)
    dominant_class = np.full((len(samples.ids), shape.height, shape.width), -1, np.int16)
    dominant_response = np.zeros(dominant_class.shape, np.float32)
    tables: dict[str, list[pa.Table]] = {"samples": [], "responses": []}
    for chosen, measurement in measure_batches(worker, samples, pixels, measured):
        dominant_class[chosen] = measurement.maps.dominant_class.cpu().numpy()
        dominant_response[chosen] = measurement.maps.dominant_response.cpu().numpy()
        tables["samples"].append(sample_rows(samples, shard.start, chosen, measurement, worker.dataset.meta_schema))
        tables["responses"].append(response_rows(shard.start, chosen, measurement))
    attempt = open_attempt(run, shard)
    write_shard(attempt / "maps.zarr", shape, dominant_class, dominant_response)
    evidence = label_evidence(
        torch.from_numpy(dominant_class),
        torch.from_numpy(dominant_response),
        torch.from_numpy(samples.labels),
        cell_pixels(shape.height, shape.width),
    )
    write_sums(attempt / EVIDENCE_SUMS, *(sums.numpy() for sums in evidence))
    for name, parts in tables.items():
        write_table(pa.concat_tables(parts) if parts else empty_table(name, worker.dataset), attempt / f"{name}.parquet")
    write_table(failure_rows(samples, shard.start, failures), attempt / "failures.parquet")
    commit_attempt(run, attempt, shard, len(measured), len(failures), time.perf_counter() - started)
    return {"processed": len(measured), "failed": len(failures)}


def measure_batches(
    worker: AuditWorker, samples: Samples, pixels: np.ndarray, measured: np.ndarray
) -> Iterator[tuple[np.ndarray, Measurement]]:
    """Yields the positions of `measured`, batch by batch, with what was measured of them. pixels: of all the samples."""

    def feed(batches: list[np.ndarray]) -> Iterator[torch.Tensor]:
        return feed_device(pixels, worker.work.input, worker.device, batches)

    def measure_batch(batch: np.ndarray, images: torch.Tensor) -> Measurement:
        labels = torch.from_numpy(samples.labels[batch]).to(worker.device)
        return measure(worker.clear, images, labels, worker.work.kept_classes)

    return compute_batches(worker.batch_size, measured, feed, measure_batch)


def empty_table(name: str, dataset: Dataset) -> pa.Table:
    fields = [*SCHEMAS[name], *(dataset.meta_schema if name == "samples" else [])]
    return pa.schema(fields, metadata=SCHEMAS[name].metadata).empty_table()
