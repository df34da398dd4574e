"""The pictures of a comparison: the input and both runs' CLEAR maps, from what the runs stored."""

import io
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from auditor.rendering import clear_map
from flows.config import planned_config
from flows.drawing import Album, draw_input, open_album, read_map
from flows.gallery import hexadecimal
from reports.cards import Picture, Swatch
from reports.comparison import Comparison, Flip
from reports.comparison_page import Drawing
from reports.pictures import as_uri
from storage.datasets import open_dataset
from storage.errors import InputError
from storage.runs import Run, read_plan


@dataclass(frozen=True)
class Side:
    """One of the two runs: what is read of it once for all its pictures."""

    when: str
    album: Album
    names: list[str]


def open_side(run: Run, when: str) -> Side:
    names = read_plan(run).class_names
    return Side(when, open_album(run, len(names)), names)


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
        pictures = (
            [
                picture_of(
                    f"Sample {flip.after_index:,} as the model sees it.",
                    "input",
                    draw_input(dataset, config.input_spec, flip.after_index),
                )
            ]
            if dataset
            else []
        )
        return Drawing([*pictures, *maps], swatches, peaks)

    return {flip.after_index: draw(flip) for flip in flips}


def draw_map(side: Side, index: int) -> tuple[Picture, float]:
    """A sample's CLEAR map, and the response that is full brightness in it."""
    classes, response, peak = read_map(side.album, index)
    drawn = Image.fromarray(clear_map(classes, response, side.album.colors)[0].numpy())
    return picture_of(f"CLEAR map of sample {index:,} {side.when}.", side.when, drawn), peak


def picture_of(alt: str, name: str, drawn: Image.Image) -> Picture:
    stream = io.BytesIO()
    drawn.save(stream, format="PNG", optimize=True)
    return Picture(name, as_uri(stream.getvalue()), alt)
