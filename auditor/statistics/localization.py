"""Where in the image a map of positive response lies."""

import torch
from torch import Tensor


def locate(values: Tensor, energy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centroid and spread of a map as a distribution over pixels.

    values: (…, H, W) ≥ 0. energy: (…), their sum. Returns centroid_y, centroid_x and spread, each (…), in pixels from
    the centre of the first pixel; spread is the root mean square distance from the centroid. NaN where all are zero.
    """
    centroid_y, variance_y = moments(values.sum(-1), energy)
    centroid_x, variance_x = moments(values.sum(-2), energy)
    return centroid_y, centroid_x, (variance_y + variance_x).sqrt()


def moments(marginal: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    positions = torch.arange(marginal.shape[-1], device=marginal.device, dtype=marginal.dtype)
    mean = marginal @ positions / energy
    variance = (marginal * (positions - mean[..., None]).square()).sum(-1) / energy
    return mean, variance
