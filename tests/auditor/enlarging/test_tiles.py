"""The pieces of an axis: every pixel is in one, between its two positions."""

import pytest
import torch

from auditor.enlarging.tiles import SIDE, cut
from auditor.kernels.enlargement import make_axis, weights

CPU = torch.device("cpu")


@pytest.mark.parametrize(("positions", "pixels"), [(7, 224), (7, 28), (5, 17), (3, 40), (1, 20), (4, 4), (9, 4), (2, 1)])
def test_every_pixel_has_its_place(positions: int, pixels: int) -> None:
    axis, pieces = make_axis(positions, pixels, CPU), cut(positions, pixels, CPU)
    piece = pieces.place // SIDE
    assert torch.equal(pieces.low[piece], axis.low)
    assert torch.equal(pieces.high[piece], axis.high)
    assert torch.equal(pieces.share.flatten()[pieces.place], axis.share)
    assert piece.unique().tolist() == list(range(len(pieces.low)))
    matrix = weights(axis, positions)
    for number in range(len(pieces.low)):
        held = (piece == number).nonzero()[:, 0]
        assert torch.equal(pieces.first[number], matrix[held[0]])
        assert torch.equal(pieces.last[number], matrix[held[-1]])


def test_pieces_by_hand() -> None:
    """Two positions over forty pixels: the first is alone with pixels 0 to 9, mixed with the second up to 29, alone again."""
    pieces = cut(2, 40, CPU)
    assert pieces.low.tolist() == [0, 0, 0, 0, 1, 1]
    assert pieces.high.tolist() == [1, 1, 1, 1, 1, 1]
    assert pieces.place.tolist() == [*range(30), *range(32, 42)]
    assert pieces.first[0].tolist() == [1, 0]
    assert pieces.last[-1].tolist() == [0, 1]
