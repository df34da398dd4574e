"""Draws gallery.png from the pictures of a store's latest run: python docs/images/make_gallery.py STORE"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from auditor.colour_maps import over_image
from reports.parts.cards import picture_path
from storage.runs.lookup import find_run
from storage.runs.run import Run

ENLARGED, GAP, COLUMNS, ROWS = 3, 8, 2, 4


def pictures_of(run: Run, index: int) -> list[Image.Image]:
    """The image, binary heatmap and CLEAR map on it, and both alone, of a sample in the gallery."""
    image = np.array(Image.open(picture_path(run.gallery, index, "input")).convert("RGB"))
    maps = [np.array(Image.open(picture_path(run.gallery, index, kind))) for kind in ("heatmap", "clear")]
    stacked = torch.from_numpy(np.stack(maps))
    drawn = [over_image(stacked, torch.from_numpy(below)[None]) for below in (image, np.zeros_like(image))]
    return [Image.fromarray(image), *(Image.fromarray(picture) for picture in torch.cat(drawn).numpy())]


def main(store: Path) -> None:
    run = find_run(store, "latest")
    samples = json.loads((run.gallery / "gallery.json").read_text(encoding="utf-8"))["samples"]
    chosen = [sample["sample_index"] for sample in samples if sample["reason"] == "random"][: COLUMNS * ROWS]
    groups = [pictures_of(run, index) for index in chosen]
    width, height = (side * ENLARGED for side in groups[0][0].size)
    group_width = len(groups[0]) * width + 3 * GAP
    sheet = Image.new("RGB", (COLUMNS * group_width - 3 * GAP + 2 * GAP, ROWS * (height + GAP) + GAP), "white")
    for place, group in enumerate(groups):
        left, top = GAP + place % COLUMNS * group_width, GAP + place // COLUMNS * (height + GAP)
        for column, picture in enumerate(group):
            enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left + column * width, top))
    sheet.save(Path(__file__).with_name("gallery.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
