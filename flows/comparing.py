"""The pictures of a comparison: the input and both runs' CLEAR maps, from what the runs stored."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from auditor.rendering import clear_map, palette, picture
from flows.config import AuditConfig, planned_config
from flows.gallery import hexadecimal
from reports.cards import Picture, Swatch, as_uri
from reports.comparison import Comparison, Flip
from reports.comparison_page import Drawing
from storage.datasets import Dataset, open_dataset
from storage.datasets.preparation import prepare
from storage.errors import InputError
from storage.maps import open_maps
from storage.runs import Run, read_plan


@dataclass(frozen=True)
class Side:
    """One of the two runs: what is read of it once for all its pictures. colors: (classes, 3), see `palette`."""

    when: str
    maps: Any
    names: list[str]
    colors: torch.Tensor


def open_side(run: Run, when: str) -> Side:
    names = read_plan(run).class_names
    return Side(when, open_maps(run.maps), names, palette(len(names)))


def draw_flips(comparison: Comparison, flips: Iterable[Flip]) -> dict[int, Drawing]:
    """Samples by their index in the later run. Without the dataset there is no input among the pictures."""
    config = planned_config(comparison.after)
    try:
        dataset = open_dataset(config.dataset_spec)
    except InputError:
        dataset = None
    sides = open_side(comparison.before, "before"), open_side(comparison.after, "after")
    colors = {name: color for side in sides for name, color in zip(side.names, hexadecimal(len(side.names)), strict=True)}

    def draw(flip: Flip) -> Drawing:
        indices = flip.before_index, flip.after_index
        maps, peaks = zip(*(draw_map(side, index) for side, index in zip(sides, indices, strict=True)), strict=True)
        spoken = dict.fromkeys(name for name in (*flip.dominants, *flip.predictions) if name is not None)
        swatches = [Swatch(colors[name], name) for name in spoken]
        return Drawing([*draw_input(config, dataset, flip), *maps], swatches, peaks)

    return {flip.after_index: draw(flip) for flip in flips}


def draw_input(config: AuditConfig, dataset: Dataset | None, flip: Flip) -> list[Picture]:
    if dataset is None:
        return []
    pixels, _ = prepare(dataset.read(flip.after_index, flip.after_index + 1).images, config.input_spec)
    drawn = picture(torch.from_numpy(np.ascontiguousarray(pixels)))[0].numpy()
    return [Picture("input", png_uri(drawn), f"Sample {flip.after_index:,} as the model sees it.")]


def draw_map(side: Side, index: int) -> tuple[Picture, float]:
    """A sample's CLEAR map, and the response that is full brightness in it."""
    stored = (side.maps[name][index : index + 1] for name in ("dominant_class", "dominant_response"))
    classes, response = (torch.from_numpy(values) for values in stored)
    drawn = clear_map(classes, response.float(), side.colors)[0].numpy()
    shown = Picture(side.when, png_uri(drawn), f"CLEAR map of sample {index:,} {side.when}.")
    return shown, float(side.maps["response_peak"][index])


def png_uri(pixels: np.ndarray) -> str:
    """(H, W, 3) uint8 as a PNG in a data URI."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return as_uri(stream.getvalue())
