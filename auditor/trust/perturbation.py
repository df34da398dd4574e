"""Whether a map says where: what the network says of a map's strongest pixels alone, and of the image without them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from auditor.trust.networks import Network
from auditor.trust.regions import is_empty, pixels_of, replaced, strongest

SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)


class Perturbation(NamedTuple):
    """What the network says with a map's strongest pixels alone (kept) and without them (removed), each (N, S) float32.

    One column a share of the pixels. Rows are NaN where the map is empty.
    kept_correct, removed_correct: 1 where it says the given class, else 0: Kumar, Wong & Taylor 2017, section 4.3 and table 1.
    kept_probability, removed_probability: of the given class: insertion and deletion (Petsiuk, Das & Saenko 2018, section 4.1).
    """

    kept_correct: Tensor
    removed_correct: Tensor
    kept_probability: Tensor
    removed_probability: Tensor


def perturb(
    network: Network, images: Tensor, classes: Tensor, maps: Tensor, fill: Tensor, shares: Sequence[float] = SHARES
) -> Perturbation:
    """Of equally strong pixels those that come first are taken, so that every map gives up the same number.

    classes: (N,) int64, the labels, or the predicted classes. maps: (N, H, W). fill: (N, ch, 1 or H, 1 or W), what stands where
    pixels are not. shares: each in [0, 1].
    """
    chosen = [strongest(maps, pixels_of(maps, share)) for share in shares]
    kept = [answers(network(replaced(images, ~region, fill)), classes) for region in chosen]
    removed = [answers(network(replaced(images, region, fill)), classes) for region in chosen]
    columns = [torch.stack(column, 1) for column in (*zip(*kept, strict=True), *zip(*removed, strict=True))]
    undefined = is_empty(maps)[:, None]
    kept_correct, kept_probability, removed_correct, removed_probability = (
        column.masked_fill(undefined, torch.nan) for column in columns
    )
    return Perturbation(kept_correct, removed_correct, kept_probability, removed_probability)


def answers(scores: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the network says the classes (N,), 1 or 0, and their probabilities, each (N,) float32. scores: (N, C)."""
    probability = scores.softmax(1).gather(1, classes[:, None])[:, 0]
    return (scores.argmax(1) == classes).float(), probability


def area(curve: Tensor, shares: Sequence[float]) -> Tensor:
    """The area under a curve over shares of the pixels, by trapezoids, divided by their range: the mean height, (N,) float32.

    curve: (N, S). shares: S of them, ascending. Insertion is better the larger it is, deletion the smaller.
    """
    at = torch.tensor(shares, device=curve.device)
    return torch.trapezoid(curve, at, dim=1) / (at[-1] - at[0])
