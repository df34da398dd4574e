"""The pictures of a comparison: the input and both runs' CLEAR maps, from what the runs stored."""

import base64
import io
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image

from auditor.rendering import clear_map, palette, picture
from flows.config import AuditConfig
from flows.gallery import hexadecimal
from reports.cards import Picture, Swatch
from reports.comparison import Comparison, Flip
from reports.comparison_page import Drawing
from storage.datasets import Dataset, open_dataset
from storage.datasets.preparation import prepare
from storage.errors import InputError
from storage.maps import open_maps
from storage.runs import Run, read_plan


def draw_flips(comparison: Comparison, flips: Iterable[Flip]) -> dict[int, Drawing]:
    """Samples by their index in the later run. Without the dataset there is no input among the pictures."""
    config = AuditConfig.model_validate_json(json.dumps(read_plan(comparison.after).config))
    try:
        dataset = open_dataset(config.dataset_spec)
    except InputError:
        dataset = None
    names = [read_plan(run).class_names for run in (comparison.before, comparison.after)]
    colors = {name: color for known in names for name, color in zip(known, hexadecimal(len(known)), strict=True)}

    def draw(flip: Flip) -> Drawing:
        before, before_peak = draw_map(comparison.before, flip.before_index, "before")
        after, after_peak = draw_map(comparison.after, flip.after_index, "after")
        spoken = dict.fromkeys(name for name in (*flip.dominants, *flip.predictions) if name is not None)
        swatches = [Swatch(colors[name], name) for name in spoken]
        return Drawing([*draw_input(config, dataset, flip), before, after], swatches, (before_peak, after_peak))

    return {flip.after_index: draw(flip) for flip in flips}


def draw_input(config: AuditConfig, dataset: Dataset | None, flip: Flip) -> list[Picture]:
    if dataset is None:
        return []
    pixels, _ = prepare(dataset.read(flip.after_index, flip.after_index + 1).images, config.input_spec)
    drawn = picture(torch.from_numpy(np.ascontiguousarray(pixels)))[0].numpy()
    return [Picture("input", as_uri(drawn), f"Sample {flip.after_index:,} as the model sees it.")]


def draw_map(run: Run, index: int, when: str) -> tuple[Picture, float]:
    """A sample's CLEAR map, and the response that is full brightness in it."""
    maps: Any = open_maps(run.maps)
    colors = palette(len(read_plan(run).class_names))
    classes, response = (torch.from_numpy(maps[name][index : index + 1]) for name in ("dominant_class", "dominant_response"))
    drawn = clear_map(classes, response.float(), colors)[0].numpy()
    return Picture(when, as_uri(drawn), f"CLEAR map of sample {index:,} {when}."), float(maps["response_peak"][index])


def as_uri(pixels: np.ndarray) -> str:
    """(H, W, 3) uint8 as a PNG in a data URI."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
