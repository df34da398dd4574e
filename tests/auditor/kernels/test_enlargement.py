"""Bilinear enlargement against torch's own, and where it must be exact."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.kernels.enlargement import enlarge, make_axis, weights

SIZES = [
    ((7, 7), (224, 224)),
    ((5, 3), (17, 32)),
    ((1, 4), (6, 9)),
    ((6, 1), (20, 5)),
    ((3, 4), (3, 4)),
    ((9, 8), (4, 5)),
]


def random_maps(positions: tuple[int, int], count: int = 3) -> Tensor:
    return torch.randn(2, count, *positions, generator=torch.Generator().manual_seed(0)).clamp(min=0)


@pytest.mark.parametrize(("positions", "size"), SIZES)
def test_as_torch_interpolates(positions: tuple[int, int], size: tuple[int, int]) -> None:
    maps = random_maps(positions)
    expected = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarge(maps, size), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("positions", "size"), SIZES)
def test_a_map_has_the_same_bits_whatever_stands_beside_it(positions: tuple[int, int], size: tuple[int, int]) -> None:
    maps = random_maps(positions, 37)
    together = enlarge(maps, size)
    for column in range(37):
        assert torch.equal(enlarge(maps[1, column], size), together[1, column])


def test_weights_by_hand() -> None:
    """Two positions over four pixels: their centres at 1 and 3, those of the pixels at .5, 1.5, 2.5 and 3.5."""
    axis = make_axis(2, 4, torch.device("cpu"))
    assert weights(axis, 2).tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    assert weights(make_axis(1, 3, torch.device("cpu")), 1).tolist() == [[1], [1], [1]]
