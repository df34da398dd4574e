"""Pictures of samples, from the maps that a run stored and from the dataset. No model is needed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from auditor.colour_maps import against_rest, binary_heatmap, clear_map, full_brightness, palette, picture, translucent
from flows.config import AuditConfig
from storage.datasets import Dataset
from storage.datasets.preprocessing import InputSpec, prepare
from storage.maps import open_maps
from storage.runs.run import Run, read_plan


@dataclass(frozen=True)
class MapRenderer:
    """What pictures of a run are drawn from. colors: (classes, 3), see `palette`. dataset: None where it is not there."""

    maps: Any
    colors: Tensor
    dataset: Dataset | None
    input: InputSpec

    @property
    def hexadecimal(self) -> list[str]:
        """The classes' colours as `#rrggbb`."""
        return as_hexadecimal(self.colors)


def as_hexadecimal(colors: Tensor) -> list[str]:
    """Colours, (n, 3) in [0, 1], as `#rrggbb`."""
    return ["#" + bytes(row).hex() for row in (colors * 255).round().to(torch.uint8).tolist()]


def open_renderer(run: Run, config: AuditConfig, dataset: Dataset | None) -> MapRenderer:
    return MapRenderer(open_maps(run.maps), palette(len(read_plan(run).class_names)), dataset, config.input)


def read_maps(renderer: MapRenderer, start: int, stop: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Dominant class and response of samples, (n, H, W) int16 and float32 in [0, 1], and the responses that are 1, (n,)."""
    stored = (renderer.maps[name][start:stop] for name in ("dominant_class", "dominant_response"))
    classes, responses = (torch.from_numpy(values) for values in stored)
    return classes, responses.float(), renderer.maps["response_peak"][start:stop]


def draw_clear(renderer: MapRenderer, index: int) -> tuple[Image.Image, float]:
    """A sample's CLEAR map, translucent, and the response that is full brightness in it."""
    classes, responses, peaks = read_maps(renderer, index, index + 1)
    drawn = translucent(clear_map(classes, responses, renderer.colors))
    return as_image(drawn[0]), float(full_brightness(responses)[0]) * float(peaks[0])


def draw_input(renderer: MapRenderer, index: int) -> Image.Image | None:
    """A sample as the model sees it, before it is normalised; None without the dataset."""
    return draw_inputs(renderer, index, index + 1).get(0)


def draw_inputs(renderer: MapRenderer, start: int, stop: int) -> dict[int, Image.Image]:
    """By position from `start`; none without the dataset."""
    if renderer.dataset is None:
        return {}
    pixels, _ = prepare(renderer.dataset.read(start, stop).images, renderer.input)
    drawn = picture(torch.from_numpy(np.ascontiguousarray(pixels)))
    return {position: as_image(image) for position, image in enumerate(drawn)}


def draw_maps(classes: Tensor, responses: Tensor, shown: Tensor, colors: Tensor) -> dict[str, list[Image.Image]]:
    """Binary heatmaps and CLEAR maps of samples, translucent, to be laid over black or over the image.

    classes, responses: see `read_maps`. shown: (n,), the heatmaps' classes.
    """
    drawn = {
        "heatmap": binary_heatmap(*against_rest(classes, responses, shown)),
        "clear": clear_map(classes, responses, colors),
    }
    return {kind: [as_image(image) for image in translucent(images)] for kind, images in drawn.items()}


def as_image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.numpy())
