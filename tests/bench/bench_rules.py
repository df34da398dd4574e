"""What each rule's maps show of networks that are known: where the default rule comes from.

    python -m tests.bench.bench_rules [--imagenet FOLDER]

The demo's network on its first 500 digits: how often the dominant class is the prediction, the part of the dominant response's
energy that is on the digit (control: the part of the pixels that the digit covers), and how alike the maps of two classes are.

With --imagenet, EfficientNet-Lite0 on the photographs that it is sure of: does a map move with its image? Each is cut out twice,
32 pixels apart; the maps of the three strongest classes are blurred, and correlated where both cuts show the same, and where they
were. Control: the maps of different photographs. A map that belongs to its image has the first high and the others low.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor, nn

from auditor import Clear, measure
from auditor.operations.rule_table import RULES
from flows.config import load_config
from storage.datasets.formats import open_dataset
from storage.datasets.preprocessing import normalize, read_prepared
from storage.models.sources import load_model
from tests.bench.networks import efficientnet_lite0

DEMO = Path(__file__).parents[2] / "flows" / "demo" / "demo.toml"
DIGITS = 500
MOVED, SIDE, BLUR, SURE = 32, 224, 9, 0.9
AT_ONCE = 8


def digits(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The demo's network, images (N, 1, 28, 28) in [0, 1], and labels."""
    config = load_config(DEMO, (), {})
    samples, pixels, _ = read_prepared(open_dataset(config.dataset), config.input, 0, count)
    model = load_model(config.model)
    assert isinstance(model, nn.Module)
    return model, torch.from_numpy(normalize(pixels, config.input)), torch.from_numpy(samples.labels)


def demo() -> None:
    model, images, labels = digits(DIGITS)
    ink = images[:, 0] >= 64 / 255
    print(f"demo, {DIGITS} digits; a digit covers {ink.float().mean():.0%} of the pixels\n")
    print("| rule | dominant class = prediction | energy on the digit | class cosine |\n|---|---|---|---|")
    for rule in RULES:
        found = measure(Clear(model, rule), images, labels)
        agreement = (found.class_energy_frac.nan_to_num(-1).argmax(1) == found.maps.logits.argmax(1)).float().mean()
        response = found.maps.dominant_response
        on_digit = ((response * ink).sum((1, 2)) / response.sum((1, 2))).nanmean()
        print(f"| {rule} | {agreement:.2f} | {on_digit:.2f} | {found.class_cosine.nanmean():.2f} |", flush=True)


def photographs(folder: Path) -> Tensor:
    """(N, 3, 256, 256), as EfficientNet-Lite takes its 224²: (x − 127) / 128."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        paths = [folder / line["path"] for line in csv.DictReader(file)]
    side = SIDE + MOVED
    images = [ImageOps.fit(Image.open(path).convert("RGB"), (side, side), Image.Resampling.BICUBIC) for path in paths]
    return (torch.from_numpy(np.stack([np.array(image) for image in images])).permute(0, 3, 1, 2) - 127.0) / 128


def moves(folder: Path) -> None:
    model, whole = efficientnet_lite0(), photographs(folder)
    first, second = whole[..., MOVED // 2 :, :SIDE][..., :SIDE, :], whole[..., MOVED // 2 :, MOVED:][..., :SIDE, :]
    sure = (probability(model, first) >= SURE) & (probability(model, second) >= SURE)
    first, second = first[sure], second[sure]
    print(f"\nEfficientNet-Lite0, {len(first)} photographs of which it is sure (≥ {SURE}), moved by {MOVED} pixels\n")
    print("| rule | correlation, moved along | where it was | another photograph's |\n|---|---|---|---|")
    for rule in RULES:
        before, after = (blurred(dominant(model, rule, images)) for images in (first, second))
        along = correlation(before[..., MOVED:], after[..., :-MOVED])
        figures = along, correlation(before, after), correlation(before, before.roll(1, 0))
        print(f"| {rule} | {' | '.join(f'{figure.nanmean():.2f}' for figure in figures)} |", flush=True)


@torch.no_grad()
def probability(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(part).softmax(1).amax(1) for part in images.split(AT_ONCE)])


def dominant(model: nn.Module, rule: str, images: Tensor) -> Tensor:
    clear = Clear(model, rule, top_k=3)
    return torch.cat([clear(part).dominant_response for part in images.split(AT_ONCE)])


def blurred(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps[:, None], BLUR, 1, BLUR // 2, count_include_pad=False)[:, 0]


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's, sample by sample: (N,). NaN where a map is the same everywhere."""
    deviations = [values.flatten(1) - values.flatten(1).mean(1, keepdim=True) for values in (first.double(), second.double())]
    norms = [torch.linalg.vector_norm(values, dim=1) for values in deviations]
    return (deviations[0] * deviations[1]).sum(1) / (norms[0] * norms[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenet", type=Path, help="folder of photographs with labels.csv; needs the extra 'bench'")
    options = parser.parse_args()
    demo()
    if options.imagenet:
        moves(options.imagenet)
