"""Where classes are decided: the class responses z_L of eq. 3, and the tensor at which they enter the way back."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.errors import UnsupportedModel
from auditor.rules import Step, Tape

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
    if step is not None and is_global_average(step):
        scores = operand(step)
        if scores.shape[1] == classes:
            return pointwise_head(tape, scores)
    if step is not None and step.name == "linear":
        weight = parameter(step, 1, "weight")
        features = operand(step)
        averaged = last_step(tape, features, RESHAPES)
        if averaged is not None and is_global_average(averaged) and operand(averaged).shape[1] == weight.shape[1]:
            maps = operand(averaged)
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
            if step.name not in passing:
                return step
            tensor = operand(step)
    return None


def operand(step: Step) -> Tensor:
    return step.inputs()[0]


def output_of(step: Step) -> Tensor:
    output: Tensor = step.output
    return output


def parameter(step: Step, position: int, name: str, optional: bool = False) -> Tensor:
    value = step.arguments[position] if len(step.arguments) > position else step.keywords.get(name)
    if value is None and not optional:
        raise UnsupportedModel(f"operation '{step.name}' was called without {name}")
    return value  # type: ignore[no-any-return]


def is_global_average(step: Step) -> bool:
    if step.name not in {"mean", "adaptive_avg_pool2d", "avg_pool2d"} or operand(step).dim() != 4:
        return False
    samples, channels = operand(step).shape[:2]
    return tuple(output_of(step).shape) in {(samples, channels), (samples, channels, 1, 1)}
