"""Grids of distinct classes, mosaics, and explainers that point right, wrong, and nowhere."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from auditor.trust.grid_pointing import grid_pointing, grids_of, mosaics

SETTINGS = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@SETTINGS
@given(st.lists(st.integers(0, 5), max_size=24))
def test_grids_are_of_distinct_classes_and_as_many_as_can_be(labels: list[int]) -> None:
    classes = torch.tensor(labels, dtype=torch.long)
    grids = grids_of(classes)
    assert grids.shape[1] == 4
    assert len(set(grids.flatten().tolist())) == grids.numel()
    assert all(len(set(row)) == 4 for row in classes[grids].tolist())
    # G grids are possible exactly where classes, each counted at most G times, have 4 G images.
    counts = [labels.count(label) for label in set(labels)]
    most = max(g for g in range(7) if sum(min(count, g) for count in counts) >= 4 * g)
    assert len(grids) == most


def test_mosaic_lies_row_by_row() -> None:
    images = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 1, 2)
    assert mosaics(images, torch.tensor([[4, 0, 3, 1]]))[0, 0].tolist() == [[4, 4, 0, 0], [3, 3, 1, 1]]


def by_value(images: Tensor, classes: Tensor) -> Tensor:
    """A map of where a pixel is its class's number."""
    return (images == classes[:, :, None, None]).float()


@pytest.fixture
def images() -> Tensor:
    return torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 3, 5).clone()


GRIDS = torch.tensor([[5, 0, 7, 2], [1, 6, 3, 4]])


def test_a_map_that_points_at_its_own_cell(images: Tensor) -> None:
    assert grid_pointing(by_value, images, torch.arange(8), GRIDS).tolist() == [1] * 8


def test_a_map_that_points_elsewhere_or_nowhere(images: Tensor) -> None:
    """Told another class, the map lies in another cell, or in none: 0 stands in the first grid, 9 in none."""
    classes = torch.tensor([0, 1, 0, 9, 4, 9, 6, 7])
    found = grid_pointing(by_value, images, classes, GRIDS)
    assert found.isnan().tolist() == [True, False, False, False, False, False, True, False]
    assert found[1:6].tolist() == [1, 1, 0, 1, 1]


def test_shares_of_positive_response_by_hand(images: Tensor) -> None:
    def explainer(given: Tensor, classes: Tensor) -> Tensor:
        maps = torch.zeros(len(given), 4, 6, 10)
        maps[:, :, 0, 0], maps[:, :, 0, 5], maps[:, :, 5, 4], maps[:, :, 3, 9] = 1, 2, 5, -7
        return maps

    assert grid_pointing(explainer, images, torch.arange(8), GRIDS[:1]).tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8, 0])
