"""The way back through a convolution of the image, its channels summed, against autograd."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auditor import Clear
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


class OwnKernel(nn.Module):
    """A network whose first kernel is worked out from the image itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.make = nn.Linear(3, 4 * 3 * 3 * 3)
        self.head = nn.Conv2d(4, 5, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        kernel = self.make(images.mean((2, 3))[0]).view(4, 3, 3, 3)
        return self.head(torch.relu(nn.functional.conv2d(images, kernel, padding=1))).mean((2, 3))


def test_a_kernel_that_the_image_decides_sends_back_what_it_does_too() -> None:
    """Against plain autograd: the gradient of a class's score, times the positions that its average is over."""
    model, images = OwnKernel().double().eval(), torch.rand((1, 3, 8, 9), dtype=torch.float64)
    found = Clear(model, "gradient", classes=[2], precision="float64").forward(images)
    seeds = found.seeds[:, 2]
    leaf = images.clone().requires_grad_()
    kernel = model.make(leaf.mean((2, 3))[0]).view(4, 3, 3, 3)
    responses = model.head(torch.relu(nn.functional.conv2d(leaf, kernel, padding=1)))
    (expected,) = torch.autograd.grad((responses[:, 2] * seeds).sum(), leaf)
    ((_, actual),) = found.stream(torch.tensor([2]))
    torch.testing.assert_close(actual[:, 0], expected.sum(1).float(), rtol=1e-5, atol=1e-6)
