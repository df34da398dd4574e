"""Where classes are decided: the class responses z_L of eq. 3, and the tensor at which they enter the way back."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from auditor.entry import geometry_of
from auditor.errors import UnsupportedModel
from auditor.operations import STOCHASTIC
from auditor.tape import Step, Tape

RESHAPES = {
    *("flatten", "view", "reshape", "squeeze", "contiguous", "clone", "dropout", "getitem", "select", "identity", "to", "float"),
    *("type", "to_copy", "alias"),
}
AFTER_CLASSES = RESHAPES | {"softmax", "log_softmax", "sigmoid"}
LINEAR = {"linear", "addmm", "matmul", "mm"}
LOOKED_FOR = (
    "convolution → global average, convolution → ReLU → global average, global average → linear, flatten → linear, "
    "tokens → linear"
)


Layer = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Head:
    """Class responses and where to send them back from.

    responses: (N, C, h, w) float32, z_L before the global average; 1 × 1 where the classes are decided by a linear layer
        behind it, (T, 1) for T tokens.
    root: the tensor at which the way back begins: maps (N, K, h, w), tokens (N, T, K), or vectors (N, K).
    weight: (C, K), the kernels between `root` and `responses`; None where `root` is z_L itself, K = C.
    source: what the forward pass made that `responses` are read from. layer: weight (C, K) and bias (C,) that do so, if any.
    """

    responses: Tensor
    root: Tensor
    weight: Tensor | None
    source: Tensor
    layer: Layer | None = None

    def enter(self, seeds: Tensor, classes: Tensor) -> Tensor:
        """What `root` receives when each sample sends back one class (G_L^c z_L of eq. 3).

        seeds: (N, h, w), the class's response. classes: (N,) int64. Returns the shape of `root`.
        """
        kernels = F.one_hot(classes, self.responses.shape[1]).to(seeds.dtype) if self.weight is None else self.weight[classes]
        if self.root.dim() == 2:
            return kernels * seeds[:, 0]
        if self.root.dim() == 3:
            return seeds * kernels[:, None, :]
        # In the memory format of the maps, which what comes next would otherwise be slow to read.
        return (seeds[..., None] * kernels[:, None, None, :]).permute(0, 3, 1, 2)


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
        if scores is not None and scores.dim() == 4 and scores.shape[1] == classes:
            return pointwise_head(tape, scores)
    head = None if step is None or step.name not in LINEAR else linear_head(tape, step, classes)
    if head is not None:
        return head
    if step is not None and step.name in {"conv2d", "convolution"} and output_of(step).shape[1:] == (classes, 1, 1):
        return pointwise_head(tape, output_of(step))
    found = f"'{step.name}'" if step is not None else "nothing that depends on the input"
    raise UnsupportedModel(
        f"where the model decides its classes was not found: looked for {LOOKED_FOR}, found {found}; name the module whose "
        "output has one channel a class as head"
    )


def named_head(tape: Tape, watched: list[Tensor], classes: int, name: str) -> Head:
    """The head at the output of the module that the user named: maps (N, C, h, w), tokens (N, T, C) or vectors (N, C)."""
    if not watched:
        raise UnsupportedModel(f"head '{name}' was not called in the forward pass: name a module that is")
    scores = watched.pop()
    watched.clear()
    axis = 2 if scores.dim() == 3 else 1
    if scores.dim() not in (2, 3, 4) or scores.shape[axis] != classes:
        raise UnsupportedModel(
            f"head '{name}' has an output of shape {tuple(scores.shape)}, and the model {classes} classes: name the module "
            "whose output has one channel a class"
        )
    if not scores.requires_grad:
        raise UnsupportedModel(f"head '{name}' does not depend on the input: name the module that decides the classes")
    if scores.dim() == 4:
        return pointwise_head(tape, scores)
    return Head(as_maps(scores.detach()), scores, None, scores)


def linear_head(tape: Tape, step: Step, classes: int) -> Head | None:
    """Global average of maps or tokens → linear, or vectors → linear; None where `step` is neither."""
    weight, bias = weight_and_bias(step)
    if len(step.sources) != 1 or weight is None or weight.dim() != 2 or weight.shape[0] != classes:
        return None
    features = operand(step)
    averaged = last_step(tape, features, RESHAPES)
    source = None if averaged is None else averaged_maps(tape, averaged)
    if source is None or source.shape[2 if source.dim() == 3 else 1] != weight.shape[1]:
        return vector_head(tape, step, features, weight)
    with tape, torch.enable_grad():
        scores = classify(source, (weight, bias))
    # A rule that shares needs the layer's own contributions; the others can enter before it.
    root, kernels = (scores, None) if tape.rule.shares else (source, weight)
    return Head(as_maps(scores.detach()), root, kernels, source, (weight, bias))


def classify(source: Tensor, layer: Layer | None) -> Tensor:
    """A layer that stands behind a global average, at every place before it. source: maps (N, K, h, w) or tokens (N, T, K)."""
    if layer is None:
        return source
    weight, bias = layer
    return F.linear(source, weight, bias) if source.dim() == 3 else F.conv2d(source, weight[:, :, None, None], bias)


def vector_head(tape: Tape, step: Step, features: Tensor, weight: Tensor) -> Head | None:
    scores = output_of(step)
    if features.dim() != 2 or scores.dim() != 2:
        return None
    root, kernels = (scores, None) if tape.rule.shares else (features, weight)
    return Head(as_maps(scores.detach()), root, kernels, scores)


def pointwise_head(tape: Tape, scores: Tensor) -> Head:
    """Enters before a last 1 × 1 convolution where there is one: one kernel a class instead of C channels of zeros.

    A rectifier behind that convolution lets through what is sent back: only positive response is.
    """
    step = last_step(tape, scores, {"relu"})
    if not tape.rule.shares and step is not None and step.name in {"conv2d", "convolution"}:
        weight, features, geometry = weight_and_bias(step)[0], operand(step), geometry_of(step.call)
        stays = geometry is not None and geometry[:2] == ((1, 1), (0, 0))
        if stays and weight is not None and weight.shape[1:] == (features.shape[1], 1, 1):
            return Head(scores.detach().float(), features, weight[:, :, 0, 0], scores)
    return Head(scores.detach().float(), scores, None, scores)


def as_maps(scores: Tensor) -> Tensor:
    """Vectors (N, C) or tokens (N, T, C) as (N, C, h, w) float32."""
    if scores.dim() == 3:
        return scores.float().transpose(1, 2)[:, :, :, None]
    return scores.float() if scores.dim() == 4 else scores.float()[:, :, None, None]


def last_step(tape: Tape, tensor: Tensor, passing: set[str]) -> Step | None:
    """The step that made `tensor`, looking through the operations named in `passing`."""
    for step in reversed(tape.steps):
        if step.output is tensor:
            if step.name not in passing or (step.name in {"getitem", "select"} and not keeps_order(step)):
                return step
            if step.name in STOCHASTIC and step.fault is not None:
                raise UnsupportedModel(step.fault)
            tensor = operand(step)
    return None


def operand(step: Step) -> Tensor:
    return step.sources[0]


def output_of(step: Step) -> Tensor:
    output: Tensor = step.output
    return output


def weight_and_bias(step: Step) -> tuple[Tensor | None, Tensor | None]:
    """Of a linear layer or convolution, (C, K, …) and (C,); None where it is written otherwise."""
    if step.name == "addmm":
        return transposed(step.call.argument(2, "mat2")), step.call.argument(0, "input")
    if step.name in {"matmul", "mm"}:
        other = step.call.arguments[1] if len(step.call.arguments) > 1 and step.call.arguments[0] is step.sources[0] else None
        return transposed(other), None
    return step.call.argument(1, "weight"), step.call.argument(2, "bias")


def transposed(weight: Tensor | None) -> Tensor | None:
    return weight.t() if weight is not None and weight.dim() == 2 else None


def keeps_order(step: Step) -> bool:
    """Whether an index only drops axes of length 1: what selects or reorders classes does not."""
    if step.name == "select":
        return bool(operand(step).shape[step.call.argument(1, "dim")] == 1)
    index = step.call.arguments[1] if isinstance(step.call.arguments[1], tuple) else (step.call.arguments[1],)
    basic = all(part is None or part is ... or isinstance(part, int | slice) for part in index)
    return basic and output_of(step).numel() == operand(step).numel()


def averaged_maps(tape: Tape, step: Step) -> Tensor | None:
    """The maps (N, K, h, w) or tokens (N, T, K) of which `step` is the global average; None where it is none.

    Seen through: one mean over both axes, one axis after the other, or over flattened maps.
    """
    source, output = operand(step), output_of(step)
    if source.dim() == 3 and step.name == "mean" and axes(step) == {1}:
        return source
    if source.dim() == 3 and step.name == "mean" and axes(step) == {2}:
        inner = last_step(tape, source, {"contiguous"})
        if inner is None or operand(inner).dim() != 4 or operand(inner).shape[:2] != source.shape[:2]:
            return None
        flattened = inner.name in {"flatten", "view", "reshape"}
        return operand(inner) if flattened or (inner.name == "mean" and axes(inner) in ({2}, {3})) else None
    if source.dim() != 4 or output.shape[:2] != source.shape[:2] or output.numel() != source.shape[:2].numel():
        return None
    if step.name == "mean":
        return source if axes(step) == {2, 3} else None
    if step.name == "avg_pool2d":
        kernel = step.call.argument(1, "kernel_size")
        whole = tuple(kernel) if isinstance(kernel, list | tuple) and len(kernel) == 2 else (kernel, kernel)
        return source if whole == tuple(source.shape[2:]) else None
    return source if step.name == "adaptive_avg_pool2d" else None


def axes(step: Step) -> set[int]:
    """Along which a mean was taken."""
    dimensions: Any = step.call.argument(1, "axis" if "axis" in step.call.keywords else "dim")
    if dimensions is None:
        return set(range(operand(step).dim()))
    listed = dimensions if isinstance(dimensions, list | tuple) else [dimensions]
    return {dimension % operand(step).dim() for dimension in listed}


def watch(model: nn.Module, name: str) -> list[Tensor]:
    """Where the outputs of the module `name`, or of that node of an exported program, will be left at each forward pass.

    Raises UnsupportedModel where there is none.
    """
    watched: list[Tensor] = []
    if isinstance(model, fx.GraphModule):
        nodes = {node.name: node for node in model.graph.nodes if node.op == "call_function"}
        watch_node(model, nodes[known(name, "operation", nodes)], watched)
    else:
        modules = {path: module for path, module in model.named_modules() if path}
        hooked = modules[known(name, "module", modules)]
        hooked.register_forward_hook(lambda module, inputs, output: watched.append(output))
    return watched


def known(name: str, what: str, names: Iterable[str]) -> str:
    if name in names:
        return name
    close = get_close_matches(name, names, n=1) or list(names)[-1:]
    suggestion = f": did you mean '{close[0]}'?" if close else ""
    raise UnsupportedModel(f"the model has no {what} '{name}' to be the head{suggestion}")


def watch_node(model: Any, node: fx.Node, watched: list[Tensor]) -> None:
    def note(tensor: Tensor) -> Tensor:
        watched.append(tensor)
        return tensor

    with model.graph.inserting_after(node):
        noted = model.graph.call_function(note, (node,))
    node.replace_all_uses_with(noted, delete_user_cb=lambda user: user is not noted)
    model.recompile()
