"""Networks drawn at random, a few operations deep, each with its forward pass in torch and in matrix form up to z_L."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.auditor import matrix_form as form
from tests.auditor import matrix_functions as functions
from tests.auditor.matrix_form import Node, Shape, numbers
from tests.auditor.pieces import CATALOGUE, IN_PLACE, SHARED, Factory, Piece, as_tokens, history, plain

CLASSES = 4
MOST_VALUES = 240
"""Of a map, so that its dense matrices stay small."""


class Chain(nn.Sequential):
    def trace(self, node: Node) -> Node:
        for piece in self:
            node = piece.trace(node)
        return node


class Joined(nn.Module):
    """Two ways from the same maps, added, subtracted or put side by side, as `spelling` says."""

    def __init__(self, first: nn.Module, second: nn.Module, spelling: str) -> None:
        super().__init__()
        self.first, self.second, self.spelling = first, second, spelling

    def forward(self, maps: Tensor) -> Tensor:
        first, second = self.first(maps), self.second(maps)
        if self.spelling == "+=":
            first += second
            return first
        return JOINS[self.spelling](first, second)

    def trace(self, node: Node) -> Node:
        first, second = self.first.trace(node), self.second.trace(node)
        if "cat" in self.spelling:
            return form.cat(first, second)
        return form.add(first, second, -1 if "-" in self.spelling else 1)


JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": lambda first, second: first + second,
    "add_": lambda first, second: first.add_(second),
    "torch.add": torch.add,
    "-": lambda first, second: first - second,
    "torch.cat": lambda first, second: torch.cat([first, second], 1),
    "torch.concat": lambda first, second: torch.concat((first, second), dim=-3),
}


def shape_after(module: nn.Module, shape: Shape) -> Shape:
    with torch.no_grad():
        return tuple(module.eval()(torch.zeros(1, *shape)).shape[1:])


def fits(shape: Shape) -> bool:
    return len(shape) == 3 and min(shape[1:]) >= 2 and prod(shape) <= MOST_VALUES


def made(factory: Factory, shape: Shape) -> nn.Module:
    """The piece, or a plain convolution where the maps are too small for it, too many for it, or its channels do not divide."""
    try:
        piece = factory(shape)
        if fits(shape_after(piece, shape)):
            return piece
    except (RuntimeError, ValueError, AssertionError, IndexError):
        pass
    return CATALOGUE["layer"]["conv 1 × 1"](shape)


@st.composite
def blocks(draw: st.DrawFn, shape: Shape) -> Chain:
    """A layer; after some, batch norm; after most, an activation, in place or not."""
    layer = made(CATALOGUE["layer"][draw(st.sampled_from(sorted(CATALOGUE["layer"])))], shape)
    pieces, channels = [layer], shape_after(layer, shape)[0]
    if draw(st.booleans()):
        norm = history(nn.BatchNorm2d(channels))
        pieces.append(Piece(lambda own, maps: own.module(maps), lambda own, node: form.batch_norm(node, own.module), module=norm))
    choice = draw(st.sampled_from(["none", "shared", "in place", "in place", "function", "function"]))
    if choice == "shared":
        pieces.append(Piece(lambda own, maps: own.module(maps), lambda own, node: functions.relu(node), module=SHARED))
    elif choice == "in place":
        run, name = IN_PLACE[draw(st.sampled_from(sorted(IN_PLACE)))]
        pieces.append(plain(run, lambda node: functions.activation(node, name))(shape))
    elif choice == "function":
        pieces.append(CATALOGUE["activation"][draw(st.sampled_from(sorted(CATALOGUE["activation"])))](shape))
    return Chain(*pieces)


@st.composite
def operations(draw: st.DrawFn, shape: Shape) -> nn.Module:
    """Anything of the catalogue."""
    kind = draw(st.sampled_from(sorted(CATALOGUE)))
    return made(CATALOGUE[kind][draw(st.sampled_from(sorted(CATALOGUE[kind])))], shape)


@st.composite
def joins(draw: st.DrawFn, shape: Shape) -> nn.Module:
    """A residual connection, with a shortcut where shapes differ, or two branches side by side."""
    first = Chain(*draw(bodies(shape, 1)))
    after = shape_after(first, shape)
    spelling = draw(st.sampled_from([*sorted(JOINS), "+="]))
    if spelling in {"+=", "add_"} and first(torch.zeros(1, *shape))._is_view():
        # LRP refuses to write a sum into a view, and torch one into what was expanded.
        spelling = "+"
    second: list[nn.Module] = []
    if "cat" in spelling:
        second = draw(bodies(shape, 1))
    elif after[0] != shape[0] or draw(st.booleans()):
        conv = nn.Conv2d(shape[0], after[0], 1)
        second = [Piece(lambda own, maps: own.module(maps), lambda own, node: form.conv(node, own.module), module=conv)]
    if shape_after(Chain(*second), shape)[1:] != after[1:]:
        height, width = after[1:]
        resize = plain(
            lambda maps: F.adaptive_avg_pool2d(maps, (height, width)),
            lambda node: form.adaptive_avg_pool(node, height, width),
        )
        second = [*second, resize(shape)]
    joined = Joined(first, Chain(*second), spelling)
    return joined if fits(shape_after(joined, shape)) else first


@st.composite
def bodies(draw: st.DrawFn, shape: Shape, most: int) -> list[nn.Module]:
    """Begins with a block, whose layer makes new values: nothing in place reaches what it is given."""
    pieces: list[nn.Module] = [draw(blocks(shape))]
    for _ in range(draw(st.integers(0, most))):
        inner = shape_after(Chain(*pieces), shape)
        pieces.append(draw(st.one_of(blocks(inner), operations(inner), operations(inner))))
    return pieces


class Network(nn.Module):
    """A body, and a head over its maps. Traced up to z_L."""

    def __init__(self, body: nn.Module, head: Piece) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))

    def trace(self, node: Node) -> Node:
        return self.head.trace(self.body.trace(node))


def linear(inputs: int, outputs: int = CLASSES) -> nn.Linear:
    """With biases that let most classes speak."""
    layer = nn.Linear(inputs, outputs)
    nn.init.uniform_(layer.bias, -0.1, 0.5)
    return layer


def conv(inputs: int, kernel: int = 1) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, CLASSES, kernel, padding=kernel // 2)
    nn.init.uniform_(layer.bias, -0.1, 0.5)
    return layer


def heads() -> dict[str, Factory]:
    def pointwise(own: Any, node: Node) -> Node:
        return form.pointwise(node, own.last)

    def convolved(own: Any, node: Node) -> Node:
        return form.conv(node, own.last)

    def of_tokens(own: Any, node: Node) -> Node:
        scores = form.dense(form.tokens(node), numbers(own.last.weight), numbers(own.last.bias))
        return form.arrange(scores, lambda places: places.T[:, :, None])

    def averaged(run: Callable[[Any, Tensor], Tensor], trace: Any = pointwise) -> Factory:
        return lambda shape: Piece(run, trace, last=linear(shape[0]))

    def of_conv(run: Callable[[Any, Tensor], Tensor], kernel: int = 1, trace: Any = convolved) -> Factory:
        return lambda shape: Piece(run, trace, last=conv(shape[0], kernel))

    def hidden(own: Any, maps: Tensor) -> Tensor:
        return own.last(F.dropout(F.relu_(own.first(torch.flatten(maps, 1))), 0.5, own.training))

    def hidden_behind_mean(own: Any, node: Node) -> Node:
        return form.linear(functions.relu(form.linear(form.mean(node, (1, 2)), own.first)), own.last)

    def class_token(own: Any, maps: Tensor) -> Tensor:
        """Attention from a token that is the same for all images to the maps' pixels."""
        tokens = torch.cat([own.token.weight.expand(len(maps), -1, -1), as_tokens(maps)], 1)
        attended, _ = own.attention(tokens, tokens, tokens, need_weights=False)
        return own.last((tokens + attended)[:, 0])

    def class_token_trace(own: Any, node: Node) -> Node:
        token = Node((1, node.shape[0]), numbers(own.token.weight).flatten(), "constant")
        tokens = form.cat(token, form.tokens(node))
        parts = zip(
            np.split(numbers(own.attention.in_proj_weight), 3), np.split(numbers(own.attention.in_proj_bias), 3), strict=True
        )
        query, key, value = (
            form.arrange(form.dense(tokens, weight, bias), lambda places: places[None]) for weight, bias in parts
        )
        attended = form.arrange(functions.attention(query, key, value), lambda places: places[0])
        out = form.dense(attended, numbers(own.attention.out_proj.weight), numbers(own.attention.out_proj.bias))
        return form.linear(form.arrange(form.add(tokens, out), lambda places: places[0]), own.last)

    return {
        "conv, global average": of_conv(lambda own, maps: F.adaptive_avg_pool2d(own.last(maps), 1).flatten(1)),
        "conv 3 × 3, mean": of_conv(lambda own, maps: own.last(maps).mean((2, 3)), kernel=3),
        "conv, ReLU, global average": of_conv(
            lambda own, maps: F.adaptive_avg_pool2d(F.relu(own.last(maps)), 1)[:, :, 0, 0],
            trace=lambda own, node: functions.relu(form.conv(node, own.last)),
        ),
        "conv, batch norm, mean": lambda shape: Piece(
            lambda own, maps: own.norm(own.last(maps)).mean((2, 3)),
            lambda own, node: form.batch_norm(form.conv(node, own.last), own.norm),
            last=conv(shape[0]),
            norm=history(nn.BatchNorm2d(CLASSES)),
        ),
        "global average, linear": averaged(lambda own, maps: own.last(nn.AdaptiveAvgPool2d(1)(maps).flatten(1))),
        "mean, linear": averaged(lambda own, maps: own.last(maps.mean((2, 3)))),
        "mean of flattened, linear": averaged(lambda own, maps: own.last(maps.flatten(2).mean(2))),
        "mean of tokens, linear": averaged(lambda own, maps: own.last(as_tokens(maps).mean(1)), of_tokens),
        "flatten, linear": lambda shape: Piece(
            lambda own, maps: own.last(maps.reshape(len(maps), -1)),
            lambda own, node: form.linear(node, own.last),
            last=linear(prod(shape)),
        ),
        "flatten, linear, ReLU, linear": lambda shape: Piece(
            hidden,
            lambda own, node: form.linear(functions.relu(form.linear(node, own.first)), own.last),
            first=nn.Linear(prod(shape), 6),
            last=linear(6),
        ),
        "mean, linear, ReLU, linear": lambda shape: Piece(
            lambda own, maps: own.last(own.first(maps.mean((2, 3))).relu()),
            hidden_behind_mean,
            first=nn.Linear(shape[0], 6),
            last=linear(6),
        ),
        "class token, linear": lambda shape: Piece(
            class_token,
            class_token_trace,
            token=nn.Embedding(1, shape[0]),
            attention=nn.MultiheadAttention(shape[0], 1, batch_first=True),
            last=linear(shape[0]),
        ),
    }


HEADS = heads()


@st.composite
def networks(draw: st.DrawFn) -> tuple[Network, Tensor]:
    """A network in eval mode, and two images (2, ch, H, W) float32."""
    torch.manual_seed(draw(st.integers(0, 2**20)))
    shape = draw(st.sampled_from([1, 2, 3])), draw(st.integers(4, 7)), draw(st.integers(4, 7))
    pieces = draw(bodies(shape, 0))
    for _ in range(draw(st.integers(0, 3))):
        inner = shape_after(Chain(*pieces), shape)
        pieces.append(draw(st.one_of(blocks(inner), operations(inner), joins(inner), joins(inner))))
    body = Chain(Chain(*pieces[:2]), *pieces[2:])
    head = HEADS[draw(st.sampled_from(sorted(HEADS)))](shape_after(body, shape))
    return Network(body, head).eval(), torch.randn(2, *shape)
