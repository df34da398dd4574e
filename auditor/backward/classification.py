"""What kind of operation a call is, by its name and by what made its operands; and which of two responses is a gate."""

import torch
from torch import Tensor

from auditor.backward.history import History, Made, Step
from auditor.operations.calls import Call, tensors
from auditor.operations.function_mode import Applied
from auditor.operations.rule_table import (
    DIVISIONS,
    ENLARGEMENTS,
    EXTREMES,
    FACTORS,
    GATES,
    KIND_OF,
    LAYERS,
    MATRIX_PRODUCTS,
    NORMS,
    SAMPLERS,
    SELF_GATES,
    SPREADING,
    SUMS,
    SURE_GATES,
)

Classified = tuple[str, list[Tensor]]
"""A kind of `auditor.operations.rule_table`, and the operands that are held fixed where the rule holds gates fixed."""

TRIALS = 2
"""How often a function is tried with one half of its input changed, and with the other."""


def classify(call: Call, history: History) -> Classified:
    """call: with at least one operand that carries a response."""
    kind, fixed = classify_by_operands(call, history)
    if fixed and len(fixed) == len(call.differentiable_operands):
        # A gate that scales constants: there is nothing left to go back to.
        return "other", []
    return kind, fixed


def classify_by_operands(call: Call, history: History) -> Classified:
    name, differentiable_operands = call.name, call.differentiable_operands
    first = call.argument(0, "input")
    if isinstance(call.function, Applied) or "::" in name:
        # Not one of torch's own.
        return "activation" if is_value_by_value(call) else "other", []
    if name in FACTORS | MATRIX_PRODUCTS | DIVISIONS:
        return classify_product(call, history)
    if name in EXTREMES:
        return classify_extreme(call, history), []
    if (
        name in SUMS
        and len(differentiable_operands) == 1
        and (call.in_place or not is_repeated(call, differentiable_operands[0]))
    ):
        return "scaling", []
    if is_decided_by_input(call, history):
        return "other", []
    kind = KIND_OF.get(name, "other")
    if kind == "power" and not is_power(call, history):
        return "nonlinear", []
    if kind in {"activation", "power"} and (len(differentiable_operands) > 1 or differentiable_operands[0] is not first):
        return "other", []
    maker = history.maker(differentiable_operands[0])
    if kind == "activation" and maker is not None and maker.name in NORMS:
        # The least value of a divisor, as in normalize written out: no rectifier.
        return "power", []
    if name == "scaled_dot_product_attention":
        return kind, [tensor for tensor in differentiable_operands if tensor is not call.argument(2, "value")]
    is_led = len(differentiable_operands) > 1 or (name in SAMPLERS and differentiable_operands[0] is not first)
    if is_led and (name in SAMPLERS or kind in LAYERS):
        # Where to look, or what to multiply by, is decided by the input.
        return "attention", [tensor for tensor in differentiable_operands if tensor is not first]
    return kind, []


def is_value_by_value(call: Call) -> bool:
    """Whether it is elementwise, found by trial: whether each output depends on the input at the same place alone."""
    if len(call.differentiable_operands) != 1:
        return False
    values = call.differentiable_operands[0].detach()
    generator = torch.Generator(values.device).manual_seed(0)
    with torch.no_grad():
        given = values.clone()
        output = call.of(call.differentiable_operands[0])(given)
        if not isinstance(output, Tensor) or output.shape != values.shape or not torch.equal(given, values):
            return False
        for _ in range(TRIALS):
            kept = torch.rand(values.shape, generator=generator, device=values.device) < 0.5
            other = 3 * torch.randn(values.shape, generator=generator, device=values.device, dtype=values.dtype)
            for mask in (kept, ~kept):
                changed = call.of(call.differentiable_operands[0])(torch.where(mask, values, other))
                if not torch.allclose(changed[mask], output[mask], rtol=1e-4, atol=1e-6, equal_nan=True):
                    return False
    return True


def classify_extreme(call: Call, history: History) -> str:
    """The largest or smallest along an axis, or of two operands at each place."""
    operands = tensors((call.arguments, call.keywords))
    values = call.differentiable_operands[0]
    others = [tensor for tensor in operands if tensor is not values]
    if not others:
        return "max pooling"
    if len(call.differentiable_operands) > 1:
        # As in max(x, x / 10): an activation, and not a choice between two responses.
        origins = [history.origin(tensor, moved=False) for tensor in call.differentiable_operands]
        return "other" if is_same(*origins) else "max pooling"
    is_constant = not any(map(history.is_derived, others))
    return "activation" if is_constant and all(fits(tensor, values) for tensor in others) else "max pooling"


def fits(other: Tensor, values: Tensor) -> bool:
    """Whether it is broadcast to the shape of `values`, and no further."""
    lengths = zip(reversed(other.shape), reversed(values.shape), strict=False)
    return other.dim() <= values.dim() and all(length in (1, wanted) for length, wanted in lengths)


def is_decided_by_input(call: Call, history: History) -> bool:
    """Whether the input decides which values are replaced: that may be any activation written out."""
    deciding = {
        "where": lambda: call.argument(0, "condition"),
        "masked_fill": lambda: call.argument(1, "mask"),
        "setitem": lambda: call.arguments[1],
    }.get(call.name)
    return deciding is not None and any(map(history.is_derived, tensors(deciding())))


def is_power(call: Call, history: History) -> bool:
    """Whether a power has a constant exponent, not below zero as far as can be told without looking into a tensor."""
    exponent = call.argument(1, "exponent")
    if call.name not in {"pow", "float_power"}:
        return True
    if isinstance(exponent, Tensor):
        is_constant = not exponent.requires_grad and not history.is_derived(exponent)
        return is_constant and fits(exponent, call.differentiable_operands[0])
    return not isinstance(exponent, complex) and exponent > 0


def classify_product(call: Call, history: History) -> Classified:
    differentiable_operands, is_matrix = call.differentiable_operands, call.name in MATRIX_PRODUCTS
    if len(differentiable_operands) == 1:
        return classify_scaling(call, differentiable_operands[0], history), []
    if len(differentiable_operands) > 2:
        return "nonlinear", []
    first, second = differentiable_operands
    if call.name in DIVISIONS:
        # In a norm written out, the divisor is the smaller of the two.
        return ("gate", [second]) if least_size(second, history) < least_size(first, history) else ("nonlinear", [])
    gate = gate_among(first, second, history, is_matrix)
    if gate is None:
        return "product", []
    gated = second if gate is first else first
    written = not call.in_place or gated is call.arguments[0]
    if not is_matrix and written and is_gate_of(gate, gated, history):
        return "activation", [gate]
    return "attention" if is_matrix else "gate", [gate]


def classify_scaling(call: Call, response: Tensor, history: History) -> str:
    """A response times, or divided by, what carries none: constants, or a gate that the model itself detached."""
    operands, is_matrix = tensors((call.arguments, call.keywords)), call.name in MATRIX_PRODUCTS
    divides = call.name in DIVISIONS and response is not call.argument(0, "input")
    if is_repeated(call, response):
        return "power" if call.name in FACTORS else "nonlinear"
    if divides:
        return "nonlinear"
    factors = [tensor.numel() for tensor in operands if history.is_derived(tensor)]
    if not factors:
        # An einsum of one operand only sums it.
        return ("dense" if len(operands) > 1 else "average") if is_matrix else "scaling"
    if is_matrix:
        return "attention"
    # One factor a value may be any activation written out, as x * (x > 0): it must not be held fixed.
    return "gate" if max(factors) < response.numel() else "nonlinear"


def gate_among(first: Tensor, second: Tensor, history: History, is_matrix: bool) -> Tensor | None:
    """Which of two responses that are multiplied scales the other; None where that cannot be told.

    In this order: the one that a sure gate made; the one with fewer values, before they were repeated; the one that a bounded
    function made; the one that was worked out from the other; the one that an activation made. Of a matrix product, also the one
    that a softmax made and layers mixed, and the one worked out from the other only where activations made both.
    """

    def only(of_first: bool, of_second: bool) -> Tensor | None:
        return None if of_first == of_second else first if of_first else second

    steps = [gate_step(tensor, history) for tensor in (first, second)]
    names = ["" if step is None else step.name for step in steps]
    kinds = ["" if step is None else step.kind for step in steps]
    found = only(*(name in SURE_GATES for name in names))
    if found is None and not is_matrix:
        sizes = [least_size(tensor, history) for tensor in (first, second)]
        found = only(sizes[0] < sizes[1], sizes[1] < sizes[0])
    if found is None:
        found = only(*(name in GATES for name in names))
    if found is None and (not is_matrix or set(kinds) == {"activation"}):
        found = only(is_worked_out_from(*steps), is_worked_out_from(*reversed(steps)))
    if found is None:
        found = only(*(kind == "activation" for kind in kinds))
    if found is None and is_matrix:
        found = only(*(is_mixed_softmax(tensor, history) for tensor in (first, second)))
    return found


def gate_step(tensor: Tensor, history: History) -> Step | None:
    """What made a gate: looks back as `History.origin` does, and through interpolation and the division by a norm or sum."""
    _, step = history.origin(tensor)
    while step is not None and step.sources and (step.name in ENLARGEMENTS or (step.kind == "gate" and step.name in DIVISIONS)):
        _, step = history.look_back(step.sources[0], step.before[0])
    return step


def is_worked_out_from(step: Step | None, other: Step | None) -> bool:
    """Whether what `step` made depends on what `other` made, which is None of the image itself."""
    waiting, found = [] if step is None or step is other else [step], set()
    while waiting:
        for behind in waiting.pop().behind:
            if behind is other:
                return True
            if behind is not None and id(behind) not in found:
                found.add(id(behind))
                waiting.append(behind)
    return False


def is_mixed_softmax(tensor: Tensor, history: History) -> bool:
    """Whether layers alone stand between a softmax and this, as between the heads of talking-heads attention."""
    step = gate_step(tensor, history)
    while step is not None and step.kind in LAYERS and step.sources:
        _, step = history.look_back(step.sources[0], step.before[0])
    return step is not None and step.name == "softmax"


def least_size(tensor: Tensor, history: History) -> int:
    """How many values it has, or had before they were repeated to fit another."""
    size, step = tensor.numel(), history.maker(tensor)
    while step is not None and len(step.sources) == 1:
        source = step.sources[0]
        if step.name not in SPREADING and not (step.kind in {"reshape", "scaling"} and source.numel() == size):
            break
        size, step = min(size, source.numel()), step.before[0]
    return size


def is_repeated(call: Call, response: Tensor) -> bool:
    return sum(tensor is response for tensor in tensors((call.arguments, call.keywords))) > 1


def is_gate_of(gate: Tensor, gated: Tensor, history: History) -> bool:
    """Whether a gate is a bounded function of what it scales, value by value: together they are an activation."""
    _, maker = history.origin(gate, moved=False)
    if maker is None or maker.name not in SELF_GATES:
        return False
    values, made = history.origin(gated, moved=False)
    # Not where something has been written into the values since: what the gate was made of is gone.
    of_the_same = is_same(history.look_back(maker.sources[0], maker.before[0], moved=False), (values, made))
    return of_the_same and history.maker(values) is made and values.shape == gate.shape == gated.shape


def is_same(first: Made, second: Made) -> bool:
    """By identity: `==` would compare values."""
    return first[0] is second[0] and first[1] is second[1]
