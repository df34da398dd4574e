"""Operators made up of patterns, for the tests of what competes by them."""

import torch
from torch import Tensor

from auditor.folding.low_rank import PIXELS, Patterns, find_patterns

SAMPLES, POSITIONS, WIDTH = 6, 9, PIXELS + 150


def contestants(classes: int, seed: int = 0, fading: float = 0.2, rank: int = 4) -> tuple[Tensor, Patterns, Tensor]:
    """An operator (K, 9, R) of `rank` patterns a tile, each `fading` of the one before; seeds (K, 6, 9), a third of them 0."""
    generator = torch.Generator().manual_seed(seed)
    shapes = torch.randn(rank, WIDTH, generator=generator)
    numbers = torch.randn(classes, POSITIONS, rank, generator=generator) * fading ** torch.arange(rank)
    patterns = find_patterns(numbers @ shapes, None, 1e-6)
    assert patterns is not None
    seeds = (torch.rand(classes, SAMPLES, POSITIONS, generator=generator) - 0.3).clamp(min=0)
    return patterns.reduce(numbers @ shapes), patterns, seeds
