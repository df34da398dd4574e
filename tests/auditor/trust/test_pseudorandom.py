"""SplitMix64 in whole numbers of Python, and numbers that belong to an image."""

import pytest
import torch

from auditor.trust.pseudorandom import keys_of, mixed, uniform

MASK = (1 << 64) - 1


def split_mix(state: int, count: int) -> list[int]:
    found = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        value = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        found.append(value ^ (value >> 31))
    return found


def test_published_first_number() -> None:
    """Of SplitMix64 seeded with 1234567, as the reference in C prints it."""
    assert split_mix(1234567, 1) == [6457827717110365317]


@pytest.mark.parametrize("state", [0, 1234567, -3, 2**62])
def test_uniform_numbers_are_split_mix(state: int) -> None:
    expected = [(value >> 40) / 2**24 for value in split_mix(state & MASK, 50)]
    assert uniform(torch.tensor([state]), 50)[0].tolist() == expected


def test_keys_belong_to_the_image_whatever_its_batch() -> None:
    images = torch.randn(8, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    keys = keys_of(images, 3)
    assert keys_of(images[5:6], 3).item() == keys[5]
    assert torch.equal(keys_of(images.flip(0).contiguous(memory_format=torch.channels_last), 3), keys.flip(0))
    assert len(set(keys.tolist())) == 8
    assert not (keys_of(images, 4) == keys).any()


def test_keys_see_every_pixel_and_its_place() -> None:
    image = torch.zeros(1, 1, 3, 3)
    images = image.repeat(9, 1, 1, 1)
    images.view(9, 9).fill_diagonal_(1.0)
    assert len(set(keys_of(torch.cat([images, image]), 0).tolist())) == 10


def test_no_sign_of_zero() -> None:
    zeros = torch.zeros(1, 1, 2, 2)
    assert keys_of(-zeros, 0) == keys_of(zeros, 0)


def test_uniform_numbers_are_uniform() -> None:
    values = uniform(mixed(torch.arange(100)), 1000)
    counts = torch.histc(values, 20, 0, 1)
    # Chi-square of 19 degrees of freedom: above 43.8 once in a thousand.
    assert ((counts - 5000).square() / 5000).sum() < 43.8
    assert torch.corrcoef(values[:2])[0, 1].abs() < 0.1
