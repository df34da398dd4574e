"""An operation of a forward pass, about to happen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from auditor.operations.rule_table import AUGMENTED, STOCHASTIC, works_in_place


@dataclass(eq=False)
class Call:
    """An operation about to happen. differentiable_operands: its operands that carry a response, in order."""

    function: Callable[..., Any]
    name: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    differentiable_operands: list[Tensor]
    derived: bool

    def run(self, replaced: dict[int, Any] | None = None) -> Any:
        """Calls the function; replaced: other operands, by the id of those they stand for."""
        if replaced is None:
            return self.function(*self.arguments, **self.keywords)
        return self.function(*replace(self.arguments, replaced), **replace(self.keywords, replaced))

    def of(self, operand: Tensor) -> Callable[[Tensor], Tensor]:
        """The call as a function of one of its operands."""
        return lambda values: self.run({id(operand): values})

    def argument(self, position: int, name: str) -> Any:
        return self.arguments[position] if len(self.arguments) > position else self.keywords.get(name)

    @property
    def in_place(self) -> bool:
        """Whether it writes into its first operand."""
        return works_in_place(self.function) or self.name in AUGMENTED or self.keywords.get("inplace", False) is True


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors(item)]
    if isinstance(value, dict):
        return tensors(list(value.values()))
    return []


def replace(value: Any, replaced: dict[int, Any]) -> Any:
    """`value` with other tensors in place of some, by their ids."""
    if isinstance(value, Tensor):
        return replaced.get(id(value), value)
    if isinstance(value, tuple | list):
        return type(value)(replace(item, replaced) for item in value)
    if isinstance(value, dict):
        return {key: replace(item, replaced) for key, item in value.items()}
    return value


def is_among(tensor: Tensor, others: list[Tensor]) -> bool:
    """By identity: `in` would compare values."""
    return any(tensor is other for other in others)


def pair(value: Any) -> tuple[int, int]:
    """A number for both axes, or one each: (vertical, horizontal)."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def is_reshape(name: str, arguments: tuple[Any, ...]) -> bool:
    """Whether this is a view of another shape. A model may have been written for contiguous maps; here they are channels_last."""
    return name == "view" and len(arguments) > 1 and not isinstance(arguments[1], torch.dtype)


def mode_fault(call: Call) -> str | None:
    if call.name in STOCHASTIC and (call.keywords.get("training") or call.keywords.get("train") or True in call.arguments[2:3]):
        return f"operation '{call.name}' is in training mode: call model.eval() where the model is built"
    if call.name == "scaled_dot_product_attention" and call.argument(4, "dropout_p"):
        return f"operation '{call.name}' drops weights out: give it dropout_p=0 where the model is in evaluation mode"
    # torch.batch_norm takes `training` sixth, as do exported programs.
    if call.name == "batch_norm" and (call.keywords.get("training") or True in call.arguments[5:6]):
        return "operation 'batch_norm' uses batch statistics: only running statistics can be sent back"
    return None
