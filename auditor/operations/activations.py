"""How activations and norms send responses back, as functions that autograd calls."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from auditor.operations.rule_table import Treatment

POSITIVE = {Treatment.POSITIVE, Treatment.POSITIVE_DERIVATIVE}
DERIVATIVE = {Treatment.DERIVATIVE, Treatment.POSITIVE_DERIVATIVE}


class Activation(torch.autograd.Function):
    """An elementwise function, with the way back that the treatment says."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        function: Callable[[Tensor], Tensor],
        treatment: Treatment,
        in_place: bool,
        slopes: Tensor | None,
    ) -> Tensor:
        """values: of any shape, which `function` keeps. in_place: `function` writes its result into `values`.

        slopes: the function's derivative where the function depends on more than what it is given; worked out where None.
        """
        ctx.positive = treatment in POSITIVE
        # Worked out now, so that a later in-place operation on the result cannot change it.
        if treatment in DERIVATIVE and slopes is None:
            slopes = derivative(function, values)
        ctx.derivative = slopes if treatment in DERIVATIVE else None
        output = function(values)
        if in_place:
            ctx.mark_dirty(values)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = gradients
        if ctx.positive:
            # A copy, to be written into: what arrives may belong to another branch as well.
            gradient = gradient.clamp(min=0)
            return gradient if ctx.derivative is None else gradient.mul_(ctx.derivative), None, None, None, None
        return gradient if ctx.derivative is None else gradient * ctx.derivative, None, None, None, None


def derivative(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """The derivative at each value, in the values' dtype; where there is none, as of ReLU at 0, what torch says: 0."""
    with torch.enable_grad():
        leaf = values.detach().requires_grad_()
        # A copy: the function may write into what it is given.
        output = function(leaf.clone(memory_format=torch.preserve_format))
        (slopes,) = torch.autograd.grad(output, leaf, torch.ones_like(output))
    return slopes


def normalise(values: Tensor, axes: tuple[int, ...], epsilon: float, centred: bool = True) -> Tensor:
    """(values − mean) / √(variance + ε) over `axes`, whose way back holds the denominator fixed.

    centred: False for a root-mean-square norm, which subtracts no mean.
    """
    deviations = values - values.mean(axes, keepdim=True) if centred else values
    return deviations * (deviations.detach().square().mean(axes, keepdim=True) + epsilon).rsqrt()


def layer_norm(values: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Tensor:
    return affine(normalise(values, last(values, normalized_shape), eps), weight, bias)


def rms_norm(values: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
    epsilon = torch.finfo(values.dtype).eps if eps is None else eps
    return affine(normalise(values, last(values, normalized_shape), epsilon, centred=False), weight, None)


def group_norm(values: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Tensor:
    grouped = values.reshape(len(values), num_groups, -1)
    return affine(normalise(grouped, (2,), eps).reshape(values.shape), per_channel(values, weight), per_channel(values, bias))


def instance_norm(
    values: Tensor,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    if use_input_stats:
        return group_norm(values, values.shape[1], weight, bias, eps)
    return torch.nn.functional.batch_norm(values, running_mean, running_var, weight, bias, False, momentum, eps)


def local_response_norm(values: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Krizhevsky et al. 2012: over the mean square of `size` neighbouring channels."""
    squares = torch.nn.functional.pad(values.detach().square().flatten(2)[:, None], (0, 0, size // 2, (size - 1) // 2))
    means = torch.nn.functional.avg_pool2d(squares, (size, 1), stride=1)[:, 0].reshape(values.shape)
    return values / (k + alpha * means) ** beta


def normalize(values: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(values.detach(), p, dim, keepdim=True)
    return values / lengths.clamp_min(eps)


NORMALISATIONS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function for function in (layer_norm, rms_norm, group_norm, instance_norm, local_response_norm, normalize)
}


def last(values: Tensor, shape: Any) -> tuple[int, ...]:
    return tuple(range(values.dim() - len(shape), values.dim()))


def per_channel(values: Tensor, parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.reshape(-1, *[1] * (values.dim() - 2))


def affine(values: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = values if weight is None else values * weight
    return scaled if bias is None else scaled + bias
