"""Layer-wise relevance propagation: what arrives is shared among a layer's inputs by what they contributed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from auditor.calls import Call, tensors
from auditor.operations import MATRIX_PRODUCTS, SUMS

EPSILON = 1e-6
"""ε of Bach et al. 2015, eq. 58: absolute, with the sign of the denominator."""

LAYERS = frozenset({"conv1d", "conv2d", "linear"})
"""What batch norm can be one layer with."""

Part = tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]]
"""What is taken of each input, and the map, without bias, that the taken goes through."""


class Share(torch.autograd.Function):
    """A linear operation; back, R_i = Σ_j (contribution of i to j / denominator of j) R_j.

    ε: the contribution is x_i w_ij, the denominator z_j + ε sign z_j with z_j the output, its bias included.
    z⁺: positive contributions alone, and their sum; what has none shares nothing.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, parts: list[Part], positive: bool, in_place: bool, *inputs: Tensor) -> Tensor:
        """parts: what they make of the inputs adds up to the contributions. in_place: writes into the first input."""
        ctx.parts = []
        contributed = torch.zeros_like(output)
        for taken, function in parts:
            with torch.enable_grad():
                leaves = [taken(values.detach()).clone().requires_grad_() for values in inputs]
                part = function(*leaves)
            contributed += part.detach()
            ctx.parts.append((leaves, part))
        if positive:
            ctx.scale = torch.where(contributed > 0, 1 / contributed, 0)
        else:
            ctx.scale = 1 / (output + EPSILON * torch.where(output < 0, -1.0, 1.0))
        if not in_place:
            return output.clone()
        ctx.mark_dirty(inputs[0])
        return inputs[0].copy_(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        shares = gradients[0] * ctx.scale
        relevance: list[Any] = []
        for leaves, part in ctx.parts:
            slopes = torch.autograd.grad(part, leaves, shares, retain_graph=True)
            received = [leaf.detach() * slope for leaf, slope in zip(leaves, slopes, strict=True)]
            relevance = [a + b for a, b in zip(relevance, received, strict=True)] if relevance else received
        return None, None, None, None, *relevance


def as_is(values: Tensor) -> Tensor:
    return values


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
    if kind == "layer":
        return share_layer(call, output, positive)
    (source,) = sources
    if call.name in MATRIX_PRODUCTS or "conv" in call.name or call.name == "linear":
        return share_product(call, output, source, positive)
    return share_average(output, lambda values: call.run(held | {id(source): values}), [source], positive)


def share_average(output: Tensor, function: Callable[..., Tensor], inputs: list[Tensor], positive: bool) -> Tensor:
    """function: from the inputs to the output, with no weight below zero."""
    parts = [(positive_part if positive else as_is, function)]
    return Share.apply(output, parts, positive, False, *inputs)  # type: ignore[no-untyped-call, no-any-return]


def share_product(call: Call, output: Tensor, source: Tensor, positive: bool) -> Tensor:
    """A product of a response with what the input decides, attention's weights or a layer's kernels, of either sign."""
    bias = bias_of(call)
    others = [tensor for tensor in tensors((call.arguments, call.keywords)) if tensor is not source and tensor is not bias]
    no_bias = {} if bias is None else {id(bias): torch.zeros_like(bias)}

    def product(part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        held = no_bias | {id(other): part(other.detach()) for other in others}
        return lambda values: call.run(held | {id(source): values})

    parts: list[Part] = [(as_is, product(as_is))]
    if positive:
        parts = [(positive_part, product(positive_part)), (negative_part, product(negative_part))]
    return Share.apply(output, parts, positive, False, source)  # type: ignore[no-untyped-call, no-any-return]


def share_sum(call: Call, positive: bool, sources: list[Tensor]) -> Tensor:
    """A sum or difference of two responses."""
    factor = call.keywords.get("alpha", 1) * (-1 if "sub" in call.name else 1)
    if len(sources) == 1:
        # A response added to itself.
        sources = sources * 2
    with torch.no_grad():
        output = torch.add(*sources, alpha=factor)
    parts: list[Part] = [(positive_part if positive else as_is, lambda first, second: torch.add(first, second, alpha=factor))]
    if positive and factor < 0:
        # Of what is subtracted, the negative contributes.
        parts = [
            (positive_part, lambda first, second: first + 0 * second),
            (negative_part, lambda first, second: 0 * first + factor * second),
        ]
    in_place = call.in_place and sources[0] is not sources[1]
    if in_place and sources[0]._is_view():
        shared: Tensor = Share.apply(output, parts, positive, False, *sources)  # type: ignore[no-untyped-call]
        return sources[0].copy_(shared)
    return Share.apply(output, parts, positive, in_place, *sources)  # type: ignore[no-untyped-call, no-any-return]


def bias_of(call: Call) -> Tensor | None:
    if call.name in MATRIX_PRODUCTS:
        return None
    bias: Tensor | None = call.argument(0, "input") if call.name in {"addmm", "baddbmm"} else call.argument(2, "bias")
    return bias


def share_layer(call: Call, output: Tensor, positive: bool, scale: Tensor | None = None) -> Tensor:
    """scale: (K,), what batch norm multiplies the layer's K outputs by."""
    (values,) = call.carriers
    bias = bias_of(call)
    weight = next(tensor for tensor in tensors((call.arguments, call.keywords)) if tensor is not values and tensor is not bias)
    no_bias = {} if bias is None else {id(bias): torch.zeros_like(bias)}
    scaled = weight if scale is None else weight * scale.reshape(-1, *[1] * (weight.dim() - 1))

    def layer(kernels: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda inputs: call.run(no_bias | {id(values): inputs, id(weight): kernels})

    parts: list[Part] = [(as_is, layer(scaled))]
    if positive:
        parts = [(positive_part, layer(scaled.clamp(min=0))), (negative_part, layer(scaled.clamp(max=0)))]
    return Share.apply(output, parts, positive, False, values)  # type: ignore[no-untyped-call, no-any-return]


def share_merged(norm: Call, before: Call, positive: bool) -> Tensor:
    """Batch norm and the layer whose output it takes, as one layer."""
    (values,) = norm.carriers
    with torch.no_grad():
        channels = values.new_zeros((1, values.shape[1], *[1] * (values.dim() - 2)))
        shift = norm.of(values)(channels)
        scale = (norm.of(values)(channels + 1) - shift).flatten()
        output = norm.run()
    return share_layer(before, output, positive, scale)
