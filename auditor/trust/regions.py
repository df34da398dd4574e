"""The strongest pixels of a map, and images with pixels taken out."""

import torch
from torch import Tensor

from auditor.statistics.sparsity import sort_values


def strongest(maps: Tensor, counts: Tensor) -> Tensor:
    """The `counts` strongest pixels of each map, of equal ones those that come first, row by row: (N, H, W) bool.

    maps: (N, H, W). counts: (N,) int64, 0 to H·W.
    """
    flat = maps.flatten(1)
    ascending, size = sort_values(flat), flat.shape[1]
    threshold = ascending.gather(1, (size - counts).clamp(max=size - 1)[:, None])
    above, equal = flat > threshold, flat == threshold
    room = counts[:, None] - above.sum(1, keepdim=True)
    return (above | (equal & (equal.cumsum(1) <= room))).view(maps.shape)


def pixels_of(maps: Tensor, share: float) -> Tensor:
    """How many pixels a share of each map is, rounded: (N,) int64."""
    return torch.full((len(maps),), round(share * maps[0].numel()), device=maps.device)


def replaced(images: Tensor, region: Tensor, fill: Tensor) -> Tensor:
    """Images (N, ch, H, W) with `fill`, (N, ch, 1 or H, 1 or W), at the pixels of a region (N, H, W) bool."""
    return torch.where(region[:, None], fill, images)


def is_empty(maps: Tensor) -> Tensor:
    """Whether a map (N, H, W) says nothing: it has no positive response, or is not finite. (N,) bool."""
    flat = maps.flatten(1)
    return ~(flat.isfinite().all(1) & (flat > 0).any(1))
