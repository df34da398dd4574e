"""How operations are carried out: what a rule means for each kind of operation, and kernels that do the same faster."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.backward.history import History, Step
from auditor.kernels.conv_arguments import geometry_of
from auditor.kernels.input_conv import Entry
from auditor.kernels.max_pool import Pooling, are_apart, goes_back_by_loops
from auditor.kernels.relu_backward import Convolution, Rectification, Rectifier, convolution, turnable
from auditor.operations import calls
from auditor.operations.activations import NORMALISATIONS, Activation
from auditor.operations.calls import Call, is_among, is_reshape
from auditor.operations.lrp import portion, share, share_average, share_evenly, share_merged
from auditor.operations.rule_table import FACTORS, LAYERS, MATRIX_PRODUCTS, Rule, Treatment


@dataclass(frozen=True)
class Operation:
    """A call that carries a response.

    kind: of the call, see `KINDS`. treatment: how the response goes back. sources: the operands that it goes back to.
    """

    call: Call
    kind: str
    rule: Rule
    treatment: Treatment
    sources: list[Tensor]

    @property
    def held(self) -> dict[int, Tensor]:
        """The responses that are held fixed, detached, by id."""
        return {id(tensor): tensor.detach() for tensor in self.call.differentiable_operands if not is_among(tensor, self.sources)}


Handler = Callable[[Operation, History], Any]
"""Carries out an operation with the rule's way back."""


def carry_out(operation: Operation, history: History) -> Any:
    return HANDLERS[operation.kind](operation, history)


def adjoint(operation: Operation, history: History) -> Any:
    """The way back of autograd, with the responses that are not sources held fixed."""
    for applies, kernel in FAST:
        if applies(operation, history):
            return kernel(operation, history)
    held = operation.held
    return operation.call.run(held) if held else operation.call.run()


def reshape(operation: Operation, history: History) -> Any:
    arguments = operation.call.arguments
    return arguments[0].reshape(*arguments[1:]) if is_reshape(operation.call.name, arguments) else adjoint(operation, history)


def mix(operation: Operation, history: History) -> Any:
    """A layer, an average or attention."""
    if not operation.rule.shares:
        return adjoint(operation, history)
    call, source = with_kernel(operation.call), operation.sources[0]
    if operation.treatment is Treatment.FLAT:
        return share_evenly(call, source, history.reached(source))
    return share(call, operation.kind, operation.treatment is Treatment.ZPLUS, operation.sources, operation.held)


def with_kernel(call: Call) -> Call:
    """The same, by the way back of `Convolution` where it is one that this has."""
    is_turned = call.name == "conv2d" and len(call.differentiable_operands) == 1 and turnable(call) is not None
    return replace(call, function=convolution) if is_turned else call


def scale(operation: Operation, history: History) -> Any:
    if operation.rule.shares and operation.call.name == "batch_norm":
        before = layer_before(operation.call, history)
        if before is not None and before[0].treatment is Treatment.ZPLUS:
            return share_merged(operation.call, with_kernel(before[0].call), before[1])
    return pass_on(operation) if operation.treatment is not Treatment.ADJOINT else adjoint(operation, history)


def normalise(operation: Operation, history: History) -> Any:
    call, sources = operation.call, operation.sources
    if operation.treatment is Treatment.PASS:
        return pass_on(operation)
    if operation.treatment is Treatment.EPSILON:
        with torch.no_grad():
            output = call.run()
        return share_average(output, lambda values: normalise_call(call, {id(sources[0]): values}), sources, False)
    return normalise_call(call) if operation.treatment is Treatment.FIXED else adjoint(operation, history)


def multiply(operation: Operation, history: History) -> Any:
    """A product, or quotient, of two responses, of which one may be a gate."""
    call, sources = operation.call, operation.sources
    if call.in_place and not (len(sources) == 1 and sources[0] is call.arguments[0]):
        return multiply_out_of_place(operation, history)
    if operation.treatment is Treatment.HALVES:
        # Each factor gets half of what it gets where the other is its gate.
        kind = "attention" if call.name in MATRIX_PRODUCTS else "gate"
        as_gated = replace(operation, kind=kind, treatment=operation.rule.answers[kind])
        each = [carry_out(replace(as_gated, sources=[factor]), history) for factor in call.differentiable_operands]
        return each[0] / 2 + each[1] / 2
    return pass_on(operation) if operation.treatment is Treatment.PASS else adjoint(operation, history)


def multiply_out_of_place(operation: Operation, history: History) -> Tensor:
    """A product that is written into its gate, or into one of its two factors: worked out first, then written."""
    call = operation.call
    target: Tensor = call.arguments[0]
    before = target.clone()
    sources, differentiable_operands = (
        [before if tensor is target else tensor for tensor in listed]
        for listed in (operation.sources, call.differentiable_operands)
    )
    function = torch.mul if call.name in FACTORS else torch.div
    product = Call(
        function, function.__name__, (before, *call.arguments[1:]), call.keywords, differentiable_operands, call.derived
    )
    return target.copy_(carry_out(replace(operation, call=product, sources=sources), history))


def activate(operation: Operation, history: History) -> Tensor:
    """An activation or power, or the product of a response and a function of itself."""
    call, treatment, values = operation.call, operation.treatment, operation.sources[0]
    if len(call.differentiable_operands) == 1:
        if call.name == "relu" and not operation.rule.shares and treatment is not Treatment.PASS:
            rectification = Rectification(treatment)
            output: Tensor = Rectifier.apply(values, rectification, call.in_place)  # type: ignore[no-untyped-call]
            history.rectified[id(output)] = rectification
            return output
        return activation(values, call.of(values), treatment, call.in_place)
    if treatment is Treatment.EPSILON:
        # A product with the value itself is zero where the value is: there is no constant that takes a part.
        treatment = Treatment.PASS
    detached = {id(tensor): tensor.detach() for tensor in call.differentiable_operands}
    slopes = slopes_of(call.differentiable_operands, values, history) if treatment is Treatment.POSITIVE_DERIVATIVE else None
    if treatment is Treatment.DERIVATIVE:
        return call.run()  # type: ignore[no-any-return]
    return activation(values, lambda given: call.run(detached | {id(values): given}), treatment, call.in_place, slopes)


HANDLERS: dict[str, Handler] = {
    "reshape": reshape,
    "scaling": scale,
    "normalisation": normalise,
    **dict.fromkeys((*LAYERS, "average", "attention"), mix),
    **dict.fromkeys(("activation", "power"), activate),
    **dict.fromkeys(("gate", "product"), multiply),
    **dict.fromkeys(("max pooling", "transform", "nonlinear", "other"), adjoint),
}


def takes_image(operation: Operation, history: History) -> bool:
    """Whether it is a convolution of the image, by a kernel that is fixed, whose channels are summed on the way back."""
    if len(operation.sources) != 1:
        return False
    call, image = operation.call, history.image
    is_entered = history.summed is not None and operation.sources[0] is image and history.maker(operation.sources[0]) is None
    return is_entered and call.name == "conv2d" and geometry_of(call) is not None


def enter(operation: Operation, history: History) -> Tensor:
    geometry = geometry_of(operation.call)
    return Entry.apply(history.summed, operation.call, history.image, geometry)  # type: ignore[no-untyped-call, no-any-return]


def is_turned(operation: Operation, history: History) -> bool:
    call = operation.call
    return call.name == "conv2d" and len(call.differentiable_operands) == 1 and turnable(call) is not None


def convolve(operation: Operation, history: History) -> Tensor:
    values, geometry = operation.call.differentiable_operands[0], turnable(operation.call)
    rectification = history.rectified.get(id(values))
    if rectification is not None:
        rectification.taken = True
    return Convolution.apply(values, operation.call, rectification, geometry)  # type: ignore[no-untyped-call, no-any-return]


def is_max_pooling(operation: Operation, history: History) -> bool:
    return operation.call.name == "max_pool2d"


def pool(operation: Operation, history: History) -> Any:
    """Behind a ReLU, and where windows do not overlap, what comes back is rectified before it is spread over the windows."""
    call, rectification = operation.call, history.rectified.get(id(operation.sources[0]))
    by_loops = goes_back_by_loops(call)
    pooled = Pooling.apply(call.differentiable_operands[0], call) if by_loops else call.run()  # type: ignore[no-untyped-call]
    if rectification is not None and are_apart(call):
        rectification.taken = True
        behind = history.rectified[id(pooled)] = Rectification(rectification.treatment, rectification)
        behind.observe(pooled)
        pooled.register_hook(behind.rectify_unless_handed_over)
    return pooled


FAST: list[tuple[Callable[[Operation, History], bool], Handler]] = [
    (takes_image, enter),
    (is_turned, convolve),
    (is_max_pooling, pool),
]
"""Kernels that give what `adjoint` gives, in order: the first that applies is used."""


def slopes_of(factors: list[Tensor], values: Tensor, history: History) -> Tensor:
    """The derivative of the product of two factors, each a function of `values` alone."""

    def slope(factor: Tensor) -> Tensor:
        ones = torch.ones_like(factor)
        up, down = (torch.autograd.grad(factor, values, sign * ones, retain_graph=True)[0] for sign in (1, -1))
        # What an activation in a gate clamps of one sign, it lets through of the other: the difference is its slope.
        return up if history.origin(factor, moved=False)[0] is history.origin(values, moved=False)[0] else up - down

    first, second = factors
    with torch.enable_grad():
        return first.detach() * slope(second) + slope(first) * second.detach()


def layer_before(norm: Call, history: History) -> tuple[Step, Callable[[Tensor], Tensor]] | None:
    """The layer whose outputs a batch norm takes, and what reshapes them on the way there."""
    reshapings: list[tuple[Call, Tensor]] = []
    step = history.maker(norm.differentiable_operands[0])
    while step is not None and step.kind == "reshape" and len(step.sources) == 1 and isinstance(step.output, Tensor):
        reshapings.append((step.call, step.sources[0]))
        step = step.before[0]
    if step is None or step.kind not in LAYERS or len(step.sources) != 1:
        return None

    def reshape_outputs(outputs: Tensor) -> Tensor:
        for call, source in reversed(reshapings):
            outputs = call.of(source)(outputs)
        return outputs

    return step, reshape_outputs


def pass_on(operation: Operation) -> Tensor:
    """A relevance goes through constant factors, gates and norms as it is, and adds up where they broadcast it.

    Under ε, the constants that are added take their part.
    """
    call, source, held, treatment = operation.call, operation.sources[0], operation.held, operation.treatment

    def function(values: Tensor) -> Tensor:
        output: Tensor = call.run(held | {id(source): values})
        return output

    if call.in_place:
        return activation(source, function, treatment, True)
    with torch.no_grad():
        shape = function(source).shape
    return activation(source.expand(shape), function, treatment, False)


def normalise_call(call: Call, replaced: dict[int, Tensor] | None = None) -> Tensor:
    """A norm with its statistics held fixed. replaced: see `Call.run`."""
    arguments = calls.replace(call.arguments, replaced or {})
    keywords = calls.replace(call.keywords, replaced or {})
    if call.name == "instance_norm" and call.function is not F.instance_norm:
        # torch.instance_norm, and an exported program's, take weight and bias before the running statistics.
        values, weight, bias, mean, variance, *rest = arguments
        arguments = (values, mean, variance, weight, bias, *rest)
    return NORMALISATIONS[call.name](*arguments, **keywords)


def activation(
    values: Tensor,
    function: Callable[[Tensor], Tensor],
    treatment: Treatment,
    in_place: bool,
    slopes: Tensor | None = None,
) -> Tensor:
    if treatment is Treatment.EPSILON:
        slopes = portion(function, values)
        treatment = Treatment.PASS if slopes is None else Treatment.DERIVATIVE
    return Activation.apply(values, function, treatment, in_place, slopes)  # type: ignore[no-untyped-call, no-any-return]
