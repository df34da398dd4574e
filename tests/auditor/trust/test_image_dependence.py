"""Maps that move with their image, that stay, and that are the same for all images: each made to be so."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.trust.image_dependence import between_images, blurred, moved, movement
from auditor.trust.similarity import pearson


@pytest.fixture
def photographs(generator: torch.Generator) -> Tensor:
    return torch.rand(4, 2, 24, 40, generator=generator)


def by_brightness(images: Tensor) -> Tensor:
    return images.sum(1)


def by_place(images: Tensor) -> Tensor:
    """A map of the network alone, the same for every image."""
    pattern = torch.rand(images.shape[2:], generator=torch.Generator().manual_seed(0))
    return pattern.expand(len(images), -1, -1)


def test_moved_replicates_the_edge() -> None:
    assert moved(torch.tensor([[[[1.0, 2, 3, 4]]]]), 2).flatten().tolist() == [3, 4, 4, 4]


def test_a_map_of_the_image_moves_along(photographs: Tensor) -> None:
    found = movement(by_brightness(photographs), by_brightness(moved(photographs, 8)), 8)
    # A box of 3 pixels next to the edge that came in sees one column of it.
    assert (found.along > 0.95).all()
    assert (found.stayed < 0.5).all()


def test_two_crops_of_a_larger_image_match_where_both_show_it(photographs: Tensor) -> None:
    found = movement(by_brightness(photographs[..., :32]), by_brightness(photographs[..., 4:36]), 4)
    torch.testing.assert_close(found.along, torch.ones(4))


def test_a_map_of_the_network_stays(photographs: Tensor) -> None:
    found = movement(by_place(photographs), by_place(moved(photographs, 8)), 8)
    torch.testing.assert_close(found.stayed, torch.ones(4))
    assert (found.along < 0.5).all()


def test_an_empty_map_neither_moves_nor_stays(photographs: Tensor) -> None:
    maps = photographs[:, 0].clone()
    maps[1] = 0
    maps[2] = -maps[2]
    after = maps.clone()
    after[3] = 0
    found = movement(maps, after, 4)
    assert found.along.isnan().tolist() == found.stayed.isnan().tolist() == [False, True, True, True]


def test_movement_against_slices_of_the_positive_part(photographs: Tensor) -> None:
    before, after = (photographs - 0.5).unbind(1)
    found = movement(before, after, 8)
    positive = (maps.clamp(min=0)[:, None] for maps in (before, after))
    old, new = (F.avg_pool2d(maps, 3, 1, 1, count_include_pad=False)[:, 0] for maps in positive)
    assert found.along.tolist() == pearson(old[:, :, 8:], new[:, :, :32]).tolist()
    assert found.stayed.tolist() == pearson(old[:, :, :32], new[:, :, :32]).tolist()


@pytest.mark.parametrize(("pixels", "side"), [(1, 1), (4, 1), (8, 3), (12, 3), (16, 5), (32, 9)])
def test_box_is_a_quarter_of_the_movement(pixels: int, side: int) -> None:
    maps = torch.zeros(1, 21, 21)
    maps[0, 10, 10] = 1
    assert (blurred(maps, pixels) > 0).sum() == side**2


def test_between_images_is_pearson_of_all_pairs(photographs: Tensor) -> None:
    maps = photographs[:, 0] - 0.3
    maps[2] = 0.5
    found = between_images(maps, 4)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    expected = torch.cat([pearson(maps[a : a + 1].clamp(min=0), maps[b : b + 1].clamp(min=0)) for a, b in pairs])
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert found.isnan().tolist() == [2 in pair for pair in pairs]


def test_maps_of_the_network_are_the_same_between_images(photographs: Tensor) -> None:
    torch.testing.assert_close(between_images(by_place(photographs), 4), torch.ones(6))
