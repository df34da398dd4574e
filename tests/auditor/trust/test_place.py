"""Scores of cells by hand, variance within cells against numpy, gain by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.trust.place import cell_means, cell_of, cell_statistics, class_gain, variance_within_cells


@pytest.mark.parametrize(
    ("size", "positions", "expected"),
    [((28, 28), (7, 7), (4, 4)), ((224, 192), (7, 6), (32, 32)), ((30, 50), (1, 7), (30, 7)), ((5, 5), (9, 9), (1, 1))],
)
def test_cell_is_the_stride(size: tuple[int, int], positions: tuple[int, int], expected: tuple[int, int]) -> None:
    assert cell_of(torch.zeros(1, 3, *size), torch.zeros(1, 10, *positions)) == expected


def test_tokens_and_single_scores_have_no_cell() -> None:
    images = torch.zeros(1, 3, 32, 32)
    assert cell_of(images, torch.zeros(1, 10, 1, 1)) is None
    assert cell_of(images, torch.zeros(1, 10, 64, 1)) is None


@pytest.fixture
def maps(generator: torch.Generator) -> Tensor:
    return torch.randn(3, 7, 9, generator=generator)


def by_cells(map_: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    """Each pixel's cell mean, in place."""
    found = np.empty_like(map_)
    for y in range(0, map_.shape[0], cell[0]):
        for x in range(0, map_.shape[1], cell[1]):
            found[y : y + cell[0], x : x + cell[1]] = map_[y : y + cell[0], x : x + cell[1]].mean()
    return found


def test_cells_at_the_far_edges_may_be_cut(maps: Tensor) -> None:
    means = cell_means(maps, (3, 4))
    assert means.shape == (3, 3, 3)
    for n in range(3):
        np.testing.assert_allclose(means[n], by_cells(maps[n].numpy(), (3, 4))[::3, ::4], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cell", [(1, 1), (3, 4), (2, 5), (7, 9)])
def test_variance_within_cells_against_numpy(maps: Tensor, cell: tuple[int, int]) -> None:
    expected = [1 - by_cells(map_, cell).var() / map_.var() for map_ in maps.double().numpy()]
    assert variance_within_cells(maps, cell).tolist() == pytest.approx(expected, abs=1e-6)


def test_variance_of_known_maps() -> None:
    board = torch.arange(8)[:, None].add(torch.arange(8)).remainder(2).float()
    blocks = board[:4, :4].repeat_interleave(2, 0).repeat_interleave(2, 1)
    found = variance_within_cells(torch.stack([board, blocks, torch.full((8, 8), 0.1)]), (2, 2))
    assert found[:2].tolist() == [1, 0]
    assert found[2].isnan()


def test_a_map_as_sparse_as_its_grid_is_not_sparse_over_cells() -> None:
    """One pixel lit in each cell, in one cell of four, and in none."""
    maps = torch.zeros(3, 4, 4)
    maps[0, ::2, ::2] = 5
    maps[1, 2, 1] = 5
    found = cell_statistics(maps, (2, 2))
    assert found.sparseness[:2].tolist() == pytest.approx([0, 3 / 4])
    assert found.complexity[:2].tolist() == pytest.approx([np.log(4), 0], abs=1e-6)
    assert found.half_energy_area_frac[:2].tolist() == pytest.approx([1 / 2, 1 / 4])
    assert all(score[2].isnan() for score in found)


def test_negative_response_is_not_described() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[0, 0, 0], maps[0, 0, 1] = 2, -2
    assert cell_statistics(maps, (2, 2)).sparseness.item() == pytest.approx(3 / 4)


def test_gain_by_hand() -> None:
    """Arrived 1 + 2 of a class response of 6; −5 does not count; and a class that had none."""
    responses = torch.tensor([[[[1.0, 2, -5]], [[0, 0, 0]]]])
    found = class_gain(responses, torch.tensor([[[[4.0, 2]], [[0, 0]]]]))
    assert found[0, 0].item() == pytest.approx(0.5)
    assert found[0, 1].isnan()
