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
from auditor.backward.trace import Traced, samples_at_once
from auditor.clear import DEFAULT_RULE
from auditor.errors import check_memory
from auditor.images import WRITTEN_IN, other_batch, raised
from flows.runtime.batches import SAMPLES, BatchSize
from flows.sections import MethodSection
from storage.datasets import Dataset, DatasetSpec
from storage.datasets.formats import open_dataset
from storage.datasets.preprocessing import InputSpec, normalize, read_prepared
from storage.errors import InputError
from storage.models.factories import say_raised
from storage.models.programs import check_input, place_program
from storage.models.sources import ModelSpec, load_model

Made = TypeVar("Made")

SIDES = (28, 32, 48, 64, 96, 112, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384, 448, 512)
"""What a model is tried with that does not take an image of the config's size, to say what it does take."""


@dataclass(frozen=True)
class Work:
    """What a worker needs to know of an audit, whichever shard it gets.

    key: tells one audit's worker from another's. folder: see `load_model`.
    """

    key: str
    model: ModelSpec
    folder: str | None
    dataset: DatasetSpec
    input: InputSpec
    method: MethodSection
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
        # What a person should know of how the model was made to fit, a sentence each.
        self.notes: list[str] = []

    @cached_property
    def device(self) -> torch.device:
        if self.work.threads is not None:
            torch.set_num_threads(self.work.threads)
        # Convolutions on a GPU have ten binary digits otherwise, and float32 is to be that.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")

    @cached_property
    def clear(self) -> Clear:
        work, self.notes = self.work, []
        model = load_model(work.model, work.folder, self.notes.append)
        if isinstance(model, torch.nn.Module):
            model = model.to(self.device)
        else:
            check_input(
                model, work.model.title, (self.batch_size.asked, work.input.channels, work.input.height, work.input.width)
            )
            model = place_program(model, self.device)
        method = work.method
        # One that is to be chosen is not known yet: what is found out before does not depend on it.
        rule = DEFAULT_RULE if method.rule == "auto" else method.rule
        return Clear(model, rule, top_k=method.top_k, precision=method.precision, reduction=method.reduction, head=method.head)

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
        """What `work` makes of the dataset's first images, as many as fit into memory at once.

        Images that the model itself raises on are not among them from then on. Raises InputError where that leaves none.
        """

        def work_on(samples: int) -> Made:
            return work(self.tensor(self.first_pixels[:samples]))

        try:
            return self.batch_size.fitting(work_on)
        except Exception:
            refusals = self.refusals(self.tensor(self.first_pixels[: self.batch_size.samples]))
            if not refusals:
                raise
        self.first_pixels = np.delete(self.first_pixels, list(refusals), axis=0)
        if not len(self.first_pixels):
            raise InputError(f"{self.work.model.title} takes none of the dataset's first images: on one, it {refusals[0]}")
        return self.on_first_images(work)

    def refusal(self, images: torch.Tensor) -> str | None:
        """What the model raises on a batch where nothing watches it, as the rest of a sentence; None where it takes it."""
        error = raised(self.clear.model, images.to(self.clear.dtype))
        return None if error is None else f"raised {say_raised(error, self.work.folder)}"

    def refusals(self, images: torch.Tensor) -> dict[int, str]:
        """Of a batch's images, by position, those that the model raises on by themselves, with what it raises."""
        found = {position: self.refusal(images[position : position + 1]) for position in range(len(images))}
        return {position: reason for position, reason in found.items() if reason is not None}

    def tensor(self, pixels: np.ndarray) -> torch.Tensor:
        """pixels: (N, ch, H, W) uint8, to what the model takes, on the device."""
        return torch.from_numpy(normalize(pixels, self.work.input)).to(self.device)


def this_worker(key: str) -> AuditWorker:
    plugin = get_worker().plugins[key]
    assert isinstance(plugin, AuditWorker)
    return plugin


def warm_up(key: str) -> dict[str, Any]:
    """Loads the model and explains one image; returns what the model turned out to be. Raises InputError.

    class_count, torch, device; notes: what was done to make the model fit, and how it was read, a sentence each.
    """
    worker = this_worker(key)
    image = plain_image(worker)
    check_batch(worker, image)
    # One image alone: what does not fit then never will.
    backprojection = BatchSize(1).fitting(lambda _: explain(worker, image))
    return {
        "class_count": backprojection.logits.shape[1],
        "torch": torch.__version__,
        "device": str(worker.device),
        "notes": [*worker.notes, *backprojection.notes()],
    }


def plain_image(worker: AuditWorker) -> torch.Tensor:
    """(1, ch, H, W): a blank image, or the dataset's first where the model takes no blank one. Raises InputError."""
    size = (worker.work.input.channels, worker.work.input.height, worker.work.input.width)
    blank = worker.tensor(np.zeros((1, *size), np.uint8))
    refusal = worker.refusal(blank)
    if refusal is None:
        return blank
    if len(worker.first_pixels):
        first = worker.tensor(worker.first_pixels[:1])
        if worker.refusal(first) is None:
            return first
    raise InputError(f"{worker.work.model.title} {refusal}, given one image of {in_words(size)}: {what_it_takes(worker, size)}")


def what_it_takes(worker: AuditWorker, size: tuple[int, ...]) -> str:
    """The way out where a model does not take one image of the config's size, from what it does take. size: (ch, H, W)."""

    def blank(*of: int) -> torch.Tensor:
        return worker.tensor(np.zeros((1, *of), np.uint8))

    channels, height, width = size
    batch = other_batch(worker.clear.model, blank(*size).to(worker.clear.dtype))
    if batch is not None:
        return f"it takes {batch} of them, so that {WRITTEN_IN}"
    others = [(4 - channels, height, width), *((channels, side, side) for side in SIDES)]
    other = next((other for other in others if worker.refusal(blank(*other)) is None), None)
    if other is not None:
        return f"it takes one of {in_words(other)}; correct input.channels, input.height and input.width"
    return "correct the network, or input.channels, input.height and input.width"


def check_batch(worker: AuditWorker, image: torch.Tensor) -> None:
    """Raises InputError where a model that takes one image does not take two, each with its row of scores."""
    if worker.batch_size.asked == 1:
        return
    both = image.repeat(2, 1, 1, 1)
    refusal = worker.refusal(both)
    if refusal is None:
        with torch.no_grad():
            scores = worker.clear.model(both.to(worker.clear.dtype))
        if not isinstance(scores, torch.Tensor) or not scores.dim() or len(scores) == 2:
            return
        refusal = f"returns {len(scores)} row{'s' * (len(scores) != 1)} of scores"
    raise InputError(
        f"{worker.work.model.title} {refusal}, given two images, and takes one: {WRITTEN_IN}, or set compute.batch_samples = 1"
    )


def explain(worker: AuditWorker, image: torch.Tensor) -> Traced:
    """The forward pass of an image that the model takes, its classes sent back. Raises InputError where they cannot be."""
    try:
        backprojection = worker.clear.plain(image)
        for _ in backprojection.stream(worker.clear.competing(backprojection)):
            pass
        return backprojection
    except RuntimeError as error:
        check_memory(error)
        said = say_raised(error, worker.work.folder)
        raise InputError(
            f"{worker.work.model.title} answers, and its answer cannot be followed back to the image ({said}): "
            "try another method.rule, or write that part of it otherwise"
        ) from error


def in_words(size: tuple[int, ...]) -> str:
    return " × ".join(map(str, size))
