"""A forward pass as it happens: every operation gets the rule's way back, and is remembered."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._autograd import _get_sequence_nr as next_number
from torch.autograd.graph import Node, get_gradient_edge

from auditor.backward.classification import classify
from auditor.backward.history import History, Step
from auditor.errors import UnsupportedModel
from auditor.kernels.input_conv import Entry, Geometry, geometry_of
from auditor.kernels.max_pool import Pooling, are_apart, goes_back_by_loops
from auditor.kernels.relu_backward import Convolution, Rectification, Rectifier, turnable
from auditor.operations.activations import NORMALISATIONS, Activation
from auditor.operations.calls import Call, is_among, is_reshape, mode_fault, replace, tensors
from auditor.operations.composites import is_composite, write_out
from auditor.operations.function_mode import Watch
from auditor.operations.lrp import portion, share, share_average, share_merged
from auditor.operations.rule_table import (
    CONSTANTS,
    FACTORS,
    LEAVING,
    LIKE_ANOTHER,
    MATRIX_PRODUCTS,
    RULES,
    Treatment,
    name_of,
    rules_that_answer,
)

VARYING = {"switch", "normalisation", "gate", "attention", "product", "nonlinear", "other"}
"""Kinds whose way back under `linear` depends on the input."""

ADDING = {"scaling", "arrangement", "layer", "average"}
"""Kinds in which a constant that the input decides would be a term, whose way back is missing."""
SWITCH_ON = "take away torch.no_grad, torch.inference_mode, detach, data or numpy on the way from the image to the classes"


class Tape(Watch):
    """Runs a forward pass with the rule's ways back and remembers its steps.

    A function mode sees modules, functionals and methods, in place or not, reused or nested, and exported programs alike. What
    none sees (TorchScript, an extension in C++) leaves nodes in autograd's graph that no step made: see `check_path`.
    """

    def __init__(self, rule: str, image: Tensor | None = None, summed: Tensor | None = None) -> None:
        """image: (N, ch, H, W), what the model takes. summed: (N, 1, H, W), a leaf for what comes back with channels summed."""
        super().__init__()
        self.name, self.rule = rule, RULES[rule]
        self.image, self.summed = image, summed
        self.calls: list[str] = []
        self.history = History()
        self.rectified: dict[int, Rectification] = {}
        # Of what is derived, numbers that were worked out from responses; and the last operation that did so.
        self.unfollowed: dict[int, Tensor] = {}
        self.cut_off: str | None = None
        self.began = next_number()

    def see(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        name = name_of(function)
        self.calls.append(name)
        operands = tensors((arguments[:1] if name in LIKE_ANOTHER else arguments, keywords))
        carriers = list({id(tensor): tensor for tensor in operands if tensor.requires_grad}.values())
        call = Call(function, name, arguments, keywords, carriers, any(map(self.history.is_derived, operands)))
        if name in CONSTANTS or not (carriers or call.derived):
            return call.run()
        if not (carriers and torch.is_grad_enabled()):
            return self.derive(call, operands)
        if is_composite(call):
            with self:
                return write_out(call)
        return self.answer(call, len(self.calls) - 1)

    def derive(self, call: Call, operands: list[Tensor]) -> Any:
        """Carries out an operation that carries no response: what it works out from the input is a constant of this image."""
        versions = [tensor._version for tensor in call.carriers]
        # A tensor of inference mode could not take part in anything that is sent back through.
        with torch.inference_mode(False), torch.set_grad_enabled(torch.is_grad_enabled() and not call.carriers):
            output = call.run()
        if [tensor._version for tensor in call.carriers] != versions:
            raise UnsupportedModel(
                f"operation '{call.name}' writes into a response while gradients are switched off: {SWITCH_ON}"
            )
        made = tensors(call.arguments[0] if call.name == "setitem" else output)
        self.history.derived |= {id(tensor): tensor for tensor in made}
        self.note_cut(call, made)
        if call.carriers or any(id(tensor) in self.unfollowed for tensor in operands):
            self.unfollowed |= {id(tensor): tensor for tensor in made if tensor.is_floating_point()}
        return output

    def note_cut(self, call: Call, made: list[Tensor]) -> None:
        """made: what an operation worked out, from responses perhaps, that carries none."""
        if call.carriers and (call.name in LEAVING or any(tensor.is_floating_point() for tensor in made)):
            self.cut_off = call.name

    def answer(self, call: Call, number: int) -> Any:
        """Carries out an operation with the rule's way back."""
        started = next_number()
        kind, fixed = classify(call, self.history)
        treatment, fault = self.rule.answers[kind], self.fault(call, kind)
        # Read before the call: an in-place operation makes its input require a gradient as well.
        sources = [tensor for tensor in call.carriers if not (self.rule.fixes_gates and is_among(tensor, fixed))]
        if kind == "activation" and len(call.carriers) > 1 and treatment is not Treatment.DERIVATIVE:
            # Written out: it goes back to what all its factors are made of.
            (gated,) = (tensor for tensor in call.carriers if not is_among(tensor, fixed))
            sources = [gated if call.in_place else self.history.origin(gated, moved=False)[0]]
        before, behind = ([self.history.maker(tensor) for tensor in listed] for listed in (sources, call.carriers))
        taken = self.rectified_among(sources)
        versions = {id(tensor): tensor._version for tensor in call.carriers}
        output = call.run() if fault is not None else self.carry_out(call, kind, treatment, sources)
        if isinstance(output, Tensor) and id(output) in versions and versions[id(output)] == output._version:
            # Nothing happened: dropout in evaluation mode and the like return what they were given.
            return output
        written = call.arguments[0] if call.name == "setitem" else output
        made = tensors(written)
        if not any(tensor.requires_grad for tensor in made):
            self.history.derived |= {id(tensor): tensor for tensor in made}
            self.note_cut(call, made)
            return output
        for rectification in taken:
            rectification.uses += 1
        varies = kind in VARYING or call.derived
        edge = get_gradient_edge(output) if call.name == "conv2d" else None
        step = Step(number, call, kind, written, sources, before, behind, varies, fault, edge, range(started, next_number()))
        self.history.add(step)
        return output

    def fault(self, call: Call, kind: str) -> str | None:
        mode = mode_fault(call)
        if self.rule.answers[kind] is Treatment.ZPLUS and call.keywords.get("mode") == "bicubic":
            return f"operation '{call.name}' has weights below zero, for which rule '{self.name}' has no answer; use lrp_epsilon"
        if kind in ADDING and any(id(tensor) in self.unfollowed for tensor in tensors((call.arguments, call.keywords))):
            return f"operation '{call.name}' adds what the model worked out with gradients switched off: {SWITCH_ON}"
        if mode is not None or self.rule.answers[kind] is not Treatment.NONE:
            return mode
        what = {
            "nonlinear": f"operation '{call.name}' combines responses outside of a gate, for which",
            "transform": f"operation '{call.name}' shares nothing out among its inputs:",
            "other": f"operation '{call.name}' is not known:",
        }[kind]
        return f"{what} rule '{self.name}' has no answer; rules that would work: {', '.join(rules_that_answer(kind))}"

    def carry_out(self, call: Call, kind: str, treatment: Treatment, sources: list[Tensor]) -> Any:
        if call.in_place and kind in {"gate", "product"} and not (len(sources) == 1 and sources[0] is call.arguments[0]):
            return self.carry_out_of_place(call, kind, treatment, sources)
        held = {id(tensor): tensor.detach() for tensor in call.carriers if not is_among(tensor, sources)}
        if treatment is Treatment.HALVES:
            return self.halve(call)
        if kind in {"activation", "power"}:
            return self.activate(call, treatment, sources[0])
        is_zplus = self.rule.answers["layer"] is Treatment.ZPLUS
        if is_zplus and call.name == "batch_norm" and (before := self.layer_before(call)) is not None:
            return share_merged(call, *before)
        if treatment is Treatment.EVERYTHING or (kind == "scaling" and treatment is Treatment.EPSILON):
            return pass_on(call, sources[0], held, treatment)
        if kind == "normalisation" and treatment is Treatment.EPSILON:
            with torch.no_grad():
                output = call.run()
            return share_average(output, lambda values: normalise_call(call, {id(sources[0]): values}), sources, False)
        if treatment in (Treatment.EPSILON, Treatment.ZPLUS):
            return share(call, kind, treatment is Treatment.ZPLUS, sources, held)
        if kind == "normalisation" and treatment is Treatment.FIXED:
            return normalise_call(call)
        if self.summed is not None and sources[0] is self.image and self.history.maker(self.image) is None:
            geometry = geometry_of(call) if call.name == "conv2d" else None
            if geometry is not None:
                return Entry.apply(self.summed, call, self.image, geometry)  # type: ignore[no-untyped-call]
        if call.name == "conv2d" and len(call.carriers) == 1 and (geometry := turnable(call)) is not None:
            return self.convolve(call, geometry)
        if call.name == "max_pool2d":
            return self.pool(call, self.rectified.get(id(sources[0])))
        if is_reshape(call.name, call.arguments):
            return call.arguments[0].reshape(*call.arguments[1:])
        return call.run(held) if held else call.run()

    def carry_out_of_place(self, call: Call, kind: str, treatment: Treatment, sources: list[Tensor]) -> Tensor:
        """A product, or quotient, that is written into its gate or into a factor among two: worked out first, then written."""
        target: Tensor = call.arguments[0]
        before = target.clone()
        sources, carriers = ([before if tensor is target else tensor for tensor in listed] for listed in (sources, call.carriers))
        function = torch.mul if call.name in FACTORS else torch.div
        product = Call(function, function.__name__, (before, *call.arguments[1:]), call.keywords, carriers, call.derived)
        return target.copy_(self.carry_out(product, kind, treatment, sources))

    def halve(self, call: Call) -> Tensor:
        """A product of two responses: each factor gets half of what it gets where the other is its gate."""
        kind = "attention" if call.name in MATRIX_PRODUCTS else "gate"
        first, second = (self.carry_out(call, kind, self.rule.answers[kind], [factor]) for factor in call.carriers)
        halves: Tensor = first / 2 + second / 2
        return halves

    def rectified_among(self, sources: list[Tensor]) -> list[Rectification]:
        return [self.rectified[id(source)] for source in sources if id(source) in self.rectified]

    def convolve(self, call: Call, geometry: Geometry) -> Tensor:
        rectification = self.rectified.get(id(call.carriers[0]))
        if rectification is not None:
            rectification.taken = True
        return Convolution.apply(call.carriers[0], call, rectification, geometry)  # type: ignore[no-untyped-call, no-any-return]

    def pool(self, call: Call, rectification: Rectification | None) -> Any:
        """Of a ReLU's output, with windows that are apart: what is rectified before it is spread is so behind as well."""
        by_loops = goes_back_by_loops(call)
        pooled = Pooling.apply(call.carriers[0], call) if by_loops else call.run()  # type: ignore[no-untyped-call]
        if rectification is not None and are_apart(call):
            rectification.taken = True
            behind = self.rectified[id(pooled)] = Rectification(rectification.treatment, rectification)
            behind.observe(pooled)
            pooled.register_hook(behind.rectify_unless_handed_over)
        return pooled

    def activate(self, call: Call, treatment: Treatment, values: Tensor) -> Tensor:
        if len(call.carriers) == 1:
            if call.name == "relu" and not self.rule.shares and treatment is not Treatment.EVERYTHING:
                rectification = Rectification(treatment)
                output: Tensor = Rectifier.apply(values, rectification, call.in_place)  # type: ignore[no-untyped-call]
                self.rectified[id(output)] = rectification
                return output
            return activation(values, call.of(values), treatment, call.in_place)
        if treatment is Treatment.EPSILON:
            # A product with the value itself is zero where that is: no constant takes a part.
            treatment = Treatment.EVERYTHING
        detached = {id(tensor): tensor.detach() for tensor in call.carriers}
        slopes = self.slopes(call.carriers, values) if treatment is Treatment.POSITIVE_DERIVATIVE else None
        if treatment is Treatment.DERIVATIVE:
            return call.run()  # type: ignore[no-any-return]
        return activation(values, lambda given: call.run(detached | {id(values): given}), treatment, call.in_place, slopes)

    def slopes(self, factors: list[Tensor], values: Tensor) -> Tensor:
        """The derivative of the product of two factors, each a function of `values` alone."""

        def slope(factor: Tensor) -> Tensor:
            ones = torch.ones_like(factor)
            up, down = (torch.autograd.grad(factor, values, sign * ones, retain_graph=True)[0] for sign in (1, -1))
            # What the activation in a gate clamps of the one sign it lets through of the other.
            return up if self.history.origin(factor, moved=False)[0] is self.history.origin(values, moved=False)[0] else up - down

        first, second = factors
        with torch.enable_grad():
            return first.detach() * slope(second) + slope(first) * second.detach()

    def layer_before(self, norm: Call) -> tuple[Call, Callable[[Tensor], Tensor]] | None:
        """The layer whose outputs a batch norm takes, and what arranges them on the way there: no-ops, reshaping."""
        arrangements: list[tuple[Call, Tensor]] = []
        step = self.history.maker(norm.carriers[0])
        while step is not None and step.kind == "arrangement" and len(step.sources) == 1 and isinstance(step.output, Tensor):
            arrangements.append((step.call, step.sources[0]))
            step = step.before[0]
        if step is None or step.kind != "layer" or len(step.sources) != 1:
            return None
        layer = step.call

        def arrange(outputs: Tensor) -> Tensor:
            for call, source in reversed(arrangements):
                outputs = call.of(source)(outputs)
            return outputs

        return layer, arrange

    def check_path(self, root: Tensor) -> None:
        """Raises UnsupportedModel where an operation on the way from the input to `root` has no answer, or was not seen."""
        # Autograd makes new nodes, from here on numbered, for views of what was written into.
        stop = next_number()
        starts, faults = [step.nodes.start for step in self.history.steps], {}
        for node in nodes_behind(root):
            number = node._sequence_nr()
            step = self.history.steps[bisect_right(starts, number) - 1] if starts else None
            if step is not None and number in step.nodes:
                faults[number] = step.fault
            elif self.began <= number < stop and self.rule.answers["other"] is Treatment.NONE:
                faults[number] = (
                    f"operation '{node.name()}' was not seen when it was carried out, as TorchScript and extensions in C++ are "
                    f"not: rule '{self.name}' has no answer; rules that would work: {', '.join(rules_that_answer('other'))}"
                )
        for _, fault in sorted(faults.items(), reverse=True):
            if fault is not None:
                raise UnsupportedModel(fault)

    def check_output(self, output: Tensor) -> None:
        """Raises UnsupportedModel where autograd does not know that the model's output depends on its input."""
        if output.requires_grad:
            return
        if self.cut_off is None:
            raise UnsupportedModel("what the model returns does not depend on its input")
        raise UnsupportedModel(
            f"nothing can be sent back: what the model returns carries no gradient from operation '{self.cut_off}' on: "
            f"{SWITCH_ON}"
        )


def nodes_behind(root: Tensor) -> Iterator[Node]:
    """The nodes of autograd's graph from `root` to the input, each once."""
    found = {root.grad_fn} - {None}
    waiting = list(found)
    while waiting:
        node = waiting.pop()
        assert node is not None
        yield node
        new = {source for source, _ in node.next_functions} - {None} - found
        found |= new
        waiting += new


def pass_on(call: Call, source: Tensor, held: dict[int, Tensor], treatment: Treatment) -> Tensor:
    """A relevance goes through constant factors, gates and norms as it is, and adds up where they broadcast it.

    Under ε, the constants that are added take their part.
    """

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
    arguments = replace(call.arguments, replaced or {})
    keywords = replace(call.keywords, replaced or {})
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
        treatment = Treatment.EVERYTHING if slopes is None else Treatment.DERIVATIVE
    return Activation.apply(values, function, treatment, in_place, slopes)  # type: ignore[no-untyped-call, no-any-return]
