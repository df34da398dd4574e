"""Batches on a worker's device: prepared ahead on a GPU, and halved where one does not fit into its memory."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from storage.datasets.preprocessing import InputSpec, normalize
from storage.errors import InputError

Given = TypeVar("Given")
Made = TypeVar("Made")

SAMPLES = 64
"""How many images a worker takes at once where the config does not say."""


class BatchSize:
    """How many images a worker takes at once: `samples`, halved for good each time that so many do not fit.

    asked: what compute.batch_samples says, or `SAMPLES`.
    """

    def __init__(self, asked: int) -> None:
        self.asked = self.samples = asked

    def halve(self, failure: str) -> None:
        """Raises InputError where one image alone does not fit."""
        if self.samples == 1:
            raise InputError(
                f"one image alone does not fit into the memory of the device ({failure}), after compute.batch_samples = "
                f"{self.asked} did not: use a device with more memory, method.precision = 'bfloat16', or fewer workers on it"
            )
        self.samples = max(1, self.samples // 2)
        torch.cuda.empty_cache()

    def fitting(self, work: Callable[[int], Made]) -> Made:
        """What `work` makes of the first `samples` images, fewer where they do not fit."""
        while True:
            try:
                return work(self.samples)
            except torch.OutOfMemoryError as error:
                failure = first_sentence(error)
            # Not while the error is handled: it holds what filled the memory.
            self.halve(failure)


def first_sentence(error: Exception) -> str:
    return str(error).split(". ")[0]


def compute_batches(
    size: BatchSize, samples: np.ndarray, feed: Callable[[list[np.ndarray]], Iterator[Tensor]], work: Callable[..., Made]
) -> Iterator[tuple[np.ndarray, Made]]:
    """Yields batches of `samples`, in order, with what `work` makes of each; a batch that does not fit is split.

    samples: (n,) positions. feed: from batches to their images, in order. work: called with a batch and its images.
    """
    done = 0
    while done < len(samples):
        failure = None
        batches = np.split(samples[done:], range(size.samples, len(samples) - done, size.samples))
        # No name here for a batch's images: what did not fit must be gone before less is tried.
        results = ((batch, work(batch, images)) for batch, images in zip(batches, feed(batches), strict=True))
        try:
            for batch, made in results:
                yield batch, made
                done += len(batch)
        except torch.OutOfMemoryError as error:
            failure = first_sentence(error)
        if failure is not None:
            size.halve(failure)


def feed_device(pixels: np.ndarray, spec: InputSpec, device: torch.device, batches: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """The images of each batch as the model takes them, on the device.

    pixels: (N, ch, H, W) uint8. On a GPU the next batch is normalised, pinned and copied while the last one is computed.
    """
    if device.type != "cuda":
        for batch in batches:
            yield torch.from_numpy(normalize(pixels[batch], spec)).to(device)
        return
    stream = torch.cuda.Stream(device)

    def upload(batch: np.ndarray) -> tuple[Tensor, torch.cuda.Event]:
        pinned = torch.from_numpy(normalize(pixels[batch], spec)).pin_memory()
        with torch.cuda.stream(stream):
            return pinned.to(device, non_blocking=True), stream.record_event()

    for images, copied in prefetch(upload, batches):
        current = torch.cuda.current_stream(device)
        current.wait_event(copied)
        # Its memory is of the side stream, which must not reuse it before the work on this one is done.
        images.record_stream(current)
        yield images


def prefetch(make: Callable[[Given], Made], items: Sequence[Given]) -> Iterator[Made]:
    """What `make` makes of each item, in order, the next one in a thread while the last one is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        coming = [thread.submit(make, item) for item in items[:1]]
        for item in items[1:]:
            made = coming.pop().result()
            coming.append(thread.submit(make, item))
            yield made
        for last in coming:
            yield last.result()
