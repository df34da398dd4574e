"""Layer-wise relevance propagation: what arrives is shared among a layer's inputs by what they contributed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from auditor.operations.calls import Call, tensors
from auditor.operations.rule_table import LAYERS, MATRIX_PRODUCTS, SUMS

EPSILON = 1e-6
"""ε of Bach et al. 2015, eq. 58, relative to the root mean square of a layer's denominators, as in zennit's `Stabilizer`.

Montavon et al. 2019 make it .25, a filter, which loses a part of the relevance at every layer. Here it keeps denominators from
zero and does no more, so that relevance is conserved.
"""

Taken = Callable[[Tensor], Tensor]
Part = tuple[Taken, Callable[..., Tensor]]
"""Which part of each input contributes (all, the positive, the negative), and the map, without bias, that it goes through."""


@dataclass(frozen=True)
class Side:
    """Some of an operation's outputs. parts: what they make of the inputs adds up to the contributions to these outputs.

    here: bool, of the outputs' shape; None where it is all of them. is_rare: to be worked out once something arrives there, as
    nothing does at outputs below zero that a rectifier takes.
    """

    parts: list[Part]
    here: Tensor | None = None
    is_rare: bool = False


@dataclass(eq=False)
class Shares:
    """What inputs receive of what arrives at a side. taken: by the function that took them, the parts of all inputs.

    output: the denominators; None where these are the sums of the contributions.
    """

    side: Side
    taken: dict[Taken, list[Tensor]]
    output: Tensor | None

    @cached_property
    def made(self) -> tuple[list[tuple[list[Tensor], Tensor]], Tensor]:
        """The parts of the inputs, each with what contributes; and of each output 1 / denominator."""
        parts = []
        for taken, function in self.side.parts:
            with torch.enable_grad():
                leaves = [values.detach().requires_grad_() for values in self.taken[taken]]
                parts.append((leaves, function(*leaves)))
        scale = reciprocal(sum_of([part.detach() for _, part in parts]) if self.output is None else self.output)
        return parts, scale if self.side.here is None else scale * self.side.here

    def of(self, arrived: Tensor) -> list[Tensor]:
        parts, scale = self.made
        shares, received = arrived * scale, []
        for leaves, part in parts:
            slopes = torch.autograd.grad(part, leaves, shares, retain_graph=True)
            received.append([leaf.detach() * slope for leaf, slope in zip(leaves, slopes, strict=True)])
        return [sum_of(list(each)) for each in zip(*received, strict=True)]

    def is_reached(self, arrived: Tensor) -> bool:
        """Whether anything can arrive here. On a GPU that is not looked into, which would wait for it."""
        if not self.side.is_rare or self.side.here is None or arrived.device.type != "cpu":
            return True
        return bool(arrived.ne(0).bitwise_and_(self.side.here).any())


class Share(torch.autograd.Function):
    """A linear operation; back, R_i = Σ_j (contribution of i to j / denominator of j) R_j.

    ε: the contribution is x_i w_ij, the denominator z_j + ε sign z_j with z_j the output, its bias included.
    z⁺: only contributions of the output's sign count, and the denominator is their sum; an output without any shares nothing.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, sides: list[Side], positive: bool, in_place: bool, *inputs: Tensor) -> Tensor:
        """sides: of them, one output is on one at most. in_place: writes into the first input."""
        functions = {taken for side in sides for taken, _ in side.parts}
        held = {taken: [taken(values.detach()) for values in inputs] for taken in functions}
        ctx.sides = [Shares(side, held, None if positive else output) for side in sides]
        for shares in ctx.sides:
            # Now: what an operation took may be written into later.
            _ = shares.side.is_rare or shares.made
        if not in_place:
            return output.clone()
        ctx.mark_dirty(inputs[0])
        return inputs[0].copy_(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        received = [shares.of(gradients[0]) for shares in ctx.sides if shares.is_reached(gradients[0])]
        return None, None, None, None, *(sum_of(list(each)) for each in zip(*received, strict=True))


def sum_of(values: list[Tensor]) -> Tensor:
    total, *others = values
    for other in others:
        total = total + other
    return total


def reciprocal(denominators: Tensor) -> Tensor:
    """1 / (d + ε sign d · root mean square of d); 0 where that is too small to be divided by.

    The mean is over a sample's maps, (N, K, h, w) and the like, or a token's or vector's values: never over samples.
    Too small are denominators to which subnormal numbers, which have fewer digits, may have contributed.
    """
    axes: Sequence[int] = range(1, denominators.dim()) if denominators.dim() > 3 else (-1,)
    count = prod(denominators.shape[axis] for axis in axes)
    # In float64, whose range the squares do not leave.
    size = torch.linalg.vector_norm(denominators, dim=tuple(axes), keepdim=True, dtype=torch.float64) / max(count, 1) ** 0.5
    stabilised = denominators + EPSILON * torch.where(denominators < 0, -size, size).to(denominators.dtype)
    numbers = torch.finfo(torch.promote_types(denominators.dtype, torch.float32))
    return torch.where(stabilised.abs() > numbers.tiny / numbers.eps, 1 / stabilised, 0)


def as_is(values: Tensor) -> Tensor:
    return values


def whole(values: Tensor) -> Tensor:
    """A copy: what it is of may be written into later."""
    return values.clone()


def positive_part(values: Tensor) -> Tensor:
    return values.clamp(min=0)


def negative_part(values: Tensor) -> Tensor:
    return values.clamp(max=0)


def share(call: Call, kind: str, positive: bool, sources: list[Tensor], held: dict[int, Tensor]) -> Tensor:
    """Carries out a layer, an average or attention. held: operands that do not take part, detached."""
    if call.name in SUMS:
        return share_sum(call, positive, sources)
    with torch.no_grad():
        output = call.run()
    (source,) = sources
    if kind in LAYERS or call.name in MATRIX_PRODUCTS or "conv" in call.name or call.name == "linear":
        return share_layer(call, output, source, positive)
    return share_average(output, lambda values: call.run(held | {id(source): values}), [source], positive)


def share_average(output: Tensor, function: Callable[..., Tensor], inputs: list[Tensor], positive: bool) -> Tensor:
    """function: from the inputs to the output, affine; under z⁺ linear, with no weight below zero."""
    sides = [Side([(whole, function)])]
    if positive:
        sides = [Side([(positive_part, function)], output >= 0), Side([(negative_part, function)], output < 0)]
    return Share.apply(output, sides, positive, False, *inputs)  # type: ignore[no-untyped-call, no-any-return]


def share_sum(call: Call, positive: bool, sources: list[Tensor]) -> Tensor:
    """A sum or difference of two responses."""
    factor = call.keywords.get("alpha", 1) * (-1 if "sub" in call.name else 1)
    if len(sources) == 1:
        # A response added to itself.
        sources = sources * 2
    if call.name == "rsub":
        sources = sources[::-1]
    with torch.no_grad():
        output = torch.add(*sources, alpha=factor)
    parts: list[Part] = [(whole, lambda first, second: torch.add(first, second, alpha=factor))]
    if positive:
        is_positive = output >= 0

        def of_sign(first: Tensor, second: Tensor, is_wanted: Tensor) -> Tensor:
            """The summands whose sign is the output's; what is subtracted changes its own."""
            return torch.where(is_wanted, first, 0) + torch.where(is_wanted == (factor > 0), factor * second, 0)

        parts = [
            (positive_part, lambda first, second: of_sign(first, second, is_positive)),
            (negative_part, lambda first, second: of_sign(first, second, ~is_positive)),
        ]
    in_place = call.in_place and sources[0] is not sources[1]
    if in_place and sources[0]._is_view():
        shared: Tensor = Share.apply(output, [Side(parts)], positive, False, *sources)  # type: ignore[no-untyped-call]
        return sources[0].copy_(shared)
    return Share.apply(output, [Side(parts)], positive, in_place, *sources)  # type: ignore[no-untyped-call, no-any-return]


def bias_of(call: Call) -> Tensor | None:
    if call.name in MATRIX_PRODUCTS:
        return None
    bias: Tensor | None = call.argument(0, "input") if call.name in {"addmm", "baddbmm"} else call.argument(2, "bias")
    return bias


def parameters_of(call: Call, source: Tensor) -> tuple[list[Tensor], dict[int, Tensor]]:
    """Of a layer: its weights, or what the input decides in their place, and zeros for its bias, by its id."""
    bias = bias_of(call)
    weights = [tensor for tensor in tensors((call.arguments, call.keywords)) if tensor is not source and tensor is not bias]
    return weights, {} if bias is None else {id(bias): torch.zeros_like(bias)}


def share_evenly(call: Call, source: Tensor, reached: Tensor) -> Tensor:
    """A layer; back, each output gives equal shares to the inputs that it is made of (Lapuschkin et al. 2019, flat).

    reached: of the shape of `source`, 1 where the image reaches it and 0 in padding, which takes no share.
    """
    weights, replaced = parameters_of(call, source)
    replaced |= {id(weight): torch.ones_like(weight) for weight in weights}
    with torch.no_grad():
        output = call.run()
    parts: list[Part] = [(lambda values: reached, lambda inputs: call.run(replaced | {id(source): inputs}))]
    return Share.apply(output, [Side(parts)], True, False, source)  # type: ignore[no-untyped-call, no-any-return]


def share_layer(
    call: Call,
    output: Tensor,
    source: Tensor,
    positive: bool,
    reshape: Callable[[Tensor], Tensor] = as_is,
    flips: Tensor | None = None,
) -> Tensor:
    """A product with weights, or with what the input decides, and what only reshapes its outputs.

    flips: of the shape of `output` or broadcast to it, −1, 0 or 1. Under z⁺, contributions to an output are those of its sign
    times `flips`.
    """
    weights, no_bias = parameters_of(call, source)

    def layer(part: Taken) -> Callable[[Tensor], Tensor]:
        held = no_bias | {id(weight): part(weight.detach()) for weight in weights}
        return lambda inputs: reshape(call.run(held | {id(source): inputs}))

    sides = [Side([(whole, layer(as_is))])]
    if positive:
        above, below = output >= 0, output < 0
        if flips is not None:
            above, below = (
                torch.where(flips < 0, other, here) & (flips != 0) for here, other in ((above, below), (below, above))
            )
        by_positive, by_negative = layer(positive_part), layer(negative_part)
        # To outputs above zero by weights of the sign of the inputs, to those below by weights of the other.
        of_above: list[Part] = [(positive_part, by_positive)]
        of_below: list[Part] = [(positive_part, by_negative)]
        if bool((source < 0).any()):
            # Skipped behind a rectifier, where they would add nothing.
            of_above.append((negative_part, by_negative))
            of_below.append((negative_part, by_positive))
        sides = [Side(of_above, above), Side(of_below, below, is_rare=True)]
    return Share.apply(output, sides, positive, False, source)  # type: ignore[no-untyped-call, no-any-return]


def share_merged(norm: Call, before: Call, reshape: Callable[[Tensor], Tensor]) -> Tensor:
    """Batch norm and the layer whose outputs it takes, `reshape`d, as one layer under z⁺ (Hui & Binder 2019).

    What the norm multiplies by cancels out of a share, all but its sign.
    """
    (values,) = norm.differentiable_operands
    with torch.no_grad():
        channels = values.new_zeros((1, values.shape[1], *[1] * (values.dim() - 2)))
        scale = norm.of(values)(channels + 1) - norm.of(values)(channels)
        output = norm.run()
    return share_layer(before, output, before.differentiable_operands[0], True, reshape, scale.sign())


def portion(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor | None:
    """Of each output of an elementwise function, the part that is due to the value and not to a constant, as ε shares.

    The constant is the function's value at zero, a bias as in Bach et al. 2015, eq. 58. None where there is no constant, so that
    all of the output is due to the value.
    """
    with torch.no_grad():
        constant = function(torch.zeros_like(values))
        if not constant.any():
            return None
        output = function(values.clone())
        return (output - constant) * reciprocal(output)
