"""The way back through the convolution that takes the image, where the image's channels are summed afterwards.

Summing commutes with the transposed convolution, so the kernels are summed first: one channel comes back instead of
three. What is left, many channels in and one out, is a matrix product and shifted sums, several times faster on a
CPU than the general convolution.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.kernels.conv_arguments import Geometry
from auditor.operations.calls import Call

MOST_OFFSETS = 64
"""Kernels larger than 8 × 8 have too many shifts; such are patch embeddings, which do not overlap."""


class Entry(torch.autograd.Function):
    """A convolution of the image; back, to `summed`, its transpose with the image's channels summed."""

    @staticmethod
    def forward(ctx: Any, summed: Tensor, call: Call, image: Tensor, geometry: Geometry) -> Tensor:
        """summed: (N, 1, H, W), a leaf that receives what comes back. call: with `image` as its only response."""
        ctx.kernel = call.argument(1, "weight").sum(1)
        ctx.geometry, ctx.size = geometry, summed.shape[2:]
        output: Tensor = call.run({id(image): image.detach()})
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return transpose(gradients[0], ctx.kernel, ctx.geometry, ctx.size), None, None, None


def transpose(gradient: Tensor, kernel: Tensor, geometry: Geometry, size: Any) -> Tensor:
    """(N, O, h, w) back to (N, 1, H, W), float32 or better. kernel: (O, k, l), summed over the image's channels."""
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    if gradient.device.type != "cpu" or kernel[0].numel() > MOST_OFFSETS:
        return transpose_by_convolution(gradient, kernel, geometry, size).to(dtype)
    samples, channels, rows, columns = gradient.shape
    tall, wide = kernel.shape[1:]
    pixels = gradient.permute(0, 2, 3, 1).reshape(-1, channels)
    # What each value sends to each of the kernel's offsets.
    parts = (kernel.flatten(1).t() @ pixels.t()).view(tall, wide, samples, rows, columns)
    (down, right), (above, left), (apart_y, apart_x) = geometry
    # One plane a phase of the stride, so that every sum is over contiguous rows; interleaved at the end.
    width = max(columns + (wide - 1) * apart_x // right, -(-(size[1] + left) // right))
    strips = parts.new_zeros((tall, samples, rows, right, width), dtype=dtype)
    for j, part in enumerate(parts.unbind(1)):
        x = j * apart_x
        strips[:, :, :, x % right, x // right : x // right + columns] += part
    height = max(rows + (tall - 1) * apart_y // down, -(-(size[0] + above) // down))
    planes = strips.new_zeros((samples, down, height, right, width))
    for i, strip in enumerate(strips):
        y = i * apart_y
        planes[:, y % down, y // down : y // down + rows] += strip
    whole = planes.permute(0, 2, 1, 4, 3).reshape(samples, 1, height * down, width * right)
    return whole[:, :, above : above + size[0], left : left + size[1]]


def transpose_by_convolution(gradient: Tensor, kernel: Tensor, geometry: Geometry, size: Any) -> Tensor:
    stride, padding, dilation = geometry
    spans = [dilation[axis] * (kernel.shape[axis + 1] - 1) + 1 for axis in (0, 1)]
    reached = [(gradient.shape[axis + 2] - 1) * stride[axis] - 2 * padding[axis] + spans[axis] for axis in (0, 1)]
    # Pixels behind the last window get nothing; torch has to be told how many there are.
    missing = tuple(size[axis] - reached[axis] for axis in (0, 1))
    inner = tuple(min(missing[axis], stride[axis] - 1) for axis in (0, 1))
    back = F.conv_transpose2d(gradient, kernel[:, None], None, stride, padding, inner, 1, dilation)
    return F.pad(back, (0, missing[1] - inner[1], 0, missing[0] - inner[0]))
