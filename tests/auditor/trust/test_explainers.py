"""Rules and controls as explainers: against streams, loops over pixels, and what must not matter."""

import math

import pytest
import torch
from torch import Tensor

from auditor import Clear
from auditor.trust.explainers import Explainer, by_rule, edges, ink, random_pixels

CLASSES = torch.tensor([[0, 3], [2, 1], [4, 0], [1, 4], [3, 2], [0, 1]])


def test_rule_gives_each_image_its_own_classes(clear: Clear, images: Tensor) -> None:
    every = torch.cat([maps for _, maps in clear.forward(images).stream(torch.arange(5))], 1)
    found = by_rule(clear)(images, CLASSES)
    torch.testing.assert_close(found, torch.stack([every[n, own] for n, own in enumerate(CLASSES)]))


def test_ink_by_hand() -> None:
    """Border 2 and once 5, its median 2; inside 3, and −1 in the other channel over a border of 0: |3 − 2| + |−1 − 0|."""
    image = torch.full((1, 2, 3, 3), 2.0)
    image[0, 0, 0, 0], image[0, 0, 1, 1] = 5, 3
    image[0, 1] = 0
    image[0, 1, 1, 1] = -1
    assert ink(image, CLASSES[:1])[0, 1].tolist() == [[3, 0, 0], [0, 2, 0], [0, 0, 0]]


def test_edges_against_loops(images: Tensor) -> None:
    found = edges(images, CLASSES)
    kernel = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    for y, x in [(0, 0), (3, 4), (7, 7), (0, 5), (6, 0)]:
        expected = 0.0
        for channel in images[1].tolist():
            sums = [0.0, 0.0]
            for dy in range(3):
                for dx in range(3):
                    value = channel[min(max(y + dy - 1, 0), 7)][min(max(x + dx - 1, 0), 7)]
                    sums[0] += kernel[dy][dx] * value
                    sums[1] += kernel[dx][dy] * value
            expected += math.hypot(*sums)
        assert found[1, 0, y, x].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("control", [ink, edges, random_pixels(3)])
def test_controls_are_the_same_for_all_classes_and_in_all_batches(control: Explainer, images: Tensor) -> None:
    maps = control(images, CLASSES)
    assert maps.shape == (6, 2, 8, 8)
    assert torch.equal(maps[:, 0], maps[:, 1])
    assert torch.equal(control(images[4:5], CLASSES[4:5]), maps[4:5])
    assert not torch.equal(maps[0], maps[1])


def test_random_pixels_are_seeded(images: Tensor) -> None:
    assert torch.equal(random_pixels(3)(images, CLASSES), random_pixels(3)(images, CLASSES))
    assert not torch.equal(random_pixels(3)(images, CLASSES), random_pixels(4)(images, CLASSES))
