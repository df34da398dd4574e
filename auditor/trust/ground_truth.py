"""How well maps agree with masks of where the object is.

maps: (N, H, W) float32, of which the positive part counts. masks: (N, H, W) bool. All return (N,) float32, NaN where the mask
or the map is empty: neither can be hit, nor missed.
"""

import torch
from torch import Tensor

from auditor.trust.regions import is_empty, strongest


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether the strongest pixel is in the mask, 1 or 0 (Zhang et al. 2016), without tolerance.

    Of several pixels equally strong, the share of them that is in the mask.
    """
    peak = maps == maps.amax((1, 2), keepdim=True)
    return where_defined((peak & masks).sum((1, 2)) / peak.sum((1, 2)), maps, masks)


def mass_accuracy(maps: Tensor, masks: Tensor) -> Tensor:
    """The share of positive response that is in the mask, in [0, 1].

    Relevance Mass Accuracy (Arras, Osman & Samek 2022, eq. 3); the energy-based pointing game (Wang et al. 2020).
    """
    positive = maps.clamp(min=0)
    return where_defined((positive * masks).sum((1, 2)) / positive.sum((1, 2)), maps, masks)


def mass_over_area(maps: Tensor, masks: Tensor) -> Tensor:
    """Mass accuracy divided by the mask's share of the pixels: 1 for a map that is the same everywhere, more for a better one."""
    return mass_accuracy(maps, masks) / masks.float().mean((1, 2))


def rank_accuracy(maps: Tensor, masks: Tensor) -> Tensor:
    """Relevance Rank Accuracy (Arras, Osman & Samek 2022, eq. 4), in [0, 1].

    Of the K strongest pixels, K those of the mask, the share that is in it; a pixel without positive response is not in it.
    """
    pixels = masks.sum((1, 2))
    hits = strongest(maps, pixels) & masks & (maps > 0)
    return where_defined(hits.sum((1, 2)) / pixels, maps, masks)


def intersection_over_union(maps: Tensor, masks: Tensor) -> Tensor:
    """Of the mask and the pixels of at least the mean of the positive part (the threshold of Fong & Vedaldi 2017), in [0, 1]."""
    positive = maps.clamp(min=0).double()
    lit = positive >= positive.mean((1, 2), keepdim=True)
    return where_defined((lit & masks).sum((1, 2)) / (lit | masks).sum((1, 2)), maps, masks)


def where_defined(values: Tensor, maps: Tensor, masks: Tensor) -> Tensor:
    undefined = is_empty(maps) | ~masks.flatten(1).any(1)
    return values.float().masked_fill(undefined, torch.nan)
