"""The way back of a max-pooling whose windows do not overlap: each value goes to where its window had the greatest.

Torch writes zeros everywhere and then goes from value to value. Loops that numba compiles (extra `cpu`) write each place once,
many channels at a time.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.kernels.numba_loops import compiled, share_out
from auditor.operations.calls import Call, pair

CHANNELS = 16
"""The least: with fewer channels, too few values are written at a time."""
BITS = {2: torch.int16, 4: torch.int32}
"""Values are copied as bits, because numba does not know bfloat16."""


class Pooling(torch.autograd.Function):
    """The max-pooling of a call for which `goes_back_by_loops` holds."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, call: Call) -> Tensor:
        """values: (N, ch, H, W)."""
        size, stride = windows(call)
        output, places = F.max_pool2d(
            values.detach(), size, stride, ceil_mode=bool(call.argument(5, "ceil_mode")), return_indices=True
        )
        ctx.shape, ctx.size, ctx.stride, ctx.places, ctx.offsets = values.shape, size, stride, places, None
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        if ctx.offsets is None:
            ctx.offsets, ctx.places = offsets_within(ctx.places, ctx.stride, ctx.shape[3]), None
        return unpool(gradients[0], ctx.offsets, ctx.size, ctx.stride, ctx.shape), None


def goes_back_by_loops(call: Call) -> bool:
    """Whether loops are there for a max-pooling, and faster than torch."""
    values, (size, _) = call.differentiable_operands[0], windows(call)
    if values is not call.argument(0, "input") or values.device.type != "cpu" or values.dim() != 4:
        return False
    is_plain = are_apart(call) and pair(call.argument(3, "padding") or 0) == (0, 0) and not call.argument(6, "return_indices")
    is_small = (size[0] - 1) * values.shape[3] + size[1] <= torch.iinfo(torch.int16).max
    is_known = values.shape[1] >= CHANNELS and values.dtype.itemsize in BITS
    return is_plain and is_small and is_known and compiled(write_windows) is not None


def windows(call: Call) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size and the stride."""
    size = pair(call.argument(1, "kernel_size"))
    return size, pair(call.argument(2, "stride") or size)


def are_apart(call: Call) -> bool:
    """Whether every value that a max-pooling takes is in one window at most."""
    size, stride = windows(call)
    return pair(call.argument(4, "dilation") or 1) == (1, 1) and size[0] <= stride[0] and size[1] <= stride[1]


def offsets_within(places: Tensor, stride: tuple[int, int], width: int) -> Tensor:
    """How far the greatest is from the corner of its window, (N, h, w, ch) int16. places: (N, ch, h, w), in maps of `width`."""
    rows, columns = (torch.arange(count) * step for count, step in zip(places.shape[2:], stride, strict=True))
    return (places - (rows[:, None] * width + columns)).to(torch.int16).permute(0, 2, 3, 1).contiguous()


def unpool(arrived: Tensor, offsets: Tensor, size: tuple[int, int], stride: tuple[int, int], shape: Any) -> Tensor:
    """(N, ch, H, W), which is `shape`, channels_last. arrived: (N, ch, h, w)."""
    write = compiled(write_windows)
    assert write is not None
    samples, channels, height, width = shape
    bits = BITS[arrived.dtype.itemsize]
    is_covered = size == stride and height <= offsets.shape[1] * size[0] and width <= offsets.shape[2] * size[1]
    back = (torch.empty if is_covered else torch.zeros)((samples, height, width, channels), dtype=arrived.dtype)
    given = (arrived.permute(0, 2, 3, 1).contiguous().view(bits), offsets, back.view(bits))
    share_out(write, samples, *(tensor.numpy() for tensor in given), size, stride)
    return back.permute(0, 3, 1, 2)


def write_windows(arrived: Any, offsets: Any, back: Any, size: Any, stride: Any, start: int, stop: int) -> None:
    """Of the samples from `start` to `stop`. arrived, offsets: (N, h, w, ch). back: (N, H, W, ch)."""
    height, width, channels = back.shape[1:]
    nothing = arrived.dtype.type(0)
    for sample in range(start, stop):
        for row in range(arrived.shape[1]):
            for column in range(arrived.shape[2]):
                values, greatest = arrived[sample, row, column], offsets[sample, row, column]
                top, left = row * stride[0], column * stride[1]
                for y in range(min(size[0], height - top)):
                    for x in range(min(size[1], width - left)):
                        written = back[sample, top + y, left + x]
                        offset = offsets.dtype.type(y * width + x)
                        for channel in range(channels):
                            written[channel] = values[channel] if greatest[channel] == offset else nothing
