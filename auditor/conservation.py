"""Whether what a class sends back arrives at the image, under rules whose responses should add up to the class response."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan

import torch
from torch import Tensor
from torch.autograd.graph import Node

from auditor.backward.history import Step
from auditor.backward.tape import nodes_behind
from auditor.backward.trace import REDUCTIONS, Traced
from auditor.clear import Clear
from auditor.errors import UnsupportedModel
from auditor.operations.rule_table import BACKWARD_RULES, RULES

CLASSES = 3
"""How many classes of a sample are sent back: those with the most positive response."""
LEAST_ARRIVED = 0.1
"""A part of what was sent back. A map of less leaves the other nine tenths unexplained, whatever it shows.

Measured on 21 kinds of networks with random weights: .45 to 1 under z⁺, 4 and more under ε, whose parts cancel.
"""
MOST_ARRIVED = 1e5
"""A multiple of what was sent back, without signs. Above it, the rounding of the parts in float32 is a hundredth of their sum.

Measured on the same networks: 5 to 3,000 under ε.
"""
ROUNDING = 1e-3
"""A part of what was sent back: an operation that took less took nothing, but for rounding."""


@dataclass(frozen=True)
class Conservation:
    """What becomes of what the classes send back, in medians over samples and classes.

    kept: Σ R(x|c) over the image, in units of what class c sent back: 1 where nothing is lost. What is missing, or is too much,
        was taken by constants: biases, batch norm's shifts, class tokens, positions.
    size: the same of |R(x|c)|: 1 where all has one sign, more where parts cancel.
    operation: the operation that handed on least of what all classes sent back, of all samples; None where all hand on all, and
        under a rule that does not share. taken: what it did not hand on, in units of what was sent back.
    """

    kept: float
    size: float
    operation: str | None
    taken: float


@dataclass(eq=False)
class Passage:
    """One of autograd's nodes. sums: Σ and Σ |·| of what arrived, Σ and Σ |·| of what went on: four float64 numbers."""

    name: str
    sums: Tensor

    @property
    def taken(self) -> float:
        return float(self.sums[0] - self.sums[2])

    @property
    def growth(self) -> float:
        return float(self.sums[3] / self.sums[1]) if self.sums[1] > 0 else 0.0

    @property
    def breaks(self) -> bool:
        return bool(self.sums[0].isfinite() and not self.sums[2].isfinite())


def measure_conservation(clear: Clear, images: Tensor) -> Conservation | None:
    """Measures what arrives at images (N, ch, H, W); None where no class has positive response, or the rule conserves nothing.

    Raises UnsupportedModel where a rule that shares loses so much that its maps say nothing of the model, and where what arrives
    is not finite. Gradient × input adds up where a network is linear by pieces and adds no constants; elsewhere it need not.

    An image of zeros has nothing to receive relevance by, and is left out, as one whose class responses are not finite is.
    """
    rule = RULES[clear.method.rule]
    images = images[images.flatten(1).any(1)]
    if not (rule.shares or rule.times_input) or not len(images):
        return None
    traced = clear.plain(images)
    # Only the sum over channels adds up to what was sent back.
    traced.reduce = REDUCTIONS["sum"]
    every = clear.competing(traced).expand(len(images), -1)
    strength = traced.positive.sum((2, 3)).gather(1, every)
    is_finite = strength.isfinite().all(1)
    if not is_finite.all():
        return measure_conservation(clear, images[is_finite])
    sent, columns = strength.topk(min(CLASSES, every.shape[1]), dim=1)
    with watched(traced) as passages:
        responses = [traced.send_back(classes) for classes in every.gather(1, columns).unbind(1)]
    arrived = torch.stack([torch.stack([response.sum((1, 2)), response.abs().sum((1, 2))], 1) for response in responses], 1)
    fractions = (arrived / sent[:, :, None])[sent > 0].double()
    if not len(fractions):
        return None
    kept, size = fractions.median(0).values.tolist() if fractions.isfinite().all() else (torch.nan, torch.nan)
    operation, taken = greatest_loss(passages, float(sent.sum())) if rule.shares else (None, 0.0)
    fault = find_fault(size, operation, taken, passages) if rule.shares or isnan(size) else None
    if fault is not None:
        others = ", ".join(name for name, other in BACKWARD_RULES.items() if not (other.shares or other is rule))
        raise UnsupportedModel(
            f"rule '{clear.method.rule}' says nothing of this model: {fault}; rules that share nothing: {others}"
        )
    return Conservation(kept, size, operation, taken)


@contextmanager
def watched(traced: Traced) -> Iterator[list[Passage]]:
    """Adds up what goes through each operation between the classes and the image, from the classes on."""
    name = namer(traced.tape.history.steps)
    passages, handles = [], []
    for node in nodes_behind(traced.head.root):
        if node.next_functions:
            nothing = torch.zeros(4, dtype=torch.float64, device=traced.images.device)
            passages.append(Passage(name(node), nothing))
            handles.append(node.register_hook(adding_to(node, passages[-1])))
    try:
        yield passages
    finally:
        for handle in handles:
            handle.remove()


def namer(steps: list[Step]) -> Callable[[Node], str]:
    """A function that names the operation that made a node of autograd, and its place among the operations of that name."""
    counts, seen = Counter(step.name for step in steps), Counter[str]()
    starts, names = [step.nodes.start for step in steps], []
    for step in steps:
        seen[step.name] += 1
        names.append(f"'{step.name}' ({seen[step.name]} of {counts[step.name]})")

    def name(node: Node) -> str:
        index = bisect_right(starts, node._sequence_nr()) - 1
        return names[index] if node._sequence_nr() in steps[index].nodes else f"'{node.name()}'"

    return name


def adding_to(node: Node, passage: Passage) -> Callable[..., None]:
    def add(gone_on: tuple[Tensor | None, ...], arrived: tuple[Tensor | None, ...]) -> None:
        # What a constant receives, as a class token does, goes nowhere.
        followed = [part for part, (after, _) in zip(gone_on, node.next_functions, strict=True) if after is not None]
        for sums, parts in zip(passage.sums.view(2, 2), (arrived, followed), strict=True):
            for part in parts:
                if part is not None:
                    values = part.detach().double()
                    sums += torch.stack([values.sum(), values.abs().sum()])

    return add


def greatest_loss(passages: list[Passage], sent: float) -> tuple[str | None, float]:
    """The operation that took, or added, most, and that as a part of what was sent."""
    largest = max(passages, key=lambda passage: abs(passage.taken))
    return (largest.name, largest.taken / sent) if abs(largest.taken) > ROUNDING * sent else (None, 0.0)


def find_fault(size: float, operation: str | None, taken: float, passages: list[Passage]) -> str | None:
    """What is wrong with what arrives, and where it went; None where nothing is."""
    if isnan(size):
        broken = next((passage.name for passage in passages if passage.breaks), "that decides the classes")
        return f"what is sent back is not finite behind operation {broken}"
    if size < LEAST_ARRIVED:
        most = f"; constants take most at operation {operation}, {100 * taken:.3g} %" if taken > 0 else ""
        return (
            f"of what the classes send back, {100 * size:.2g} % arrives at the image, less than {100 * LEAST_ARRIVED:.0f} %{most}"
        )
    if size > MOST_ARRIVED:
        growing = max(passages, key=lambda passage: passage.growth)
        return (
            f"parts that cancel come to {size:.1g} times what the classes send back, too much for float32; they grow most at "
            f"operation {growing.name}"
        )
    return None
