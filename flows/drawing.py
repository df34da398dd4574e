"""Pictures of single samples, from the maps that a run stored and from the dataset. No model is needed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from auditor.rendering import against_rest, binary_heatmap, clear_map, palette, picture
from storage.datasets import Dataset
from storage.datasets.preparation import InputSpec, prepare
from storage.maps import open_maps
from storage.runs import Run


@dataclass(frozen=True)
class Album:
    """A run's maps, to be drawn from. colors: (classes, 3), see `palette`."""

    maps: Any
    colors: Tensor


def open_album(run: Run, classes: int) -> Album:
    return Album(open_maps(run.maps), palette(classes))


def read_map(album: Album, index: int) -> tuple[Tensor, Tensor, float]:
    """A sample's dominant class and response, (1, H, W) int16 and float32 in [0, 1], and the response that is 1 in it."""
    stored = (album.maps[name][index : index + 1] for name in ("dominant_class", "dominant_response"))
    classes, response = (torch.from_numpy(values) for values in stored)
    return classes, response.float(), float(album.maps["response_peak"][index])


def draw_maps(album: Album, index: int, shown_class: int) -> tuple[dict[str, Image.Image], float]:
    """A sample's binary heatmap for a class, and its CLEAR map; with the response that is full brightness in both."""
    classes, response, peak = read_map(album, index)
    drawn = {
        "heatmap": binary_heatmap(*against_rest(classes, response, torch.tensor([shown_class]))),
        "clear": clear_map(classes, response, album.colors),
    }
    return {kind: Image.fromarray(pixels[0].numpy()) for kind, pixels in drawn.items()}, peak


def draw_input(dataset: Dataset, spec: InputSpec, index: int) -> Image.Image:
    """A sample as the model sees it, before it is normalised."""
    pixels, _ = prepare(dataset.read(index, index + 1).images, spec)
    return Image.fromarray(picture(torch.from_numpy(np.ascontiguousarray(pixels)))[0].numpy())
