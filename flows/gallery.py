"""The pictures of a run's report: what a reviewer should see first."""

import json
from collections.abc import Mapping, Sequence

import torch

from auditor.rendering import palette
from flows.drawing import draw_input, draw_maps, open_album
from reports.gallery import Choice, Gallery, GallerySample
from storage.datasets import Dataset
from storage.datasets.preparation import InputSpec
from storage.runs import Run


def draw_gallery(
    run: Run, dataset: Dataset, spec: InputSpec, classes: int, choices: Sequence[Choice], shown: Mapping[int, int]
) -> None:
    """Writes three pictures for each sample, `<index>-{input,heatmap,clear}.png`, and `gallery.json`.

    shown: the class that each sample's binary heatmap is for.
    """
    run.gallery.mkdir(exist_ok=True)
    album, peaks = open_album(run, classes), {}
    for index in sorted({choice.sample_index for choice in choices}):
        pictures, peaks[index] = draw_maps(album, index, shown[index])
        for kind, drawn in ({"input": draw_input(dataset, spec, index)} | pictures).items():
            drawn.save(run.gallery / f"{index:06d}-{kind}.png", optimize=True)
    samples = [
        GallerySample(sample_index=choice.sample_index, reason=choice.reason, peak=peaks[choice.sample_index], gates=choice.gates)
        for choice in choices
    ]
    content = Gallery(colors=hexadecimal(classes), samples=samples)
    (run.gallery / "gallery.json").write_text(json.dumps(content.model_dump(), indent=1), encoding="utf-8")


def hexadecimal(classes: int) -> list[str]:
    """The classes' colours as `#rrggbb`."""
    return ["#" + bytes(row).hex() for row in (palette(classes) * 255).round().to(torch.uint8).tolist()]
