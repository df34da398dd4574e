"""Draws gallery.png from the pictures of a store's latest run: python docs/images/make_gallery.py STORE"""

import json
import sys
from pathlib import Path

from PIL import Image

from storage.runs import find_run

ENLARGED, GAP, COLUMNS, ROWS = 4, 8, 2, 4
KINDS = ("input", "heatmap", "clear")


def main(store: Path) -> None:
    run = find_run(store, "latest")
    samples = json.loads((run.gallery / "gallery.json").read_text(encoding="utf-8"))["samples"]
    chosen = [sample["sample_index"] for sample in samples if sample["reason"] == "random"][: COLUMNS * ROWS]
    groups = [[Image.open(run.gallery / f"{index:06d}-{kind}.png") for kind in KINDS] for index in chosen]
    width, height = (side * ENLARGED for side in groups[0][0].size)
    group_width = len(KINDS) * width + 3 * GAP
    sheet = Image.new("RGB", (COLUMNS * group_width - 3 * GAP + 2 * GAP, ROWS * (height + GAP) + GAP), "white")
    for place, group in enumerate(groups):
        left, top = GAP + place % COLUMNS * group_width, GAP + place // COLUMNS * (height + GAP)
        for column, picture in enumerate(group):
            enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left + column * width, top))
    sheet.save(Path(__file__).with_name("gallery.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
