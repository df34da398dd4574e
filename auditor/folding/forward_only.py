"""A forward pass through which nothing is sent back: all that is wanted of it are the class responses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from auditor.backward.head import Layer
from auditor.backward.trace import Traced
from auditor.kernels.conv_fusion import Fused, Seen, fuse
from auditor.operations.calls import Call, is_reshape
from auditor.operations.function_mode import Watch
from auditor.operations.rule_table import name_of


class Replay(Watch):
    """Counts the calls of a forward pass and keeps the result of one; fused convolutions replace the operations that they do."""

    def __init__(self, number: int, fused: Mapping[int, Fused | None], seen: list[Seen] | None = None) -> None:
        """fused: see `fuse`. seen: a list to which every operation is added."""
        super().__init__()
        self.number, self.fused, self.seen = number, fused, seen
        self.calls: list[str] = []
        self.result: Any = None

    def see(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        call = Call(function, name_of(function), arguments, keywords, [], False)
        number = len(self.calls)
        if number in self.fused:
            convolution, output = self.fused[number], call.argument(0, "input")
            output = output if convolution is None else convolution.run(output)
        else:
            output = arguments[0].reshape(*arguments[1:]) if is_reshape(call.name, arguments) else call.run()
        if number == self.number:
            self.result = output
        if self.seen is not None:
            self.seen.append(Seen(call, output))
        self.calls.append(call.name)
        return output


@dataclass(frozen=True)
class Shortcut:
    """Where class responses are found in a forward pass without a tape.

    calls: the names of all of its calls. number: of the call whose result they are read from. layer: see `Head`.
    fused: which calls fused convolutions do, see `fuse`.
    """

    calls: tuple[str, ...]
    number: int
    layer: Layer
    fused: Mapping[int, Fused | None]

    def class_responses(self, model: nn.Module, images: Tensor) -> Tensor | None:
        """(N, C, h, w) float32, z_L; None where the forward pass took another way. images: (N, ch, H, W), may be written to."""
        if not images.sum().isfinite():
            # A fused rectifier turns NaN into a number.
            return None
        with torch.no_grad(), Replay(self.number, self.fused) as replay:
            model(images)
        if tuple(replay.calls) != self.calls:
            return None
        with torch.no_grad():
            return self.layer.class_responses(replay.result).float()


def shortcut(model: nn.Module, traced: Traced) -> Shortcut | None:
    """The shortcut that a traced forward pass shows; None where its class responses are read from something that no step made."""
    head = traced.head
    made = [step.number for step in traced.tape.history.steps if step.output is head.source]
    if not made or made[-1] >= len(traced.calls):
        return None
    seen: list[Seen] = []
    # All of them: a program may take no other number.
    images = traced.images.detach().clone()
    with torch.no_grad(), Replay(made[-1], {}, seen):
        model(images)
    took_the_same_way = tuple(operation.call.name for operation in seen) == traced.calls
    fused = fuse(model, seen[: made[-1] + 1]) if took_the_same_way else {}
    return Shortcut(traced.calls, made[-1], head.layer, fused)
