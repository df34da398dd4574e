"""The arguments of a convolution, however it was called."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from auditor.operations.calls import Call, pair

Geometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Stride, padding and dilation of a convolution, each (vertical, horizontal)."""


@dataclass(frozen=True)
class ConvArguments:
    """weight: (O, I / groups, k, l). bias: (O,)."""

    weight: Tensor
    bias: Tensor | None
    geometry: Geometry
    groups: int


def conv_arguments(call: Call) -> ConvArguments | None:
    """Of `conv2d`, or of an exported program's `convolution`; None where that is transposed or its padding is named by a word.

    `convolution` says whether it is transposed, and what is put around its output, before it says its groups.
    """
    is_general = call.name == "convolution"
    if is_general and call.argument(6, "transposed"):
        return None

    def given(position: int, name: str, default: int) -> Any:
        value = call.argument(position, name)
        return default if value is None else value

    stride, padding, dilation = given(3, "stride", 1), given(4, "padding", 0), given(5, "dilation", 1)
    if isinstance(padding, str):
        return None
    geometry = pair(stride), pair(padding), pair(dilation)
    groups = given(8 if is_general else 6, "groups", 1)
    return ConvArguments(call.argument(1, "weight"), call.argument(2, "bias"), geometry, groups)


def geometry_of(call: Call) -> Geometry | None:
    """Of a convolution of all channels of maps (N, ch, H, W); None of any other."""
    given = conv_arguments(call)
    return None if given is None or given.groups != 1 or call.differentiable_operands[0].dim() != 4 else given.geometry
