"""Eq. 3 written out, slowly, in numpy float64: R(x|c) = G1 U1 G2 U2 … G_L^c z_L with a dense matrix for every layer.

Matrices are worked out by loops over indices from what a layer is defined to do; nothing here uses torch's arithmetic
or its autograd. One image at a time. A layer's matrix M makes its output M · input + shift; its transpose sends back.
"""

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(eq=False)
class Node:
    """A layer's output for one image: (channels, height, width), flattened in `values`."""

    shape: tuple[int, int, int]
    values: Vector
    sources: list[tuple["Node", Matrix]] = field(default_factory=list)
    rectifies: bool = False


def image_node(image: Tensor) -> Node:
    channels, height, width = image.shape
    return Node((channels, height, width), image.double().numpy().flatten())


def numbers(parameter: Tensor | None) -> Any:
    assert parameter is not None
    return parameter.detach().double().numpy()


def conv(node: Node, layer: nn.Conv2d) -> Node:
    weight = numbers(layer.weight)
    kernels, depth, kernel_height, kernel_width = weight.shape
    channels, height, width = node.shape
    (stride_y, stride_x), (dilation_y, dilation_x) = layer.stride, layer.dilation
    padding_y, padding_x = (int(amount) for amount in layer.padding)
    out_height = (height + 2 * padding_y - dilation_y * (kernel_height - 1) - 1) // stride_y + 1
    out_width = (width + 2 * padding_x - dilation_x * (kernel_width - 1) - 1) // stride_x + 1
    matrix = np.zeros((kernels, out_height, out_width, channels, height, width))
    for kernel, row, column in np.ndindex(kernels, out_height, out_width):
        group = kernel // (kernels // layer.groups)
        for offset, above, left in np.ndindex(depth, kernel_height, kernel_width):
            y = row * stride_y - padding_y + above * dilation_y
            x = column * stride_x - padding_x + left * dilation_x
            if 0 <= y < height and 0 <= x < width:
                matrix[kernel, row, column, group * depth + offset, y, x] = weight[kernel, offset, above, left]
    bias = np.zeros(kernels) if layer.bias is None else numbers(layer.bias)
    return affine(node, (kernels, out_height, out_width), matrix, bias)


def pointwise(node: Node, layer: nn.Linear) -> Node:
    """A linear layer at every position: what a linear layer behind a global average is before it."""
    channels, height, width = node.shape
    weight = numbers(layer.weight)
    matrix = np.zeros((len(weight), height, width, channels, height, width))
    for kernel, y, x, channel in np.ndindex(len(weight), height, width, channels):
        matrix[kernel, y, x, channel, y, x] = weight[kernel, channel]
    return affine(node, (len(weight), height, width), matrix, numbers(layer.bias))


def linear(node: Node, layer: nn.Linear) -> Node:
    """Flatten, then a linear layer."""
    weight = numbers(layer.weight)
    return affine(node, (len(weight), 1, 1), weight, numbers(layer.bias))


def batch_norm(node: Node, layer: nn.BatchNorm2d) -> Node:
    scale = numbers(layer.weight) / np.sqrt(numbers(layer.running_var) + layer.eps)
    shift = numbers(layer.bias) - scale * numbers(layer.running_mean)
    per_value = np.repeat(scale, node.shape[1] * node.shape[2])
    return affine(node, node.shape, np.diag(per_value), shift)


def max_pool(node: Node, kernel: int, stride: int, padding: int = 0) -> Node:
    """The forward pass's switches as a matrix of 0 and 1; of equal values the first in reading order is the maximum."""
    values = node.values.reshape(node.shape)

    def row(channel: int, window: list[tuple[int, int]], inputs: NDArray[np.float64]) -> None:
        y, x = max(window, key=lambda position: values[channel, position[0], position[1]])
        inputs[channel, y, x] = 1

    return pool(node, kernel, stride, padding, row)


def avg_pool(node: Node, kernel: int, stride: int, padding: int = 0) -> Node:
    """Padding counts, as in torch."""

    def row(channel: int, window: list[tuple[int, int]], inputs: NDArray[np.float64]) -> None:
        for y, x in window:
            inputs[channel, y, x] = 1 / kernel**2

    return pool(node, kernel, stride, padding, row)


def pool(node: Node, kernel: int, stride: int, padding: int, row: Any) -> Node:
    channels, height, width = node.shape
    out_height, out_width = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
    matrix = np.zeros((channels, out_height, out_width, channels, height, width))
    for channel, out_y, out_x in np.ndindex(channels, out_height, out_width):
        ys = range(out_y * stride - padding, out_y * stride - padding + kernel)
        xs = range(out_x * stride - padding, out_x * stride - padding + kernel)
        window = [(y, x) for y, x in product(ys, xs) if 0 <= y < height and 0 <= x < width]
        row(channel, window, matrix[channel, out_y, out_x])
    return affine(node, (channels, out_height, out_width), matrix, np.zeros(channels))


def affine(node: Node, shape: tuple[int, int, int], matrix: Matrix, shift: Vector) -> Node:
    flat = matrix.reshape(int(np.prod(shape)), -1)
    return Node(shape, flat @ node.values + np.repeat(shift, shape[1] * shape[2]), [(node, flat)])


def relu(node: Node) -> Node:
    return Node(node.shape, np.maximum(node.values, 0), [(node, np.eye(len(node.values)))], rectifies=True)


def add(first: Node, second: Node) -> Node:
    identity = np.eye(len(first.values))
    return Node(first.shape, first.values + second.values, [(first, identity), (second, identity)])


def cat(*nodes: Node) -> Node:
    sizes = [len(node.values) for node in nodes]
    identity = np.eye(sum(sizes))
    columns = np.split(identity, np.cumsum(sizes)[:-1], axis=1)
    shape = (sum(node.shape[0] for node in nodes), *nodes[0].shape[1:])
    return Node(shape, np.concatenate([node.values for node in nodes]), list(zip(nodes, columns, strict=True)))


def rectify_back(signal: Vector, passed: Vector, rule: str) -> Vector:
    """The papers' rules for a rectifier; passed: 1 where its input was positive."""
    if rule == "linear":
        return signal
    if rule == "deconv":
        return np.maximum(signal, 0)
    if rule == "gradient":
        return signal * passed
    assert rule == "guided"
    return np.maximum(signal, 0) * passed


def in_order(node: Node, found: list[Node]) -> list[Node]:
    """All nodes that `node` is made of, sources first, itself last."""
    for source, _ in node.sources:
        if source not in found:
            in_order(source, found)
    found.append(node)
    return found


def responses(class_responses: Node, rule: str) -> Vector:
    """R(x|c) of every class, (C, H, W), summed over input channels. class_responses: z_L, (C, h, w)."""
    nodes = in_order(class_responses, [])
    classes = class_responses.shape[0]
    response = []
    for label in range(classes):
        seed = np.zeros(class_responses.shape)
        seed[label] = np.maximum(class_responses.values.reshape(class_responses.shape)[label], 0)
        arriving = {id(node): np.zeros(len(node.values)) for node in nodes}
        arriving[id(class_responses)] = seed.flatten()
        for node in reversed(nodes):
            signal = arriving[id(node)]
            if node.rectifies:
                signal = rectify_back(signal, (node.values > 0).astype(float), rule)
            for source, matrix in node.sources:
                arriving[id(source)] += matrix.T @ signal
        image = nodes[0]
        response.append(arriving[id(image)].reshape(image.shape).sum(0))
    return np.stack(response)
