"""Fills by hand and against scipy."""

import numpy as np
import scipy.ndimage
import torch
from torch import Tensor

from auditor.trust.fills import background, blur, mean


def test_background_is_the_median_of_the_border() -> None:
    image = torch.tensor([[1.0, 2, 3, 4], [5, 90, 90, 6], [7, 8, 9, 10]])
    assert background(image[None, None]).item() == 5  # the lower of 5 and 6, of ten values
    assert background(torch.stack([image, image + 1])[None]).flatten().tolist() == [5, 6]


def test_border_counts_each_corner_once() -> None:
    """Of four corners and four others the lower median is 0; of corners counted twice, or alone, it would be 1."""
    image = torch.tensor([[1.0, 0, 1], [0, 9, 0], [1, 0, 1]])
    assert background(image[None, None]).item() == 0


def test_mean_of_each_image_and_channel(images: Tensor) -> None:
    torch.testing.assert_close(mean(images)[2, 1, 0, 0], images[2, 1].mean())
    assert mean(images).shape == (6, 3, 1, 1)


def test_blur_against_scipy() -> None:
    images = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    expected = [
        [scipy.ndimage.gaussian_filter(channel, 12, mode="nearest", truncate=3) for channel in one] for one in images.numpy()
    ]
    torch.testing.assert_close(blur(images), torch.from_numpy(np.array(expected)), rtol=1e-4, atol=1e-5)


def test_blur_of_a_tiny_image_keeps_its_shape() -> None:
    assert blur(torch.ones(1, 1, 2, 3)).shape == (1, 1, 2, 3)
