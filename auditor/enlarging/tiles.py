"""An image cut into tiles, in each of which an enlarged map has no bend."""

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.kernels.enlargement import make_axis, weights

SIDE = 8
"""Pixels a side of a tile, at most: fewer leave fewer classes that may dominate a tile, and make more tiles."""


@dataclass(frozen=True)
class Pieces:
    """The pixels along one axis of an image in p pieces, each between the same two positions of a map.

    low, high: (p,) int64, these positions. share: (p, SIDE) float32, of the value at `high`, of each pixel of a piece; short
    pieces repeat their last pixel. first, last: (p, positions) float32, the `weights` of a piece's first and last pixel.
    place: (n,) int64, of each pixel among all p · SIDE.
    """

    low: Tensor
    high: Tensor
    share: Tensor
    first: Tensor
    last: Tensor
    place: Tensor


def cut(positions: int, pixels: int, device: torch.device) -> Pieces:
    """Pieces of at most `SIDE` pixels."""
    axis = make_axis(positions, pixels, torch.device("cpu"))
    between = torch.unique_consecutive(axis.low, return_counts=True)[1].tolist()
    lengths = torch.tensor([min(SIDE, count - done) for count in between for done in range(0, count, SIDE)])
    starts = lengths.cumsum(0) - lengths
    held = (starts[:, None] + torch.arange(SIDE)).minimum((starts + lengths)[:, None] - 1)
    matrix = weights(axis, positions)
    place = torch.arange(pixels) + (SIDE * torch.arange(len(lengths)) - starts).repeat_interleave(lengths)
    made = (axis.low[starts], axis.high[starts], axis.share[held], matrix[held[:, 0]], matrix[held[:, -1]], place)
    return Pieces(*(tensor.to(device) for tensor in made))
