"""A forward pass as it happens: every operation gets the rule's way back, and is remembered."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from auditor.attention import multi_head_attention
from auditor.calls import Call, is_reshape, mode_fault, tensors
from auditor.entry import Entry, Geometry, geometry_of
from auditor.errors import UnsupportedModel
from auditor.operations import (
    CONSTANTS,
    DIVISIONS,
    FACTORS,
    GATES,
    KIND_OF,
    LIKE_ANOTHER,
    MATRIX_PRODUCTS,
    RULES,
    SELF_GATES,
    SUMS,
    SURE_GATES,
    UNMOVED,
    Treatment,
    name_of,
    rules_that_answer,
)
from auditor.pooling import Pooling, are_apart, goes_back_by_loops
from auditor.rectifier import Convolution, Rectification, Rectifier, turnable
from auditor.relevance import LAYERS, share, share_merged
from auditor.rules import NORMALISATIONS, Activation

VARYING = {"switch", "normalisation", "gate", "attention", "product", "other"}
"""Kinds whose way back under `linear` depends on the input."""


@dataclass(eq=False)
class Step:
    """One operation of the forward pass.

    number: which of the tape's calls it is. sources: the operands that its response goes back to. varies: whether the way back
    depends on the input, under `linear`. fault: why the rule has no answer for it, where that is so.
    edge: of a convolution, where what comes back to its output enters, whatever is written into the output later.
    """

    number: int
    call: Call
    kind: str
    output: Any
    sources: list[Tensor]
    varies: bool
    fault: str | None
    edge: GradientEdge | None

    @property
    def name(self) -> str:
        return self.call.name


class Tape(TorchFunctionMode):
    """Runs a forward pass with the rule's ways back and remembers its steps.

    A function mode sees modules, functionals and methods, in place or not, reused or nested, and exported programs alike.
    """

    def __init__(self, rule: str, image: Tensor | None = None, summed: Tensor | None = None) -> None:
        """image: (N, ch, H, W), what the model takes. summed: (N, 1, H, W), a leaf for what comes back with channels summed."""
        super().__init__()
        self.name, self.rule = rule, RULES[rule]
        self.image, self.summed = image, summed
        self.calls: list[str] = []
        self.steps: list[Step] = []
        self.makers: dict[int, Step] = {}
        self.rectified: dict[int, Rectification] = {}
        # What was worked out from the input but takes no gradient: masks, detached norms. Held, so that ids stay theirs.
        self.derived: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = name_of(func)
        self.calls.append(name)
        operands = tensors((args[:1] if name in LIKE_ANOTHER else args, kwargs))
        carriers = list({id(tensor): tensor for tensor in operands if tensor.requires_grad}.values())
        call = Call(func, name, args, kwargs, carriers, any(id(tensor) in self.derived for tensor in operands))
        if call.name == "multi_head_attention_forward" and carriers:
            with self:
                return multi_head_attention(*args, **kwargs)
        if call.name in CONSTANTS or not (carriers or call.derived):
            return call.run()
        if not carriers:
            output = call.run()
            self.derived |= {id(tensor): tensor for tensor in tensors(args[0] if call.name == "setitem" else output)}
            return output
        return self.answer(call, len(self.calls) - 1)

    def answer(self, call: Call, number: int) -> Any:
        """Carries out an operation with the rule's way back."""
        kind, fixed = self.classify(call)
        treatment, fault = self.rule.answers[kind], self.fault(call, kind)
        # Read before the call: an in-place operation makes its input require a gradient as well.
        sources = [tensor for tensor in call.carriers if not (self.rule.fixes_gates and is_among(tensor, fixed))]
        if kind == "activation" and len(call.carriers) > 1 and treatment is not Treatment.DERIVATIVE:
            # Written out: it goes back to what all its factors are made of.
            (gated,) = (tensor for tensor in call.carriers if not is_among(tensor, fixed))
            sources = [gated if call.in_place else self.origin(gated, moved=False)]
        taken = self.rectified_among(sources)
        output = call.run() if fault is not None else self.carry_out(call, kind, treatment, sources)
        written = call.arguments[0] if call.name == "setitem" else output
        if not any(tensor.requires_grad for tensor in tensors(written)):
            self.derived |= {id(tensor): tensor for tensor in tensors(written)}
            return output
        varies = kind in VARYING or call.derived
        edge = get_gradient_edge(output) if call.name == "conv2d" else None
        step = Step(number, call, kind, written, sources, varies, fault, edge)
        self.steps.append(step)
        if not is_among(output, sources) or call.in_place:
            # Not dropout in eval mode and the like, which return what they were given.
            for rectification in taken:
                rectification.uses += 1
        self.makers |= {id(tensor): step for tensor in tensors(written)}
        if fault is not None and call.in_place and call.arguments[0]._is_view():
            # What it writes through to is not among its outputs: it is not seen again from there.
            raise UnsupportedModel(fault)
        return output

    def classify(self, call: Call) -> tuple[str, list[Tensor]]:
        """The kind of an operation, and which of its operands are held fixed where the rule holds gates fixed."""
        name, carriers = call.name, call.carriers
        if name == "scaled_dot_product_attention":
            return "attention", [tensor for tensor in carriers if tensor is not call.argument(2, "value")]
        if name in FACTORS | MATRIX_PRODUCTS | DIVISIONS:
            return self.classify_product(call)
        if name in SUMS and len(carriers) == 1 and (call.in_place or not self.is_repeated(call, carriers[0])):
            return "scaling", []
        kind = KIND_OF.get(name, "other")
        if kind == "activation" and (len(carriers) > 1 or carriers[0] is not call.argument(0, "input")):
            return "other", []
        if kind == "layer" and len(carriers) > 1:
            return "product", []
        return kind, []

    def classify_product(self, call: Call) -> tuple[str, list[Tensor]]:
        carriers, is_matrix = call.carriers, call.name in MATRIX_PRODUCTS
        if len(carriers) == 1:
            return self.classify_scaling(call, carriers[0]), []
        first, second = carriers
        if call.name in DIVISIONS:
            # A norm written out: what is divided by is the smaller.
            return ("gate", [second]) if second.numel() < first.numel() else ("product", [])
        gate = self.gate_among(first, second, by_size=not is_matrix)
        if gate is None:
            return "product", []
        gated = second if gate is first else first
        written = not call.in_place or gated is call.arguments[0]
        if not is_matrix and written and self.is_gate_of(gate, gated):
            return "activation", [gate]
        return "attention" if is_matrix else "gate", [gate]

    def gate_among(self, first: Tensor, second: Tensor, by_size: bool) -> Tensor | None:
        """Which of two responses that are multiplied scales the other; None where that cannot be told."""
        makers = [self.maker(self.origin(tensor)) for tensor in (first, second)]
        names = ["" if maker is None else maker.name for maker in makers]
        sure, likely = ([name in known for name in names] for known in (SURE_GATES, GATES))
        if sure[0] != sure[1]:
            return first if sure[0] else second
        if by_size and first.numel() != second.numel():
            return min(first, second, key=Tensor.numel)
        if likely[0] != likely[1]:
            return first if likely[0] else second
        return None

    def classify_scaling(self, call: Call, response: Tensor) -> str:
        """A response times, or over, what carries none: constants, or a gate that the model itself detached."""
        operands, is_matrix = tensors((call.arguments, call.keywords)), call.name in MATRIX_PRODUCTS
        divides = call.name in DIVISIONS and response is not call.argument(0, "input")
        if divides or self.is_repeated(call, response):
            return "product"
        factors = [tensor.numel() for tensor in operands if id(tensor) in self.derived]
        if not factors:
            # An einsum of one operand alone only adds it up.
            return ("layer" if len(operands) > 1 else "average") if is_matrix else "scaling"
        if is_matrix:
            return "attention"
        # One factor a value may be any activation written out, as x * (x > 0): not for us to hold fixed.
        return "gate" if max(factors) < response.numel() else "product"

    def is_repeated(self, call: Call, response: Tensor) -> bool:
        return sum(tensor is response for tensor in tensors((call.arguments, call.keywords))) > 1

    def is_gate_of(self, gate: Tensor, gated: Tensor) -> bool:
        """Whether a gate is a bounded function of what it scales, value by value: together they are an activation."""
        maker = self.maker(self.origin(gate, moved=False))
        if maker is None or maker.name not in SELF_GATES:
            return False
        values = self.origin(gated, moved=False)
        return self.origin(maker.sources[0], moved=False) is values and values.shape == gate.shape == gated.shape

    def maker(self, tensor: Tensor) -> Step | None:
        return self.makers.get(id(tensor))

    def origin(self, tensor: Tensor, moved: bool = True) -> Tensor:
        """Looks back through constant factors, constant terms and arrangement; moved: also where that moves values."""
        while (step := self.maker(tensor)) is not None and len(step.sources) == 1 and step.sources[0] is not tensor:
            arranged = step.kind == "arrangement" and (moved or step.name in UNMOVED)
            if not arranged and (step.kind != "scaling" or step.name == "batch_norm"):
                break
            tensor = step.sources[0]
        return tensor

    def fault(self, call: Call, kind: str) -> str | None:
        mode = mode_fault(call)
        if self.rule.answers[kind] is Treatment.ZPLUS and call.keywords.get("mode") == "bicubic":
            return f"operation '{call.name}' has weights below zero, for which rule '{self.name}' has no answer; use lrp_epsilon"
        if mode is not None or self.rule.answers[kind] is not Treatment.NONE:
            return mode
        what = {
            "product": f"operation '{call.name}' combines responses outside of a gate, for which",
            "other": f"operation '{call.name}' is not known:",
        }[kind]
        return f"{what} rule '{self.name}' has no answer; rules that would work: {', '.join(rules_that_answer(kind))}"

    def carry_out(self, call: Call, kind: str, treatment: Treatment, sources: list[Tensor]) -> Any:
        held = {id(tensor): tensor.detach() for tensor in call.carriers if not is_among(tensor, sources)}
        if kind == "activation":
            return self.activate(call, treatment, sources[0])
        if self.rule.shares and call.name == "batch_norm" and (before := self.layer_before(call)) is not None:
            return share_merged(call, before, self.rule.answers["layer"] is Treatment.ZPLUS)
        if treatment is Treatment.EVERYTHING:
            return pass_on(call, sources[0], held)
        if treatment in (Treatment.EPSILON, Treatment.ZPLUS):
            return share(call, kind, treatment is Treatment.ZPLUS, sources, held)
        if kind == "normalisation" and treatment is Treatment.FIXED:
            return normalise_call(call)
        if self.summed is not None and sources[0] is self.image and self.maker(self.image) is None:
            geometry = geometry_of(call) if call.name == "conv2d" else None
            if geometry is not None:
                return Entry.apply(self.summed, call, self.image, geometry)  # type: ignore[no-untyped-call]
        if call.name == "conv2d" and (geometry := turnable(call)) is not None:
            return self.convolve(call, geometry)
        if call.name == "max_pool2d":
            return self.pool(call, self.rectified.get(id(sources[0])))
        if is_reshape(call.name, call.arguments):
            return call.arguments[0].reshape(*call.arguments[1:])
        return call.run(held) if held else call.run()

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
            if call.name == "relu" and treatment is not Treatment.EVERYTHING:
                rectification = Rectification(treatment)
                output: Tensor = Rectifier.apply(values, rectification, call.in_place)  # type: ignore[no-untyped-call]
                self.rectified[id(output)] = rectification
                return output
            return activation(values, call.of(values), treatment, call.in_place)
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
            return up if self.origin(factor, moved=False) is self.origin(values, moved=False) else up - down

        first, second = factors
        with torch.enable_grad():
            return first.detach() * slope(second) + slope(first) * second.detach()

    def layer_before(self, norm: Call) -> Call | None:
        """The convolution or linear layer whose output a batch norm takes."""
        maker = self.maker(norm.carriers[0])
        if maker is None or maker.name not in LAYERS or len(maker.sources) != 1:
            return None
        return maker.call

    def check_path(self, root: Tensor) -> None:
        """Raises UnsupportedModel where an operation on the way from the input to `root` has no answer."""
        for step, _ in self.path(root):
            if step.fault is not None:
                raise UnsupportedModel(step.fault)

    def path(self, root: Tensor) -> Iterator[tuple[Step, list[Tensor]]]:
        """Yields the steps from `root` back to the input, each with the tensors that are still to be gone back from after it."""
        wanted = {id(root): root}
        for step in reversed(self.steps):
            outputs = tensors(step.output)
            if any(id(tensor) in wanted for tensor in outputs):
                wanted = {key: tensor for key, tensor in wanted.items() if not is_among(tensor, outputs)}
                wanted |= {id(tensor): tensor for tensor in step.sources}
                yield step, list(wanted.values())


def pass_on(call: Call, source: Tensor, held: dict[int, Tensor]) -> Tensor:
    """A relevance goes through constant factors, gates and norms as it is, and adds up where they broadcast it."""

    def function(values: Tensor) -> Tensor:
        output: Tensor = call.run(held | {id(source): values})
        return output

    if call.in_place:
        return activation(source, function, Treatment.EVERYTHING, True)
    with torch.no_grad():
        shape = function(source).shape
    return activation(source.expand(shape), function, Treatment.EVERYTHING, False)


def normalise_call(call: Call) -> Tensor:
    """A norm with its statistics held fixed."""
    arguments = call.arguments
    if call.name == "instance_norm" and call.function is not F.instance_norm:
        # torch.instance_norm, and an exported program's, take weight and bias before the running statistics.
        values, weight, bias, mean, variance, *rest = arguments
        arguments = (values, mean, variance, weight, bias, *rest)
    return NORMALISATIONS[call.name](*arguments, **call.keywords)


def activation(
    values: Tensor,
    function: Callable[[Tensor], Tensor],
    treatment: Treatment,
    in_place: bool,
    slopes: Tensor | None = None,
) -> Tensor:
    return Activation.apply(values, function, treatment, in_place, slopes)  # type: ignore[no-untyped-call, no-any-return]


def is_among(tensor: Tensor, others: list[Tensor]) -> bool:
    """By identity: `in` would compare values."""
    return any(tensor is other for other in others)
