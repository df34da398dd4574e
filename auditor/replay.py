"""A forward pass through which nothing is to be sent back: the class responses and no more."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from auditor.calls import is_reshape
from auditor.head import Layer, as_maps, classify
from auditor.operations import name_of

if TYPE_CHECKING:
    from auditor.backprojection import Backprojection


class Replay(TorchFunctionMode):
    """Counts the calls of a forward pass and keeps the result of one."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.calls: list[str] = []
        self.result: Any = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = name_of(func)
        output = args[0].reshape(*args[1:]) if is_reshape(name, args) else func(*args, **(kwargs or {}))
        if len(self.calls) == self.number:
            self.result = output
        self.calls.append(name)
        return output


@dataclass(frozen=True)
class Shortcut:
    """Where class responses are found in a forward pass without a tape.

    calls: the names of all of its calls. number: of the one whose result they are read from. layer: see `Head`.
    """

    calls: tuple[str, ...]
    number: int
    layer: Layer | None

    def class_responses(self, model: nn.Module, images: Tensor) -> Tensor | None:
        """(N, C, h, w) float32, z_L; None where the forward pass took another way. images: (N, ch, H, W), may be written to."""
        with torch.no_grad(), Replay(self.number) as replay:
            model(images)
        if tuple(replay.calls) != self.calls:
            return None
        with torch.no_grad():
            return as_maps(classify(replay.result, self.layer))


def shortcut(backprojection: "Backprojection") -> Shortcut | None:
    """From a forward pass with a tape; None where what its class responses are read from was made by none of its steps."""
    head = backprojection.head
    made = [step.number for step in backprojection.tape.steps if step.output is head.source]
    return Shortcut(backprojection.calls, made[-1], head.layer) if made else None
