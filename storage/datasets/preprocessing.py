"""From decoded images of any size to the pixels that a model takes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
from PIL import Image
from pydantic import Field
from pydantic.dataclasses import dataclass

from storage.datasets.dataset import Dataset, Samples
from storage.options import STRICT

Side = Annotated[int, Field(gt=0)]
Failure = tuple[str, str]
"""The stage at which a sample failed, read or prepare, and the reason."""

IMAGES_HELD = 16


@dataclass(frozen=True, config=STRICT)
class InputSpec:
    """What a model takes.

    channels: 1 or 3. height, width: in pixels. mean, std: one value a channel, on the scale of [0, 1]; both or neither.
    resize: "crop" scales until the target is just covered and keeps the centre, "stretch" scales both sides on their
    own, "none" makes another size a failure. Scaling is bilinear with antialiasing, on 8-bit pixels.

    Raises ValueError (pydantic's ValidationError): any other value.
    """

    channels: Literal[1, 3]
    height: Side
    width: Side
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: Literal["crop", "stretch", "none"] = "crop"

    def __post_init__(self) -> None:
        if (self.mean or self.std) and not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"input: {len(self.mean)} values of mean and {len(self.std)} of std for {self.channels} channels; "
                "give both one value a channel, or neither"
            )
        if any(value <= 0 for value in self.std):
            raise ValueError(f"input: mean {self.mean}, std {self.std}; give finite numbers, and std above 0")


def read_prepared(dataset: Dataset, spec: InputSpec, start: int, stop: int) -> tuple[Samples, np.ndarray, dict[int, Failure]]:
    """Samples [start, stop) with their pixels, uint8 (N, channels, height, width), in place of their images.

    Whole images are held a few at a time: they may be a hundred times as large as what a model takes. Returns also
    {position: (stage, reason)} of what could not be read or prepared, whose pixels are zeros.
    """
    pixels = np.zeros((stop - start, spec.channels, spec.height, spec.width), dtype=np.uint8)
    failures: dict[int, Failure] = {}
    parts = []
    for first in range(start, stop, IMAGES_HELD):
        samples = dataset.read(first, min(first + IMAGES_HELD, stop))
        place = first - start
        pixels[place : place + len(samples.ids)], unprepared = prepare(samples.images, spec)
        failures |= {place + position: ("prepare", reason) for position, reason in unprepared.items()}
        failures |= {place + position: ("read", reason) for position, reason in samples.failures.items()}
        parts.append(replace(samples, images=[None] * len(samples.ids)))
    return join(parts), pixels, failures


def join(parts: Sequence[Samples]) -> Samples:
    """Consecutive ranges, at least one, as one."""
    places = np.cumsum([0, *(len(part.ids) for part in parts)]).tolist()
    meta = [part.meta for part in parts if part.meta is not None]
    return Samples(
        ids=[name for part in parts for name in part.ids],
        images=[image for part in parts for image in part.images],
        labels=np.concatenate([part.labels for part in parts]),
        hashes=[digest for part in parts for digest in part.hashes],
        failures={
            place + position: reason
            for place, part in zip(places, parts, strict=False)
            for position, reason in part.failures.items()
        },
        meta=pa.concat_tables(meta) if meta else None,
    )


def prepare(images: Sequence[np.ndarray | None], spec: InputSpec) -> tuple[np.ndarray, dict[int, str]]:
    """Images (H, W) or (H, W, 3) uint8 as uint8 (N, channels, height, width), and {position: reason} of failures.

    Rows of failures are zeros. None, an image that was not read, is one: keep the dataset's reason where there is one.
    Grey becomes RGB by repetition, RGB becomes grey by ITU-R 601 luma. Images that fit already are only stacked.
    """
    fitting = (spec.height, spec.width) if spec.channels == 1 else (spec.height, spec.width, 3)
    if images and all(image is not None and image.shape == fitting for image in images):
        return _channels_first(np.array(images)), {}
    pixels = np.zeros((len(images), spec.channels, spec.height, spec.width), dtype=np.uint8)
    failures: dict[int, str] = {}
    for position, image in enumerate(images):
        if image is None:
            failures[position] = "the image was not read"
        elif spec.resize == "none" and image.shape[:2] != fitting[:2]:
            failures[position] = (
                f"{image.shape[0]}×{image.shape[1]} pixels where the model takes {spec.height}×{spec.width}; "
                "set resize to crop or stretch"
            )
        else:
            pixels[position] = _channels_first(_fit(image, spec)[np.newaxis])[0]
    return pixels, failures


def normalize(pixels: np.ndarray, spec: InputSpec) -> np.ndarray:
    """(pixels / 255 − mean) / std: uint8 (N, channels, H, W) to float32, in the order and precision of torchvision."""
    values = pixels.astype(np.float32)
    values /= 255
    if spec.mean:
        values -= np.array(spec.mean, dtype=np.float32)[:, np.newaxis, np.newaxis]
        values /= np.array(spec.std, dtype=np.float32)[:, np.newaxis, np.newaxis]
    return values


def _channels_first(images: np.ndarray) -> np.ndarray:
    """(N, H, W) or (N, H, W, 3) as (N, 1 or 3, H, W), contiguous."""
    return images[:, np.newaxis] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _fit(image: np.ndarray, spec: InputSpec) -> np.ndarray:
    """The image with the size and colour of `spec`; untouched in what is right already."""
    height, width = image.shape[:2]
    if (height, width) != (spec.height, spec.width):
        scale = max(spec.height / height, spec.width / width) if spec.resize == "crop" else None
        kept_height = spec.height / scale if scale else height
        kept_width = spec.width / scale if scale else width
        top, left = max(height - kept_height, 0) / 2, max(width - kept_width, 0) / 2
        box = (left, top, min(left + kept_width, width), min(top + kept_height, height))
        resized = Image.fromarray(image).resize((spec.width, spec.height), Image.Resampling.BILINEAR, box=box)
        image = np.asarray(resized)
    if image.ndim == 3 and spec.channels == 1:
        return np.asarray(Image.fromarray(image).convert("L"))
    if image.ndim == 2 and spec.channels == 3:
        return np.repeat(image[..., np.newaxis], 3, axis=2)
    return image
