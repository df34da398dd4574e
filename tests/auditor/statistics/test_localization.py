"""Centroid and spread: by hand, against loops over pixels, and under translation and scale."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from auditor.statistics.localization import locate

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, database=None)
maps = st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=3, max_size=3).filter(
    lambda rows: any(map(any, rows))
)


def located(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return locate(values, values.sum((-2, -1)))


def test_by_hand() -> None:
    """Weights 3 and 1 at (0, 0) and (0, 4): centroid (0, 1); mean square distance (3·1² + 1·3²) / 4 = 3."""
    y, x, spread = located(torch.tensor([[3.0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]))
    assert (y.item(), x.item()) == (0, 1)
    assert spread.item() == pytest.approx(math.sqrt(3))


def test_corners_by_hand() -> None:
    """Four equal corners of 3 × 5: centre (1, 2), each √(1² + 2²) away."""
    values = torch.zeros(3, 5)
    values[[0, 0, 2, 2], [0, 4, 0, 4]] = 0.5
    y, x, spread = located(values)
    assert (y.item(), x.item()) == (1, 2)
    assert spread.item() == pytest.approx(math.sqrt(5))


def test_one_pixel_has_no_spread() -> None:
    values = torch.zeros(6, 7)
    values[4, 5] = 2
    y, x, spread = located(values)
    assert (y.item(), x.item(), spread.item()) == (4, 5, 0)


def test_pixel_by_pixel() -> None:
    values = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)) ** 4
    y, x, spread = located(values)
    for index in np.ndindex(2, 3):
        one = values[index].double().numpy()
        total = mean_y = mean_x = square = 0.0
        for position, value in np.ndenumerate(one):
            total, mean_y, mean_x = total + value, mean_y + value * position[0], mean_x + value * position[1]
        mean_y, mean_x = mean_y / total, mean_x / total
        for position, value in np.ndenumerate(one):
            square += value * ((position[0] - mean_y) ** 2 + (position[1] - mean_x) ** 2)
        expected = (mean_y, mean_x, math.sqrt(square / total))
        assert (y[index].item(), x[index].item(), spread[index].item()) == pytest.approx(expected, rel=1e-5)


@SETTINGS
@given(maps, st.integers(0, 6), st.integers(0, 5))
def test_translation_moves_the_centroid_and_leaves_the_spread(rows: list[list[int]], down: int, right: int) -> None:
    values = torch.tensor(rows).float()
    moved = torch.zeros(9, 9)
    moved[down : down + 3, right : right + 4] = values
    y, x, spread = located(values)
    moved_y, moved_x, moved_spread = located(moved)
    assert (moved_y.item(), moved_x.item()) == pytest.approx((y.item() + down, x.item() + right), abs=1e-4)
    assert moved_spread.item() == pytest.approx(spread.item(), abs=2e-3)


@SETTINGS
@given(maps, st.sampled_from([2.0**-30, 0.3, 2.0**20]))
def test_scale_does_not_matter(rows: list[list[int]], scale: float) -> None:
    values = torch.tensor(rows).float()
    for scaled, plain in zip(located(values * scale), located(values), strict=True):
        assert scaled.item() == pytest.approx(plain.item(), abs=2e-3)


def test_transposing_swaps_the_axes() -> None:
    values = torch.rand(4, 6, generator=torch.Generator().manual_seed(1))
    y, x, spread = located(values)
    turned_y, turned_x, turned_spread = located(values.T)
    torch.testing.assert_close((turned_y, turned_x, turned_spread), (x, y, spread))


def test_map_of_zeros_is_nowhere() -> None:
    values = torch.zeros(2, 3, 3)
    values[1, 0, 0] = 1
    for score in located(values):
        assert score.isnan().tolist() == [True, False]
