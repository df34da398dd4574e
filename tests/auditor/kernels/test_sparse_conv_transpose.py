"""Convolutions sent back by scattering what is not zero: against autograd, and when it is done at all."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from auditor import Clear
from auditor.kernels.sparse_conv_transpose import MOST, is_worth_it, scatter, strips

RULES = ["deconv", "gradient", "guided"]


def sparse(*shape: int, share: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < share)
    return values.contiguous(memory_format=torch.channels_last)


def by_autograd(arrived: Tensor, weight: Tensor, padding: tuple[int, int], size: tuple[int, ...]) -> Tensor:
    values = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    maps = F.conv2d(values, weight.double(), None, 1, padding)
    return torch.autograd.grad(maps, values, arrived.double())[0]


@settings(max_examples=100, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    channels=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    samples=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    masked=st.booleans(),
    positive=st.booleans(),
    seed=st.integers(0, 99),
)
def test_is_the_adjoint_masked_and_rectified(
    kernel: tuple[int, int],
    padding: tuple[int, int],
    size: tuple[int, int],
    channels: tuple[int, int],
    samples: int,
    share: float,
    masked: bool,
    positive: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    taken, made = channels
    weight, whole = torch.randn(made, taken, *kernel), (samples, taken, *size)
    height, width = (size[axis] + 2 * padding[axis] - kernel[axis] + 1 for axis in (0, 1))
    arrived = sparse(samples, made, height, width, share=share, seed=seed)
    mask = (torch.rand(whole) < 0.5).float() if masked else None
    expected = by_autograd(arrived, weight, padding, whole) * (1 if mask is None else mask)
    found = scatter(arrived, strips(weight), padding, whole, mask, positive)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, (expected.clamp(min=0) if positive else expected).float(), rtol=1e-5, atol=1e-5)


def test_one_value_leaves_its_kernels_around_it() -> None:
    arrived = torch.zeros(1, 2, 4, 4)
    arrived[0, 1, 2, 0] = 3.0
    weight = torch.arange(2 * 1 * 3 * 3).reshape(2, 1, 3, 3).float()
    expected = torch.zeros(4, 4)
    expected[1:4, 0:2] = 3 * weight[1, 0, :, 1:]
    found = scatter(arrived.contiguous(memory_format=torch.channels_last), strips(weight), (1, 1), (1, 1, 4, 4))
    assert torch.equal(found[0, 0], expected)


def test_what_is_no_number_is_not_lost() -> None:
    arrived = torch.zeros(1, 1, 3, 3)
    arrived[0, 0, 1, 1] = math.nan
    found = scatter(arrived, strips(torch.ones(1, 1, 1, 3)), (0, 1), (1, 1, 3, 3), None, positive=True)
    assert found[0, 0].isnan().tolist() == [[False] * 3, [True] * 3, [False] * 3]


def test_same_however_many_threads(threads: Callable[[int], None]) -> None:
    arrived, weight = sparse(7, 16, 9, 9, share=0.1), torch.randn(16, 32, 3, 3, generator=torch.Generator().manual_seed(1))
    found = []
    for count in (1, 2, 5):
        threads(count)
        found.append(scatter(arrived, strips(weight), (1, 1), (7, 32, 9, 9)))
    assert found[0].any()
    assert all(torch.equal(found[0], other) for other in found)


def test_worth_it_where_little_is_not_zero_and_much_is_added_at_once() -> None:
    weight = torch.ones(32, 32, 3, 3)
    assert is_worth_it(sparse(8, 32, 8, 8, share=MOST / 2), weight)
    assert not is_worth_it(sparse(8, 32, 8, 8, share=MOST * 2), weight)
    assert is_worth_it(torch.zeros(8, 32, 8, 8), weight)
    assert is_worth_it(sparse(8, 32, 1, 1, share=MOST / 2), weight)
    assert not is_worth_it(torch.zeros(8, 32, 8, 8), weight[:, :16])
    assert not is_worth_it(torch.zeros(8, 32, 8, 8), torch.ones(32, 512, 1, 1))
    assert not is_worth_it(torch.zeros(0, 32, 8, 8), weight)
    for dtype in (torch.float64, torch.bfloat16):
        assert not is_worth_it(torch.zeros(8, 32, 8, 8, dtype=dtype), weight)


def network() -> tuple[nn.Module, Tensor]:
    """Two blocks of a width that is scattered, and images."""
    torch.manual_seed(0)
    widths = (3, 32, 32, 32)
    layers = [
        layer
        for before, after in pairwise(widths)
        for layer in (nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)), torch.randn(6, 3, 24, 24)


@pytest.mark.parametrize("rule", RULES)
def test_maps_are_those_of_the_dense_convolution(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = network()
    scattered: list[Tensor] = []

    def counted(*arguments: object) -> Tensor:
        scattered.append(scatter(*arguments))  # type: ignore[arg-type]
        return scattered[-1]

    monkeypatch.setattr("auditor.kernels.relu_backward.scatter", counted)
    found = Clear(model, rule)(images)
    assert scattered
    monkeypatch.setattr("auditor.kernels.sparse_conv_transpose.compiled", lambda loops: None)
    expected = Clear(model, rule)(images)
    peak = float(expected.dominant_response.max())
    torch.testing.assert_close(found.dominant_response, expected.dominant_response, rtol=0, atol=1e-5 * peak)
    assert (found.dominant_class == expected.dominant_class).float().mean() > 0.999
