"""R(x|c) by the graph that autograd made of an untouched forward pass: hooks on its nodes, no function mode, no tape.

It sees what `auditor` cannot miss without being wrong: whatever took part in the forward pass has a node here, whoever wrote it.
A graph with a node of which it is not known what the rule does to it has no reference.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

GRADIENTS = ("gradient", "gradient_times_input")
RULES = (*GRADIENTS, "linear", "deconv", "guided")


def words(text: str) -> set[str]:
    return set(text.split())


LINEAR = words(
    "Convolution SlowConv2D ConvDepthwise2D MkldnnConvolution Addmm Add Sub Rsub Neg Mean Sum AvgPool2D AvgPool3D "
    "AdaptiveAvgPool2D AdaptiveAvgPool1D MaxPool2DWithIndices AdaptiveMaxPool2D NativeBatchNorm Cat Stack View UnsafeView "
    "ReshapeAlias AsStrided Permute Transpose T Slice Select Squeeze Unsqueeze Expand Clone ConstantPadNd ReflectionPad2D "
    "Index IndexSelect Split SplitWithSizes Unbind Roll Flip Repeat Unfold Im2Col Col2Im PixelShuffle PixelUnshuffle "
    "UpsampleNearest2D UpsampleBilinear2D UpsampleBicubic2D ToCopy CopyBackwards Alias Narrow Diagonal"
)
"""Nodes whose ordinary gradient is the adjoint."""
ACTIVATIONS = words(
    "Relu Hardtanh LeakyRelu Silu Gelu Hardswish Elu Celu Mish Softplus PreluKernel Prelu Sigmoid Tanh Hardsigmoid Clamp "
    "ClampMin ClampMax Erf"
)
SOFTMAX = {"Softmax", "SafeSoftmax"}
BOUNDED = SOFTMAX | {"Sigmoid", "Hardsigmoid"}
NORMS = {"NativeLayerNorm", "NativeGroupNorm"}
FUNCTIONS = words("Pow Sqrt Rsqrt Reciprocal Exp Var Std LinalgVectorNorm Norm")
"""Nodes whose derivative `guided` takes, as it takes that of norms and products."""
PRODUCTS = {"Mul", "Div", "Bmm", "Mm"}
UNMOVED = {"Alias", "Clone", "ToCopy", "View", "UnsafeView", "ReshapeAlias", "Expand", "Unsqueeze", "Squeeze"}
END = "AccumulateGrad"
CANDIDATES = 20
"""How many of the last maps of a forward pass may be those that z_L is read from."""

Edge = tuple[Node, int]


class NoReference(Exception):
    """Says which node is not known, or what else stands in the way."""


def responses(scores: Tensor, images: Tensor, classes: list[int], rule: str) -> Tensor:
    """R(x|c), (N, K, H, W), channels summed.

    scores: z_L, (N, C, h, w) or (N, C), with the graph back to `images` (N, ch, H, W), a leaf. rule: of `RULES`.
    Raises NoReference.
    """
    handles, found = [], []
    try:
        # One by one: those that were hooked before a node that is not known are freed as well.
        for handle in [] if rule in GRADIENTS else hook_all(scores, rule):
            handles.append(handle)
        for number in classes:
            response = scores[:, number]
            seed = (response > 0).to(response.dtype) if rule == "gradient_times_input" else response.detach().clamp(min=0)
            (arrived,) = torch.autograd.grad(response, images, seed, retain_graph=True)
            found.append((arrived * images.detach() if rule == "gradient_times_input" else arrived).sum(1))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(found, 1)


def hook_all(scores: Tensor, rule: str) -> Iterator[Any]:
    """Walks from the scores to the image, not into what is held fixed, and hooks what the rule treats unlike autograd."""
    holds = rule != "guided"
    waiting, seen = [scores.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name, edges = name_of(node), live(node)
        followed = edges
        if name == "ClampMin" and edges and name_of(edges[0][0]) == "LinalgVectorNorm":
            # The least that normalize divides by: a part of the norm.
            pass
        elif name in ACTIVATIONS:
            yield hook_activation(node, rule)
        elif name in NORMS:
            if holds:
                yield node.register_hook(fixed_norm(node, name))
        elif name in SOFTMAX:
            if holds:
                followed = []
                yield node.register_hook(hold({0}))
        elif name in PRODUCTS and len(edges) > 1:
            if not holds:
                check_spelling(node, name)
            else:
                gate = gate_of(node, name)
                followed = [edge for position, edge in enumerate(node.next_functions) if position != gate and edge[0] is not None]
                yield node.register_hook(hold({gate}))
        elif name not in LINEAR | PRODUCTS | {END} | (set() if holds else FUNCTIONS) or (
            name == "NativeBatchNorm" and node._saved_training
        ):
            raise NoReference(name)
        waiting += [edge[0] for edge in followed]


def hook_activation(node: Node, rule: str) -> Any:
    if rule == "guided":
        return node.register_prehook(lambda gradients: (gradients[0].clamp(min=0), *gradients[1:]))
    if rule == "deconv":
        return node.register_hook(lambda inputs, outputs: (outputs[0].clamp(min=0), *inputs[1:]))
    return node.register_hook(lambda inputs, outputs: (outputs[0], *inputs[1:]))


def hold(positions: set[int]) -> Callable[..., Any]:
    """Nothing goes back to the operands at `positions`."""
    return lambda inputs, outputs: tuple(
        torch.zeros_like(gradient) if position in positions and gradient is not None else gradient
        for position, gradient in enumerate(inputs)
    )


def fixed_norm(node: Any, name: str) -> Callable[..., Any]:
    """The adjoint of (x − mean) / deviation · weight, the deviation held fixed."""
    inverse, weight = node._saved_result2, node._saved_weight

    def layer(inputs: Any, outputs: Any) -> Any:
        axes = tuple(range(-len(node._saved_normalized_shape), 0))
        scaled = (outputs[0] if weight is None else outputs[0] * weight) * inverse
        return (scaled - scaled.mean(axes, keepdim=True), *inputs[1:])

    def group(inputs: Any, outputs: Any) -> Any:
        arrived = outputs[0]
        if weight is not None:
            arrived = arrived * weight.reshape(-1, *[1] * (arrived.dim() - 2))
        scaled = arrived.reshape(*inverse.shape, -1) * inverse[..., None]
        return ((scaled - scaled.mean(-1, keepdim=True)).reshape(arrived.shape), *inputs[1:])

    return layer if name == "NativeLayerNorm" else group


def gate_of(node: Any, name: str) -> int:
    """Which operand of a product scales the other. Raises NoReference where it is not plain to see."""
    first, second = node.next_functions[:2]
    makers = [maker(first), maker(second)]
    if name == "Div":
        if makers[0][0] is not makers[1][0] and node._saved_other.numel() < node._saved_self.numel():
            return 1
        raise NoReference("a quotient of two responses")
    bounded = [made is not None and name_of(made) in BOUNDED for made, _ in makers]
    sizes = [0, 0] if name in {"Bmm", "Mm"} else [node._saved_self.numel(), node._saved_other.numel()]
    if bounded[0] != bounded[1]:
        gate = 0 if bounded[0] else 1
    elif sizes[0] != sizes[1] and not expanded(first, second):
        gate = 0 if sizes[0] < sizes[1] else 1
    else:
        raise NoReference("a product of two responses")
    check_spelling(node, name)
    return gate


def check_spelling(node: Any, name: str) -> None:
    """Raises NoReference for a product of values and a function of the same values: an activation, spelt in two nodes or more."""
    if name == "Mul":
        for gate, gated in (node.next_functions, node.next_functions[::-1]):
            made, values = maker(gate)[0], maker(gated, UNMOVED)
            # Times a constant too, as x · sigmoid(1.702 x).
            if made is not None and name_of(made) in ACTIVATIONS and maker(live(made)[0], UNMOVED | {"Mul", "Div"}) == values:
                raise NoReference("an activation written out")


def expanded(*edges: Any) -> bool:
    return any(edge[0] is not None and name_of(edge[0]) == "Expand" for edge in edges)


def maker(edge: Any, passing: set[str] | None = None) -> tuple[Node | None, int]:
    """Looks back through reshaping and constant factors and terms, or through the nodes in `passing` alone."""
    node, position = edge
    while node is not None:
        edges, name = live(node), name_of(node)
        passes = name in passing if passing is not None else name in LINEAR | {"Mul", "Div"} and name not in TAKES_PARTS
        if len(edges) != 1 or not passes:
            break
        node, position = edges[0]
    return node, position


TAKES_PARTS = {
    "Convolution",
    "Addmm",
    "Mm",
    "Mean",
    "Sum",
    "AvgPool2D",
    "AdaptiveAvgPool2D",
    "MaxPool2DWithIndices",
    "NativeBatchNorm",
}
"""What makes new values, and hides who made the old ones."""


def live(node: Node) -> list[Edge]:
    return [edge for edge in node.next_functions if edge[0] is not None]


def name_of(node: Node) -> str:
    return re.sub(r"Backward\d*$", "", node.name().rpartition("::")[2].rpartition(".")[2])


class Watch(TorchFunctionMode):
    """Lets everything happen, and keeps what came out."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.requires_grad and output.dim() in (3, 4):
            self.outputs.append(output)
        return output


def class_maps(model: nn.Module, images: Tensor, expected: Tensor) -> Tensor:
    """z_L with its graph: of maps of a plain forward pass, the affine function, one for all places, whose average is the output.

    images: (N, ch, H, W), a leaf that takes a gradient. expected: (N, C, h, w), z_L as `auditor` has it, which says the places.
    What the function is, autograd says: how the output changes with the maps. Raises NoReference where none of the last
    maps has the values expected.
    """
    with sdpa_kernel(SDPBackend.MATH), Watch() as watch:
        output = model(images.clone())
    if expected.shape[2:].numel() == 1:
        if close(output, expected.flatten(1)):
            return output
        raise NoReference("z_L is not what the model returns")
    candidates = [tensor for tensor in reversed(watch.outputs) if any(True for _ in layouts(tensor, expected))]
    for tensor in candidates[:CANDIDATES]:
        slopes = [torch.autograd.grad(score.sum(), tensor, retain_graph=True, allow_unused=True)[0] for score in output.unbind(1)]
        if slopes[0] is None:
            continue
        for maps, *kernels in zip(*(layouts(given, expected) for given in (tensor, *slopes)), strict=True):
            scores = torch.einsum("nkhw,nck->nchw", maps, torch.stack([kernel.sum((2, 3)) for kernel in kernels], 1))
            scores = scores + (output - scores.mean((2, 3))).detach()[:, :, None, None]
            if close(scores, expected):
                return scores
    raise NoReference("z_L is not affine in any of the last maps of a plain forward pass")


def layouts(tensor: Tensor, expected: Tensor) -> Iterator[Tensor]:
    """The tensor as maps (N, K, h, w) of the wanted places, in each layout that it may have."""
    size = tuple(expected.shape[2:])
    if len(tensor) != len(expected):
        return
    if tensor.dim() == 4 and tuple(tensor.shape[2:]) == size:
        yield tensor
    if tensor.dim() == 4 and tuple(tensor.shape[1:3]) == size:
        yield tensor.permute(0, 3, 1, 2)
    if tensor.dim() == 3 and tensor.shape[1] == size[0] * size[1]:
        yield tensor.transpose(1, 2).unflatten(2, size)
    if tensor.dim() == 3 and tensor.shape[2] == size[0] * size[1]:
        yield tensor.unflatten(2, size)


def close(found: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().max())
    return found.shape == expected.shape and bool(((found.detach() - expected).abs() <= 1e-4 * scale).all())
