"""The images of a seeded sample: which they are, how they are divided into units, and what a worker reads of them."""

from dataclasses import dataclass

import numpy as np

from flows.runtime.worker import AuditWorker
from storage.datasets.preprocessing import join, read_prepared
from storage.runs.plan import Plan, Unit


@dataclass(frozen=True)
class Drawn:
    """The images of a unit that could be read, and that the model takes. indices: (n,) int64, positions in the dataset.

    pixels: (n, ch, H, W) uint8, as prepared for the model. labels: (n,) int64, −1 = unknown. failed: how many others there were.
    """

    indices: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray
    failed: int


def draw(samples: int, count: int, seed: int) -> np.ndarray:
    """Positions in a dataset of so many samples, a simple random sample in random order: (n,) int64, n at most `count`."""
    order: np.ndarray = np.random.default_rng(seed).permutation(samples)[:count]
    return order


def units_of(plan: Plan, count: int, size: int) -> list[Unit]:
    """The sample in units of at most `size` images."""
    count = min(count, plan.sample_count)
    return [Unit(index, start, min(start + size, count)) for index, start in enumerate(range(0, count, size))]


def read_drawn(worker: AuditWorker, indices: np.ndarray) -> Drawn:
    """indices: (n,) int64, in the dataset. What cannot be read or prepared, and what the model raises on, is left out."""
    spec = worker.work.input
    parts = [read_prepared(worker.dataset, spec, index, index + 1) for index in indices.tolist()]
    pixels = np.concatenate([part for _, part, _ in parts])
    labels = join([samples for samples, _, _ in parts]).labels
    readable = np.array([not failures for _, _, failures in parts], dtype=bool)
    kept = np.flatnonzero(readable)
    if len(kept) and worker.refusal(worker.tensor(pixels[kept])) is not None:
        refused = worker.refusals(worker.tensor(pixels[kept]))
        kept = np.delete(kept, list(refused))
    return Drawn(indices[kept], pixels[kept], labels[kept], len(indices) - len(kept))
