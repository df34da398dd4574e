"""Folding: what is the same for every image is worked out once.

Under `linear`, the way back from the class responses to the input, or to the last operation that depends on the input
(a max-pooling's switches, a gate), is one fixed linear operator a class: T_c, from the h·w seeds to the P values that
arrive. R(x|c) is then a matrix product. Which operations these are is observed on a forward pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, prod
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auditor.backward.trace import CHUNK_VALUES, Backprojection, few_at_a_time
from auditor.folding.argmax import compete
from auditor.folding.class_statistics import Survey, survey
from auditor.folding.forward_only import Shortcut, shortcut
from auditor.folding.low_rank import Patterns, find_patterns

if TYPE_CHECKING:
    from auditor.clear import Clear

ROW_VALUES = 1_000_000
"""Input values of a batch that builds rows: six photographs. More are slower, and take memory."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 5e-2}
"""How far a folded response may be from the plain one, relative to the sample's largest response."""
CHECKED_CLASSES = 16
LOST = 0.24
"""What part of the tolerance an operator may lose by being made of patterns."""


class CannotFold(ValueError):
    """The model, or this use of it, has no fixed operator that can be used; the message says why."""


@dataclass(frozen=True)
class FoldPlan:
    """An operator that can be built.

    classes, height, width: of the class responses. where: "image", or the name of the operation whose output is the cut;
    step: its place among the `steps` of the forward pass, −1 for the image. shape: of what arrives at the cut, per sample;
    (H, W) where that is an image whose channels are summed.
    narrow: the step at whose output the basis is sent back, where the layers from there to the classes are the same at
    every position and fewer; None where each class is sent back from each position. rows: passes that the build takes.
    memory: bytes of these rows, the least that a build takes.
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


@dataclass(frozen=True)
class Operator:
    """tensor: (C, h·w, P), T_c of every class; (C, h·w, R) where it is made of patterns. P: the values at the cut, channels last.

    shortcut: to the class responses, where the cut is the image and nothing else is needed of a forward pass.
    """

    plan: FoldPlan
    tensor: Tensor
    patterns: Patterns | None = None
    shortcut: Shortcut | None = None

    @property
    def memory(self) -> int:
        """Bytes."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """All that it is, by name, for `restore_operator`."""
        if self.patterns is None:
            return {"operator": self.tensor}
        patterns = self.patterns
        return {
            "operator": self.tensor,
            "patterns": patterns.values,
            "ranks": torch.tensor(patterns.ranks),
        }

    def class_responses(self, model: nn.Module, images: Tensor) -> Tensor | None:
        """(N, C, h, w) float32, of images (N, ch, H, W) that fit; None where the forward pass must be seen."""
        plan = self.plan
        if self.shortcut is None or tuple(images.shape[-len(plan.shape) :]) != plan.shape:
            return None
        responses = self.shortcut.class_responses(model, images.detach().clone())
        fitting = responses is not None and responses.shape[1:] == (plan.classes, plan.height, plan.width)
        return responses if fitting else None

    def fits(self, backprojection: Backprojection) -> bool:
        """Whether a forward pass is the one that was folded: other image sizes, or another way through the model, are not."""
        plan, steps = self.plan, backprojection.tape.history.steps
        if backprojection.class_responses.shape[1:] != (plan.classes, plan.height, plan.width) or len(steps) != plan.steps:
            return False
        cut = cut_tensor(backprojection, plan.step)
        return tuple(cut.shape[-len(plan.shape) :]) == plan.shape and (plan.step < 0 or steps[plan.step].name == plan.where)

    def apply(self, seeds: Tensor, classes: Tensor) -> Tensor:
        """What arrives at the cut, (N, k, P) float32. seeds: (N, C, h, w). classes: (k,) int64, the same for all samples."""
        if seeds.device.type != "cpu":
            operator, chosen = self.of(seeds, classes)
            return self.expand(torch.bmm(chosen, operator.to(seeds.dtype))).transpose(0, 1)
        # Each by itself: the last bits of MKL's products depend on how many are asked for and on where they begin in memory.
        arrived = seeds.new_empty(len(seeds), len(classes), prod(self.plan.shape))
        for place, number in enumerate(classes.tolist()):
            own = slice(number, number + 1)
            arrived[:, place] = self.expand(torch.bmm(seeds[:, own].flatten(2).transpose(0, 1), self.tensor[own].to(seeds.dtype)))
        return arrived

    def apply_each(self, seeds: Tensor, classes: Tensor) -> Tensor:
        """The same for one class a sample, (N, P). seeds: (N, h, w). classes: (N,) int64."""
        size = max(1, CHUNK_VALUES // max(prod(self.tensor.shape[1:]), prod(self.plan.shape)))
        flat = seeds.flatten(1)[:, None]
        parts = zip(torch.split(flat, size), torch.split(classes, size), strict=True)
        return torch.cat([self.expand(torch.bmm(part, self.tensor[chosen].to(seeds.dtype)))[:, 0] for part, chosen in parts])

    def expand(self, arrived: Tensor) -> Tensor:
        return arrived if self.patterns is None else self.patterns.expand(arrived)

    def dominance(self, seeds: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 4 and 5 of many classes without their maps ever leaving the cache, on a CPU: Ĉ, int16, and D, float32, (N, P).

        seeds: (N, C, h, w). classes: (K,) int64, ascending, the same for all samples. For `plan.is_image_map`.
        """
        operator, chosen = self.of(seeds, classes)
        return compete(operator, self.patterns, chosen, classes.to(torch.int16))

    def survey(self, seeds: Tensor, classes: Tensor) -> Survey:
        """What else there is to say of many classes, on a CPU. seeds, classes, `plan`: as for `dominance`."""
        operator, chosen = self.of(seeds, classes)
        return survey(operator, self.patterns, chosen, classes.to(torch.int16), self.plan.shape)

    def takes_whole(self, images: Tensor) -> bool:
        """Whether `dominance` and `survey` serve a batch whose classes are the same for all samples."""
        return self.plan.is_image_map and images.device.type == "cpu" and len(images) > 0

    def of(self, seeds: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """The operator and the seeds, (K, N, h·w), of some classes."""
        every = len(classes) == len(self.tensor)
        chosen = (seeds if every else seeds[:, classes]).flatten(2).transpose(0, 1).contiguous()
        return self.tensor if every else self.tensor[classes], chosen

    def finish(self, backprojection: Backprojection, arrived: Tensor) -> Tensor:
        """From the cut to the input, (N, H, W) float32. arrived: (N, P)."""
        plan = self.plan
        if plan.is_image_map:
            return arrived.reshape(-1, *plan.shape)
        if len(plan.shape) == 3:
            channels, height, width = plan.shape
            arrived = arrived.reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        else:
            arrived = arrived.reshape(-1, *plan.shape)
        if plan.step < 0:
            return backprojection.reduce(arrived)
        cut = cut_tensor(backprojection, plan.step)
        return backprojection.reach_input(cut, arrived.to(cut.dtype))


def restore_operator(plan: FoldPlan, tensors: dict[str, Tensor]) -> Operator:
    """The operator of its tensors, by name; on the device where they are."""
    patterns = None
    if "patterns" in tensors:
        patterns = Patterns(tensors["patterns"], tuple(tensors["ranks"].tolist()), prod(plan.shape))
    return Operator(plan, tensors["operator"], patterns)


def plan_fold(clear: "Clear", images: Tensor) -> FoldPlan:
    """Finds what can be folded. images: (N, ch, H, W) as the model takes them; one is enough. Raises CannotFold."""
    if clear.method.rule != "linear":
        raise CannotFold(
            f"rule '{clear.method.rule}' depends on the input at every activation: only 'linear' has a fixed operator"
        )
    backprojection = clear.reference.plain(images[:1])
    fixed = list(fixed_cuts(backprojection))
    if len(fixed) < 2:
        last = next(step for step, _ in backprojection.tape.history.path(backprojection.head.root) if step.varies)
        raise CannotFold(f"operation '{last.name}' depends on the input, and nothing lies between it and the classes")
    classes, height, width = backprojection.class_responses.shape[1:]
    cut = fixed[-1]
    is_map = cut < 0 and clear.method.reduction == "sum"
    tensor = cut_tensor(backprojection, cut)
    shape = tuple(tensor.shape[2:] if is_map else tensor.shape[1:])
    narrow = narrowest(backprojection, fixed)
    rows = height * width * (classes if narrow is None else cut_tensor(backprojection, narrow).shape[1])
    return FoldPlan(
        classes=classes,
        height=height,
        width=width,
        where="image" if cut < 0 else backprojection.tape.history.steps[cut].name,
        step=cut,
        steps=len(backprojection.tape.history.steps),
        shape=shape,
        narrow=narrow,
        rows=rows,
        memory=rows * prod(shape) * clear.dtype.itemsize,
    )


def fixed_cuts(backprojection: Backprojection) -> Iterator[int]:
    """Places, from the head back, that every way back passes and behind which nothing depends on the input; the head first."""
    tape = backprojection.tape
    places = {id(step.output): place for place, step in enumerate(tape.history.steps)} | {id(backprojection.given): -1}
    if id(backprojection.head.root) in places:
        yield places[id(backprojection.head.root)]
    for step, wanted in tape.history.path(backprojection.head.root):
        if step.varies:
            return
        if len(wanted) == 1 and id(wanted[0]) in places:
            yield places[id(wanted[0])]


def cut_tensor(backprojection: Backprojection, step: int) -> Tensor:
    tensor: Tensor = backprojection.images if step < 0 else backprojection.tape.history.steps[step].output
    return tensor


def narrowest(backprojection: Backprojection, fixed: list[int]) -> int | None:
    """The place with fewest channels, fewer than classes, from which on every position is treated alike."""
    classes = backprojection.class_responses.shape[1]
    best, fewest = None, classes
    for place in fixed:
        if place < 0:
            break
        channels = cut_tensor(backprojection, place).shape[1]
        if not is_pointwise(backprojection, place):
            break
        if channels < fewest:
            best, fewest = place, channels
    return best


def is_pointwise(backprojection: Backprojection, place: int) -> bool:
    """Whether what one position of the class responses sends to `place` stays at that position, and is the same at all."""
    height, width = backprojection.class_responses.shape[2:]
    head = backprojection.head
    are_maps = head.root.dim() == 4 and head.axis == 1
    if cut_tensor(backprojection, place).shape[2:] != ((height, width) if are_maps else ()):
        return False
    size = cut_tensor(backprojection, place).shape[2:].numel()
    responses = []
    for position in (0, size // 2):
        numbers = torch.tensor([position], device=backprojection.images.device)
        arrived = send_to(backprojection, place, torch.zeros_like(numbers), numbers).reshape(
            *cut_tensor(backprojection, place).shape[:2], size
        )
        responses.append(arrived[..., position])
        if torch.count_nonzero(arrived) > torch.count_nonzero(responses[-1]):
            return False
    first, middle = responses
    return torch.allclose(first, middle, rtol=1e-4)


def send_to(backprojection: Backprojection, place: int, classes: Tensor, positions: Tensor) -> Tensor:
    """What 1 at one position of one class sends to the output of a step. classes, positions: (N,) int64."""
    height, width = backprojection.class_responses.shape[2:]
    root = backprojection.head.root
    seeds = F.one_hot(positions, height * width).to(root.dtype).view(-1, height, width)
    entering = backprojection.head.enter(seeds, classes)
    return send_between(backprojection, root, place, entering)


def send_between(backprojection: Backprojection, root: Tensor, place: int, entering: Tensor) -> Tensor:
    """What arrives at the output of a step, as a map (N, H, W) where that is an image whose channels are summed."""
    target = cut_tensor(backprojection, place)
    if target is root:
        return entering
    if place < 0 and backprojection.summed is not None:
        return backprojection.reach_input(root, entering)
    with torch.inference_mode(False):
        (arrived,) = torch.autograd.grad(root, target, entering, retain_graph=True)
    return arrived


def fold_rows(clear: "Clear", images: Tensor, plan: FoldPlan, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of what the operator is made of, (stop − start, P). images: as for `plan_fold`."""
    backprojection, size = repeated(clear, images)
    narrow = None if plan.narrow is None else cut_tensor(backprojection, plan.narrow)
    rows: Tensor | None = None
    for first in range(start, stop, size):
        # The last batch repeats its last row: the forward pass has as many samples as it has.
        numbers = torch.arange(first, first + size, device=images.device).clamp(max=stop - 1)
        sources, positions = numbers // plan.positions, numbers % plan.positions
        if narrow is None:
            arrived = send_to(backprojection, plan.step, sources, positions)
        else:
            entering = F.one_hot(numbers, plan.rows).to(narrow.dtype).view(narrow.shape)
            arrived = send_between(backprojection, narrow, plan.step, entering)
        part = as_rows(arrived)[: stop - first]
        if rows is None:
            # Once and whole: they may be most of the memory that there is.
            rows = part.new_empty((stop - start, part.shape[1]))
        rows[first - start : first - start + len(part)] = part
    return images.new_empty((0, prod(plan.shape))) if rows is None else rows


def as_rows(arrived: Tensor) -> Tensor:
    return (arrived.permute(0, 2, 3, 1) if arrived.dim() == 4 else arrived).flatten(1)


def repeated(clear: "Clear", images: Tensor) -> tuple[Backprojection, int]:
    """A forward pass of one image many times over: as many rows are then sent back at once."""
    size = max(1, min(64, ROW_VALUES // images[0].numel()))
    return clear.reference.plain(images[:1].expand(size, -1, -1, -1)), size


def class_weights(clear: "Clear", images: Tensor, plan: FoldPlan) -> Tensor:
    """(C, K): what each class sends to the K channels at `plan.narrow`, the same at every position."""
    backprojection, size = repeated(clear, images)
    assert plan.narrow is not None
    parts = []
    for first in range(0, plan.classes, size):
        classes = torch.arange(first, first + size, device=images.device).clamp(max=plan.classes - 1)
        arrived = send_to(backprojection, plan.narrow, classes, torch.zeros_like(classes))
        parts.append(arrived.flatten(2)[:, :, 0] if arrived.dim() == 4 else arrived)
    return torch.cat(parts)[: plan.classes]


def assemble(
    clear: "Clear", images: Tensor, plan: FoldPlan, rows: list[Tensor], memory: float = inf, by_patterns: bool = True
) -> Operator:
    """The operator of all rows, in order, in the precision of `clear`; of patterns where they are worth it, if `by_patterns`.

    memory: bytes that it may take. Raises CannotFold.
    """
    basis = (rows[0] if len(rows) == 1 else torch.cat(rows)).view(-1, plan.positions, prod(plan.shape))
    weights = None if plan.narrow is None else class_weights(clear, images, plan).to(basis.dtype)
    patterns = find_patterns(basis, weights, LOST * TOLERANCE[clear.dtype]) if by_patterns else None
    if patterns is not None:
        basis = patterns.reduce(basis)
        patterns = replace(patterns, values=patterns.values.to(clear.dtype))
    needed = plan.classes * prod(basis.shape[1:]) * clear.dtype.itemsize
    if needed > memory:
        raise CannotFold(f"the operator takes {needed / 1e9:.1f} GB of memory, and {memory / 1e9:.1f} GB are allowed")
    if weights is None:
        return Operator(plan, basis.to(clear.dtype), patterns)
    tensor = basis.new_empty((plan.classes, *basis.shape[1:]), dtype=clear.dtype)
    for position in range(plan.positions):
        tensor[:, position] = weights @ basis[:, position]
    return Operator(plan, tensor, patterns)


def verify(clear: "Clear", operator: Operator, images: Tensor) -> tuple[Operator, float]:
    """The operator, with a shortcut where one gives what a tape does; and how far it is from the plain path at most.

    images: (N, ch, H, W), real ones. The deviation is of folded from plain responses, relative to each sample's largest,
    of the classes with most response. Raises CannotFold.
    """
    shorter, agrees = operator, True
    deviations = []
    for part in few_at_a_time(images):
        plain = clear.plain(part)
        if not operator.fits(plain):
            raise CannotFold("the forward pass is another than the one that was folded")
        if operator.plan.step < 0 and shorter is operator:
            shorter = replace(operator, shortcut=shortcut(clear.model, plain))
        agrees = agrees and decides_as(clear, shorter, plain)
        deviations.append(deviation_of(operator, plain))
    found = torch.cat(deviations)
    if not len(found):
        raise CannotFold("no class has positive response in the images that were to verify the operator")
    largest = float(found.max())
    if not largest <= TOLERANCE[clear.dtype]:
        raise CannotFold(f"folded responses deviate from plain ones by {largest:.1e} of the peak")
    return shorter if agrees else operator, largest


def deviation_of(operator: Operator, plain: Backprojection) -> Tensor:
    """Of each sample and class that was compared, of samples with a finite response that is not zero.

    plain: of real images, which takes the operator.
    """
    classes = plain.positive.sum((2, 3)).topk(min(CHECKED_CLASSES, plain.positive.shape[1]), dim=1).indices
    expected = torch.stack([plain.send_back(column) for column in classes.unbind(1)], 1)
    plain.operator = operator
    actual = torch.stack([plain.send_back(column) for column in classes.unbind(1)], 1)
    peaks, apart = expected.abs().amax((1, 2, 3)), (actual - expected).abs().amax((1, 2, 3))
    return (apart / peaks)[(peaks > 0) & peaks.isfinite()]


def decides_as(clear: "Clear", operator: Operator, plain: Backprojection) -> bool:
    """Whether the operator's shortcut gives the class responses of a tape."""
    responses, expected = operator.class_responses(clear.model, plain.images), plain.class_responses
    tolerance = TOLERANCE[clear.dtype] * float(expected.where(expected.isfinite(), 0).abs().max())
    # What is not finite must not be either: a rectifier that a convolution carries out makes a number of NaN.
    return responses is not None and torch.allclose(responses, expected, rtol=0, atol=tolerance, equal_nan=True)
