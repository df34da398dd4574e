"""Operations twice over, in torch and in matrix form: one catalogue, for tests one by one and for networks drawn at random.

Every piece takes maps (N, C, h, w) to maps, so that any can follow any.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.auditor import matrix_form as form
from tests.auditor import matrix_functions as functions
from tests.auditor.matrix_form import Node, Shape, numbers


class Piece(nn.Module):
    """run: of the piece and maps. trace: of the piece and a node. parts: modules, under their names, that both use."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], trace: Callable[[Any, Node], Node], **parts: nn.Module) -> None:
        super().__init__()
        self.run, self.written_out = run, trace
        for name, part in parts.items():
            setattr(self, name, part)
        self.name = ""

    def extra_repr(self) -> str:
        return self.name

    def forward(self, maps: Tensor) -> Tensor:
        return self.run(self, maps)

    def trace(self, node: Node) -> Node:
        return self.written_out(self, node)


Factory = Callable[[Shape], Piece]
"""Makes a piece, with random numbers from torch's generator, for maps of a shape (C, h, w)."""


def called(own: Any, maps: Tensor) -> Tensor:
    return own.module(maps)


def conv_piece(layer: nn.Conv2d) -> Piece:
    return Piece(called, lambda own, node: form.conv(node, own.module), module=layer)


def unchanged(node: Node) -> Node:
    """Reshaping, which hides a layer from the batch norm behind it."""
    return form.arrange(node, lambda places: places)


def layers() -> dict[str, Factory]:
    def of(make: Callable[[int], nn.Conv2d]) -> Factory:
        return lambda shape: conv_piece(make(shape[0]))

    def with_conv(run: Callable[[Any, Tensor], Tensor], trace: Any, make: Callable[[int], nn.Module]) -> Factory:
        return lambda shape: Piece(run, trace, module=make(shape[0]))

    def padded(own: Any, node: Node, mode: str) -> Node:
        wider = form.arrange(node, lambda places: np.pad(places, ((0, 0), (1, 1), (1, 1)), mode=mode))  # type: ignore[call-overload]
        return form.convolution(wider, numbers(own.module.weight), own.module.bias)

    def lengthwise(node: Node) -> Node:
        return form.arrange(node, lambda places: places.reshape(len(places), 1, -1))

    def as_lines(maps: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(maps.flatten(2)).unsqueeze(2)

    return {
        "conv": of(lambda c: nn.Conv2d(c, 3, 3, padding=1)),
        "conv 1 × 1": of(lambda c: nn.Conv2d(c, 5, 1)),
        "conv strided": of(lambda c: nn.Conv2d(c, 3, (3, 2), stride=(2, 1), padding=(0, 1))),
        "conv dilated": of(lambda c: nn.Conv2d(c, 4, 3, stride=2, padding=2, dilation=2)),
        "conv apart": of(lambda c: nn.Conv2d(c, 4, 1, stride=2, bias=False)),
        "conv grouped": of(lambda c: nn.Conv2d(c, 4, 3, padding=1, groups=2, bias=False)),
        "conv depthwise": of(lambda c: nn.Conv2d(c, c, 3, padding=1, groups=c)),
        "conv depthwise, two kernels a channel": of(lambda c: nn.Conv2d(c, 2 * c, 2, groups=c)),
        "F.conv2d": with_conv(
            lambda own, maps: F.conv2d(maps, own.module.weight, own.module.bias, padding=1),
            lambda own, node: form.conv(node, own.module),
            lambda c: nn.Conv2d(c, 3, 3, padding=1),
        ),
        "F.conv2d by names": with_conv(
            lambda own, maps: F.conv2d(weight=own.module.weight, input=maps, stride=2),
            lambda own, node: form.convolution(node, numbers(own.module.weight), None, (2, 2)),
            lambda c: nn.Conv2d(c, 3, 2),
        ),
        "conv of the same size": with_conv(
            called,
            lambda own, node: form.convolution(node, numbers(own.module.weight), own.module.bias, padding=(1, 1)),
            lambda c: nn.Conv2d(c, 3, 3, padding="same"),
        ),
        "conv, reflected padding": with_conv(
            called, partial(padded, mode="reflect"), lambda c: nn.Conv2d(c, 3, 3, padding=1, padding_mode="reflect")
        ),
        "conv, circular padding": with_conv(
            called, partial(padded, mode="wrap"), lambda c: nn.Conv2d(c, 3, 3, padding=1, padding_mode="circular")
        ),
        "conv1d": with_conv(
            lambda own, maps: as_lines(
                maps, lambda lines: F.conv1d(lines, own.module.weight[:, :, 0], own.module.bias, stride=2, padding=1)
            ),
            lambda own, node: unchanged(form.conv(lengthwise(node), own.module)),
            lambda c: nn.Conv2d(c, 3, (1, 3), stride=(1, 2), padding=(0, 1)),
        ),
        "conv3d": with_conv(
            lambda own, maps: F.conv3d(maps[:, :, None], own.module.weight[:, :, None], own.module.bias)[:, :, 0],
            lambda own, node: unchanged(form.conv(node, own.module)),
            lambda c: nn.Conv2d(c, 3, 2),
        ),
        "conv transposed": with_conv(
            called,
            lambda own, node: form.conv_transpose(node, own.module),
            lambda c: nn.ConvTranspose2d(c, 3, 3, stride=2, padding=1, output_padding=1),
        ),
        "conv transposed, grouped, dilated": with_conv(
            called,
            lambda own, node: form.conv_transpose(node, own.module),
            lambda c: nn.ConvTranspose2d(c, 4, 2, stride=(1, 2), groups=2, dilation=2, bias=False),
        ),
        "conv_transpose1d": with_conv(
            lambda own, maps: as_lines(
                maps, lambda lines: F.conv_transpose1d(lines, own.module.weight[:, :, 0], own.module.bias, stride=2)
            ),
            lambda own, node: form.conv_transpose(lengthwise(node), own.module),
            lambda c: nn.ConvTranspose2d(c, 3, (1, 2), stride=(1, 2)),
        ),
    }


def as_tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


def as_maps(tokens: Tensor, maps: Tensor) -> Tensor:
    return tokens.transpose(1, 2).reshape(len(maps), -1, *maps.shape[2:])


def maps_again(node: Node, height: int, width: int) -> Node:
    return form.arrange(node, lambda places: places.T.reshape(-1, height, width))


def products() -> dict[str, Factory]:
    """Linear layers along the channels, in the ways that people write them."""

    def bias(own: Any) -> Any:
        return numbers(own.module.bias)

    def trace(own: Any, node: Node, biased: bool = False, added: bool = False) -> Node:
        dense = form.dense(form.tokens(node), numbers(own.module.weight), bias(own) if biased else 0.0)
        return maps_again(form.scale(dense, term=bias(own)) if added else dense, *node.shape[1:])

    def of(function: Callable[[Any, Tensor], Tensor], biased: bool = False, added: bool = False) -> Factory:
        def run(own: Any, maps: Tensor) -> Tensor:
            return as_maps(function(own.module, as_tokens(maps)), maps)

        return lambda shape: Piece(run, partial(trace, biased=biased, added=added), module=nn.Linear(shape[0], 3))

    def addmm(layer: nn.Linear, x: Tensor) -> Tensor:
        return torch.addmm(layer.bias, x.flatten(0, 1), layer.weight.t()).unflatten(0, x.shape[:2])

    return {
        "linear": of(lambda layer, x: layer(x), biased=True),
        "F.linear without bias": of(lambda layer, x: F.linear(x, layer.weight)),
        "matrix product, then bias": of(lambda layer, x: x @ layer.weight.t() + layer.bias, added=True),
        "constants first": of(lambda layer, x: (layer.weight @ x.mT).mT),
        "addmm": of(addmm, biased=True),
        "bmm": of(lambda layer, x: torch.bmm(x, layer.weight.t().expand(len(x), -1, -1))),
        "einsum": of(lambda layer, x: torch.einsum("ntk,ck->ntc", x, layer.weight)),
    }


def plain(run: Callable[[Tensor], Tensor], trace: Callable[[Node], Node]) -> Factory:
    """Of an operation without numbers of its own."""
    return lambda shape: Piece(lambda own, maps: run(maps), lambda own, node: trace(node))


def averages() -> dict[str, Factory]:
    def half(node: Node) -> Node:
        return form.scale(node, 0.5)

    def line(node: Node) -> Node:
        return form.arrange(node, lambda places: places.reshape(len(places), 1, -1))

    return {
        "avg_pool2d": plain(lambda x: F.avg_pool2d(x, 2), lambda node: form.avg_pool(node, 2, 2)),
        "nn.AvgPool2d, overlapping": plain(nn.AvgPool2d(3, (2, 1), 1), lambda node: form.avg_pool(node, 3, (2, 1), 1)),
        "avg_pool2d, padding not counted": plain(
            lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
            lambda node: form.avg_pool(node, 3, 2, 1, counts_padding=False),
        ),
        "avg_pool1d": plain(
            lambda x: F.avg_pool1d(x.flatten(2), 3)[:, :, None], lambda node: form.avg_pool(line(node), (1, 3), (1, 3))
        ),
        "adaptive_avg_pool2d": plain(lambda x: F.adaptive_avg_pool2d(x, (3, 2)), lambda node: form.adaptive_avg_pool(node, 3, 2)),
        "adaptive_avg_pool1d": plain(
            lambda x: F.adaptive_avg_pool1d(x.flatten(2), 3)[:, :, None], lambda node: form.adaptive_avg_pool(line(node), 1, 3)
        ),
        "mean along": plain(lambda x: x.mean(2, keepdim=True), lambda node: form.mean(node, (1,))),
        "sum along": plain(
            lambda x: torch.sum(x, 3, keepdim=True),
            lambda node: form.affine(node, (*node.shape[:2], 1), ones(node), 0, "average"),
        ),
        "interpolate, nearest": plain(lambda x: F.interpolate(x, (7, 6)), lambda node: form.enlarge(node, 7, 6)),
        "nn.Upsample, bilinear": plain(nn.Upsample((7, 6), mode="bilinear"), lambda node: form.enlarge_bilinear(node, 7, 6)),
        "sum of two": plain(lambda x: x + x.flip(3), lambda node: form.add(node, flipped(node))),
        "torch.add": plain(lambda x: torch.add(x.flip(3), x), lambda node: form.add(flipped(node), node)),
        "sum of itself": plain(lambda x: x + x, lambda node: form.add(node, node)),
        "sum in place": plain(lambda x: x.flip(3).add_(x), lambda node: form.add(flipped(node), node)),
        "sum, broadcasting": plain(
            lambda x: 0.5 * x + x.mean((2, 3), keepdim=True), lambda node: form.add(half(node), form.mean(node, (1, 2)))
        ),
        "difference of two": plain(lambda x: 0.5 * x - x.flip(3), lambda node: form.add(half(node), flipped(node), -1)),
        "difference in place": plain(difference_in_place, lambda node: form.add(flipped(node), half(node), -1)),
        "deviation": plain(
            lambda x: torch.sub(x, x.mean(1, keepdim=True)), lambda node: form.add(node, form.mean(node, (0,)), -1)
        ),
    }


def difference_in_place(maps: Tensor) -> Tensor:
    result = maps.flip(3)
    result -= 0.5 * maps
    return result


def ones(node: Node) -> Any:
    """Sums along the last axis."""
    return np.kron(np.eye(len(node.values) // node.shape[-1]), np.ones((1, node.shape[-1])))


def flipped(node: Node) -> Node:
    return form.arrange(node, lambda places: places[:, :, ::-1])


def reshapings() -> dict[str, Factory]:
    def of(run: Callable[[Tensor], Tensor], trace: Callable[[Any], Any]) -> Factory:
        return plain(run, lambda node: form.arrange(node, trace))

    def dealt(x: Tensor) -> Tensor:
        return x.contiguous().view(len(x), 2, -1, *x.shape[2:]).transpose(1, 2).contiguous().view(x.shape)

    def patches(places: Any) -> Any:
        _, height, width = places.shape
        corners = [(y, x) for y in range(height - 1) for x in range(width - 1)]
        return np.stack([places[:, y : y + 2, x : x + 2].flatten() for y, x in corners], 1)[:, None]

    def halves(x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return torch.cat([second, first], dim=1)

    def swapped(places: Any) -> Any:
        return np.concatenate(np.array_split(places, 2)[::-1])

    def even(x: Any) -> Any:
        return x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]

    def unshuffled(places: Any) -> Any:
        return np.stack([even(channel)[y::2, x::2] for channel in places for y in (0, 1) for x in (0, 1)])

    def written_into(x: Tensor) -> Tensor:
        empty = torch.zeros_like(x)
        empty[:, :1] = x[:, :1]
        return empty

    def masked(places: Any) -> Any:
        return np.where(np.arange(places.shape[2]) > 1, -1, places)

    zeros = ((0, 0), (2, 0), (0, 1))
    return {
        "channel shuffle, written out": plain(dealt, lambda node: form.shuffle(node, 2)),
        "nn.ChannelShuffle": plain(nn.ChannelShuffle(2), lambda node: form.shuffle(node, 2)),
        "pixel_shuffle": plain(lambda x: F.pixel_shuffle(x, 2), lambda node: form.pixel_shuffle(node, 2)),
        "pixel_unshuffle": of(lambda x: F.pixel_unshuffle(even(x), 2), unshuffled),
        "permute": of(lambda x: x.permute(0, 1, 3, 2), lambda places: places.swapaxes(1, 2)),
        "swapaxes": of(lambda x: x.swapaxes(2, 3), lambda places: places.swapaxes(1, 2)),
        "flip": of(lambda x: torch.flip(x, (1,)), lambda places: places[::-1]),
        "roll": of(lambda x: x.roll((1, 2), (2, 3)), lambda places: np.roll(places, (1, 2), (1, 2))),
        "slice": of(lambda x: x[:, 1:, ::2], lambda places: places[1:, ::2]),
        "narrow": of(lambda x: x.narrow(3, 1, 2), lambda places: places[:, :, 1:3]),
        "select and unsqueeze": of(lambda x: x[..., 2].unsqueeze(-1), lambda places: places[:, :, 2:3]),
        "index_select": of(lambda x: x.index_select(1, torch.tensor([2, 0, 0])), lambda places: places[[2, 0, 0]]),
        "index by a list": of(lambda x: x[:, [2, 0, 0]], lambda places: places[[2, 0, 0]]),
        "chunk and cat": of(halves, swapped),
        "split and cat": of(lambda x: torch.cat(x.split([2, 2], 1)[::-1], 1), swapped),
        "unbind and stack": of(lambda x: torch.stack(x.unbind(2)[::-1], dim=2), lambda places: places[:, ::-1]),
        "cat of two": plain(lambda x: torch.cat((x, 2 * x), 3), lambda node: form.cat(node, form.scale(node, 2), axis=2)),
        "pad": of(lambda x: F.pad(x, (0, 1, 2, 0)), lambda places: np.pad(places, zeros, constant_values=-1)),
        "pad, reflected": of(
            lambda x: F.pad(x, (1, 1, 2, 0), mode="reflect"),
            lambda places: np.pad(places, ((0, 0), (2, 0), (1, 1)), mode="reflect"),
        ),
        "pad, replicated": of(
            nn.ReplicationPad2d((1, 0, 0, 2)), lambda places: np.pad(places, ((0, 0), (0, 2), (1, 0)), mode="edge")
        ),
        "unfold": of(lambda x: F.unfold(x, 2).unsqueeze(2), patches),
        "repeat": of(lambda x: x.repeat(1, 2, 1, 1), lambda places: np.tile(places, (2, 1, 1))),
        "expand": of(lambda x: x[:, :1].expand(-1, 3, -1, -1), lambda places: np.repeat(places[:1], 3, 0)),
        "repeat_interleave": of(lambda x: x.repeat_interleave(2, 1), lambda places: np.repeat(places, 2, 0)),
        "gather": of(
            lambda x: x.gather(3, torch.tensor([1, 0, 1]).expand(*x.shape[:3], 3)), lambda places: places[:, :, [1, 0, 1]]
        ),
        "written into a slice": of(written_into, lambda places: np.concatenate([places[:1], np.full_like(places[1:], -1)])),
        "masked": of(lambda x: x.masked_fill(torch.arange(x.shape[3]) > 1, 0.0), masked),
        "where": of(lambda x: torch.where(torch.arange(x.shape[3]) > 1, 0.0, x), masked),
        "triangle": of(torch.tril, lambda places: np.where(np.tri(*places.shape[1:], dtype=bool), places, -1)),
        "dropout in evaluation mode": of(lambda x: F.dropout(x, 0.5, False), lambda places: places),
        "flatten, view, squeeze": of(
            lambda x: x.contiguous().flatten(2).view(len(x), -1, 1).squeeze(2).view_as(x), lambda places: places
        ),
    }


def history(norm: Any) -> Any:
    """A norm with a past, and weights of both signs."""
    with torch.no_grad():
        if norm.running_mean is not None:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        if norm.weight is not None:
            norm.weight.normal_()
            norm.bias.normal_()
    return norm.eval()


def scalings() -> dict[str, Factory]:
    def of(run: Callable[[Tensor], Tensor], factor: Any, term: Any = 0.0) -> Factory:
        return plain(run, lambda node: form.scale(node, factor, term))

    def per_channel(shape: Shape) -> Any:
        return np.linspace(-1, 2, shape[0]).reshape(-1, 1, 1)

    def layer_scale(shape: Shape) -> Piece:
        factor = torch.tensor(per_channel(shape))
        return Piece(lambda own, x: x * factor.to(x.dtype), lambda own, node: form.scale(node, per_channel(node.shape)))

    def norm(run: Callable[[Any, Tensor], Tensor]) -> Factory:
        return lambda shape: Piece(
            run, lambda own, node: form.batch_norm(node, own.module), module=history(nn.BatchNorm2d(shape[0]))
        )

    def functional(own: Any, x: Tensor) -> Tensor:
        norm = own.module
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    def after_conv(run: Callable[[Any, Tensor], Tensor], make: Callable[[int], nn.Module], trace: Any) -> Factory:
        return lambda shape: Piece(
            run,
            lambda own, node: form.batch_norm(trace(own, node), own.norm),
            layer=make(shape[0]),
            norm=history(nn.BatchNorm2d(3)),
        )

    def tokenwise(own: Any, x: Tensor) -> Tensor:
        flat = own.layer(x.permute(0, 2, 3, 1).flatten(0, 2))
        return (
            F.batch_norm(flat, own.norm.running_mean, own.norm.running_var, own.norm.weight, own.norm.bias)
            .reshape(len(x), *x.shape[2:], -1)
            .permute(0, 3, 1, 2)
        )

    return {
        "nn.BatchNorm2d": norm(called),
        "F.batch_norm": norm(functional),
        "conv and batch norm": after_conv(
            lambda own, x: own.norm(own.layer(x)), lambda c: nn.Conv2d(c, 3, 3), lambda own, node: form.conv(node, own.layer)
        ),
        "conv without bias and batch norm": after_conv(
            lambda own, x: own.norm(own.layer(x)),
            lambda c: nn.Conv2d(c, 3, 2, stride=2, bias=False),
            lambda own, node: form.conv(node, own.layer),
        ),
        "linear and batch norm": after_conv(
            tokenwise, lambda c: nn.Linear(c, 3), lambda own, node: form.pointwise(node, own.layer)
        ),
        "factor and term": of(lambda x: 3 * x - 1, 3, -1),
        "factor and term by methods": of(lambda x: x.mul(-2).add(0.5).sub(1), -2, -0.5),
        "in place": of(lambda x: x.clone().mul_(3).add_(1), 3, 1),
        "mean and deviation": of(lambda x: (x - 0.5) / 0.25, 4, -2),
        "torch.div": of(lambda x: torch.div(x, 4), 0.25),
        "subtracted from a constant": of(lambda x: 1 - x, -1, 1),
        "negative": of(lambda x: -x, -1),
        "layer scale": layer_scale,
    }


def max_poolings() -> dict[str, Factory]:
    def line(node: Node) -> Node:
        return form.arrange(node, lambda places: places.reshape(len(places), 1, -1))

    return {
        "max_pool2d": plain(lambda x: F.max_pool2d(x, 2), lambda node: form.max_pool(node, 2, 2)),
        "nn.MaxPool2d, overlapping, padded": plain(nn.MaxPool2d(3, 2, 1), lambda node: form.max_pool(node, 3, 2, 1)),
        "max_pool2d, dilated": plain(
            lambda x: F.max_pool2d(x, 2, 1, dilation=(3, 2)), lambda node: form.max_pool(node, 2, 1, dilation=(3, 2))
        ),
        "max_pool2d, rounded up": plain(
            lambda x: torch.max_pool2d(x, 2, 2, ceil_mode=True), lambda node: form.max_pool(node, 2, 2, ceil=True)
        ),
        "max_pool2d with its indices": plain(
            lambda x: F.max_pool2d(x, (3, 2), 1, return_indices=True)[0], lambda node: form.max_pool(node, (3, 2), 1)
        ),
        "max_pool1d": plain(
            lambda x: F.max_pool1d(x.flatten(2), 3, 2)[:, :, None], lambda node: form.max_pool(line(node), (1, 3), (1, 2))
        ),
        "adaptive_max_pool2d": plain(lambda x: F.adaptive_max_pool2d(x, (3, 2)), lambda node: form.adaptive_max_pool(node, 3, 2)),
        "adaptive_max_pool1d": plain(
            lambda x: F.adaptive_max_pool1d(x.flatten(2), 3)[:, :, None], lambda node: form.adaptive_max_pool(line(node), 1, 3)
        ),
        "amax": plain(lambda x: x.amax((2, 3), keepdim=True), lambda node: form.adaptive_max_pool(node, 1, 1)),
        "max along": plain(
            lambda x: x.max(3, keepdim=True).values, lambda node: form.max_pool(node, (1, node.shape[2]), (1, node.shape[2]))
        ),
        "maximum of two": plain(
            lambda x: torch.maximum(x, 2 * x.flip(3)), lambda node: functions.larger(node, form.scale(flipped(node), 2))
        ),
    }


def powers() -> dict[str, Factory]:
    return {
        "square": plain(lambda x: x.square(), lambda node: functions.power(node, 2)),
        "x * x": plain(lambda x: x * x, lambda node: functions.power(node, 2)),
        "cube": plain(lambda x: x**3, lambda node: functions.power(node, 3)),
        # Yu et al. 2022, without its two constants.
        "StarReLU": plain(lambda x: F.relu(x).square(), lambda node: functions.power(functions.relu(node), 2)),
    }


def pairs() -> dict[str, Factory]:
    """Products of two responses of which neither is a gate."""
    return {
        "product of two": plain(lambda x: x * x.flip(3), lambda node: functions.multiplied(node, flipped(node))),
        "product in place": plain(lambda x: x.flip(3).mul_(x), lambda node: functions.multiplied(flipped(node), node)),
    }


SHARED = nn.ReLU(inplace=True)
"""One rectifier that several pieces of a network use."""

IN_PLACE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nn.ReLU in place": (nn.ReLU(inplace=True), "relu"),
    "F.relu in place by position": (lambda x: F.relu(x, True), "relu"),
    "F.relu in place by name": (lambda x: F.relu(input=x, inplace=True), "relu"),
    "F.relu_": (F.relu_, "relu"),
    "torch.relu_": (torch.relu_, "relu"),
    "Tensor.relu_": (lambda x: x.relu_(), "relu"),
    "result of F.relu in place unused": (lambda x: (F.relu(x, True), x)[1], "relu"),
    "result of Tensor.relu_ unused": (lambda x: (x.relu_(), x)[1], "relu"),
    "clamp_": (lambda x: x.clamp_(min=0), "relu"),
    "nn.ReLU6 in place": (nn.ReLU6(inplace=True), "relu6"),
    "F.hardtanh_": (lambda x: F.hardtanh_(x, 0, 6), "relu6"),
    "F.leaky_relu_": (lambda x: F.leaky_relu_(x, 0.2), "leaky_relu"),
    "F.elu in place": (lambda x: F.elu(x, inplace=True), "elu"),
    "nn.SiLU in place": (nn.SiLU(inplace=True), "silu"),
    "nn.Hardswish in place": (nn.Hardswish(inplace=True), "hardswish"),
    "nn.Mish in place": (nn.Mish(inplace=True), "mish"),
    "sigmoid_": (lambda x: x.sigmoid_(), "sigmoid"),
    "tanh_": (torch.tanh_, "tanh"),
}
"""They write into their input; only after what has made new values."""


class Swish(torch.autograd.Function):
    """SiLU as packages have it that were written before torch had."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values * torch.sigmoid(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        share = torch.sigmoid(values)
        return gradients[0] * share * (1 + values * (1 - share))


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nn.ReLU": (nn.ReLU(), "relu"),
    "F.relu": (F.relu, "relu"),
    "torch.relu": (torch.relu, "relu"),
    "Tensor.relu": (lambda x: x.relu(), "relu"),
    "clamp at 0": (lambda x: x.clamp(min=0), "relu"),
    "F.threshold at 0": (lambda x: F.threshold(x, 0, 0), "relu"),
    "nn.ReLU6": (nn.ReLU6(), "relu6"),
    "F.relu6": (F.relu6, "relu6"),
    "clamp to 6": (lambda x: torch.clamp(x, 0, 6), "relu6"),
    "nn.LeakyReLU": (nn.LeakyReLU(0.2), "leaky_relu"),
    "F.prelu": (lambda x: F.prelu(x, torch.tensor([0.2], dtype=torch.float64).to(x)), "leaky_relu"),
    "F.elu": (F.elu, "elu"),
    "nn.CELU": (nn.CELU(2), "celu"),
    "nn.SELU": (nn.SELU(), "selu"),
    "F.silu": (F.silu, "silu"),
    "F.hardswish": (F.hardswish, "hardswish"),
    "nn.GELU": (nn.GELU(), "gelu"),
    "F.gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), "gelu_by_tanh"),
    "F.mish": (F.mish, "mish"),
    "F.softplus": (F.softplus, "softplus"),
    "torch.sigmoid": (torch.sigmoid, "sigmoid"),
    "F.hardsigmoid": (F.hardsigmoid, "hardsigmoid"),
    "Tensor.tanh": (lambda x: x.tanh(), "tanh"),
    "clamp": (lambda x: x.clamp(-0.5, 0.75), "clamp"),
    "F.threshold": (lambda x: F.threshold(x, 0.1, 0.05), "threshold"),
    "F.softsign": (F.softsign, "softsign"),
    "maximum with 0": (lambda x: torch.maximum(torch.zeros((), dtype=x.dtype), x), "relu"),
    "autograd Function": (Swish.apply, "silu"),
}

SQRT2 = 2**0.5
WRITTEN_OUT: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Node], Node]]] = {
    "SiLU": (lambda x: x * torch.sigmoid(x), lambda node: functions.activation(node, "silu")),
    "SiLU, σ(x) first": (lambda x: x.sigmoid() * x, lambda node: functions.activation(node, "silu")),
    "SiLU in place": (lambda x: x.mul_(torch.sigmoid(x)), lambda node: functions.activation(node, "silu")),
    "SiLU, mirrored": (lambda x: x * (1 - torch.sigmoid(x)), lambda node: functions.activation(node, "silu_mirrored")),
    "GELU": (lambda x: x * (0.5 * (1 + torch.erf(x / SQRT2))), lambda node: functions.activation(node, "gelu")),
    "GELU, ½ first": (lambda x: 0.5 * x * (1.0 + torch.erf(x / SQRT2)), lambda node: functions.activation(node, "gelu")),
    # A factor outside of the product scales what goes back, as constant factors do.
    "hard-swish": (
        lambda x: x * F.relu6(x + 3) / 6,
        lambda node: form.scale(functions.activation(node, "hardswish_times_6"), 1 / 6),
    ),
    "hard-swish, ⅙ in the gate": (
        lambda x: x * (F.hardtanh(x + 3, 0, 6) / 6),
        lambda node: functions.activation(node, "hardswish"),
    ),
}
"""A response times a bounded function of itself: an activation (auditor.operations.rule_table.SELF_GATES)."""


def in_place(run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """On new values, so that what the piece is given stays."""
    return lambda maps: run(1 * maps)


def activations() -> dict[str, Factory]:
    def of(run: Callable[[Tensor], Tensor], name: str) -> Factory:
        return plain(run, lambda node: functions.activation(node, name))

    pieces = {name: of(*case) for name, case in FUNCTIONS.items()}
    pieces |= {f"written out: {name}": plain(*case) for name, case in WRITTEN_OUT.items()}
    pieces |= {name: plain(in_place(run), partial(functions.activation, name=kind)) for name, (run, kind) in IN_PLACE.items()}
    pieces["one rectifier, twice"] = lambda shape: Piece(
        lambda own, x: own.module(own.module(x.clone()) - 0.25),
        lambda own, node: functions.relu(form.scale(functions.relu(node), term=-0.25)),
        module=SHARED,
    )
    return pieces


def normalisations() -> dict[str, Factory]:
    def random(module: Any) -> Any:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_()
        return module

    def grouped(own: Any, node: Node, groups: int) -> Node:
        return functions.group_norm(node, groups, numbers(own.module.weight), numbers(own.module.bias))

    def channels_last(own: Any, x: Tensor) -> Tensor:
        return own.module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def along_channels(own: Any, node: Node, centred: bool = True) -> Node:
        weight = numbers(own.module.weight)
        bias = numbers(own.module.bias) if centred else 0 * weight
        epsilon = own.module.eps if own.module.eps is not None else np.finfo(np.float64).eps
        normed = functions.layer_norm(form.tokens(node), weight, bias, epsilon, centred)
        return maps_again(normed, *node.shape[1:])

    def without_weights(own: Any, node: Node) -> Node:
        return functions.layer_norm(node, np.ones(node.shape), np.zeros(node.shape))

    def tracked(own: Any, node: Node) -> Node:
        """An instance norm with running statistics is a batch norm in evaluation mode."""
        norm = form.batch_norm(node, own.module)
        return form.Node(norm.shape, norm.values, "scaling", norm.sources)

    return {
        "nn.LayerNorm of all": lambda shape: Piece(
            called,
            lambda own, node: functions.layer_norm(node, numbers(own.module.weight), numbers(own.module.bias)),
            module=random(nn.LayerNorm(shape)),
        ),
        "nn.LayerNorm, channels last": lambda shape: Piece(
            channels_last, along_channels, module=random(nn.LayerNorm(shape[0], eps=1e-3))
        ),
        "F.layer_norm without weights": lambda shape: Piece(lambda own, x: F.layer_norm(x, x.shape[1:]), without_weights),
        "nn.RMSNorm": lambda shape: Piece(
            channels_last, partial(along_channels, centred=False), module=random(nn.RMSNorm(shape[0], eps=1e-3))
        ),
        "nn.RMSNorm, ε by default": lambda shape: Piece(
            channels_last, partial(along_channels, centred=False), module=random(nn.RMSNorm(shape[0]))
        ),
        "nn.GroupNorm": lambda shape: Piece(called, partial(grouped, groups=2), module=random(nn.GroupNorm(2, shape[0]))),
        "F.group_norm": lambda shape: Piece(
            lambda own, x: F.group_norm(x, 1, own.module.weight, own.module.bias),
            partial(grouped, groups=1),
            module=random(nn.GroupNorm(1, shape[0])),
        ),
        "F.normalize": plain(
            lambda x: F.normalize(x, dim=1),
            lambda node: functions.over(
                node, lambda x: np.tile(np.sqrt((x.reshape(node.shape) ** 2).sum(0)).flatten(), node.shape[0])
            ),
        ),
        "F.local_response_norm": plain(
            lambda x: F.local_response_norm(x, 3, alpha=0.5, beta=0.6, k=2.0),
            lambda node: functions.over(node, lambda x: local_response(x.reshape(node.shape))),
        ),
        "nn.InstanceNorm2d": lambda shape: Piece(
            called, partial(grouped, groups=shape[0]), module=random(nn.InstanceNorm2d(shape[0], affine=True))
        ),
        "nn.InstanceNorm2d, tracked": lambda shape: Piece(
            called, tracked, module=history(nn.InstanceNorm2d(shape[0], affine=True, track_running_stats=True))
        ),
    }


def local_response(maps: Any) -> Any:
    """(k + α · mean of the squares of three channels)^β at every value, with zeros beyond the first and last."""
    squares = np.pad(maps**2, ((1, 1), (0, 0), (0, 0)))
    means = np.stack([squares[channel : channel + 3].sum(0) / 3 for channel in range(len(maps))])
    return ((2.0 + 0.5 * means) ** 0.6).flatten()


def gates() -> dict[str, Factory]:
    def excite(run: Callable[[Any, Tensor], Tensor], ending: str) -> Factory:
        """Squeeze and excite (Hu et al. 2018): the channels' means decide what the channels are scaled by."""

        def trace(own: Any, node: Node) -> Node:
            hidden = functions.relu(form.linear(form.mean(node, (1, 2)), own.squeeze))
            return functions.gate(node, functions.activation(form.linear(hidden, own.excite), ending))

        return lambda shape: Piece(run, trace, squeeze=nn.Linear(shape[0], 3), excite=nn.Linear(3, shape[0]))

    def squeezed(own: Any, x: Tensor) -> Tensor:
        return own.excite(F.relu(own.squeeze(x.mean((2, 3)))))[:, :, None, None]

    def by_conv(own: Any, x: Tensor) -> Tensor:
        hidden = F.relu(
            F.conv2d(F.adaptive_avg_pool2d(x, 1), own.squeeze.weight[:, :, None, None], own.squeeze.bias), inplace=True
        )
        return F.conv2d(hidden, own.excite.weight[:, :, None, None], own.excite.bias).sigmoid()

    def in_place(own: Any, x: Tensor) -> Tensor:
        maps = x.flip(3)
        maps *= torch.sigmoid(squeezed(own, x)).expand_as(maps)
        return maps

    def in_place_trace(own: Any, node: Node) -> Node:
        hidden = functions.relu(form.linear(form.mean(node, (1, 2)), own.squeeze))
        return functions.gate(flipped(node), functions.activation(form.linear(hidden, own.excite), "sigmoid"))

    def spatial(own: Any, x: Tensor) -> Tensor:
        return x * torch.sigmoid(own.module(x))

    def glu(x: Tensor) -> Tensor:
        value, factor = x.chunk(2, 1)
        return value * factor.sigmoid()

    def glu_trace(node: Node) -> Node:
        value, factor = (form.arrange(node, lambda places, part=part: np.array_split(places, 2)[part]) for part in (0, 1))
        return functions.gate(value, functions.activation(factor, "sigmoid"))

    def detached(own: Any, node: Node) -> Node:
        return form.scale(node, functions.activation(form.mean(node, (1, 2)), "sigmoid").array)

    def pooled(node: Node) -> Node:
        return form.mean(node, (1, 2))

    def even(x: Tensor) -> Tensor:
        return x[:, : x.shape[1] // 2 * 2]

    def even_places(places: Any) -> Any:
        return places[: len(places) // 2 * 2]

    return {
        "squeeze-excite": excite(lambda own, x: x * torch.sigmoid(squeezed(own, x)), "sigmoid"),
        "squeeze-excite, gate first, hard": excite(lambda own, x: F.hardsigmoid(squeezed(own, x)) * x, "hardsigmoid"),
        "squeeze-excite by convolutions": excite(lambda own, x: torch.mul(x, by_conv(own, x)), "sigmoid"),
        "squeeze-excite in place": lambda shape: Piece(
            in_place, in_place_trace, squeeze=nn.Linear(shape[0], 3), excite=nn.Linear(3, shape[0])
        ),
        "gate at every pixel": lambda shape: Piece(
            spatial,
            lambda own, node: functions.gate(node, functions.activation(form.conv(node, own.module), "sigmoid")),
            module=nn.Conv2d(shape[0], shape[0], 1),
        ),
        "gated linear unit": plain(glu, glu_trace),
        "gate of the mirrored": plain(
            lambda x: x.flip(3) * x.sigmoid(), lambda node: functions.gate(flipped(node), functions.activation(node, "sigmoid"))
        ),
        "gate that is no bounded function": plain(
            lambda x: x * x.mean((2, 3), keepdim=True), lambda node: functions.gate(node, pooled(node))
        ),
        "gate of what is clipped": plain(
            lambda x: F.relu6(x) * F.relu6(x).mean((2, 3), keepdim=True),
            lambda node: functions.gate(functions.activation(node, "relu6"), pooled(functions.activation(node, "relu6"))),
        ),
        "SwiGLU": lambda shape: Piece(
            lambda own, x: F.silu(x) * own.module(x),
            lambda own, node: functions.gate(form.conv(node, own.module), functions.activation(node, "silu")),
            module=nn.Conv2d(shape[0], shape[0], 1),
        ),
        "gate that is worked out from what it scales": lambda shape: Piece(
            lambda own, x: (lambda rectified: rectified * own.module(rectified))(F.relu(x)),
            lambda own, node: (lambda rectified: functions.gate(rectified, form.conv(rectified, own.module)))(
                functions.relu(node)
            ),
            module=nn.Conv2d(shape[0], shape[0], 1),
        ),
        "GEGLU, written into its gate": lambda shape: Piece(
            lambda own, x: F.gelu(x).mul_(own.module(x)),
            lambda own, node: functions.gate(form.conv(node, own.module), functions.activation(node, "gelu")),
            module=nn.Conv2d(shape[0], shape[0], 1),
        ),
        "F.glu": plain(lambda x: F.glu(even(x), 1), lambda node: glu_trace(form.arrange(node, even_places))),
        "gate that is expanded": plain(
            lambda x: F.relu(x) * x.mean((2, 3), keepdim=True).expand_as(x),
            lambda node: functions.gate(functions.relu(node), pooled(node)),
        ),
        "gate that is interpolated": plain(
            lambda x: x * F.interpolate(x.mean((2, 3), keepdim=True).sigmoid(), size=x.shape[2:]),
            lambda node: functions.gate(
                node, form.enlarge(functions.activation(pooled(node), "sigmoid"), node.shape[1], node.shape[2])
            ),
        ),
        "global response norm by addcmul": plain(
            lambda x: torch.addcmul(torch.full((1, 1, 1, 1), 0.5, dtype=x.dtype), x, 1 + x.mean((2, 3), keepdim=True), value=2.0),
            lambda node: form.scale(functions.gate(node, form.scale(pooled(node), term=1)), 2, 0.5),
        ),
        "gate that is detached": lambda shape: Piece(
            lambda own, x: x * x.mean((2, 3), keepdim=True).sigmoid().detach(), detached
        ),
        "divided by a smaller": plain(
            lambda x: x / (x.mean((1, 2, 3), keepdim=True).sigmoid() + 1),
            lambda node: functions.divided(node, form.scale(functions.activation(form.mean(node, (0, 1, 2)), "sigmoid"), term=1)),
        ),
    }


class Parts(NamedTuple):
    weight: Tensor
    bias: Tensor
    out: nn.Linear


def attentions() -> dict[str, Factory]:
    def split(node: Node, heads: int) -> Node:
        """(T, E) to (heads, T, E / heads)."""
        return form.arrange(node, lambda places: places.reshape(len(places), heads, -1).swapaxes(0, 1))

    def joined(node: Node) -> Node:
        return form.arrange(node, lambda places: places.swapaxes(0, 1).reshape(places.shape[1], -1))

    def trace(own: Any, node: Node, heads: int, scale: float | None = None, mask: Callable[[int], Any] | None = None) -> Node:
        sources = form.tokens(node)
        parts = zip(np.split(numbers(own.weight), 3), np.split(numbers(own.bias), 3), strict=True)
        query, key, value = (split(form.dense(sources, weight, bias), heads) for weight, bias in parts)
        attended = joined(functions.attention(query, key, value, scale, mask(len(sources.array)) if mask else 0.0))
        return maps_again(form.dense(attended, numbers(own.out.weight), numbers(own.out.bias)), *node.shape[1:])

    def heads_of(x: Tensor, heads: int) -> Tensor:
        return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)

    def attend(own: Any, x: Tensor, heads: int, function: Callable[..., Tensor]) -> Tensor:
        query, key, value = (heads_of(part, heads) for part in F.linear(as_tokens(x), own.weight, own.bias).chunk(3, dim=2))
        return as_maps(own.out(function(query, key, value).transpose(1, 2).flatten(2)), x)

    def written_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1) @ value

    def around(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """With what does nothing in evaluation mode between the softmax and the product."""
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        weights = F.dropout(F.dropout(weights, 0.5, False), 0.5, False, inplace=True)
        return nn.Identity()(weights.to(value.dtype).contiguous().clone()) @ value

    def exponentials(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        raised = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).exp()
        return raised / raised.sum(-1, keepdim=True) @ value

    def summed_to_one_again(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = 3 * (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        return (weights / weights.sum(-1, keepdim=True)) @ value

    def lower(length: int) -> Any:
        return np.where(np.tri(length, dtype=bool), 0, -np.inf)

    def masked(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        upper = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).triu(1)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        return scores.masked_fill(upper, -torch.inf).softmax(-1) @ value

    def masked_module(shape: Shape) -> Piece:
        def run(own: Any, x: Tensor) -> Tensor:
            tokens = as_tokens(x)
            upper = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
            return as_maps(own.module(tokens, tokens, tokens, attn_mask=upper)[0], x)

        piece = module(shape)
        piece.run = run
        piece.written_out = lambda own, node: trace(
            Parts(own.module.in_proj_weight, own.module.in_proj_bias, own.module.out_proj), node, 2, mask=lower
        )
        return piece

    def kernels(own: Any, x: Tensor) -> Tensor:
        """A layer whose kernels the input decides; of both signs."""
        weight = F.silu(own.module(x.mean((2, 3)))).view(len(x), 3, -1)
        return (weight @ x.flatten(2)).unflatten(2, x.shape[2:])

    def kernels_trace(own: Any, node: Node) -> Node:
        decided = functions.activation(form.linear(form.mean(node, (1, 2)), own.module), "silu")
        weight = form.arrange(decided, lambda places: places.reshape(3, -1))
        flat = form.arrange(node, lambda places: places.reshape(len(places), -1))
        return form.arrange(functions.weighted(weight, flat), lambda places: places.reshape(3, *node.shape[1:]))

    def by_conv(own: Any, x: Tensor) -> Tensor:
        weight = F.silu(own.module(x.mean((2, 3)))).view(len(x) * 3, -1, 1, 1)
        return F.conv2d(x.flatten(0, 1)[None], weight, groups=len(x)).view(len(x), 3, *x.shape[2:])

    def by_kernel_maps(x: Tensor) -> Tensor:
        tokens = as_tokens(x)
        return as_maps(F.relu(tokens) @ (F.elu(tokens).transpose(1, 2) @ tokens), x)

    def kernel_maps_trace(node: Node) -> Node:
        tokens = form.tokens(node)
        keys = form.arrange(functions.activation(tokens, "elu"), lambda places: places.T)
        attended = functions.weighted(functions.relu(tokens), functions.weighted(keys, tokens))
        return maps_again(attended, *node.shape[1:])

    def by_einsum(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        scores = torch.einsum("nhtd,nhsd->nhts", query, key) / query.shape[-1] ** 0.5
        return torch.einsum("nhts,nhsd->nhtd", F.softmax(scores, dim=-1), value)

    def module(shape: Shape) -> Piece:
        own = nn.MultiheadAttention(shape[0], 2, batch_first=True)
        with torch.no_grad():
            own.in_proj_bias.normal_()
        return Piece(
            lambda own, x: as_maps(own.module(*[as_tokens(x)] * 3)[0], x),
            lambda own, node: trace(Parts(own.module.in_proj_weight, own.module.in_proj_bias, own.module.out_proj), node, 2),
            module=own,
        )

    def of(
        run: Callable[[Any, Tensor], Tensor], heads: int, scale: float | None = None, mask: Callable[[int], Any] | None = None
    ) -> Factory:
        def make(shape: Shape) -> Piece:
            inner = nn.Linear(shape[0], 3 * shape[0])
            piece = Piece(run, partial(trace, heads=heads, scale=scale, mask=mask), out=nn.Linear(shape[0], shape[0]))
            piece.weight, piece.bias = inner.weight, inner.bias
            return piece

        return make

    sdpa = F.scaled_dot_product_attention
    return {
        "scaled_dot_product_attention": of(partial(attend, heads=1, function=sdpa), 1),
        "of two heads, scaled": of(partial(attend, heads=2, function=lambda q, k, v: sdpa(q, key=k, value=v, scale=2.0)), 2, 2.0),
        "written out": of(partial(attend, heads=2, function=written_out), 2),
        "by einsum": of(partial(attend, heads=1, function=by_einsum), 1),
        "with no-ops behind the softmax": of(partial(attend, heads=2, function=around), 2),
        "softmax written out": of(partial(attend, heads=2, function=exponentials), 2),
        "summed to one again": of(partial(attend, heads=2, function=summed_to_one_again), 2),
        "masked": of(partial(attend, heads=2, function=masked), 2, mask=lower),
        "nn.MultiheadAttention, masked": masked_module,
        "by maps of queries and keys": plain(by_kernel_maps, kernel_maps_trace),
        "kernels of the input's": lambda shape: Piece(kernels, kernels_trace, module=nn.Linear(shape[0], 3 * shape[0])),
        "conv by kernels of the input's": lambda shape: Piece(by_conv, kernels_trace, module=nn.Linear(shape[0], 3 * shape[0])),
        "nn.MultiheadAttention": module,
    }


def named(name: str, factory: Factory) -> Factory:
    def make(shape: Shape) -> Piece:
        piece = factory(shape)
        piece.name = name
        return piece

    return make


CATALOGUE: dict[str, dict[str, Factory]] = {
    kind: {name: named(name, factory) for name, factory in pieces.items()}
    for kind, pieces in {
        "layer": layers() | {f"product: {name}": piece for name, piece in products().items()},
        "average": averages(),
        "reshape": reshapings(),
        "scaling": scalings(),
        "max pooling": max_poolings(),
        "activation": activations(),
        "power": powers(),
        "normalisation": normalisations(),
        "gate": gates(),
        "attention": attentions(),
        "product": pairs(),
    }.items()
}
"""By the kinds of `auditor.operations.rule_table`."""
