"""A convolution's way back where nearly all that arrives is zero.

That is so behind a max-pooling, and behind a ReLU that rectifies on the way back: nine values in ten and more are zero. Each of
the others adds its kernel, times itself, around its place. Torch has no such convolution, so it is written as loops, which numba
(extra `cpu`) compiles; without numba, the convolution goes back as it does where much arrives.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from auditor.kernels.numba_loops import compiled, share_out

MOST = 1 / 4
"""The largest part of what arrives that may differ from zero, as behind a pooling of 2 × 2; with more, dense may be as fast."""
SPAN = 64
"""Values that are added at once: with fewer the dense convolution is faster, and so is one of 1 × 1."""


def is_worth_it(arrived: Tensor, weight: Tensor) -> bool:
    """Whether to scatter what arrived, (N, O, h, w) on a CPU, at a convolution of `weight` (O, I, k, l)."""
    is_large = weight[0, 0].numel() > 1 and weight.shape[1] * weight.shape[3] >= SPAN
    if not is_large or arrived.dtype != torch.float32 or not arrived.numel() or compiled(add_kernels) is None:
        return False
    # The two rows in the middle of each map stand for all: counting all takes a fifth of a convolution's time.
    rows = arrived.narrow(2, (arrived.shape[2] - 1) // 2, min(2, arrived.shape[2]))
    return int(torch.count_nonzero(rows)) <= MOST * rows.numel()


def strips(weight: Tensor) -> Any:
    """Kernels (O, I, k, l) in rows as they lie in memory in maps whose channels are last: (O, k, l·I)."""
    return weight.detach().permute(0, 2, 3, 1).flatten(2).contiguous().numpy()


def scatter(
    arrived: Tensor, kernels: Any, padding: tuple[int, int], size: Any, mask: Tensor | None = None, positive: bool = False
) -> Tensor:
    """The transpose of a convolution of stride 1: (N, I, H, W) float32, channels_last, which is `size`.

    arrived: (N, O, h, w) float32. kernels: `strips`. padding: of the convolution. mask: (N, I, H, W), what the result is
    multiplied by. positive: whether the positive part is left.
    """
    add = compiled(add_kernels)
    if add is None:
        raise RuntimeError("numba is not there, which compiles the loops: ask is_worth_it first")
    back = torch.empty(size, memory_format=torch.channels_last)
    written = channels_last(back)
    masked = written if mask is None else channels_last(mask)
    share_out(add, len(arrived), channels_last(arrived), kernels, *padding, masked, mask is not None, positive, written)
    return back


def channels_last(maps: Tensor) -> Any:
    """(N, ch, H, W) as an array (N, H, W, ch), the same memory where that is its order."""
    return maps.permute(0, 2, 3, 1).contiguous().numpy()


def add_kernels(
    arrived: Any,
    kernels: Any,
    above: int,
    left: int,
    mask: Any,
    is_masked: bool,
    is_positive: bool,
    back: Any,
    start: int,
    stop: int,
) -> None:
    """Of the samples from `start` to `stop`. arrived: (N, h, w, O). back, mask: (N, H, W, I). above, left: the padding."""
    height, width, channels = arrived.shape[1:]
    tall, span = kernels.shape[1:]
    rows, columns, depth = back.shape[1:]
    whole = np.empty((height + tall - 1, (width - 1) * depth + span), arrived.dtype)
    found = np.empty(channels, np.int64)
    nothing = whole.dtype.type(0)
    for sample in range(start, stop):
        whole[:] = nothing
        for y in range(height):
            for x in range(width):
                values = arrived[sample, y, x]
                count = 0
                for channel in range(channels):
                    # Without a branch, which the CPU could not predict.
                    found[count] = channel
                    count += values[channel] != nothing
                # Two at a time: what is around is read and written half as often.
                for place in range(0, count, 2):
                    one, other = found[place], found[min(place + 1, count - 1)]
                    value, another = values[one], values[other] if place + 1 < count else nothing
                    for row in range(tall):
                        around = whole[y + row, x * depth : x * depth + span]
                        kernel, second = kernels[one, row], kernels[other, row]
                        for place_in_span in range(span):
                            around[place_in_span] += value * kernel[place_in_span] + another * second[place_in_span]
        for y in range(rows):
            inside = whole[y + above, left * depth : (left + columns) * depth].reshape(columns, depth)
            for x in range(columns):
                for channel in range(depth):
                    value = inside[x, channel]
                    if is_masked:
                        value *= mask[sample, y, x, channel]
                    back[sample, y, x, channel] = max(value, nothing) if is_positive else value
