"""The strongest pixels against a stable sort, and pixels taken out by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.trust.regions import is_empty, pixels_of, replaced, strongest

SETTINGS = settings(max_examples=80, deadline=None, derandomize=True, database=None)


@SETTINGS
@given(st.lists(st.integers(-3, 3), min_size=6, max_size=6), st.integers(0, 6))
def test_strongest_against_a_stable_sort(values: list[int], count: int) -> None:
    expected = sorted(range(6), key=lambda place: -values[place])[:count]
    found = strongest(torch.tensor(values).float().view(1, 2, 3), torch.tensor([count]))
    assert found.flatten().nonzero().flatten().tolist() == sorted(expected)


def test_each_map_has_a_count_of_its_own() -> None:
    maps = torch.arange(12.0).view(3, 2, 2)
    assert strongest(maps, torch.tensor([0, 1, 3])).flatten(1).int().tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 1]]


def test_pixels_of_a_share() -> None:
    assert pixels_of(torch.zeros(2, 28, 28), 0.15).tolist() == [118, 118]
    assert pixels_of(torch.zeros(1, 3, 3), 1).tolist() == [9]


def test_replaced_in_all_channels() -> None:
    images, region = torch.ones(1, 2, 1, 2), torch.tensor([[[True, False]]])
    assert replaced(images, region, torch.tensor([5.0, 7]).view(1, 2, 1, 1)).flatten().tolist() == [5, 1, 7, 1]


def test_empty_maps() -> None:
    maps = torch.zeros(5, 2, 2)
    maps[1, 0, 0], maps[2, 0, 0], maps[3, 0, 0], maps[4, 0, 0] = 1, -1, torch.nan, torch.inf
    assert is_empty(maps).tolist() == [True, False, True, True, True]
