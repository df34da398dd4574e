"""Where classes are decided: the class responses z_L of eq. 3, and the tensor at which they enter the way back."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.errors import UnsupportedModel
from auditor.rules import Step, Tape, check_mode

RESHAPES = {"flatten", "view", "reshape", "squeeze", "contiguous", "dropout", "getitem", "identity", "to", "float"}
AFTER_CLASSES = RESHAPES | {"softmax", "log_softmax"}
LOOKED_FOR = "convolution → global average, global average → linear, flatten → linear"


@dataclass(frozen=True)
class Head:
    """Class responses and where to send them back from.

    responses: (N, C, h, w), z_L before the global average; 1 × 1 where the classes are decided by a linear layer.
    root: the tensor at which the way back begins, (N, K, h, w) or (N, K).
    weight: (C, K), the kernels between `root` and `responses`; None where `root` is z_L itself.
    """

    responses: Tensor
    root: Tensor
    weight: Tensor | None

    def enter(self, seeds: Tensor, classes: Tensor) -> Tensor:
        """What `root` receives when each sample sends back one class (G_L^c z_L of eq. 3).

        seeds: (N, h, w), the class's response. classes: (N,) int64. Returns the shape of `root`.
        """
        if self.weight is None:
            return torch.zeros_like(self.root).scatter_(1, classes.view(-1, 1, 1, 1).expand_as(seeds[:, None]), seeds[:, None])
        kernels = self.weight[classes]
        if self.root.dim() == 2:
            return kernels * seeds[:, 0]
        return kernels[:, :, None, None] * seeds[:, None]


def find_head(tape: Tape, output: Tensor) -> Head:
    """Walks back from the model's output (N, C) to the layer with one kernel a class.

    Raises UnsupportedModel where the operations between are none of `LOOKED_FOR`.
    """
    if output.dim() < 2:
        raise UnsupportedModel(f"the model's output has shape {tuple(output.shape)}: one score a class and sample is needed")
    classes = output.shape[1]
    step = last_step(tape, output, AFTER_CLASSES)
    if step is not None:
        scores = averaged_maps(tape, step)
        if scores is not None and scores.shape[1] == classes:
            return pointwise_head(tape, scores)
    if step is not None and step.name == "linear":
        weight = parameter(step, 1, "weight")
        features = operand(step)
        averaged = last_step(tape, features, RESHAPES)
        maps = None if averaged is None else averaged_maps(tape, averaged)
        if maps is not None and maps.shape[1] == weight.shape[1] and weight.shape[0] == classes:
            bias = parameter(step, 2, "bias", optional=True)
            return Head(F.conv2d(maps.detach(), weight[:, :, None, None], bias).float(), maps, weight)
        if features.dim() == 2 and weight.shape[0] == classes:
            return Head(output_of(step).detach().float()[:, :, None, None], features, weight)
    if step is not None and step.name == "conv2d" and output_of(step).shape[1:] == (classes, 1, 1):
        return pointwise_head(tape, output_of(step))
    found = f"'{step.name}'" if step is not None else "nothing that depends on the input"
    raise UnsupportedModel(f"where the model decides its classes was not found: looked for {LOOKED_FOR}, found {found}")


def pointwise_head(tape: Tape, scores: Tensor) -> Head:
    """Enters before a last 1 × 1 convolution where there is one: one kernel a class instead of C channels of zeros."""
    step = last_step(tape, scores, set())
    if step is not None and step.name == "conv2d" and parameter(step, 1, "weight").shape[2:] == (1, 1):
        weight, features = parameter(step, 1, "weight"), operand(step)
        if features.shape[2:] == scores.shape[2:] and features.shape[1] == weight.shape[1]:
            return Head(scores.detach().float(), features, weight[:, :, 0, 0])
    return Head(scores.detach().float(), scores, None)


def last_step(tape: Tape, tensor: Tensor, passing: set[str]) -> Step | None:
    """The step that made `tensor`, looking through the operations named in `passing`."""
    for step in reversed(tape.steps):
        if step.output is tensor:
            if step.name not in passing or (step.name == "getitem" and not keeps_order(step)):
                return step
            check_mode(step)
            tensor = operand(step)
    return None


def operand(step: Step) -> Tensor:
    return step.inputs()[0]


def output_of(step: Step) -> Tensor:
    output: Tensor = step.output
    return output


def parameter(step: Step, position: int, name: str, optional: bool = False) -> Any:
    value = step.arguments[position] if len(step.arguments) > position else step.keywords.get(name)
    if value is None and not optional:
        raise UnsupportedModel(f"operation '{step.name}' was called without {name}")
    return value


def keeps_order(step: Step) -> bool:
    """Whether an index only drops axes of length 1: what selects or reorders classes does not."""
    index = step.arguments[1] if isinstance(step.arguments[1], tuple) else (step.arguments[1],)
    basic = all(part is None or part is ... or isinstance(part, int | slice) for part in index)
    return basic and output_of(step).numel() == operand(step).numel()


def averaged_maps(tape: Tape, step: Step) -> Tensor | None:
    """The maps (N, K, h, w) of which `step` is the global average; None where it is none.

    Seen through: one mean over both axes, one axis after the other, or over flattened maps.
    """
    source, output = operand(step), output_of(step)
    if source.dim() == 3 and step.name == "mean" and axes(step) == {2}:
        inner = last_step(tape, source, set())
        if inner is None or operand(inner).dim() != 4 or operand(inner).shape[:2] != source.shape[:2]:
            return None
        flattened = inner.name in {"flatten", "view", "reshape"}
        return operand(inner) if flattened or (inner.name == "mean" and axes(inner) in ({2}, {3})) else None
    if source.dim() != 4 or output.shape[:2] != source.shape[:2] or output.numel() != source.shape[:2].numel():
        return None
    if step.name == "mean":
        return source if axes(step) == {2, 3} else None
    if step.name == "avg_pool2d":
        kernel = parameter(step, 1, "kernel_size")
        whole = tuple(kernel) if isinstance(kernel, list | tuple) and len(kernel) == 2 else (kernel, kernel)
        return source if whole == tuple(source.shape[2:]) else None
    return source if step.name == "adaptive_avg_pool2d" else None


def axes(step: Step) -> set[int]:
    """Along which a mean was taken."""
    dimensions: Any = parameter(step, 1, "axis" if "axis" in step.keywords else "dim")
    listed = dimensions if isinstance(dimensions, list | tuple) else [dimensions]
    return {dimension % operand(step).dim() for dimension in listed}
