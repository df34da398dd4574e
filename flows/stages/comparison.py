"""The pictures of a comparison: the input and both runs' CLEAR maps, from what the runs stored."""

from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image

from flows.config import planned_config
from flows.stages.map_renderer import MapRenderer, draw_clear, draw_input, open_renderer
from reports.comparison import Comparison, Flip
from reports.pages.comparison import Drawing
from reports.parts.cards import Swatch
from reports.parts.layers import Drawn, lay_out, plain
from reports.parts.pictures import as_png, as_uri
from storage.datasets.formats import open_dataset
from storage.errors import InputError
from storage.runs.run import Run, read_plan


@dataclass(frozen=True)
class Side:
    """One of the two runs: what is read of it once for all its pictures."""

    when: str
    renderer: MapRenderer
    names: list[str]


def open_side(run: Run, when: str) -> Side:
    """Without the dataset there is no input among the pictures."""
    config = planned_config(run)
    try:
        dataset = open_dataset(config.dataset)
    except InputError:
        dataset = None
    return Side(when, open_renderer(run, config, dataset), read_plan(run).class_names)


def draw_flips(comparison: Comparison, flips: Iterable[Flip]) -> dict[int, Drawing]:
    """Samples by their index in the later run."""
    before, after = open_side(comparison.before, "before"), open_side(comparison.after, "after")
    colors = {name: color for side in (before, after) for name, color in zip(side.names, side.renderer.hexadecimal, strict=True)}

    def draw(flip: Flip) -> Drawing:
        pairs = (before, flip.before_index), (after, flip.after_index)
        maps, peaks = zip(*(draw_map(side, index) for side, index in pairs), strict=True)
        spoken = dict.fromkeys(name for name in (*flip.dominants, *flip.predictions) if name is not None)
        image = show_input(after, flip)
        pictures = [plain(drawn) for drawn in maps] if image is None else lay_out(flip.after_index, image, maps)
        return Drawing(pictures, [Swatch(colors[name], name) for name in spoken], peaks)

    return {flip.after_index: draw(flip) for flip in flips}


def show_input(side: Side, flip: Flip) -> Drawn | None:
    drawn = draw_input(side.renderer, flip.after_index)
    if drawn is None:
        return None
    return Drawn("input", "input", f"Sample {flip.after_index:,} as the model sees it.", uri_of(drawn))


def draw_map(side: Side, index: int) -> tuple[Drawn, float]:
    """A sample's CLEAR map, and the response that is full brightness in it."""
    drawn, peak = draw_clear(side.renderer, index)
    return Drawn(side.when, f"CLEAR map {side.when}", f"CLEAR map of sample {index:,} {side.when}.", uri_of(drawn)), peak


def uri_of(drawn: Image.Image) -> str:
    return as_uri(as_png(drawn))
