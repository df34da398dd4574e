"""The pictures of a run's report: of what a reviewer should see first, or of all samples."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from auditor.colour_maps import OTHER, PERCENTILE, full_brightness
from flows.runtime.progress import Progress
from flows.stages.map_renderer import MapRenderer, as_hexadecimal, draw_inputs, draw_maps, read_maps
from reports.parts.cards import picture_path
from reports.parts.gallery import Choice, Gallery, GallerySample
from storage.filesystems import put_folder, scratch
from storage.maps import CHUNK_SAMPLES
from storage.runs.run import Run


def draw_gallery(run: Run, renderer: MapRenderer, choices: Sequence[Choice], shown: Mapping[int, int]) -> None:
    """Draws the chosen samples into the run, with `gallery.json`. shown: the class that each binary heatmap is for."""
    with scratch(run.attempts) as folder:
        peaks = {index: peak for index in shown for peak in draw_range(folder, renderer, index, index + 1, shown).values()}
        samples = [
            GallerySample(
                sample_index=choice.sample_index, reason=choice.reason, peak=peaks[choice.sample_index], gates=choice.gates
            )
            for choice in choices
        ]
        (other,) = as_hexadecimal(torch.tensor([OTHER]))
        content = Gallery(colors=renderer.hexadecimal, samples=samples, percentile=PERCENTILE, other_color=other)
        (folder / "gallery.json").write_text(json.dumps(content.model_dump(), indent=1), encoding="utf-8")
        put_folder(folder, run.gallery)


def draw_all(folder: Path, renderer: MapRenderer, shown: Mapping[int, int], progress: Progress) -> dict[int, float]:
    """Draws every sample of `shown` into a folder; returns the responses that are full brightness in their maps."""
    peaks: dict[int, float] = {}
    progress.stage("drawing")
    for start in range(0, max(shown, default=-1) + 1, CHUNK_SAMPLES):
        peaks |= draw_range(folder, renderer, start, start + CHUNK_SAMPLES, shown)
        progress.advance(len(peaks), 0, len(shown))
    return peaks


def draw_range(folder: Path, renderer: MapRenderer, start: int, stop: int, shown: Mapping[int, int]) -> dict[int, float]:
    """Draws those of samples [start, stop) that are in `shown`: input, binary heatmap and CLEAR map."""
    wanted = [index for index in range(start, stop) if index in shown]
    if not wanted:
        return {}
    classes, responses, peaks = read_maps(renderer, start, stop)
    positions = torch.tensor([index - start for index in wanted])
    targets = torch.tensor([shown[index] for index in wanted])
    classes, responses = classes[positions], responses[positions]
    drawn = draw_maps(classes, responses, targets, renderer.colors)
    brightest = full_brightness(responses).flatten().tolist()
    inputs = draw_inputs(renderer, start, start + len(peaks))
    for place, index in enumerate(wanted):
        images = {kind: maps[place] for kind, maps in drawn.items()}
        if index - start in inputs:
            images["input"] = inputs[index - start]
        for kind, image in images.items():
            image.save(picture_path(folder, index, kind), optimize=True)
    return {index: part * float(peaks[index - start]) for index, part in zip(wanted, brightest, strict=True)}
