"""Whether a map depends on the class: are two classes' maps different, and do they differ where the network decides?"""

from typing import NamedTuple

import scipy.stats
import torch
from torch import Tensor

from auditor.trust.networks import Network
from auditor.trust.regions import is_empty, pixels_of, replaced, strongest
from auditor.trust.similarity import cosine


class ClassCosine(NamedTuple):
    """Cosines of the maps of two classes, each (N,) float32: of the whole maps and of their positive parts.

    Near 1 a map hardly depends on the class (Sixt, Granz & Landgraf 2020). NaN where one map is empty: it is not like another.
    """

    signed: Tensor
    positive: Tensor


class Contrast(NamedTuple):
    """Whether the difference of two classes' maps says what tells these classes apart, each (N,) float32, NaN = undefined.

    told_apart: 1 where removing the predicted class's region lowers z_p − z_s more than removing the runner-up's, else 0, also
        where both lower it alike.
    leaked: 1 where the network says the runner-up of what is left when only the runner-up's region is kept, else 0.
    pixels: how many pixels each region has, 0 where undefined.
    """

    told_apart: Tensor
    leaked: Tensor
    pixels: Tensor


def class_cosine(first: Tensor, second: Tensor) -> ClassCosine:
    """first, second: the maps of two classes, (N, H, W), as of the predicted class and the runner-up."""
    return ClassCosine(cosine(first, second), cosine(first.clamp(min=0), second.clamp(min=0)))


def contrast(network: Network, images: Tensor, classes: Tensor, maps: Tensor, share: float, fill: Tensor) -> Contrast:
    """Removes the region in which one class's map exceeds the other's, and the other way round, and asks the network.

    Each region is the pixels with the largest difference R_p − R_s, or R_s − R_p, among those where it is positive. Both have
    the same number: a share of the image, or what there is for the one that has less. Undefined where one of the maps is empty,
    or nowhere exceeds the other: as for a control that is the same for all classes.

    classes: (N, 2) int64, the predicted class and the runner-up. maps: (N, 2, H, W), theirs. share: in (0, 1].
    fill: (N, ch, 1 or H, 1 or W), what stands where pixels are removed.
    """
    difference = maps[:, 0] - maps[:, 1]
    available = torch.minimum((difference > 0).sum((1, 2)), (difference < 0).sum((1, 2)))
    undefined = is_empty(maps[:, 0]) | is_empty(maps[:, 1])
    pixels = torch.minimum(available, pixels_of(difference, share)).masked_fill(undefined, 0)
    own, other = strongest(difference, pixels), strongest(-difference, pixels)
    without_own, without_other, only_other = (network(replaced(images, region, fill)) for region in (own, other, ~other))
    told_apart = margin(without_own, classes) < margin(without_other, classes)
    leaked = only_other.argmax(1) == classes[:, 1]
    defined = pixels > 0
    return Contrast(told_apart.float().where(defined, torch.nan), leaked.float().where(defined, torch.nan), pixels)


def margin(scores: Tensor, classes: Tensor) -> Tensor:
    """z_p − z_s, (N,). scores: (N, C). classes: (N, 2)."""
    first, second = scores.gather(1, classes).unbind(1)
    return first - second


def sign_test(answers: Tensor) -> float:
    """The probability of so many ones, or more, if each had come by a toss of a coin; exact. NaN where there is no answer.

    answers: (N,) of 1, 0 and NaN, which does not count.
    """
    given = answers[~answers.isnan()]
    if not len(given):
        return torch.nan
    return float(scipy.stats.binomtest(int(given.sum()), len(given), alternative="greater").pvalue)
