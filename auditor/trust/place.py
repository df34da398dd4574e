"""Whether a map shows the place or the network's grid: a map that is sparse because of its grid is not sparse over its cells."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.statistics.sparsity import complexity, half_energy_area, sort_values, sparseness

Cell = tuple[int, int]
"""Height and width, in pixels, of what one position of z_L stands for."""


class CellStatistics(NamedTuple):
    """Scores of a map averaged over cells, each (N,) float32, NaN where it has no positive response: see `sparsity`."""

    sparseness: Tensor
    complexity: Tensor
    half_energy_area_frac: Tensor


def cell_of(images: Tensor, class_responses: Tensor) -> Cell | None:
    """The network's stride: H / h and W / w, rounded. None where z_L is one column: one position, or tokens without a place.

    images: (N, ch, H, W). class_responses: (N, C, h, w), z_L.
    """
    height, width = class_responses.shape[2:]
    if width == 1:
        return None
    return max(1, round(images.shape[2] / height)), max(1, round(images.shape[3] / width))


def cell_means(maps: Tensor, cell: Cell) -> Tensor:
    """(N, H, W) to (N, ⌈H / height⌉, ⌈W / width⌉): the mean over each cell; cells at the far edges may be cut."""
    return F.avg_pool2d(maps[:, None], cell, cell, ceil_mode=True)[:, 0]


def cell_statistics(maps: Tensor, cell: Cell) -> CellStatistics:
    """maps: (N, H, W) float32, of which the positive part is described; D, or a class's."""
    means = cell_means(maps.clamp(min=0), cell).flatten(1)
    ascending = sort_values(means)
    return CellStatistics(sparseness(ascending), complexity(means, means.sum(1)), half_energy_area(ascending))


def variance_within_cells(maps: Tensor, cell: Cell) -> Tensor:
    """The share of a map's variance that is finer than the cells, (N,) float32 in [0, 1]; NaN where it is the same everywhere.

    What the means of the cells do not account for. 1 where they are all alike, 0 where each cell is uniform; about
    1 − 1 / (height · width) for random pixels.
    """
    maps = maps.double()
    means = cell_means(maps, cell).repeat_interleave(cell[0], 1).repeat_interleave(cell[1], 2)
    within = (maps - means[:, : maps.shape[1], : maps.shape[2]]).square().sum((1, 2))
    total = (maps - maps.mean((1, 2), keepdim=True)).square().sum((1, 2))
    same = maps.amax((1, 2)) == maps.amin((1, 2))
    return (within / total).masked_fill(same, torch.nan).clamp(0, 1).float()


def class_gain(responses: Tensor, positive: Tensor) -> Tensor:
    """Positive response that arrives at the image for each unit of positive class response, (N, k) float32.

    Where it differs between classes, a class can dominate by what the way back does to it and not by what the network found.
    responses: (N, k, H, W). positive: (N, k, h, w) ≥ 0, max(z_c, 0) of the same classes. NaN where a class has none.
    """
    return responses.clamp(min=0).sum((2, 3)) / positive.sum((2, 3)).masked_fill(positive.sum((2, 3)) == 0, torch.nan)
