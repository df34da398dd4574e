"""What a worker holds of an audit: the model, the dataset, and how many images it takes at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from distributed import WorkerPlugin, get_worker

from auditor import Clear
from auditor.backprojection import samples_at_once
from auditor.clear import TopK
from flows.batches import SAMPLES, BatchSize
from storage.datasets import Dataset, DatasetSpec, open_dataset
from storage.datasets.preparation import InputSpec, normalize, read_prepared
from storage.errors import InputError
from storage.models import ModelSpec, load_model
from storage.programs import check_input, place_program

Made = TypeVar("Made")


@dataclass(frozen=True)
class Work:
    """What a worker needs to know of an audit, whichever shard it gets. key: tells one audit's worker from another's."""

    key: str
    model: ModelSpec
    dataset: DatasetSpec
    input: InputSpec
    rule: str
    reduction: str
    head: str | None
    precision: str
    top_k: TopK
    kept_classes: int
    batch_samples: int | None
    threads: int | None


class AuditWorker(WorkerPlugin):
    """Holds the model and the dataset in a worker: loaded once, at the first call, and never in the task graph."""

    idempotent = True

    def __init__(self, work: Work) -> None:
        self.work = work
        self.name = work.key
        self.batch_size = BatchSize(work.batch_samples or SAMPLES)
        # Of the operator that `clear` uses; None while it uses none.
        self.operator_path: Path | None = None

    @cached_property
    def device(self) -> torch.device:
        if self.work.threads is not None:
            torch.set_num_threads(self.work.threads)
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")

    @cached_property
    def clear(self) -> Clear:
        work = self.work
        model = load_model(work.model)
        if isinstance(model, torch.nn.Module):
            model = model.to(self.device)
        else:
            check_input(
                model, work.model.title, (self.batch_size.asked, work.input.channels, work.input.height, work.input.width)
            )
            model = place_program(model, self.device)
        return Clear(model, work.rule, top_k=work.top_k, precision=work.precision, reduction=work.reduction, head=work.head)

    @cached_property
    def dataset(self) -> Dataset:
        return open_dataset(self.work.dataset)

    @cached_property
    def first_pixels(self) -> np.ndarray:
        """(n, ch, H, W) uint8: the dataset's first samples that can be read, at most a batch; none where none can."""
        size = self.batch_size.asked
        for start in range(0, len(self.dataset), size):
            _, pixels, failures = read_prepared(self.dataset, self.work.input, start, min(start + size, len(self.dataset)))
            readable = [position for position in range(len(pixels)) if position not in failures]
            if readable:
                return pixels[readable]
        return np.zeros((0, 0, 0, 0), np.uint8)

    @property
    def measured_size(self) -> BatchSize:
        """How many images are measured at once.

        Where the config does not say: fewer large ones on a CPU, whose memory is not known to be full before the process dies of
        it, as long as a forward pass keeps what a way back needs.
        """
        operator, spec = self.clear.operator, self.work.input
        keeps_nothing = operator is not None and operator.shortcut is not None
        if self.work.batch_samples is not None or self.device.type != "cpu" or keeps_nothing:
            return self.batch_size
        return BatchSize(min(SAMPLES, samples_at_once(spec.channels * spec.height * spec.width)))

    def on_first_images(self, work: Callable[[torch.Tensor], Made]) -> Made:
        """What `work` makes of the dataset's first images, as many as fit into memory at once."""
        return self.batch_size.fitting(lambda samples: work(self.tensor(self.first_pixels[:samples])))

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
            f"{worker.work.model.title} cannot take an image of {spec.channels} × {spec.height} × "
            f"{spec.width}: correct input.channels, input.height and input.width ({error})"
        ) from error
    return {"class_count": maps.logits.shape[1], "torch": torch.__version__, "device": str(worker.device)}
