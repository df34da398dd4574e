"""ReLU where a rule rectifies on the way back, and the operations that can do that for it.

What comes back to a ReLU is a feature map a class, and clamping it reads and writes it once more. Where one operation alone took
the ReLU's output, that operation's way back does it instead: a convolution while it writes its result, a pooling before it
spreads its own.
"""

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.kernels.conv_arguments import Geometry, geometry_of
from auditor.kernels.input_conv import transpose
from auditor.kernels.sparse_conv_transpose import is_worth_it, scatter, strips
from auditor.operations.activations import DERIVATIVE, POSITIVE
from auditor.operations.calls import Call
from auditor.operations.rule_table import Treatment

FUSED_DTYPES = (torch.float32, torch.bfloat16)


class Rectification:
    """What is done to what comes back to the output of a ReLU, or of a pooling of one, and by whom.

    before: what the pooling takes over, if it is one. uses: how many operations took the output. taken: one of them can do
    it, and does if it is the only one. mask: 1 where the output is positive, 0 elsewhere; None where no derivative goes back.
    """

    def __init__(self, treatment: Treatment, before: "Rectification | None" = None) -> None:
        self.treatment, self.before = treatment, before
        self.positive = treatment in POSITIVE
        self.uses, self.taken = 0, False
        self.mask: Tensor | None = None

    def observe(self, output: Tensor) -> None:
        """To be called at once: a later operation may write into the output. output: ≥ 0."""
        if self.treatment in DERIVATIVE:
            self.mask = output.detach().sign()

    @property
    def is_due(self) -> bool:
        """Whether it is to be done here: a pooling takes over only from a ReLU whose output nothing else took."""
        return self.before is None or self.before.is_handed_over

    @property
    def is_handed_over(self) -> bool:
        return self.taken and self.uses == 1 and self.is_due

    @cached_property
    def limit(self) -> Tensor | None:
        """What a positive part may be at most."""
        return None if self.mask is None else self.mask * torch.finfo(self.mask.dtype).max

    def rectify_unless_handed_over(self, arrived: Tensor) -> Tensor:
        return self.rectify(arrived) if self.is_due and not self.is_handed_over else arrived

    def rectify(self, arrived: Tensor) -> Tensor:
        """In one pass over memory."""
        if self.positive:
            return arrived.clamp(min=0) if self.limit is None else torch.clamp(arrived, arrived.new_zeros(()), self.limit)
        return arrived if self.mask is None else arrived * self.mask


class Rectifier(torch.autograd.Function):
    """ReLU; back, what its rectification says."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rectification: Rectification, in_place: bool) -> Tensor:
        output = values.relu_() if in_place else values.relu()
        rectification.observe(output)
        ctx.rectification = rectification
        if in_place:
            ctx.mark_dirty(values)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.rectification.rectify_unless_handed_over(gradients[0]), None, None


class Convolution(torch.autograd.Function):
    """A convolution of stride 1; back, its transpose, rectified where that is handed over.

    The transpose is the convolution with the kernels turned round, which oneDNN rectifies as it writes it; where little
    arrives, `scatter` does.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, call: Call, rectification: Rectification | None, geometry: Geometry) -> Tensor:
        """values: (N, ch, H, W). call: with `values` as its only response. rectification: of `values`."""
        ctx.weight, ctx.geometry, ctx.rectification = call.argument(1, "weight"), geometry, rectification
        ctx.size, ctx.layer, ctx.strips = values.shape, None, None
        output: Tensor = call.run({id(values): values.detach()})
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        arrived = gradients[0].contiguous(memory_format=torch.channels_last)
        rectification = ctx.rectification if ctx.rectification is not None and ctx.rectification.is_handed_over else None
        _, padding, dilation = ctx.geometry
        if dilation == (1, 1) and is_worth_it(arrived, ctx.weight):
            ctx.strips = strips(ctx.weight) if ctx.strips is None else ctx.strips
            limits = () if rectification is None else (rectification.mask, rectification.positive)
            return scatter(arrived, ctx.strips, padding, ctx.size, *limits), None, None, None
        if ctx.weight.shape[1] == 1:
            # As a grey image has.
            back = transpose(arrived, ctx.weight[:, 0], ctx.geometry, ctx.size[2:]).to(arrived.dtype)
            return back if rectification is None else rectification.rectify(back), None, None, None
        ctx.layer = turned(ctx.weight, ctx.geometry) if ctx.layer is None else ctx.layer
        if rectification is not None and is_fused(arrived):
            return convolve_rectified(arrived, ctx.layer, rectification), None, None, None
        kernel, bias, padding, stride, dilation, groups = ctx.layer
        back = F.conv2d(arrived, kernel, bias, stride, padding, dilation, groups)
        return back if rectification is None else rectification.rectify(back), None, None, None


def convolution(*arguments: Any, **keywords: Any) -> Tensor:
    """`conv2d` of one response, which is `turnable`."""
    call = Call(F.conv2d, "conv2d", arguments, keywords, [], False)
    values = call.argument(0, "input")
    call = replace(call, differentiable_operands=[values])
    output: Tensor = Convolution.apply(values, call, None, turnable(call))  # type: ignore[no-untyped-call]
    # That of an image with one channel is not so by itself.
    return output.contiguous(memory_format=torch.channels_last)


def turned(weight: Tensor, geometry: Geometry) -> tuple[Any, ...]:
    """The convolution that is the transpose of another: kernels (I, O, k, l), bias, padding, stride, dilation, groups."""
    _, padding, dilation = geometry
    outer = [dilation[axis] * (weight.shape[axis + 2] - 1) - padding[axis] for axis in (0, 1)]
    kernels = weight.transpose(0, 1).flip(2, 3).contiguous(memory_format=torch.channels_last)
    return kernels, None, outer, (1, 1), dilation, 1


def turnable(call: Call) -> Geometry | None:
    """The geometry of a convolution, on a CPU, whose transpose `Convolution` works out; None of any other."""
    values, weight = call.differentiable_operands[0], call.argument(1, "weight")
    if values is not call.argument(0, "input") or values.device.type != "cpu":
        return None
    geometry = geometry_of(call)
    if geometry is None or geometry[0] != (1, 1):
        return None
    _, padding, dilation = geometry
    return geometry if all(dilation[axis] * (weight.shape[axis + 2] - 1) >= padding[axis] for axis in (0, 1)) else None


def is_fused(arrived: Tensor) -> bool:
    """Whether torch has a convolution for this that rectifies what it writes: oneDNN's, which is not documented."""
    if arrived.device.type != "cpu":
        return False
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")  # type: ignore[no-untyped-call]
    return known and arrived.dtype in FUSED_DTYPES and arrived.numel() > 0


def convolve_rectified(arrived: Tensor, layer: tuple[Any, ...], rectification: Rectification) -> Tensor:
    convolve = torch.ops.mkldnn._convolution_pointwise
    if rectification.mask is None:
        rectified: Tensor = convolve(arrived, *layer, "relu", [], None)
    else:
        positive = "relu" if rectification.positive else None
        rectified = convolve.binary(arrived, rectification.mask, *layer, "mul", None, positive, [], None)
    return rectified
