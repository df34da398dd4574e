"""Whether images and labels reach a network as it was trained on them: checks before anything else is believed."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats
import torch
from torch import Tensor

Change = Callable[[Tensor], Tensor]
"""Images (N, ch, H, W) in [0, 1] to images as a network takes them."""

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALISATIONS = {
    "values in [0, 1]": ((0.0,), (1.0,)),
    "values in [−1, 1]": ((0.5,), (0.5,)),
    "values in [0, 255]": ((0.0,), (1 / 255,)),
    "values in [−128, 127]": ((128 / 255,), (1 / 255,)),
    "mean and deviation of ImageNet": IMAGENET,
}
"""The usual ones, each with mean and deviation on the scale of [0, 1]: one value for all channels, or three."""
INVERTED = "dark and bright swapped"
SWAPPED = "first and last channel swapped (RGB and BGR)"


class Chance(NamedTuple):
    """Of labels and predictions. accuracy: the share that agrees. expected: the share that would if predictions knew nothing of
    labels, and each class came as often. p_value: of so many that agree, or more, if so.
    """

    accuracy: float
    expected: float
    p_value: float


def changes(channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Change]:
    """Other ways in which images may have been given to a network in training, by what they are called.

    mean, std: as configured, one value a channel, or none. A way that is the configured one is not among them.
    """
    own = (mean, std) if mean else NORMALISATIONS["values in [0, 1]"]
    found: dict[str, Change] = {}
    for name, (centre, scale) in NORMALISATIONS.items():
        fits = len(centre) in (1, channels)
        if fits and not (same(centre, own[0], channels) and same(scale, own[1], channels)):
            found[name] = lambda images, centre=centre, scale=scale: normalised(images, centre, scale)  # type: ignore[misc]
    found[INVERTED] = lambda images: normalised(1 - images, *own)
    if channels > 1:
        found[SWAPPED] = lambda images: normalised(images.flip(1), *own)
    return found


def same(first: tuple[float, ...], second: tuple[float, ...], channels: int) -> bool:
    return np.allclose(np.broadcast_to(first, channels), np.broadcast_to(second, channels), atol=0.01, rtol=0.05)


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(images − mean) / std. images: (N, ch, H, W). mean, std: one value for all channels, or one each."""
    centre, scale = (torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None] for values in (mean, std))
    return (images - centre) / scale


def chance(confusion: np.ndarray) -> Chance:
    """Whether a network knows anything of the labels. confusion: (C, C) counts, a row a label, a column a prediction; not all 0.

    The accuracy that is expected by chance is that of Cohen's kappa; the test is binomial, one-sided.
    """
    total, correct = int(confusion.sum()), int(np.trace(confusion))
    expected = float(confusion.sum(1) @ confusion.sum(0)) / total**2
    p_value = scipy.stats.binomtest(correct, total, min(expected, 1.0), alternative="greater").pvalue
    return Chance(correct / total, expected, float(p_value))


def reordered(confusion: np.ndarray) -> np.ndarray:
    """The order of the classes in which most predictions are right: of each label the prediction it is given, (C,) int64.

    confusion: (C, C) counts. A label whose images are given its own name as often as any other keeps it: where two orders have
    as many right, the one that moves fewer classes is taken.
    """
    # Whole numbers, and less than one for keeping all classes where they are.
    kept = confusion + np.eye(len(confusion)) / (2 * len(confusion))
    order: np.ndarray = scipy.optimize.linear_sum_assignment(kept, maximize=True)[1]
    return order


def paired_p_value(gained: int, lost: int) -> float:
    """Of so many images gained, or more, if an image were as likely to be lost (McNemar's exact test, one-sided)."""
    if not gained + lost:
        return 1.0
    return float(scipy.stats.binomtest(gained, gained + lost, alternative="greater").pvalue)
