"""What a worker does: one shard, from samples to a commit."""

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from distributed import WorkerPlugin, get_worker

from auditor import Clear, Measurement, measure
from flows.rows import failure_rows, response_rows, sample_rows
from storage.datasets import Dataset, DatasetSpec, Samples, open_dataset
from storage.datasets.preparation import InputSpec, normalize, prepare
from storage.errors import InputError
from storage.maps import MapShape, write_shard
from storage.models import ModelSpec, load_model
from storage.runs import Run, Shard, commit_attempt, open_attempt
from storage.tables import SCHEMAS, write_table


@dataclass(frozen=True)
class Work:
    """What a worker needs to know of an audit, whichever shard it gets. key: tells one audit's worker from another's."""

    key: str
    model: ModelSpec
    dataset: DatasetSpec
    input: InputSpec
    rule: str
    precision: str
    top_k: int | None
    kept_classes: int
    batch_samples: int
    threads: int | None


class AuditWorker(WorkerPlugin):
    """Holds the model and the dataset in a worker: loaded once, at the first call, and never in the task graph."""

    idempotent = True

    def __init__(self, work: Work) -> None:
        self.work = work
        self.name = work.key

    @cached_property
    def device(self) -> torch.device:
        if self.work.threads is not None:
            torch.set_num_threads(self.work.threads)
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")

    @cached_property
    def clear(self) -> Clear:
        model = load_model(self.work.model).to(self.device)
        return Clear(model, self.work.rule, top_k=self.work.top_k, precision=self.work.precision)

    @cached_property
    def dataset(self) -> Dataset:
        return open_dataset(self.work.dataset)

    def tensor(self, pixels: np.ndarray) -> torch.Tensor:
        """pixels: (N, ch, H, W) uint8, to what the model takes, on the device."""
        return torch.from_numpy(normalize(pixels, self.work.input)).to(self.device)


def this_worker(key: str) -> AuditWorker:
    plugin = get_worker().plugins[key]
    assert isinstance(plugin, AuditWorker)
    return plugin


def warm_up(key: str) -> dict[str, Any]:
    """Loads the model and explains one blank image; returns what the model turned out to be. Raises InputError."""
    worker = this_worker(key)
    spec = worker.work.input
    blank = worker.tensor(np.zeros((1, spec.channels, spec.height, spec.width), np.uint8))
    try:
        maps = worker.clear(blank)
    except RuntimeError as error:
        raise InputError(
            f"model.factory '{worker.work.model.factory}' cannot take an image of {spec.channels} × {spec.height} × "
            f"{spec.width}: correct input.channels, input.height and input.width ({error})"
        ) from error
    return {"class_count": maps.logits.shape[1], "torch": torch.__version__, "device": str(worker.device)}


def audit_shard(key: str, run: Run, shape: MapShape, shard: Shard) -> dict[str, int]:
    """Measures a shard, writes its maps and rows, and commits it. Returns its counts."""
    started = time.perf_counter()
    worker = this_worker(key)
    samples = worker.dataset.read(shard.start, shard.stop)
    pixels, unprepared = prepare(samples.images, worker.work.input)
    failures = {position: ("read", reason) for position, reason in samples.failures.items()}
    failures |= {position: ("prepare", reason) for position, reason in unprepared.items() if position not in failures}
    measured = np.array([position for position in range(len(samples.ids)) if position not in failures], dtype=np.int64)
    dominant_class = np.full((len(samples.ids), shape.height, shape.width), -1, np.int16)
    dominant_response = np.zeros(dominant_class.shape, np.float32)
    tables: dict[str, list[pa.Table]] = {"samples": [], "responses": []}
    for chosen in np.split(measured, range(worker.work.batch_samples, len(measured), worker.work.batch_samples)):
        if not len(chosen):
            continue
        measurement = measure_batch(worker, samples, pixels, chosen)
        dominant_class[chosen] = measurement.maps.dominant_class.cpu().numpy()
        dominant_response[chosen] = measurement.maps.dominant_response.cpu().numpy()
        tables["samples"].append(sample_rows(samples, shard.start, chosen, measurement, worker.dataset.meta_schema))
        tables["responses"].append(response_rows(shard.start, chosen, measurement))
    attempt = open_attempt(run, shard)
    write_shard(attempt / "maps.zarr", shape, dominant_class, dominant_response)
    for name, parts in tables.items():
        write_table(pa.concat_tables(parts) if parts else empty_table(name, worker.dataset), attempt / f"{name}.parquet")
    write_table(failure_rows(samples, shard.start, failures), attempt / "failures.parquet")
    commit_attempt(run, attempt, shard, len(measured), len(failures), time.perf_counter() - started)
    return {"processed": len(measured), "failed": len(failures)}


def measure_batch(worker: AuditWorker, samples: Samples, pixels: np.ndarray, chosen: np.ndarray) -> Measurement:
    labels = torch.from_numpy(samples.labels[chosen]).to(worker.device)
    return measure(worker.clear, worker.tensor(pixels[chosen]), labels, worker.work.kept_classes)


def empty_table(name: str, dataset: Dataset) -> pa.Table:
    fields = [*SCHEMAS[name], *(dataset.meta_schema if name == "samples" else [])]
    return pa.schema(fields, metadata=SCHEMAS[name].metadata).empty_table()
