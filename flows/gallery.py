"""The pictures of a run's report: what a reviewer should see first, drawn where the model is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from auditor.rendering import binary_heatmap, clear_map, palette, picture
from auditor.statistics.dominance import Dominance, LabelAndRest
from flows.folding import Fold, adopt_planned
from flows.worker import AuditWorker, this_worker
from storage.datasets.preparation import prepare
from storage.runs import Run


def draw_gallery(key: str, run: Run, fold: Fold | None, indices: list[int]) -> dict[int, float]:
    """Writes three pictures for each sample, `<index>-{input,heatmap,clear}.png`; returns the samples' peaks.

    fold: the operator that the run was planned with.
    """
    worker = this_worker(key)
    adopt_planned(worker, fold)
    run.gallery.mkdir(exist_ok=True)
    return {index: draw_sample(worker, run.gallery, index) for index in indices}


def draw_sample(worker: AuditWorker, folder: Path, index: int) -> float:
    """The pictures of one sample; returns the peak of its dominant response, which is full brightness in its CLEAR map."""
    samples = worker.dataset.read(index, index + 1)
    pixels, _ = prepare(samples.images, worker.work.input)
    backprojection = worker.clear.forward(worker.tensor(pixels))
    # A sample without a label is shown for what the model took it to be.
    label = int(samples.labels[0]) if samples.labels[0] >= 0 else int(backprojection.logits.argmax())
    dominance, sides = Dominance(), LabelAndRest(torch.tensor([label], device=worker.device))
    for classes, responses in backprojection.stream(worker.clear.competing(backprojection)):
        dominance.update(classes, responses)
        sides.update(classes, responses)
    result = dominance.result()
    colors = palette(backprojection.logits.shape[1]).to(worker.device)
    pictures = {
        "input": picture(torch.from_numpy(np.ascontiguousarray(pixels)))[0].numpy(),
        "heatmap": binary_heatmap(*sides.result())[0].cpu().numpy(),
        "clear": clear_map(result.dominant_class, result.dominant_response, colors)[0].cpu().numpy(),
    }
    for kind, drawn in pictures.items():
        Image.fromarray(np.ascontiguousarray(drawn)).save(folder / f"{index:06d}-{kind}.png", optimize=True)
    return float(result.dominant_response.max())


def write_gallery(run: Run, class_count: int, samples: list[dict[str, Any]]) -> None:
    """Writes `gallery.json`. samples: sample_index, reason and peak of each picture, in order."""
    run.gallery.mkdir(exist_ok=True)
    content = {"colors": hexadecimal(class_count), "samples": samples}
    (run.gallery / "gallery.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def hexadecimal(class_count: int) -> list[str]:
    """The classes' colours as `#rrggbb`."""
    return ["#" + bytes(row).hex() for row in (palette(class_count) * 255).round().to(torch.uint8).tolist()]
