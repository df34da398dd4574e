"""Convolutions fused with what surrounds them: zero padding before them, a batch norm and a rectifier behind them.

For forward passes through which nothing is sent back. Each of these operations, done separately, reads and writes whole maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.kernels.conv_arguments import Geometry, conv_arguments
from auditor.kernels.relu_backward import is_fused
from auditor.operations.calls import Call, tensors

SHAPES = {"dim", "ndim", "size", "shape", "ndimension", "numel", "dtype", "device"}
"""Queries of a tensor that do not read its values."""


@dataclass(frozen=True)
class Seen:
    """An operation of a forward pass, and its output."""

    call: Call
    output: Any


@dataclass(frozen=True)
class Fused:
    """A convolution with kernels (O, I/groups, k, l) and bias (O,), and the limits to which its rectifier clamps its output."""

    weight: Tensor
    bias: Tensor | None
    geometry: Geometry
    groups: int
    limits: tuple[float, float] | None = None

    def run(self, values: Tensor) -> Tensor:
        stride, padding, dilation = self.geometry
        if is_fused(values):
            rectifier, scalars = ("none" if self.limits is None else "relu"), []
            if self.limits is not None and self.limits != (0, inf):
                rectifier, scalars = "hardtanh", [*self.limits]
            convolve = torch.ops.mkldnn._convolution_pointwise
            output: Tensor = convolve(
                values, self.weight, self.bias, padding, stride, dilation, self.groups, rectifier, scalars, None
            )
            return output
        output = F.conv2d(values, self.weight, self.bias, stride, padding, dilation, self.groups)
        return output if self.limits is None else output.clamp_(*self.limits)


def fuse(model: nn.Module, seen: Sequence[Seen]) -> dict[int, Fused | None]:
    """By place among the operations of a forward pass: fused convolutions, and None for the operations that they do as well.

    The output of the last of `seen` stays the same; outputs between the parts of a fused convolution are no longer made.
    """
    constants = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    found: dict[int, Fused | None] = {}
    for place, operation in enumerate(seen):
        if operation.call.name == "conv2d" and has_constants(operation.call, constants):
            found |= fuse_around(seen, place, constants)
    return found


def fuse_around(seen: Sequence[Seen], place: int, constants: set[int]) -> dict[int, Fused | None]:
    """`fuse` of one convolution; empty where there is nothing to fuse it with."""
    fused = unfused(seen[place].call)
    if fused is None:
        return {}
    carried = []
    zeros = zeros_around(seen[place - 1].call) if place and taker(seen, place - 1) == place else None
    if zeros is not None:
        stride, padding, dilation = fused.geometry
        fused = replace(fused, geometry=(stride, (padding[0] + zeros[0], padding[1] + zeros[1]), dilation))
        carried.append(place - 1)
    last, norm = place, taker(seen, place)
    if norm is not None and seen[norm].call.name == "batch_norm" and has_constants(seen[norm].call, constants):
        fused = with_norm(fused, seen[norm].call)
        carried.append(norm)
        last = norm
    rectifier = taker(seen, last)
    limits = None if rectifier is None else limits_of(seen[rectifier].call)
    if rectifier is not None and limits is not None:
        fused = replace(fused, limits=limits)
        carried.append(rectifier)
    return {place: fused} | dict.fromkeys(carried) if carried else {}


def has_constants(call: Call, constants: set[int]) -> bool:
    """Whether all its tensors but the values it is applied to are among the constants."""
    return all(id(tensor) in constants for tensor in tensors((call.arguments, call.keywords)) if tensor is not values_of(call))


def values_of(call: Call) -> Any:
    return call.argument(0, "input")


def unfused(call: Call) -> Fused | None:
    """A convolution alone; None where its padding is named by a word."""
    given = conv_arguments(call)
    return None if given is None else Fused(given.weight, given.bias, given.geometry, given.groups)


def taker(seen: Sequence[Seen], place: int) -> int | None:
    """The place of the only operation that takes the output of another, or of the first if that writes into it."""
    output = seen[place].output
    takers = [
        number
        for number, call in enumerate((operation.call for operation in seen[place + 1 :]), place + 1)
        if call.name not in SHAPES and any(tensor is output for tensor in tensors((call.arguments, call.keywords)))
    ]
    if not takers or values_of(seen[takers[0]].call) is not output:
        return None
    return takers[0] if len(takers) == 1 or seen[takers[0]].call.in_place else None


def zeros_around(call: Call) -> tuple[int, int] | None:
    """How many rows of zeros above and below, and columns left and right; None of any other padding."""
    widths, mode = call.argument(1, "pad"), call.argument(2, "mode")
    if call.name != "pad" or len(widths) != 4 or mode not in (None, "constant") or call.argument(3, "value"):
        return None
    left, right, above, below = widths
    return (above, left) if above == below >= 0 and left == right >= 0 else None


def with_norm(fused: Fused, norm: Call) -> Fused:
    """With batch norm's factors in the kernels and its terms in the bias, worked out in float64."""
    constants = [tensor for tensor in tensors((norm.arguments, norm.keywords)) if tensor is not values_of(norm)]
    exact = {id(tensor): tensor.double() for tensor in constants}
    channels = torch.zeros((1, len(fused.weight), 1, 1), dtype=torch.float64, device=fused.weight.device)
    values = id(values_of(norm))
    shift = norm.run(exact | {values: channels}).flatten()
    scale = norm.run(exact | {values: channels + 1}).flatten() - shift
    weight = fused.weight.double() * scale[:, None, None, None]
    bias = shift if fused.bias is None else shift + scale * fused.bias.double()
    kernels = weight.to(fused.weight.dtype).contiguous(memory_format=torch.channels_last)
    return replace(fused, weight=kernels, bias=bias.to(fused.weight.dtype))


def limits_of(call: Call) -> tuple[float, float] | None:
    """The limits to which a rectifier clamps its output; None of any other operation."""
    if call.name == "hardtanh":
        low, high = call.argument(1, "min_val"), call.argument(2, "max_val")
        return (-1.0 if low is None else float(low), 1.0 if high is None else float(high))
    return {"relu": (0.0, inf), "relu6": (0.0, 6.0)}.get(call.name)
