"""Watches a forward pass: every operation is given the rule's way back, and is remembered."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import _get_sequence_nr as next_number
from torch.autograd.graph import Node, get_gradient_edge

from auditor.backward.classification import classify
from auditor.backward.handlers import Operation, carry_out
from auditor.backward.history import History, Step, is_behind_layer
from auditor.errors import UnsupportedModel
from auditor.operations.calls import Call, is_among, mode_fault, tensors
from auditor.operations.composites import is_composite, write_out
from auditor.operations.function_mode import Watch
from auditor.operations.rule_table import (
    CONSTANTS,
    LAYERS,
    LEAVING,
    LIKE_ANOTHER,
    RULES,
    Treatment,
    name_of,
    rules_that_answer,
)

VARYING = {"max pooling", "normalisation", "gate", "attention", "product", "nonlinear", "other"}
"""Kinds whose way back under `linear` depends on the input."""

ADDING = {"scaling", "reshape", "average", *LAYERS}
"""Kinds in which a constant that depends on the input would be added, so that its way back would be missing."""
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
        self.calls: list[str] = []
        self.history = History(image, summed)
        # Of the derived tensors, numbers worked out from responses; and the name of the last operation that did so.
        self.unfollowed: dict[int, Tensor] = {}
        self.cut_off: str | None = None
        self.began = next_number()

    def see(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        name = name_of(function)
        self.calls.append(name)
        operands = tensors((arguments[:1] if name in LIKE_ANOTHER else arguments, keywords))
        differentiable_operands = list({id(tensor): tensor for tensor in operands if tensor.requires_grad}.values())
        call = Call(function, name, arguments, keywords, differentiable_operands, any(map(self.history.is_derived, operands)))
        if name in CONSTANTS or not (differentiable_operands or call.derived):
            return call.run()
        if not (differentiable_operands and torch.is_grad_enabled()):
            return self.derive(call, operands)
        if is_composite(call):
            with self:
                return write_out(call)
        return self.answer(call, len(self.calls) - 1, *classify(call, self.history))

    def derive(self, call: Call, operands: list[Tensor]) -> Any:
        """Carries out an operation that no response goes through: its result is a constant of this image."""
        versions = [tensor._version for tensor in call.differentiable_operands]
        # A tensor of inference mode could not take part in anything that is sent back through.
        with torch.inference_mode(False), torch.set_grad_enabled(torch.is_grad_enabled() and not call.differentiable_operands):
            output = call.run()
        if [tensor._version for tensor in call.differentiable_operands] != versions:
            raise UnsupportedModel(
                f"operation '{call.name}' writes into a response while gradients are switched off: {SWITCH_ON}"
            )
        made = tensors(call.arguments[0] if call.name == "setitem" else output)
        self.history.derived |= {id(tensor): tensor for tensor in made}
        self.note_cut(call, made)
        if call.differentiable_operands or any(id(tensor) in self.unfollowed for tensor in operands):
            self.unfollowed |= {id(tensor): tensor for tensor in made if tensor.is_floating_point()}
        return output

    def note_cut(self, call: Call, made: list[Tensor]) -> None:
        """Notes which operation was the last to lose the response. made: its results, through which no response goes."""
        if call.differentiable_operands and (call.name in LEAVING or any(tensor.is_floating_point() for tensor in made)):
            self.cut_off = call.name

    def answer(self, call: Call, number: int, kind: str, fixed: list[Tensor]) -> Any:
        """Carries out an operation with the rule's way back. kind, fixed: see `classify`."""
        started = next_number()
        # Read before the call: an in-place operation makes its input require a gradient as well.
        sources = [tensor for tensor in call.differentiable_operands if not (self.rule.fixes_gates and is_among(tensor, fixed))]
        if kind == "activation" and len(call.differentiable_operands) > 1 and self.rule.answers[kind] is not Treatment.DERIVATIVE:
            # An activation written out goes back to what all of its factors are made of.
            (gated,) = (tensor for tensor in call.differentiable_operands if not is_among(tensor, fixed))
            sources = [gated if call.in_place else self.history.origin(gated, moved=False)[0]]
        before, behind = ([self.history.maker(tensor) for tensor in listed] for listed in (sources, call.differentiable_operands))
        treatment = self.treatment(kind, before)
        fault = self.fault(call, kind, treatment)
        taken = self.history.rectified_among(sources)
        versions = {id(tensor): tensor._version for tensor in call.differentiable_operands}
        output = (
            call.run() if fault is not None else carry_out(Operation(call, kind, self.rule, treatment, sources), self.history)
        )
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
        nodes = range(started, next_number())
        step = Step(number, call, kind, treatment, written, sources, before, behind, varies, fault, edge, nodes)
        self.history.add(step)
        return output

    def decide(self, step: Step) -> Tensor:
        """The output of a convolution that decides the classes, once more, as the dense layer that it is."""
        with torch.enable_grad():
            output: Tensor = self.answer(step.call, step.number, "dense", [])
        return output

    def treatment(self, kind: str, before: list[Step | None]) -> Treatment:
        """How a response goes back through an operation of some kind. before: what made its sources."""
        if kind in LAYERS and self.rule.first is not None and not is_behind_layer(before):
            return self.rule.first
        answer = self.rule.answers[kind]
        if answer is not Treatment.FOLLOWING:
            return answer
        step = before[0]
        while step is not None and step.kind in {"reshape", "max pooling"} and len(step.sources) == 1:
            step = step.before[0]
        follows = step is not None and step.treatment is Treatment.EPSILON
        return Treatment.EPSILON if follows else Treatment.PASS

    def fault(self, call: Call, kind: str, treatment: Treatment) -> str | None:
        mode = mode_fault(call)
        source = call.differentiable_operands[0]
        if treatment is Treatment.FLAT and source.dim() == 2 and self.history.is_one_a_sample(source):
            return (
                f"operation '{call.name}' takes the image as a vector, whose values would all get the same under rule "
                f"'{self.name}'; use lrp_epsilon_plus"
            )
        if treatment is Treatment.ZPLUS and call.keywords.get("mode") == "bicubic":
            return f"operation '{call.name}' has weights below zero, for which rule '{self.name}' has no answer; use lrp_epsilon"
        if kind in ADDING and any(id(tensor) in self.unfollowed for tensor in tensors((call.arguments, call.keywords))):
            return f"operation '{call.name}' adds what the model worked out with gradients switched off: {SWITCH_ON}"
        if mode is not None or self.rule.answers[kind] is not Treatment.UNSUPPORTED:
            return mode
        what = {
            "nonlinear": f"operation '{call.name}' combines responses outside of a gate, for which",
            "transform": f"operation '{call.name}' shares nothing out among its inputs:",
            "other": f"operation '{call.name}' is not known:",
        }[kind]
        return f"{what} rule '{self.name}' has no answer; rules that would work: {', '.join(rules_that_answer(kind))}"

    def check_path(self, root: Tensor) -> None:
        """Raises UnsupportedModel where an operation on the way from the input to `root` has no answer, or was not seen."""
        # Below, autograd may make new nodes for views of what was written into: their numbers begin here.
        stop = next_number()
        starts, faults, unseen = [step.nodes.start for step in self.history.steps], {}, {}
        for node in nodes_behind(root):
            number = node._sequence_nr()
            step = self.history.steps[bisect_right(starts, number) - 1] if starts else None
            if step is not None and number in step.nodes:
                faults[number] = step.fault
            elif self.began <= number < stop and self.rule.answers["other"] is Treatment.UNSUPPORTED:
                unseen[number] = (
                    f"operation '{node.name()}' was not seen when it was carried out, as TorchScript and extensions in C++ are "
                    f"not: rule '{self.name}' has no answer; rules that would work: {', '.join(rules_that_answer('other'))}"
                )
        # What was not seen first: for all behind it, it looks as if the image itself had come.
        for _, fault in [*sorted(unseen.items(), reverse=True), *sorted(faults.items(), reverse=True)]:
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
