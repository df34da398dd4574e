"""Which part of a model's way back is one fixed linear operator a class, and how many passes it takes to find it.

Under `linear`, the way back from the class responses to the input, or to the last operation that depends on the input
(a max-pooling's switches, a gate), is the same for every image. Which operations these are is observed on a forward pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.backward.trace import Method, Traced
from auditor.operations.rule_table import RULES


class CannotFold(ValueError):
    """The model, or this use of it, has no fixed operator that can be used; the message says why."""


class Tracer(Protocol):
    """What makes forward passes of the model that is folded. `auditor.clear.Clear` is one.

    dtype: of the network's own arithmetic. reference: the same in float32 where that is less; itself elsewhere.
    """

    @property
    def model(self) -> nn.Module: ...

    @property
    def method(self) -> Method: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def reference(self) -> "Tracer": ...

    def plain(self, images: Tensor) -> Traced:
        """The forward pass of a batch (N, ch, H, W), whose classes go back through the network."""
        ...


@dataclass(frozen=True)
class FoldPlan:
    """An operator that can be built.

    classes, height, width: of the class responses. where: "image", or the name of the operation whose output is the cut;
    step: its place among the `steps` of the forward pass, −1 for the image. shape: of what arrives at the cut, per sample;
    (H, W) where that is an image whose channels are summed.
    narrow: the bottleneck, a step with fewer channels than classes, from which on every position is treated alike: rows are sent
    back from its output. None where each class is sent back from each position. rows: passes that the build takes. memory: bytes
    of these rows, the least that a build takes.
    """

    classes: int
    height: int
    width: int
    where: str
    step: int
    steps: int
    shape: tuple[int, ...]
    narrow: int | None
    rows: int
    memory: int

    @property
    def positions(self) -> int:
        return self.height * self.width

    @property
    def is_image_map(self) -> bool:
        return self.step < 0 and len(self.shape) == 2


def plan_fold(tracer: Tracer, images: Tensor) -> FoldPlan:
    """Finds what can be folded. images: (N, ch, H, W) as the model takes them; one is enough. Raises CannotFold."""
    if RULES[tracer.method.rule].enlarges:
        raise CannotFold(f"rule '{tracer.method.rule}' sends nothing back")
    if tracer.method.rule != "linear":
        raise CannotFold(
            f"rule '{tracer.method.rule}' depends on the input at every activation: only 'linear' has a fixed operator"
        )
    traced = tracer.reference.plain(images[:1])
    fixed = list(fixed_cuts(traced))
    if len(fixed) < 2:
        last = next(step for step, _ in traced.tape.history.path(traced.head.root) if step.varies)
        raise CannotFold(f"operation '{last.name}' depends on the input, and nothing lies between it and the classes")
    classes, height, width = traced.class_responses.shape[1:]
    cut = fixed[-1]
    is_map = cut < 0 and tracer.method.reduction == "sum"
    tensor = cut_tensor(traced, cut)
    shape = tuple(tensor.shape[2:] if is_map else tensor.shape[1:])
    bottleneck = find_bottleneck(traced, fixed)
    rows = height * width * (classes if bottleneck is None else cut_tensor(traced, bottleneck).shape[1])
    return FoldPlan(
        classes=classes,
        height=height,
        width=width,
        where="image" if cut < 0 else traced.tape.history.steps[cut].name,
        step=cut,
        steps=len(traced.tape.history.steps),
        shape=shape,
        narrow=bottleneck,
        rows=rows,
        memory=rows * prod(shape) * tracer.dtype.itemsize,
    )


def fixed_cuts(traced: Traced) -> Iterator[int]:
    """Places through which every way back goes and between which and the head nothing depends on the input; the head first."""
    tape = traced.tape
    places = {id(step.output): place for place, step in enumerate(tape.history.steps)} | {id(traced.given): -1}
    if id(traced.head.root) in places:
        yield places[id(traced.head.root)]
    for step, wanted in tape.history.path(traced.head.root):
        if step.varies:
            return
        if len(wanted) == 1 and id(wanted[0]) in places:
            yield places[id(wanted[0])]


def cut_tensor(traced: Traced, step: int) -> Tensor:
    tensor: Tensor = traced.images if step < 0 else traced.tape.history.steps[step].output
    return tensor


def find_bottleneck(traced: Traced, fixed: list[int]) -> int | None:
    """The place with fewest channels, fewer than classes, from which on every position is treated alike."""
    classes = traced.class_responses.shape[1]
    best, fewest = None, classes
    for place in fixed:
        if place < 0:
            break
        channels = cut_tensor(traced, place).shape[1]
        if not is_pointwise(traced, place):
            break
        if channels < fewest:
            best, fewest = place, channels
    return best


def is_pointwise(traced: Traced, place: int) -> bool:
    """Whether what a position of the class responses sends to `place` stays at that position, and is the same for all."""
    height, width = traced.class_responses.shape[2:]
    head = traced.head
    are_maps = head.root.dim() == 4 and head.axis == 1
    if cut_tensor(traced, place).shape[2:] != ((height, width) if are_maps else ()):
        return False
    size = cut_tensor(traced, place).shape[2:].numel()
    responses = []
    for position in (0, size // 2):
        numbers = torch.tensor([position], device=traced.images.device)
        arrived = send_to(traced, place, torch.zeros_like(numbers), numbers).reshape(*cut_tensor(traced, place).shape[:2], size)
        responses.append(arrived[..., position])
        if torch.count_nonzero(arrived) > torch.count_nonzero(responses[-1]):
            return False
    first, middle = responses
    return torch.allclose(first, middle, rtol=1e-4)


def send_to(traced: Traced, place: int, classes: Tensor, positions: Tensor) -> Tensor:
    """What 1 at one position of one class sends to the output of a step. classes, positions: (N,) int64."""
    height, width = traced.class_responses.shape[2:]
    root = traced.head.root
    seeds = F.one_hot(positions, height * width).to(root.dtype).view(-1, height, width)
    entering = traced.head.enter(seeds, classes)
    return send_between(traced, root, place, entering)


def send_between(traced: Traced, root: Tensor, place: int, entering: Tensor) -> Tensor:
    """What arrives at the output of a step, as a map (N, H, W) where that is an image whose channels are summed."""
    target = cut_tensor(traced, place)
    if target is root:
        return entering
    if place < 0 and traced.summed is not None:
        return traced.reach_input(root, entering)
    with torch.inference_mode(False):
        (arrived,) = torch.autograd.grad(root, target, entering, retain_graph=True)
    return arrived
