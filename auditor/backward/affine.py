"""The affine end of a forward pass: the steps from the last activation to the scores, and the one map that they amount to.

However it is written, a global average and what stands behind it are one affine map of the averaged channels: found by
sending numbers back through the average, and unit vectors forward through the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.backward.history import Step
from auditor.backward.tape import Tape
from auditor.operations.calls import tensors
from auditor.operations.rule_table import LAYERS, MATRIX_PRODUCTS, SUMS, UNMOVED

AFFINE = frozenset({*LAYERS, "average", "reshape", "scaling"})
"""Kinds of operation that are affine in what carries the response."""
SHAPES = frozenset({"flatten", "view", "view_as", "reshape", "reshape_as", "squeeze", "unsqueeze", "unflatten", "ravel"})
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
COARSE = 5e-2
"""How far the scores may be from what the affine end comes to, relative to the sum of the terms' magnitudes."""


@dataclass(frozen=True)
class AffineEnd:
    """steps: in the order of the forward pass. begins: the tensors they take, each with the step that made it, if any did."""

    steps: list[Step]
    begins: list[tuple[Tensor, Step | None]]

    @property
    def has_layer(self) -> bool:
        return any(step.kind in LAYERS for step in self.steps)


@dataclass(frozen=True)
class Average:
    """pooled: what a global average, or sum, of `source` gave, K values a sample.

    source: maps (N, K, h, w) or (N, h, w, K), tokens (N, T, K) or (N, K, T). axis: where its channels are.
    factor: `pooled` is this times the mean over the positions.
    """

    pooled: Tensor
    source: Tensor
    axis: int
    factor: float

    @property
    def channels(self) -> int:
        return self.source.shape[self.axis]

    @property
    def positions(self) -> tuple[int, ...]:
        return tuple(size for axis, size in enumerate(self.source.shape) if axis not in (0, self.axis))

    @property
    def mean(self) -> Tensor:
        """(N, K), of the source: what was pooled may have been written over since."""
        return self.source.detach().movedim(self.axis, 1).flatten(2).mean(2)


def affine_end(tape: Tape, scores: Tensor, stops: Callable[[Step], bool] = lambda step: False) -> AffineEnd:
    """Walks back from `scores` as long as the operations are affine, and not beyond those at which it `stops`."""
    wanted, steps = {id(scores): scores}, []
    begins: dict[int, tuple[Tensor, Step | None]] = {}
    for step in reversed(tape.history.steps):
        made = {id(tensor): tensor for tensor in tensors(step.output) if id(tensor) in wanted}
        if not made:
            continue
        wanted = {key: tensor for key, tensor in wanted.items() if key not in made}
        if is_affine(step) and not stops(step):
            steps.append(step)
            wanted |= {id(tensor): tensor for tensor in step.sources}
        else:
            begins |= {key: (tensor, step) for key, tensor in made.items()}
    begins |= {key: (tensor, None) for key, tensor in wanted.items()}
    return AffineEnd(steps[::-1], list(begins.values()))


def is_affine(step: Step) -> bool:
    return step.kind in AFFINE and not step.call.derived and step.fault is None


def find_average(tape: Tape, step: Step, samples: int) -> Average | None:
    """What `step` is a global average of, as far back as reshaping and further averages go; None where it is none.

    Known by what it sends back: to every position the same numbers, one a channel.
    """
    if not averages(step) or step.output.shape[0] != samples:
        return None
    # Two samples are enough, unless the number of samples is written into a shape.
    found = next(filter(None, (average_of(tape, step, some) for some in sorted({min(2, samples), samples}))), None)
    return found if found is not None and has_positions(tape, found.source, step) else None


def has_positions(tape: Tape, tensor: Tensor, later: Step) -> bool:
    """Whether a tensor has positions of features, and not those of vectors that were stacked, or viewed: an ensemble's members.

    later: a step that comes after the one that made it.
    """
    step = maker_before(tape, tensor, later)
    if step is not None and step.kind in {"reshape", "scaling"}:
        return any(has_positions(tape, source, step) for source in step.sources)
    return tensor.shape[1:].numel() > max(tensor.shape[1:], default=1)


def average_of(tape: Tape, step: Step, samples: int) -> Average | None:
    """`find_average`, tried with so many samples."""
    shape = (samples, step.output.shape[1:].numel())
    numbers = torch.randint(1, 1000, shape, generator=torch.Generator().manual_seed(0)).double().to(step.output.device)
    found: Average | None = None
    before: Step | None = step
    arriving = numbers.view(samples, *step.output.shape[1:])
    while before is not None and (averages(before) or rearranges(before)):
        source, pulled = before.sources[0], pull_back(before, arriving)
        # Values that were written over are gone.
        if pulled is None or before.call.in_place:
            break
        arriving = pulled
        if arriving.dim() in (3, 4):
            spread = spread_over(arriving, numbers)
            if spread is None:
                break
            found = Average(step.output, source, *spread)
        before = maker_before(tape, source, before)
    return found


def averages(step: Step) -> bool:
    """Whether a step may be an average over all of some axes: what leaves several places of an axis is none."""
    if len(step.sources) != 1 or not is_affine(step) or not isinstance(step.output, Tensor):
        return False
    source, output = step.sources[0], step.output
    if (step.kind != "average" or step.name in SUMS) and step.name not in MATRIX_PRODUCTS:
        return False
    partly = source.dim() == output.dim() and any(
        1 < after < size for size, after in zip(source.shape, output.shape, strict=True)
    )
    return source.dim() > 2 and output.numel() < source.numel() and not partly


def rearranges(step: Step) -> bool:
    kinds = {"reshape", "scaling"}
    return len(step.sources) == 1 and step.kind in kinds and is_affine(step) and isinstance(step.output, Tensor)


def spread_over(arriving: Tensor, numbers: Tensor) -> tuple[int, float] | None:
    """The axis along which `numbers` (N, K) arrive, and their sum over all positions as a multiple of them.

    None where not every position receives the same.
    """
    samples, channels = numbers.shape
    for axis in range(1, arriving.dim()):
        if arriving.shape[0] == samples and arriving.shape[axis] == channels:
            received = arriving.movedim(axis, 1).flatten(2)
            factor = float(received[0, 0, 0] / numbers[0, 0])
            if torch.allclose(received, factor * numbers[:, :, None], rtol=1e-5, atol=0):
                total = factor * received.shape[2]
                return axis, 1.0 if abs(total - 1) < 1e-5 else total
    return None


def pull_back(step: Step, arriving: Tensor) -> Tensor | None:
    """What a linear step sends back, float64, whatever the rule does with it.

    None where it does not take so many samples, or adds a constant, as a class token is: that is of no position before it.
    """
    source, output = step.sources[0], step.output
    if arriving.numel() * len(output) != output.numel() * len(arriving):
        return None
    with torch.inference_mode(False), torch.enable_grad():
        shape = (len(arriving) * len(source) // len(output), *source.shape[1:])
        values = torch.zeros(shape, dtype=torch.float64, device=source.device, requires_grad=True)
        try:
            result = carry_out(step, {id(source): values})
            if result.detach().any():
                return None
            (pulled,) = torch.autograd.grad(result, values, arriving.reshape(result.shape).to(result.dtype))
        except (RuntimeError, IndexError, ValueError):
            return None
    return pulled


def maker_before(tape: Tape, tensor: Tensor, later: Step) -> Step | None:
    """The step that made `tensor`, as it was when `later` took it."""
    made = (step for step in reversed(tape.history.steps) if step.number < later.number)
    return next((step for step in made if step.output is tensor), None)


def carry_out(step: Step, values: dict[int, Tensor]) -> Any:
    """A step's result, in float64, with other values in place of its sources. values: by the id of the source."""
    source = step.sources[0]
    if step.name in UNMOVED:
        return values[id(source)]
    if step.name in SHAPES and step.output.shape[:1] == source.shape[:1]:
        return values[id(source)].reshape(-1, *step.output.shape[1:])
    operands = tensors((step.call.arguments, step.call.keywords))
    constants = {id(tensor): tensor.detach().double() for tensor in operands if tensor.is_floating_point()}
    given = {key: value.clone() for key, value in values.items()} if step.call.in_place else values
    return step.call.run(constants | given)


def run_through(steps: list[Step], begins: list[Tensor], result: Tensor) -> Tensor | None:
    """The affine end as rows (K + 2, C) float64: what each unit vector of all its K inputs gives, one of halves, and zero.

    None where it does not treat each row by itself.
    """
    widths = [tensor.shape[1:].numel() for tensor in begins]
    total, first = sum(widths), first_layer(steps, begins)
    if first is None:
        units = torch.eye(total, dtype=torch.float64, device=result.device)
        units = torch.cat([units, torch.full_like(units[:1], 0.5), torch.zeros_like(units[:1])])
        parts = torch.split(units, widths, 1)
        values = {id(tensor): part.reshape(-1, *tensor.shape[1:]) for tensor, part in zip(begins, parts, strict=True)}
    else:
        (place, _, bias), weight = first, first[1].double()
        rows = torch.cat([weight.t(), 0.5 * weight.sum(1)[None], torch.zeros_like(weight[:, 0])[None]])
        rows = rows if bias is None else rows + bias.double()
        output = steps[place].output
        values, steps = {id(output): rows.view(-1, *output.shape[1:])}, steps[place + 1 :]
    results = send_through(steps, values, result, total + 2)
    if results is None and len(result):
        # A number of samples may be written into a shape or a constant.
        results = send_in_batches(steps, values, result, total + 2)
    if results is None:
        return None
    halves = 0.5 * (results[:-2] - results[-1]).sum(0) + results[-1]
    return results if torch.allclose(results[-2], halves, rtol=1e-6, atol=1e-6 * float(results.abs().amax())) else None


def send_through(steps: list[Step], values: dict[int, Tensor], result: Tensor, rows: int) -> Tensor | None:
    """(rows, C) float64, what the steps make of other values; None where they do not take that many samples."""
    try:
        with torch.no_grad():
            for step in steps:
                outputs = tensors(step.output)
                made = tensors(carry_out(step, {id(source): values[id(source)] for source in step.sources}))
                values = values | {id(output): value for output, value in zip(outputs, made, strict=True)}
    except (RuntimeError, IndexError, ValueError):
        return None
    made_of_rows = values[id(result)]
    return made_of_rows.reshape(rows, -1) if made_of_rows.shape == (rows, *result.shape[1:]) else None


def send_in_batches(steps: list[Step], values: dict[int, Tensor], result: Tensor, rows: int) -> Tensor | None:
    """The same in batches of as many samples as the forward pass had, the last one filled up with zeros."""
    samples, parts = len(result), []
    for start in range(0, rows, samples):
        given = {key: value[start : start + samples] for key, value in values.items()}
        missing = samples - min(samples, rows - start)
        filled = {key: torch.cat([value, value.new_zeros(missing, *value.shape[1:])]) for key, value in given.items()}
        part = send_through(steps, filled, result, samples)
        if part is None:
            return None
        parts.append(part)
    return torch.cat(parts)[:rows]


def first_layer(steps: list[Step], begins: list[Tensor]) -> tuple[int, Tensor, Tensor | None] | None:
    """Place, weight (C, K) and bias (C,) of a layer that alone takes the one input, as it is: it needs no unit vectors."""
    tensor, passed = begins[0], {id(begins[0])}
    for place, step in enumerate(steps if len(begins) == 1 else []):
        if len(step.sources) != 1 or step.sources[0] is not tensor:
            return None
        if step.kind in LAYERS:
            weight, bias = weight_and_bias(step)
            again = any(id(source) in passed for later in steps[place + 1 :] for source in later.sources)
            fits = weight is not None and weight.shape[1] == begins[0].shape[1:].numel() == weight[0].numel()
            return (place, weight.detach().flatten(1), bias) if weight is not None and fits and not again else None
        if step.name not in UNMOVED | SHAPES:
            return None
        tensor = step.output
        passed.add(id(tensor))
    return None


def weight_and_bias(step: Step) -> tuple[Tensor | None, Tensor | None]:
    """Of a linear layer or convolution, (C, K, …) and (C,); None where it is written in another way."""
    if step.name == "addmm":
        return transposed(step.call.argument(2, "mat2")), step.call.argument(0, "input")
    if step.name in MATRIX_PRODUCTS:
        other = step.call.arguments[1] if len(step.call.arguments) > 1 and step.call.arguments[0] is step.sources[0] else None
        return transposed(other), None
    return step.call.argument(1, "weight"), step.call.argument(2, "bias")


def transposed(weight: Tensor | None) -> Tensor | None:
    return weight.t() if isinstance(weight, Tensor) and weight.dim() == 2 else None


def keeps_values(steps: list[Step]) -> bool:
    """Whether the steps only give the same values another shape."""
    return all(step.name in UNMOVED | SHAPES or (step.name in {"getitem", "select"} and keeps_order(step)) for step in steps)


def keeps_order(step: Step) -> bool:
    """Whether an index only drops axes of length 1: what selects or reorders classes does not."""
    if step.name == "select":
        return bool(step.sources[0].shape[step.call.argument(1, "dim")] == 1)
    index = step.call.arguments[1] if isinstance(step.call.arguments[1], tuple) else (step.call.arguments[1],)
    basic = all(part is None or part is ... or isinstance(part, int | slice) for part in index)
    return bool(basic and step.output.numel() == step.sources[0].numel())


def comes_to(weight: Tensor, bias: Tensor | None, features: Tensor, scores: Tensor) -> bool:
    """Whether weight (C, K) and bias (C,) make `scores` of `features` (N, K), within what rounding of the features does.

    This finds out what a model writes into a view of its scores, which is not among the steps.
    """
    made = F.linear(features, weight, bias)
    terms = F.linear(features.abs(), weight.abs(), None if bias is None else bias.abs())
    apart = (made - scores.detach().reshape(made.shape)).abs()
    # Values that are not finite cannot be compared.
    return not bool((apart.isfinite() & (apart > TOLERANCE.get(features.dtype, COARSE) * terms)).any())
