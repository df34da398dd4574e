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

Rule = Callable[[Tensor, Tensor | None], Tensor]

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
    *("add", "iadd", "radd", "sub", "isub", "neg", "cat", "concat", "stack", "chunk", "split"),
    *("flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze", "getitem", "select", "narrow"),
    *("contiguous", "clone", "to", "float", "type", "identity", "unflatten", "movedim", "expand"),
}
SCALINGS = {"mul", "rmul", "imul", "div", "truediv", "itruediv"}
STOCHASTIC = {"dropout", "dropout2d", "feature_dropout", "alpha_dropout"}


def name_of(function: Callable[..., Any]) -> str:
    """`Tensor.add_`, `torch.add` and `Tensor.__add__` are all `add`."""
    return getattr(function, "__name__", str(function)).strip("_")


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

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = name_of(func)
        # Read before the call: an in-place operation makes its input require a gradient as well.
        carries = any(tensor.requires_grad for tensor in tensors((args, kwargs)))
        if name in RECTIFIERS and carries:
            values = args[0] if args else kwargs["input"]
            in_place = func.__name__.endswith("_") or kwargs.get("inplace", False) or True in args[1:]
            output = Rectifier.apply(values, self.rule, in_place)  # type: ignore[no-untyped-call]
        else:
            output = func(*args, **kwargs)
        if carries and tensors(output):
            self.steps.append(Step(name, args, kwargs, output))
        return output

    def check_path(self, root: Tensor) -> None:
        """Raises UnsupportedModel where an operation on the way from the input to `root` has no rule."""
        wanted = {id(root)}
        for step in reversed(self.steps):
            outputs = {id(tensor) for tensor in tensors(step.output)}
            if outputs & wanted:
                check_step(step, self.rule)
                wanted = (wanted - outputs) | {id(tensor) for tensor in step.inputs()}


def check_step(step: Step, rule: str) -> None:
    if step.name in STOCHASTIC and (step.keywords.get("training") or True in step.arguments[2:3]):
        raise UnsupportedModel(f"operation '{step.name}' is in training mode: call model.eval() where the model is built")
    if step.name == "batch_norm" and step.keywords.get("training"):
        raise UnsupportedModel("operation 'batch_norm' uses batch statistics: only running statistics can be sent back")
    if step.name in SCALINGS:
        if len(step.inputs()) > 1:
            raise UnsupportedModel(
                f"operation '{step.name}' multiplies two responses (a gate), for which rule '{rule}' has no answer"
            )
    elif step.name not in LINEAR_OPERATIONS | RECTIFIERS:
        known = ", ".join(sorted(RECTIFIERS | SWITCHES))
        raise UnsupportedModel(
            f"operation '{step.name}' has no answer under rule '{rule}'; besides linear operations the rules know {known}"
        )
