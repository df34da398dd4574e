"""The way back through a convolution of the image, its channels summed, against autograd."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.kernels.input_conv import transpose, transpose_by_convolution

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=PAIRS,
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dilation=PAIRS,
    size=st.tuples(st.integers(13, 17), st.integers(13, 17)),
    seed=st.integers(0, 99),
)
def test_what_comes_back_is_the_adjoints_channel_sum(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    size: tuple[int, int],
    seed: int,
) -> None:
    torch.manual_seed(seed)
    images = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, *kernel, dtype=torch.float64)
    maps = F.conv2d(images, weight, None, stride, padding, dilation)
    arrived = torch.randn_like(maps)
    (expected,) = torch.autograd.grad(maps, images, arrived)
    for way in (transpose, transpose_by_convolution):
        found = way(arrived, weight.sum(1), (stride, padding, dilation), size)
        torch.testing.assert_close(found, expected.sum(1, keepdim=True))


def test_a_patch_embedding_has_too_many_offsets_for_shifted_sums() -> None:
    images = torch.randn(2, 3, 33, 32, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, 16, 16, dtype=torch.float64)
    maps = F.conv2d(images, weight, stride=16)
    arrived = torch.randn_like(maps)
    (expected,) = torch.autograd.grad(maps, images, arrived)
    found = transpose(arrived, weight.sum(1), ((16, 16), (0, 0), (1, 1)), (33, 32))
    torch.testing.assert_close(found, expected.sum(1, keepdim=True))
