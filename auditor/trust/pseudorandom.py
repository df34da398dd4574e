"""Random numbers that belong to an image: the same whatever batch it is in, and on every device."""

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
SECOND = 0x94D049BB133111EB - (1 << 64)
"""The constants of SplitMix64 (Steele, Lea & Flood 2014), as signed integers."""
DIGITS = 24
"""Bits that a float32 holds."""


def shifted(values: Tensor, bits: int) -> Tensor:
    """To the right, filled with zeros: torch's own shift keeps the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def mixed(values: Tensor) -> Tensor:
    """SplitMix64's output function, int64 to int64."""
    values = (values ^ shifted(values, 30)) * FIRST
    values = (values ^ shifted(values, 27)) * SECOND
    return values ^ shifted(values, 31)


def steps(count: int, device: torch.device) -> Tensor:
    return torch.arange(1, count + 1, device=device) * GOLDEN


def keys_of(images: Tensor, seed: int) -> Tensor:
    """One number an image, worked out from its values and a seed: (N,) int64. images: (N, ch, H, W) floating."""
    # −0.0 and 0.0 are one value; adding 0.0 makes them one pattern of bits.
    bits = (images.float() + 0.0).contiguous().view(torch.int32).flatten(1).long()
    return mixed(mixed(bits + steps(bits.shape[1], bits.device)).sum(1) + seed)


def uniform(keys: Tensor, count: int) -> Tensor:
    """(N, count) float32 in [0, 1): the first numbers of a SplitMix64 started at each of keys, (N,) int64."""
    values = mixed(keys[:, None] + steps(count, keys.device))
    return shifted(values, 64 - DIGITS).float() / (1 << DIGITS)
