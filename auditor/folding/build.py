"""How an operator is built: its rows, each a pass back through the network, and from these the operator of every class."""

from dataclasses import replace
from math import inf, prod

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.backward.trace import Traced
from auditor.folding.low_rank import find_patterns
from auditor.folding.operator import TOLERANCE, Operator
from auditor.folding.plan import CannotFold, FoldPlan, Tracer, cut_tensor, send_between, send_to

ROW_VALUES = 1_000_000
"""Input values of a batch that builds rows: six photographs. Larger batches are slower, and take more memory."""
LOST = 0.24
"""What part of the tolerance an operator may lose by being made of patterns."""


def fold_rows(tracer: Tracer, images: Tensor, plan: FoldPlan, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of what the operator is made of, (stop − start, P). images: as for `plan_fold`."""
    traced, size = repeated(tracer, images)
    bottleneck = None if plan.narrow is None else cut_tensor(traced, plan.narrow)
    rows: Tensor | None = None
    for first in range(start, stop, size):
        # The last batch repeats its last row: the forward pass has as many samples as it has.
        numbers = torch.arange(first, first + size, device=images.device).clamp(max=stop - 1)
        sources, positions = numbers // plan.positions, numbers % plan.positions
        if bottleneck is None:
            arrived = send_to(traced, plan.step, sources, positions)
        else:
            entering = F.one_hot(numbers, plan.rows).to(bottleneck.dtype).view(bottleneck.shape)
            arrived = send_between(traced, bottleneck, plan.step, entering)
        part = as_rows(arrived)[: stop - first]
        if rows is None:
            # Allocated once, at full size: they may take most of the memory.
            rows = part.new_empty((stop - start, part.shape[1]))
        rows[first - start : first - start + len(part)] = part
    return images.new_empty((0, prod(plan.shape))) if rows is None else rows


def as_rows(arrived: Tensor) -> Tensor:
    return (arrived.permute(0, 2, 3, 1) if arrived.dim() == 4 else arrived).flatten(1)


def repeated(tracer: Tracer, images: Tensor) -> tuple[Traced, int]:
    """A forward pass of one image, repeated: as many rows as it is repeated are then sent back at once."""
    size = max(1, min(64, ROW_VALUES // images[0].numel()))
    return tracer.reference.plain(images[:1].expand(size, -1, -1, -1)), size


def class_weights(tracer: Tracer, images: Tensor, plan: FoldPlan) -> Tensor:
    """(C, K): what each class sends to the K channels at `plan.narrow`, the same at every position."""
    traced, size = repeated(tracer, images)
    assert plan.narrow is not None
    parts = []
    for first in range(0, plan.classes, size):
        classes = torch.arange(first, first + size, device=images.device).clamp(max=plan.classes - 1)
        arrived = send_to(traced, plan.narrow, classes, torch.zeros_like(classes))
        parts.append(arrived.flatten(2)[:, :, 0] if arrived.dim() == 4 else arrived)
    return torch.cat(parts)[: plan.classes]


def assemble(
    tracer: Tracer, images: Tensor, plan: FoldPlan, rows: list[Tensor], memory: float = inf, by_patterns: bool = True
) -> Operator:
    """The operator of all rows, in order, in the precision of `tracer`; of patterns where they are worth it, if `by_patterns`.

    memory: bytes that it may take. Raises CannotFold.
    """
    basis = (rows[0] if len(rows) == 1 else torch.cat(rows)).view(-1, plan.positions, prod(plan.shape))
    weights = None if plan.narrow is None else class_weights(tracer, images, plan).to(basis.dtype)
    patterns = find_patterns(basis, weights, LOST * TOLERANCE[tracer.dtype]) if by_patterns else None
    if patterns is not None:
        basis = patterns.reduce(basis)
        patterns = replace(patterns, values=patterns.values.to(tracer.dtype))
    needed = plan.classes * prod(basis.shape[1:]) * tracer.dtype.itemsize
    if needed > memory:
        raise CannotFold(f"the operator takes {needed / 1e9:.1f} GB of memory, and {memory / 1e9:.1f} GB are allowed")
    if weights is None:
        return Operator(plan, basis.to(tracer.dtype), patterns)
    tensor = basis.new_empty((plan.classes, *basis.shape[1:]), dtype=tracer.dtype)
    for position in range(plan.positions):
        tensor[:, position] = weights @ basis[:, position]
    return Operator(plan, tensor, patterns)
