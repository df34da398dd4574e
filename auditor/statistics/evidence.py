"""Where the evidence of a class lies, over many samples."""

from typing import NamedTuple

import torch
from torch import Tensor


class Evidence(NamedTuple):
    """Sums over the samples of each label that occurs. labels: (k,) int64, ascending. counts: (k,) int64 samples.

    own, other: (k, h, w) float64, the sums of the samples' shares of energy in each cell at pixels that the label
    dominates, and that another class does. A sample's shares add up to 1 over both.
    """

    labels: Tensor
    counts: Tensor
    own: Tensor
    other: Tensor


def label_evidence(dominant_class: Tensor, dominant_response: Tensor, labels: Tensor, side: int) -> Evidence:
    """Sums the samples' energy by label and cell; samples without a label, or without positive response, are left out.

    dominant_class: (N, H, W) int16, −1 = none. dominant_response: (N, H, W) float32 ≥ 0. labels: (N,) int64, −1 = unknown.
    side: pixels a side of a cell.
    """
    energy = dominant_response.sum((1, 2), dtype=torch.float64)
    known = (labels >= 0) & (energy > 0)
    labels, energy = labels[known], energy[known]
    share = dominant_response[known].double() / energy[:, None, None]
    is_own = dominant_class[known] == labels[:, None, None]
    found, position, counts = torch.unique(labels, return_inverse=True, return_counts=True)

    def by_label(shares: Tensor) -> Tensor:
        cells = sum_cells(shares, side)
        return cells.new_zeros((len(found), *cells.shape[1:])).index_add(0, position, cells)

    return Evidence(found, counts, by_label(share.where(is_own, 0.0)), by_label(share.where(~is_own, 0.0)))


def sum_cells(values: Tensor, side: int) -> Tensor:
    """(N, H, W) to (N, ⌈H/side⌉, ⌈W/side⌉): the sum over each square; squares at the far edges may be cut."""
    height, width = values.shape[1:]
    padded = torch.nn.functional.pad(values, (0, -width % side, 0, -height % side))
    rows, columns = padded.shape[1] // side, padded.shape[2] // side
    return padded.view(-1, rows, side, columns, side).sum((2, 4))
