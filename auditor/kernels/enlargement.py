"""Maps enlarged to the size of an image, bilinearly."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """Between which positions of a map the pixels of an image lie, along one axis.

    low, high: (n,) int64, the positions on both sides of each pixel, the same one at and beyond the outermost.
    share: (n,) float32 in [0, 1), of the value at `high`.
    """

    low: Tensor
    high: Tensor
    share: Tensor


def make_axis(positions: int, pixels: int, device: torch.device) -> Axis:
    """Both cover the same length, as under `align_corners=False` of `F.interpolate`."""
    centres = torch.arange(pixels, dtype=torch.float32, device=device) + 0.5
    place = (centres * (positions / pixels) - 0.5).clamp(0, positions - 1)
    low = place.long()
    return Axis(low, (low + 1).clamp(max=positions - 1), place - low)


def weights(axis: Axis, positions: int) -> Tensor:
    """(n, positions) float32: what part of the value at each position each pixel has."""
    matrix = axis.share.new_zeros(len(axis.share), positions)
    matrix.scatter_add_(1, axis.low[:, None], 1 - axis.share[:, None])
    return matrix.scatter_add_(1, axis.high[:, None], axis.share[:, None])


def enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(…, h, w) to (…, H, W), float32: `F.interpolate` with mode bilinear, up to rounding.

    Every value is worked out by the same operations, each rounded by itself, wherever it stands: equal maps stay equal, to the
    last bit, whatever stands beside them.
    """
    rows, columns = (make_axis(*lengths, maps.device) for lengths in zip(maps.shape[-2:], size, strict=True))
    wide = maps.index_select(-1, columns.low) * (1 - columns.share) + maps.index_select(-1, columns.high) * columns.share
    # Whole rows are copied, which is several times faster than single values.
    share = rows.share[:, None]
    return wide.index_select(-2, rows.low).mul_(1 - share).add_(wide.index_select(-2, rows.high).mul_(share))
