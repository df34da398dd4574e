"""Contrast on a network whose answer is known: class 0 is the brightness of the left half, class 1 that of the right."""

import pytest
import scipy.stats
import torch
from torch import Tensor

from auditor.trust.class_dependence import class_cosine, contrast, sign_test

CLASSES = torch.tensor([[0, 1]] * 3)
ZERO = torch.zeros(1, 1, 1, 1)


def halves(images: Tensor) -> Tensor:
    """Scores of (N, 1, 2, 4): left, right, and a constant below both."""
    left, right = images[..., :2].sum((1, 2, 3)), images[..., 2:].sum((1, 2, 3))
    return torch.stack([left, right, torch.full_like(left, -9)], 1)


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    images = torch.rand(3, 1, 2, 4, generator=generator) + 0.5
    images[..., :2] += 1
    return images


@pytest.fixture
def right_maps(images: Tensor) -> Tensor:
    """Each class's own part of the image."""
    maps = images.repeat(1, 2, 1, 1)
    maps[:, 0, :, 2:] = 0
    maps[:, 1, :, :2] = 0
    return maps


def test_maps_that_say_why(images: Tensor, right_maps: Tensor) -> None:
    found = contrast(halves, images, CLASSES, right_maps, 0.25, ZERO)
    assert found.told_apart.tolist() == [1, 1, 1]
    # What is left is the runner-up's: the network says the runner-up.
    assert found.leaked.tolist() == [1, 1, 1]
    assert found.pixels.tolist() == [2, 2, 2]


def test_maps_that_say_the_opposite(images: Tensor, right_maps: Tensor) -> None:
    found = contrast(halves, images, CLASSES, right_maps.flip(1), 0.25, ZERO)
    assert found.told_apart.tolist() == [0, 0, 0]
    assert found.leaked.tolist() == [0, 0, 0]


def test_regions_are_of_equal_size_and_of_positive_difference(images: Tensor) -> None:
    maps = torch.ones(3, 2, 2, 4)
    maps[:, 0, 0, 0] = 2
    maps[:, 1, :, 2:] = 2
    seen = []

    def network(given: Tensor) -> Tensor:
        seen.append(given)
        return halves(given)

    found = contrast(network, images, CLASSES, maps, 0.5, ZERO)
    assert found.pixels.tolist() == [1, 1, 1]
    without_own, without_other, only_other = ((given[0, 0] == 0).nonzero().tolist() for given in seen)
    assert without_own == [[0, 0]]
    assert without_other == [[0, 2]]
    assert only_other == [[y, x] for y in range(2) for x in range(4) if (y, x) != (0, 2)]


def test_alike_is_not_more(images: Tensor, right_maps: Tensor) -> None:
    """Where the fill changes nothing, no region is shown to matter."""
    found = contrast(halves, images, CLASSES, right_maps, 0.25, images)
    assert found.told_apart.tolist() == [0, 0, 0]


def test_undefined_where_maps_do_not_differ_or_are_empty(images: Tensor, right_maps: Tensor) -> None:
    maps = right_maps.clone()
    maps[0, 1] = maps[0, 0]
    maps[1, 1] = 0
    maps[2, 1] = maps[2, 0] / 2
    found = contrast(halves, images, CLASSES, maps, 0.25, ZERO)
    assert found.pixels.tolist() == [0, 0, 0]
    assert found.told_apart.isnan().all()
    assert found.leaked.isnan().all()


def test_a_class_that_sends_nothing_back_is_undefined(images: Tensor, right_maps: Tensor) -> None:
    """Also where the other class's map is below zero somewhere, which nothing exceeds."""
    maps = right_maps - 0.1
    maps[0, 1], maps[1, 0] = 0, 0
    assert contrast(halves, images, CLASSES, maps, 0.25, ZERO).told_apart.isnan().tolist() == [True, True, False]


def test_each_image_alone_gives_the_same(images: Tensor, right_maps: Tensor) -> None:
    together = contrast(halves, images, CLASSES, right_maps, 0.4, ZERO)
    for n in range(3):
        own = slice(n, n + 1)
        alone = contrast(halves, images[own], CLASSES[own], right_maps[own], 0.4, ZERO)
        assert [answer.item() for answer in alone] == [answer[n].item() for answer in together]


def test_cosines_by_hand() -> None:
    """(1, −1) and (1, 1): at a right angle; their positive parts (1, 0) and (1, 1): 45°."""
    found = class_cosine(torch.tensor([[[1.0, -1]], [[0, 0]], [[-1, -1]]]), torch.ones(3, 1, 2))
    assert found.signed[0].item() == pytest.approx(0, abs=1e-7)
    assert found.positive[0].item() == pytest.approx(0.5**0.5)
    assert found.signed[2].item() == pytest.approx(-1)
    assert found.signed.isnan().tolist() == [False, True, False]
    assert found.positive.isnan().tolist() == [False, True, True]


def test_sign_test_by_the_sum_of_binomials() -> None:
    answers = torch.tensor([1.0] * 7 + [0.0] * 3 + [torch.nan] * 5)
    assert sign_test(answers) == pytest.approx((120 + 45 + 10 + 1) / 1024)
    assert sign_test(answers) == pytest.approx(scipy.stats.binom.sf(6, 10, 0.5))
    assert sign_test(torch.tensor([torch.nan])) != sign_test(torch.tensor([torch.nan]))
