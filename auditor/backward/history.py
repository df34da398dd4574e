"""What is known of a forward pass so far: its operations, and which of them made which tensor."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from auditor.kernels.relu_backward import Rectification
from auditor.operations.calls import Call, is_among, tensors
from auditor.operations.rule_table import LAYERS, UNMOVED, Treatment


@dataclass(eq=False)
class Step:
    """One operation of the forward pass.

    number: which of the tape's calls it is. treatment: how its response goes back. sources: the operands that this goes back to.
    before: the step that made each of them, None where none did. behind: the same of all operands that require a gradient.
    varies: whether the way back depends on the input, under `linear`. fault: why the rule has no answer for it, where that is
    so. edge: of a convolution, where autograd takes what comes back to its output, whatever is written into the output later.
    nodes: autograd's numbers of the nodes that it made. is_behind_layer: whether the image passes a layer on a way to its output.
    """

    number: int
    call: Call
    kind: str
    treatment: Treatment
    output: Any
    sources: list[Tensor]
    before: "list[Step | None]"
    behind: "list[Step | None]"
    varies: bool
    fault: str | None
    edge: GradientEdge | None
    nodes: range

    is_behind_layer: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_behind_layer = self.kind in LAYERS or is_behind_layer(self.before)

    @property
    def name(self) -> str:
        return self.call.name


def is_behind_layer(steps: list[Step | None]) -> bool:
    return any(step is not None and step.is_behind_layer for step in steps)


def if_image_were(value: float, tensor: Tensor, step: Step | None) -> Tensor:
    """A tensor that `step` made, if all of the image were one value; that value where more than reshaping and scaling made it."""
    known = step is not None and step.kind in {"reshape", "scaling"} and isinstance(step.output, Tensor)
    # What is written into another tensor cannot be done again.
    if (
        step is None
        or not known
        or step.name == "setitem"
        or (step.call.in_place and step.call.arguments[0] is not step.sources[0])
    ):
        return torch.full_like(tensor, value)
    pairs = zip(step.sources, step.before, strict=True)
    output: Tensor = step.call.run({id(source): if_image_were(value, source, before) for source, before in pairs})
    return output


PROPORTIONAL = {*LAYERS, "average", "attention"}
"""Kinds of which a value that is zero receives nothing, under a rule that shares."""

Made = tuple[Tensor, Step | None]
"""A tensor, and the step that made it what it was at a time: later ones may have written into it."""


@dataclass(eq=False)
class History:
    """What the tape, the classification of operations and their handlers share.

    image: (N, ch, H, W), what the model takes. summed: (N, 1, H, W), a leaf for what comes back with channels summed; None where
    they are not summed. steps: in order. By the id of a tensor: makers, the step that last made or wrote it; derived, what was
    worked out from the input but takes no gradient (masks, detached norms), held so that ids stay theirs; rectified, what is done
    to what comes back to the output of a ReLU, or of a pooling of one.
    """

    image: Tensor | None = None
    summed: Tensor | None = None
    steps: list[Step] = field(default_factory=list)
    makers: dict[int, Step] = field(default_factory=dict)
    derived: dict[int, Tensor] = field(default_factory=dict)
    rectified: dict[int, Rectification] = field(default_factory=dict)

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.makers |= {id(tensor): step for tensor in tensors(step.output)}

    def maker(self, tensor: Tensor) -> Step | None:
        return self.makers.get(id(tensor))

    def is_derived(self, tensor: Tensor) -> bool:
        return id(tensor) in self.derived

    def rectified_among(self, sources: list[Tensor]) -> list[Rectification]:
        return [self.rectified[id(source)] for source in sources if id(source) in self.rectified]

    def origin(self, tensor: Tensor, moved: bool = True) -> Made:
        """Looks back through constant factors, constant terms and reshaping; moved: also where that moves values."""
        return self.look_back(tensor, self.maker(tensor), moved)

    def look_back(self, tensor: Tensor, step: Step | None, moved: bool = True) -> Made:
        """`origin` of a tensor as it was when `step` had made it."""
        while step is not None and len(step.sources) == 1:
            reshaped = step.kind == "reshape" and (moved or step.name in UNMOVED)
            if not reshaped and (step.kind != "scaling" or step.name == "batch_norm"):
                break
            tensor, step = step.sources[0], step.before[0]
        return tensor, step

    def is_one_a_sample(self, tensor: Tensor) -> bool:
        return self.image is not None and len(tensor) == len(self.image)

    def reached(self, tensor: Tensor) -> Tensor:
        """1 where the image reaches a value, through reshaping and constant factors and terms; 0 where that is padding."""
        step = self.maker(tensor)
        with torch.no_grad():
            return (if_image_were(0, tensor, step) != if_image_were(1, tensor, step)).to(tensor.dtype)

    def leave_out_below_zero(self) -> None:
        """Takes from z⁺ the outputs below zero to which nothing comes back: a rectifier takes them, whose zeros have no share."""
        takers: dict[int, list[Step]] = {id(step): [] for step in self.steps}
        for taker in self.steps:
            for step in taker.before:
                if step is not None:
                    takers[id(step)].append(taker)

        def is_shared(step: Step) -> bool:
            """Whether zeros that a step makes have no share of what comes back to it."""
            return all(
                taker.kind in PROPORTIONAL or (taker.kind in {"reshape", "max pooling"} and is_shared(taker))
                for taker in takers[id(step)]
            )

        for step in self.steps:
            node: Any = None if step.edge is None else step.edge.node
            if hasattr(node, "sides") and all(taker.name == "relu" and is_shared(taker) for taker in takers[id(step)]):
                node.sides = node.sides[:1]

    def path(self, root: Tensor) -> Iterator[tuple[Step, list[Tensor]]]:
        """Yields the steps from `root` back to the input, each with the tensors from which the way back goes on after it."""
        wanted = {id(root): root}
        for step in reversed(self.steps):
            outputs = tensors(step.output)
            if any(id(tensor) in wanted for tensor in outputs):
                wanted = {key: tensor for key, tensor in wanted.items() if not is_among(tensor, outputs)}
                wanted |= {id(tensor): tensor for tensor in step.sources}
                yield step, list(wanted.values())
