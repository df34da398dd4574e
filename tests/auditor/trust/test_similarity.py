"""Likeness of maps against scipy, loops, and by hand; empty maps are like nothing."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from auditor.trust.similarity import cosine, pearson, ranks, spearman, structural

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, database=None)
Measure = Callable[[Tensor, Tensor], Tensor]
MEASURES: list[Measure] = [cosine, pearson, spearman, structural]


def pair(side: int = 9) -> tuple[Tensor, Tensor]:
    """Three pairs of maps with ties, alike more and more."""
    generator = torch.Generator().manual_seed(2)
    first, noise = (torch.randint(-5, 4, (3, side, side), generator=generator).float() for _ in range(2))
    return first, noise + first * torch.tensor([0.0, 1, 5])[:, None, None]


def test_against_scipy() -> None:
    first, second = pair()
    for n in range(3):
        one, other = first[n].flatten().numpy(), second[n].flatten().numpy()
        assert pearson(first, second)[n].item() == pytest.approx(scipy.stats.pearsonr(one, other).statistic, abs=1e-6)
        assert spearman(first, second)[n].item() == pytest.approx(scipy.stats.spearmanr(one, other).statistic, abs=1e-6)
        expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert cosine(first, second)[n].item() == pytest.approx(expected, abs=1e-6)


@SETTINGS
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=30))
def test_ranks_against_scipy(values: list[int]) -> None:
    assert ranks(torch.tensor([values]).float())[0].tolist() == scipy.stats.rankdata(values).tolist()


def test_ranks_of_a_row_that_is_not_finite() -> None:
    found = ranks(torch.tensor([[1.0, torch.nan, 2], [3, 1, 2]]))
    assert found[0].isnan().all()
    assert found[1].tolist() == [3, 1, 2]


def test_structural_similarity_against_loops() -> None:
    first, second = pair()
    found = structural(first, second)
    for n in range(3):
        one, other = (maps[n].double().numpy() / maps[n].abs().max().item() for maps in (first, second))
        scores = []
        for y in range(3):
            for x in range(3):
                a, b = one[y : y + 7, x : x + 7], other[y : y + 7, x : x + 7]
                covariance = ((a - a.mean()) * (b - b.mean())).mean()
                above = (2 * a.mean() * b.mean() + 0.0001) * (2 * covariance + 0.0009)
                scores.append(above / ((a.mean() ** 2 + b.mean() ** 2 + 0.0001) * (a.var() + b.var() + 0.0009)))
        assert found[n].item() == pytest.approx(np.mean(scores), abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_map_is_like_itself_at_any_scale(measure: Measure) -> None:
    first, _ = pair()
    torch.testing.assert_close(measure(first, first * 3), torch.ones(3))


@pytest.mark.parametrize("measure", MEASURES)
def test_an_empty_map_is_like_nothing(measure: Measure) -> None:
    first, second = pair(4)
    first[0], second[0], first[1] = 0, 0, 0
    assert measure(first, second).isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("measure", [pearson, spearman])
def test_a_uniform_map_is_like_nothing(measure: Measure) -> None:
    first, second = pair(4)
    first[0], second[1] = 0.1, 3e-9
    assert measure(first, second).isnan().tolist() == [True, True, False]


def test_an_average_of_a_uniform_map_is_uniform_but_for_rounding() -> None:
    first, second = pair(4)
    first[0] = 0.1
    first[0, 0, 0] *= 1 + 2e-7
    assert pearson(first, second).isnan().tolist() == [True, False, False]


def test_maps_of_few_pixels_have_smaller_windows() -> None:
    first, second = pair(3)
    assert structural(first, second).isfinite().all()


def test_opposite_maps() -> None:
    first, _ = pair()
    for measure in (cosine, pearson, spearman):
        torch.testing.assert_close(measure(first, -first), -torch.ones(3))
