"""How alike two maps are. A map that is empty, or the same everywhere, is like nothing: NaN.

first, second: (N, H, W) floating. All return (N,) float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.statistics.sparsity import sort_values

WINDOW = 7
"""Pixels a side of the windows of structural similarity; fewer where a map has fewer."""
ROUNDING = 1e-6
"""A map whose values differ by less than this part of the largest is the same everywhere: an average may not be exact."""
STABILISERS = (0.01**2, 0.03**2)
"""C₁ and C₂ of structural similarity, for values of a range of 1."""


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Of the angle between the maps, in [−1, 1]."""
    return angle(first.flatten(1).double(), second.flatten(1).double())


def pearson(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation over pixels, in [−1, 1]."""
    return angle(centred(first), centred(second))


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation over pixels, in [−1, 1]; equal values share the mean of their ranks."""
    return pearson(ranks(first.flatten(1)), ranks(second.flatten(1)))


def ranks(values: Tensor) -> Tensor:
    """Of (N, d) values along the last axis, 1 for the least, equal ones with their mean rank; NaN in all of a row with NaN."""
    values = values.contiguous()
    ascending = sort_values(values)
    below = torch.searchsorted(ascending, values, right=False)
    upto = torch.searchsorted(ascending, values, right=True)
    mean: Tensor = (below + upto + 1).float() / 2
    return mean.where(values.isfinite().all(1, keepdim=True), torch.nan)


def centred(maps: Tensor) -> Tensor:
    """Flat, float64, with a mean of zero; zeros where the map is the same everywhere."""
    flat = maps.flatten(1).double()
    spread, largest = flat.amax(1, keepdim=True) - flat.amin(1, keepdim=True), flat.abs().amax(1, keepdim=True)
    return (flat - flat.mean(1, keepdim=True)).masked_fill(spread <= ROUNDING * largest, 0)


def angle(first: Tensor, second: Tensor) -> Tensor:
    """The cosine of flat vectors (N, d); NaN where one is zero."""
    norms = torch.linalg.vector_norm(first, dim=1) * torch.linalg.vector_norm(second, dim=1)
    cosines: Tensor = (first * second).sum(1) / norms
    return cosines.clamp(-1, 1).float()


def structural(first: Tensor, second: Tensor) -> Tensor:
    """Mean structural similarity (Wang et al. 2004, eq. 13) over windows of 7 × 7, uniform weights, in [−1, 1].

    Each map is divided by its largest magnitude before, so that only its shape matters; the range of values is taken as 1.
    Variances and covariances divide by the pixels of a window, not by one less.
    """
    first, second = scaled(first), scaled(second)
    window = [min(WINDOW, size) for size in first.shape[1:]]

    def local(values: Tensor) -> Tensor:
        return F.avg_pool2d(values[:, None], window, 1)[:, 0]

    mean_first, mean_second = local(first), local(second)
    variances = local(first.square()) - mean_first.square() + local(second.square()) - mean_second.square()
    covariance = local(first * second) - mean_first * mean_second
    small, large = STABILISERS
    above = (2 * mean_first * mean_second + small) * (2 * covariance + large)
    below = (mean_first.square() + mean_second.square() + small) * (variances + large)
    return (above / below).mean((1, 2)).float()


def scaled(maps: Tensor) -> Tensor:
    """Divided by the largest magnitude, float64; NaN in a map of zeros."""
    maps = maps.double()
    return maps / maps.abs().amax((1, 2), keepdim=True)
