"""Sparseness, complexity and half-energy area: by hand, against slow definitions, and what must not matter."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from auditor.statistics.sparsity import complexity, half_energy_area, sort_values, sparseness

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, database=None)
maps = st.lists(st.integers(0, 200), min_size=1, max_size=30).filter(any)
"""Values of a map that is not zero; whole numbers, so that float32 adds them exactly."""


def gini(values: Tensor) -> Tensor:
    return sparseness(sort_values(values))


def entropy(values: Tensor) -> Tensor:
    return complexity(values, values.sum(-1))


def half_area(values: Tensor) -> Tensor:
    return half_energy_area(sort_values(values))


def gini_by_differences(values: list[float]) -> float:
    """Half of the relative mean absolute difference: Σ|a − b| over all ordered pairs, by 2 d Σa."""
    return sum(abs(a - b) for a in values for b in values) / (2 * len(values) * sum(values))


def half_area_by_greed(values: list[float]) -> float:
    """Takes the strongest pixels until they hold half."""
    held, taken = 0.0, 0
    for value in sorted(values, reverse=True):
        if 2 * held >= sum(values):
            break
        held, taken = held + value, taken + 1
    return taken / len(values)


def heavy_tailed(count: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(1)).mul(2).exp()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 0, 1], 3 / 4),
        ([5, 5, 5, 5], 0),
        ([7], 0),
        # Pairs differ by 2, 4, 6, 2, 4, 2, each twice: 40 / (2·4·16)
        ([1, 3, 5, 7], 5 / 16),
        ([0, 1], 1 / 2),
    ],
)
def test_sparseness_by_hand(values: list[float], expected: float) -> None:
    assert gini(torch.tensor(values).float()).item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 3, 0], 0),
        ([2, 2, 2, 2], math.log(4)),
        # ½ ln 2 + 2 · ¼ ln 4
        ([2, 1, 1, 0], 1.5 * math.log(2)),
    ],
)
def test_complexity_by_hand(values: list[float], expected: float) -> None:
    assert entropy(torch.tensor(values).float()).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 0, 1], 1 / 4),
        ([1, 1, 1, 1], 1 / 2),
        ([1, 1, 1], 2 / 3),
        ([4, 1, 2, 1], 1 / 4),
        ([3, 1, 2, 2], 1 / 2),
        ([9], 1),
    ],
)
def test_half_energy_area_by_hand(values: list[float], expected: float) -> None:
    assert half_area(torch.tensor(values).float()).item() == pytest.approx(expected, abs=1e-7)


@SETTINGS
@given(maps)
def test_against_slow_definitions(values: list[int]) -> None:
    tensor = torch.tensor(values).float()
    assert gini(tensor).item() == pytest.approx(gini_by_differences(values), abs=1e-6)
    assert entropy(tensor).item() == pytest.approx(scipy.stats.entropy(values), abs=1e-5)
    assert half_area(tensor).item() == pytest.approx(half_area_by_greed(values), abs=1e-6)


def test_a_map_of_many_pixels_keeps_its_digits() -> None:
    """224² values in float32, over eight decades."""
    values = heavy_tailed(224 * 224)
    exact = values.double().sort().values.numpy()
    ranks = np.arange(1, len(exact) + 1)
    # Σ|a − b| over all ordered pairs of sorted values is 2 Σ (2 rank − d − 1) a.
    expected = ((2 * ranks - len(exact) - 1) * exact).sum() / (len(exact) * exact.sum())
    assert gini(values).item() == pytest.approx(expected, rel=1e-5)
    assert entropy(values).item() == pytest.approx(scipy.stats.entropy(exact), rel=1e-5)
    held = exact[::-1].cumsum()
    assert half_area(values).item() == pytest.approx((1 + (held < held[-1] / 2).sum()) / len(exact), rel=1e-3)


@SETTINGS
@given(maps, st.sampled_from([2.0**-20, 0.3, 5.0, 2.0**15]))
def test_scale_does_not_matter(values: list[int], scale: float) -> None:
    tensor = torch.tensor(values).float()
    torch.testing.assert_close(gini(tensor * scale), gini(tensor), rtol=0, atol=1e-6)
    torch.testing.assert_close(entropy(tensor * scale), entropy(tensor), rtol=0, atol=1e-5)


@SETTINGS
@given(maps, st.integers(0, 10**6))
def test_order_of_the_pixels_does_not_matter(values: list[int], seed: int) -> None:
    tensor = torch.tensor(values).float()
    shuffled = tensor[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]
    assert gini(shuffled).item() == gini(tensor).item()
    assert half_area(shuffled).item() == half_area(tensor).item()
    assert entropy(shuffled).item() == pytest.approx(entropy(tensor).item(), abs=1e-5)


@SETTINGS
@given(maps)
def test_zeros_laid_around_a_map_leave_its_entropy(values: list[int]) -> None:
    """And make it sparser by what Gini's definition says: (g·d + added) / (d + added)."""
    tensor = torch.tensor(values).float()
    wider = torch.cat([tensor, torch.zeros(len(values))])
    assert entropy(wider).item() == pytest.approx(entropy(tensor).item(), abs=1e-6)
    assert gini(wider).item() == pytest.approx((gini(tensor).item() + 1) / 2, abs=1e-6)
    assert half_area(wider).item() == pytest.approx(half_area(tensor).item() / 2, abs=1e-6)


def test_map_of_zeros_has_no_score() -> None:
    values = torch.tensor([[0.0, 0, 0], [1, 0, 0]])
    for score in (gini(values), entropy(values), half_area(values)):
        assert score.isnan().tolist() == [True, False]


def test_values_are_sorted_without_touching_them() -> None:
    values = heavy_tailed(24).view(2, 3, 4).transpose(1, 2)
    before = values.clone()
    assert torch.equal(sort_values(values), values.sort(-1).values)
    assert torch.equal(values, before)
