"""Where classes are decided: the class responses z_L of eq. 3, and the tensor at which they enter the way back."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from auditor.backward.affine import (
    SHAPES,
    AffineEnd,
    Average,
    affine_end,
    comes_to,
    find_average,
    first_layer,
    keeps_order,
    keeps_values,
    run_through,
    weight_and_bias,
)
from auditor.backward.history import Step
from auditor.backward.scores import Scores, check_order, with_silent_class
from auditor.backward.tape import Tape
from auditor.errors import UnsupportedModel
from auditor.kernels.conv_arguments import geometry_of
from auditor.operations.rule_table import STOCHASTIC, UNMOVED

RESHAPES = UNMOVED | SHAPES | {"getitem", "select"}
LINEAR = frozenset({"linear", "addmm", "matmul", "mm"})
CONVOLUTIONS = frozenset({"conv2d", "convolution"})
CHANNELS_LAST = frozenset({"linear", "layer_norm"})
"""Operations whose output, where it is maps, has its channels last."""


@dataclass(frozen=True)
class Layer:
    """What stands between the features and z_L, the same at every position.

    weight: (C, K), None where the features are z_L already. bias: (C,). axis: of the features' channels.
    """

    weight: Tensor | None = None
    bias: Tensor | None = None
    axis: int = 1

    def class_responses(self, features: Tensor) -> Tensor:
        """z_L, (N, C, h, w); (N, C, T, 1) of T tokens, (N, C, 1, 1) of vectors."""
        if self.weight is None:
            return as_maps(features, self.axis)
        if features.dim() == 4 and self.axis == 1:
            return F.conv2d(features, self.weight[:, :, None, None], self.bias)
        responses = F.linear(features.movedim(self.axis, -1), self.weight, self.bias)
        return as_maps(responses, responses.dim() - 1)


@dataclass(frozen=True)
class Head:
    """Class responses and where to send them back from.

    responses: (N, C, h, w) float32, z_L before the global average; 1 × 1 where the classes are decided by a linear layer
        behind it, (T, 1) for T tokens.
    root: the tensor at which the way back begins: maps (N, K, h, w), tokens (N, T, K), or vectors (N, K).
    weight: (C, K), the kernels between `root` and `responses`; None where `root` is z_L itself, K = C.
    source: the tensor of the forward pass that `layer` makes `responses` of.
    axis: of the channels of `root`, which may be maps (N, h, w, K) and tokens (N, K, T) as well.
    of_tokens: whether the positions of `responses` are tokens, of which nothing says where in the image they are.
    """

    responses: Tensor
    root: Tensor
    weight: Tensor | None
    source: Tensor
    layer: Layer = Layer()
    axis: int = 1
    of_tokens: bool = False

    @property
    def positions(self) -> int:
        return self.responses.shape[2:].numel()

    def enter(self, seeds: Tensor, classes: Tensor) -> Tensor:
        """What `root` receives when each sample sends back one class (G_L^c z_L of eq. 3).

        seeds: (N, h, w), the class's response. classes: (N,) int64. Returns the shape of `root`.
        """
        kernels = F.one_hot(classes, self.responses.shape[1]).to(seeds.dtype) if self.weight is None else self.weight[classes]
        places = [size for axis, size in enumerate(self.root.shape) if axis not in (0, self.axis)]
        # In the memory format of the maps: the next operation would be slow to read another.
        entering = seeds.reshape(len(seeds), *places, 1) * kernels.view(len(kernels), *[1] * len(places), -1)
        return entering.movedim(-1, self.axis)


def find_head(tape: Tape, scores: Scores) -> Head:
    """Walks back from the scores to the layer with one kernel a class.

    z_L has a position for each that the scores are the average of, and one where they are none. Raises UnsupportedModel.
    """
    with torch.inference_mode(False):
        head = averaged_head(tape, scores.tensor) or vector_head(tape, scores.tensor)
    return head if scores.only is None else of_two_classes(head, scores.only)


def named_head(tape: Tape, watched: list[Tensor], scores: Scores, name: str) -> Head:
    """The head at the output of the module that the user named: maps (N, C, h, w), tokens (N, T, C) or vectors (N, C).

    Raises UnsupportedModel, also where the average of that output does not order the classes as the model does.
    """
    if not watched:
        raise UnsupportedModel(f"head '{name}' was not called in the forward pass: name a module that is")
    output = watched.pop()
    watched.clear()
    if not isinstance(output, Tensor):
        raise UnsupportedModel(
            f"head '{name}' returns {type(output).__name__}: name the module whose output has one channel a class"
        )
    axis, channels = (2 if output.dim() == 3 else 1), (scores.class_count if scores.only is None else 1)
    if output.dim() not in (2, 3, 4) or output.shape[axis] != channels:
        raise UnsupportedModel(
            f"head '{name}' has an output of shape {tuple(output.shape)}, and the model {scores.class_count} classes: name the "
            "module whose output has one channel a class"
        )
    if not output.requires_grad:
        raise UnsupportedModel(f"head '{name}' does not depend on the input: name the module that decides the classes")
    head = class_maps_head(tape, output, axis)
    head = head if scores.only is None else of_two_classes(head, scores.only)
    check_order(head.responses.mean((2, 3)), output.dtype, scores, name)
    return head


def averaged_head(tape: Tape, scores: Tensor) -> Head | None:
    """Scores that are an affine map of a global average, however written; None where they are not, or of several sizes."""
    if not len(scores):
        return None
    found: dict[int, Average] = {}

    def is_global(step: Step) -> bool:
        average = find_average(tape, step, len(scores))
        found.update({} if average is None else {id(step.output): average})
        return average is not None

    end = affine_end(tape, scores, is_global)
    averages = [found[id(tensor)] for tensor, _ in end.begins if id(tensor) in found]
    if len(averages) < len(end.begins) or len({average.positions for average in averages}) != 1:
        return None
    weight, bias = (None if part is None else part.to(averages[0].source.dtype) for part in joined_layer(end, averages, scores))
    features = torch.cat([average.mean for average in averages], 1).to(averages[0].source.dtype)
    if weight is not None and not comes_to(weight, bias, features, scores):
        return None
    if weight is None and not (keeps_values(end.steps) and averages[0].factor == 1 and len(averages) == 1):
        return None
    source, axis = averages[0].source, averages[0].axis
    of_tokens = any(average.source.dim() == 3 for average in averages)
    if weight is None:
        return class_maps_head(tape, source, axis)
    with tape, torch.enable_grad():
        if len(averages) > 1:
            source, axis = torch.cat([as_maps(average.source, average.axis) for average in averages], 1), 1
        layer = Layer(weight, bias, axis)
        responses = layer.class_responses(source)
    if not tape.rule.shares:
        return Head(responses.detach().float(), source, weight, source, layer, axis, of_tokens)
    # A rule that shares needs the layer's own contributions.
    return Head(responses.detach().float(), decided(tape, responses), None, source, layer, 1, of_tokens)


def joined_layer(end: AffineEnd, averages: list[Average], scores: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Weight (C, K) and bias (C,) from the means of all averages to the scores; None where there is no such layer."""
    if len(averages) == 1 and keeps_values(end.steps):
        return None, None
    pooled = [average.pooled for average in averages]
    alone = first_layer(end.steps, pooled)
    if alone is not None and averages[0].factor == 1 and keeps_values(end.steps[alone[0] + 1 :]):
        return alone[1:]
    rows = run_through(end.steps, pooled, scores)
    if rows is None:
        return None, None
    factors = torch.cat([rows.new_full((average.channels,), average.factor) for average in averages])
    weight, bias = (rows[:-2] - rows[-1]).t() * factors, rows[-1]
    return weight.contiguous(), bias


def vector_head(tape: Tape, scores: Tensor) -> Head:
    """z_L of one position: the scores themselves, entered before the layer that makes them where there is one."""
    step = last_step(tape, scores, RESHAPES)
    if step is not None and step.name in CONVOLUTIONS and step.output.shape[2:] == (1, 1):
        return class_maps_head(tape, step.output, 1)
    made = scores if step is None or step.output.numel() != scores.numel() else step.output
    if step is not None and step.name in LINEAR and len(step.sources) == 1 and not tape.rule.shares:
        weight, features = weight_and_bias(step)[0], step.sources[0]
        if weight is not None and features.dim() == 2 and made.dim() == 2 and weight.shape == (made.shape[1], features.shape[1]):
            return Head(as_maps(made.detach()).float(), features, weight, made)
    with tape, torch.enable_grad():
        root = scores if scores.dim() == 2 else scores.reshape(len(scores), scores.shape[1:].numel())
    return Head(as_maps(root.detach()).float(), root, None, scores)


def class_maps_head(tape: Tape, scores: Tensor, axis: int) -> Head:
    """Enters before a last 1 × 1 convolution where there is one: one kernel a class instead of C channels of zeros.

    A rectifier behind that convolution lets through what is sent back: only positive response is.
    """
    responses, layer = as_maps(scores.detach(), axis).float(), Layer(axis=axis)
    if tape.rule.shares:
        return Head(responses, decided(tape, scores), None, scores, layer, axis)
    step = last_step(tape, scores, {"relu"}) if scores.dim() == 4 and axis == 1 else None
    if step is not None and step.name in CONVOLUTIONS:
        weight, features, geometry = weight_and_bias(step)[0], step.sources[0], geometry_of(step.call)
        stays = geometry is not None and geometry[:2] == ((1, 1), (0, 0))
        if stays and weight is not None and weight.shape[1:] == (features.shape[1], 1, 1):
            return Head(responses, features, weight[:, :, 0, 0], scores, layer)
    return Head(responses, scores, None, scores, layer, axis, of_tokens=scores.dim() == 3)


def decided(tape: Tape, scores: Tensor) -> Tensor:
    """Where classes enter behind the layer that makes `scores`, under a rule that shares: it is dense, also as a convolution."""
    step = last_step(tape, scores, {"relu"})
    is_other = tape.rule.answers["dense"] is not tape.rule.answers["convolution"]
    return tape.decide(step) if is_other and step is not None and step.kind == "convolution" else scores


def of_two_classes(head: Head, only: int) -> Head:
    """A head with one response, of class `only`: the other class has none, and its kernel is zero."""
    one = head.responses.new_ones((1, 1))
    kernels = one.to(head.root.dtype) if head.weight is None else head.weight
    weight, bias = head.layer.weight, head.layer.bias
    layer = replace(
        head.layer,
        weight=with_silent_class(one.to(head.source.dtype) if weight is None else weight.t(), only).t().contiguous(),
        bias=None if bias is None else with_silent_class(bias[None], only)[0],
    )
    return replace(
        head,
        responses=with_silent_class(head.responses, only),
        weight=with_silent_class(kernels.t(), only).t().contiguous(),
        layer=layer,
    )


def as_maps(scores: Tensor, axis: int = 1) -> Tensor:
    """Maps, tokens or vectors, or one number a sample, as (N, C, h, w). axis: of the channels."""
    scores = scores.movedim(axis, 1) if scores.dim() > 1 else scores[:, None]
    return scores if scores.dim() == 4 else scores.reshape(*scores.shape[:2], scores.shape[2:].numel(), 1)


def feature_positions(tape: Tape, head: Head) -> int:
    """How many positions the last features have, on the way to the head, that have more than one; 1 where none have."""
    for step, _ in tape.history.path(head.root):
        features = step.output
        if step.kind != "reshape" and isinstance(features, Tensor) and features.dim() in (3, 4):
            axis = features.dim() - 1 if features.dim() == 3 or step.name in CHANNELS_LAST else 1
            positions = features.shape[1:].numel() // features.shape[axis]
            if positions > 1 and len(features) == len(head.responses):
                return positions
    return 1


def last_step(tape: Tape, tensor: Tensor, passing: set[str] | frozenset[str]) -> Step | None:
    """The step that made `tensor`, looking through the operations named in `passing`."""
    for step in reversed(tape.history.steps):
        if step.output is tensor:
            if step.name not in passing or (step.name in {"getitem", "select"} and not keeps_order(step)):
                return step
            if step.name in STOCHASTIC and step.fault is not None:
                raise UnsupportedModel(step.fault)
            tensor = step.sources[0]
    return None


def watch(model: nn.Module, name: str) -> list[Tensor]:
    """The list to which each forward pass adds the output of the module `name`, or of that node of an exported program.

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
