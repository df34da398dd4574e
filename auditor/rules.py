"""How each operation of a network sends a response back, per rule.

Everything but the rectifier goes back by its adjoint, which is what autograd computes for an operation that is linear
once the forward pass is fixed: transposed kernels for convolutions (G of eq. 3), the forward pass's switches for
max-pooling (U of eq. 3; where windows overlap the adjoint sums), the scale of batch norm in eval mode. What a rule
decides is the rectifier:

| rule       | the rectifier sends back            | source                                     |
|------------|-------------------------------------|--------------------------------------------|
| `linear`   | everything                          | Kumar, Wong & Taylor 2017, eq. 3           |
| `deconv`   | the positive part                   | Zeiler & Fergus 2014                       |
| `gradient` | what passed forward                 | Simonyan, Vedaldi & Zisserman 2014         |
| `guided`   | the positive part of what passed    | Springenberg et al. 2015                   |
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from auditor.errors import UnsupportedModel

Rule = Callable[[Tensor, Any], Tensor]
"""From the gradient at a rectifier's output, and the mask of what passed forward, to the gradient at its input."""

RULES: dict[str, Rule] = {
    "linear": lambda gradient, passed: gradient,
    "deconv": lambda gradient, passed: gradient.clamp(min=0),
    "gradient": lambda gradient, passed: gradient * passed,
    "guided": lambda gradient, passed: (gradient * passed).clamp(min=0),
}
NEEDS_FORWARD = {"gradient", "guided"}

RECTIFIERS = {"relu"}
SWITCHES = {"max_pool2d", "adaptive_max_pool2d", "max_pool2d_with_indices"}
LINEAR_OPERATIONS = SWITCHES | {
    *("conv1d", "conv2d", "linear", "batch_norm", "dropout", "dropout2d", "feature_dropout", "alpha_dropout"),
    *("avg_pool2d", "adaptive_avg_pool2d", "mean", "sum", "pad", "interpolate", "upsample"),
    *("add", "iadd", "radd", "sub", "isub", "rsub", "neg", "cat", "concat", "stack", "chunk", "split"),
    *("flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "getitem", "select", "narrow"),
    *("contiguous", "clone", "to", "float", "type", "identity", "unflatten", "movedim", "expand"),
}
DIVISIONS = {"div", "truediv", "itruediv"}
SCALINGS = DIVISIONS | {"mul", "rmul", "imul"}
CONSTANTS = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "new_empty", "empty_like"}
STOCHASTIC = {"dropout", "dropout2d", "feature_dropout", "alpha_dropout"}


def name_of(function: Callable[..., Any]) -> str:
    """`Tensor.add_`, `torch.add`, `Tensor.__add__` and an exported program's `aten.add.Tensor` are all `add`."""
    return str(getattr(function, "__name__", function)).split(".")[0].strip("_")


def works_in_place(function: Callable[..., Any]) -> bool:
    name = str(getattr(function, "__name__", function)).split(".")[0]
    return name.endswith("_") and not name.endswith("__")


class Rectifier(torch.autograd.Function):
    """max(x, 0) forward; back, what the rule says."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rule: str, in_place: bool) -> Tensor:
        rectified = values.relu_() if in_place else values.relu()
        if in_place:
            ctx.mark_dirty(values)
        ctx.rule = rule
        # A mask of one byte a value, taken now: a later in-place operation cannot change it.
        ctx.passed = rectified > 0 if rule in NEEDS_FORWARD else None
        return rectified

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return RULES[ctx.rule](gradients[0], ctx.passed), None, None


class Step:
    """One operation of the forward pass."""

    __slots__ = ("arguments", "keywords", "name", "output")

    def __init__(self, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        self.name, self.arguments, self.keywords, self.output = name, arguments, keywords, output

    def inputs(self) -> list[Tensor]:
        """The tensors of the step that carry a response, in order."""
        return [value for value in tensors((self.arguments, self.keywords)) if value.requires_grad]

    def dividend(self) -> Any:
        return self.arguments[0] if self.arguments else self.keywords.get("input")


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors(item)]
    if isinstance(value, dict):
        return tensors(list(value.values()))
    return []


class Tape(TorchFunctionMode):
    """Runs a forward pass with the rule's rectifiers and remembers its steps.

    A function mode sees modules, functionals and methods, in place or not, reused or nested, alike.
    """

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule = rule
        self.steps: list[Step] = []
        # What was worked out from the input but takes no gradient: masks, detached norms. Held, so that ids stay theirs.
        self.derived: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = name_of(func)
        # Read before the call: an in-place operation makes its input require a gradient as well.
        operands = tensors((args, kwargs))
        carries = any(tensor.requires_grad for tensor in operands)
        depends = name not in CONSTANTS and (carries or any(id(tensor) in self.derived for tensor in operands))
        if name in RECTIFIERS and carries:
            values = args[0] if args else kwargs["input"]
            in_place = works_in_place(func) or kwargs.get("inplace", False)
            output = Rectifier.apply(values, self.rule, in_place)  # type: ignore[no-untyped-call]
        elif name == "view" and carries and not isinstance(args[1], torch.dtype):
            # The model may have been written for contiguous maps; here they are channels_last.
            output = args[0].reshape(*args[1:])
        else:
            output = func(*args, **kwargs)
        written = args[0] if name == "setitem" else output
        if depends and tensors(written):
            step = Step(name, args, kwargs, written)
            if any(tensor.requires_grad for tensor in tensors(written)):
                self.steps.append(step)
            else:
                self.derived |= {id(tensor): tensor for tensor in tensors(written)}
            if works_in_place(func) and name not in RECTIFIERS and args[0]._is_view():
                # What it writes through to is not among its outputs: it is not seen again from there.
                self.check_step(step)
        return output

    def check_path(self, root: Tensor) -> None:
        """Raises UnsupportedModel where an operation on the way from the input to `root` has no rule."""
        wanted = {id(root)}
        for step in reversed(self.steps):
            outputs = {id(tensor) for tensor in tensors(step.output)}
            if outputs & wanted:
                self.check_step(step)
                wanted = (wanted - outputs) | {id(tensor) for tensor in step.inputs()}

    def check_step(self, step: Step) -> None:
        check_mode(step)
        if step.name in SCALINGS:
            factors = [
                value for value in tensors((step.arguments, step.keywords)) if value.requires_grad or id(value) in self.derived
            ]
            if len(factors) > 1:
                raise UnsupportedModel(
                    f"operation '{step.name}' multiplies two responses (a gate), for which rule '{self.rule}' has no answer"
                )
            if step.name in DIVISIONS and factors[0] is not step.dividend():
                raise UnsupportedModel(f"operation '{step.name}' divides by a response: rule '{self.rule}' has no answer")
        elif step.name not in LINEAR_OPERATIONS | RECTIFIERS:
            known = ", ".join(sorted(RECTIFIERS | SWITCHES))
            raise UnsupportedModel(
                f"operation '{step.name}' has no answer under rule '{self.rule}'; besides linear operations the rules know "
                f"{known}"
            )


def check_mode(step: Step) -> None:
    if step.name in STOCHASTIC and (step.keywords.get("training") or True in step.arguments[2:3]):
        raise UnsupportedModel(f"operation '{step.name}' is in training mode: call model.eval() where the model is built")
    # torch.batch_norm takes `training` sixth, as do exported programs.
    if step.name == "batch_norm" and (step.keywords.get("training") or True in step.arguments[5:6]):
        raise UnsupportedModel("operation 'batch_norm' uses batch statistics: only running statistics can be sent back")
