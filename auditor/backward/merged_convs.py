"""The two convolutions next to the image, sent back as one where what lies between them is the same for every image.

Under `linear` that is so of a block like convolution, ReLU, convolution, where the image's channels are summed. For each pair of
offsets the two convolutions are a product of two matrices. Multiplied beforehand, they do without the maps between them, which
cost most of the way back. But the merged convolution also sends responses by way of places outside those maps, which the network
never had: near the edges, that is subtracted again.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge

from auditor.backward.history import Step
from auditor.backward.tape import Tape
from auditor.kernels.conv_arguments import Geometry
from auditor.kernels.conv_fusion import Fused, unfused, with_norm
from auditor.kernels.input_conv import MOST_OFFSETS, transpose
from auditor.operations.calls import is_among
from auditor.operations.rule_table import STOCHASTIC


@dataclass(frozen=True)
class Border:
    """What the merged convolution sends to the image too much, from places near an edge.

    places: (E,) int64, in flattened maps. kernels: (E, O, m), with the sign turned. pixels: (E · m,) int64, in the image.
    """

    places: Tensor
    kernels: Tensor
    pixels: Tensor

    def take_off(self, back: Tensor, arrived: Tensor) -> Tensor:
        """(N, H, W). back: (N, H, W), of `arrived`, (N, O, h, w)."""
        near = arrived.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, self.places).transpose(0, 1)
        excess = torch.bmm(near, self.kernels).transpose(0, 1).flatten(1).to(back.dtype)
        return back.flatten(1).scatter_add(1, self.pixels.expand(len(back), -1), excess).view(back.shape)


@dataclass(frozen=True)
class Stem:
    """edge: where what comes back to the second convolution enters. inside: the tensors before its output.

    kernel, geometry: of the merged convolution, which the two are but for the border. size: (H, W).
    """

    edge: GradientEdge
    inside: list[Tensor]
    kernel: Tensor
    border: Border
    geometry: Geometry
    size: tuple[int, ...]

    def holds(self, tensor: Tensor) -> bool:
        return is_among(tensor, self.inside)

    def send_back(self, arrived: Tensor) -> Tensor:
        """To the image, (N, H, W), float32 or better. arrived: (N, O, h, w)."""
        return self.border.take_off(transpose(arrived, self.kernel, self.geometry, self.size)[:, 0], arrived)


def find_stem(tape: Tape, image: Tensor) -> Stem | None:
    """On a CPU, under `linear`. image: (N, ch, H, W), what the model took."""
    steps = chain(tape, image) if tape.name == "linear" and image.device.type == "cpu" else []
    if not steps:
        return None
    first: Fused | None = None
    for step in steps[:-1]:
        if step.name == "conv2d":
            first = unfused(step.call)
        elif step.name == "batch_norm" and first is not None:
            first = with_norm(first, step.call)
    middle, output, edge = steps[-1].sources[0], steps[-1].output, steps[-1].edge
    second = unfused(steps[-1].call)
    if first is None or second is None or edge is None or first.groups * second.groups > 1:
        return None
    if prod(reach(first, second)) > min(MOST_OFFSETS, second.weight[0].numel()):
        return None
    geometry, size = joined_geometry(first.geometry, second.geometry), tuple(image.shape[2:])
    within, kinds = taps_within(second, middle.shape[2:], output.shape[2:])
    # All taps; and for each kind of place, those that reach beyond the maps between the two.
    kernels = multiplied(first, second, torch.cat([torch.ones_like(within[:1]), ~within]))
    places = (~within.all(2).all(1))[kinds].nonzero()[:, 0]
    border = border_of(places, kernels[1:][kinds[places]], output.shape[3], geometry, size)
    inside = [image, *(step.output for step in steps[:-1])]
    return Stem(edge, inside, kernels[0], border, geometry, size)


def chain(tape: Tape, image: Tensor) -> list[Step]:
    """The steps from the image to the second convolution; none where anything else takes part."""
    steps: list[Step] = []
    current, left = image, 2
    while left:
        takers = [step for step in tape.history.steps if is_among(current, step.sources)]
        # All but the last write into what they are given, or return it.
        alone = takers and takers[-1].output is not current and all(step.output is current for step in takers[:-1])
        if not alone or not all(is_fixed(step) for step in takers):
            return []
        steps += takers
        left -= takers[-1].name == "conv2d"
        current = takers[-1].output
    return steps if steps[0].name == "conv2d" else []


def is_fixed(step: Step) -> bool:
    """Whether a step goes back, under `linear`, by one number a channel, or is a convolution."""
    known = step.kind == "activation" or step.name in {"conv2d", "batch_norm", *STOCHASTIC}
    return known and len(step.sources) == 1 and not step.varies and step.fault is None


def reach(first: Fused, second: Fused) -> list[int]:
    """How many rows and columns of the image a value behind both convolutions depends on."""
    (stride, _, apart), taps = first.geometry, first.weight.shape[2:]
    leaps = [(second.weight.shape[axis + 2] - 1) * second.geometry[2][axis] for axis in (0, 1)]
    return [(taps[axis] - 1) * apart[axis] + leaps[axis] * stride[axis] + 1 for axis in (0, 1)]


def taps_within(second: Fused, middle: Any, output: Any) -> tuple[Tensor, Tensor]:
    """Which taps of the second convolution are within what it takes: kinds (K, taps, taps) bool, and (h·w,), each place's own.

    middle, output: sizes of what it takes and makes.
    """
    (within_y, row_kinds), (within_x, column_kinds) = (
        taps_of_rows(output[axis], second.weight.shape[axis + 2], middle[axis], [part[axis] for part in second.geometry])
        for axis in (0, 1)
    )
    within = (within_y[:, None, :, None] & within_x[:, None, :]).flatten(0, 1)
    return within, (row_kinds[:, None] * len(within_x) + column_kinds).flatten()


def taps_of_rows(count: int, taps: int, limit: int, geometry: list[int]) -> tuple[Tensor, Tensor]:
    """Which taps of a convolution are among the `limit` rows that it takes: kinds (K, taps) bool, and (count,) each row's own."""
    stride, padding, dilation = geometry
    rows = torch.arange(count)[:, None] * stride - padding + torch.arange(taps) * dilation
    kinds, numbers = torch.unique((rows >= 0) & (rows < limit), dim=0, return_inverse=True)
    return kinds, numbers


def border_of(places: Tensor, excess: Tensor, width: int, geometry: Geometry, size: tuple[int, ...]) -> Border:
    """places: (E,), in maps of `width`. excess: (E, O, k, l), what they send too much, most of it to places outside the image."""
    (down, right), (above, left), _ = geometry
    tall, wide = excess.shape[2:]
    rows = (places // width * down - above)[:, None] + torch.arange(tall)
    columns = (places % width * right - left)[:, None] + torch.arange(wide)
    is_row, is_column = (rows >= 0) & (rows < size[0]), (columns >= 0) & (columns < size[1])
    reached = (is_row[:, :, None] & is_column[:, None] & excess.ne(0).any(1)).flatten(1)
    pixels = (rows[:, :, None] * size[1] + columns[:, None]).flatten(1)
    most = int(reached.sum(1).max()) if len(places) else 0
    # Those that are reached come first; the others fill up the rows, with kernels of zero.
    chosen = reached.byte().topk(most, dim=1).indices
    kernels = (excess.flatten(2) * reached[:, None]).gather(2, chosen[:, None].expand(-1, excess.shape[1], -1))
    return Border(places, -kernels, (pixels * reached).gather(1, chosen).flatten())


def multiplied(first: Fused, second: Fused, within: Tensor) -> Tensor:
    """(K, O, k, l). within: (K, taps, taps) bool, the parts of the second's kernels that count."""
    dtype = torch.promote_types(second.weight.dtype, torch.float32)
    entering = first.weight.to(dtype).sum(1, keepdim=True)
    leaving = (second.weight.to(dtype) * within[:, None, None]).flatten(0, 1)
    apart = [first.geometry[0][axis] * second.geometry[2][axis] for axis in (0, 1)]
    kernels = F.conv_transpose2d(leaving, entering, None, apart, dilation=first.geometry[2])
    return kernels.view(len(within), -1, *kernels.shape[2:]).to(second.weight.dtype)


def joined_geometry(first: Geometry, second: Geometry) -> Geometry:
    (stride_1, padding_1, _), (stride_2, padding_2, _) = first, second
    stride = (stride_1[0] * stride_2[0], stride_1[1] * stride_2[1])
    padding = (padding_1[0] + stride_1[0] * padding_2[0], padding_1[1] + stride_1[1] * padding_2[1])
    return stride, padding, (1, 1)
