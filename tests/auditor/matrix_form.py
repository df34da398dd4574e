"""Operations written out, slowly, in numpy float64, with a dense matrix for each. What goes back through them: `matrix_rules`.

Matrices are worked out by loops over indices from what an operation is defined to do; nothing here uses torch's
arithmetic or its autograd. One image at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Shape = tuple[int, ...]
Sources = list[tuple["Node", Matrix]]
Window = list[tuple[int, int]]
Pair = tuple[int, int]


@dataclass(eq=False)
class Node:
    """An operation's output for one image, flattened in `values`.

    kind: image, constant, or as in `auditor.operations.rule_table`.
    sources: what it is made of, each with a matrix: values = Σ matrix · source + a shift. What else in it depends on the
    image, as a max-pooling's switches or a gate, is held fixed in the matrix.
    slopes: of an activation, its derivative at each value of its source, whose matrix is the identity. at_zero: its value there.
    derivatives: where something was held fixed, the sources with the true derivatives.
    merges: batch norm, which LRP-z⁺ takes as one layer with the layer before it.
    """

    shape: Shape
    values: Vector
    kind: str = "image"
    sources: Sources = field(default_factory=list)
    slopes: Vector | None = None
    at_zero: Vector | None = None
    derivatives: Sources | None = None
    merges: bool = False

    @property
    def array(self) -> NDArray[np.float64]:
        return self.values.reshape(self.shape)


def image_node(image: Tensor) -> Node:
    return Node(tuple(image.shape), image.double().numpy().flatten())


def numbers(parameter: Tensor | None) -> Any:
    assert parameter is not None
    return parameter.detach().double().numpy()


def pair(value: Any) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def affine(node: Node, shape: Shape, matrix: Matrix, shift: Any, kind: str, merges: bool = False) -> Node:
    """shift: one number, or one for each entry of the first axis of `shape`."""
    flat = matrix.reshape(int(np.prod(shape)), len(node.values))
    shifts = np.broadcast_to(np.reshape(shift, (-1, *[1] * (len(shape) - 1))), shape).flatten()
    return Node(shape, flat @ node.values + shifts, kind, [(node, flat)], merges=merges)


def conv(node: Node, layer: nn.Conv2d) -> Node:
    return convolution(
        node, numbers(layer.weight), layer.bias, pair(layer.stride), pair(layer.padding), pair(layer.dilation), layer.groups
    )


def convolution(
    node: Node,
    weight: Any,
    bias: Tensor | None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Node:
    kernels, depth, kernel_height, kernel_width = weight.shape
    channels, height, width = node.shape
    out_height = (height + 2 * padding[0] - dilation[0] * (kernel_height - 1) - 1) // stride[0] + 1
    out_width = (width + 2 * padding[1] - dilation[1] * (kernel_width - 1) - 1) // stride[1] + 1
    matrix = np.zeros((kernels, out_height, out_width, channels, height, width))
    for kernel, row, column in np.ndindex(kernels, out_height, out_width):
        group = kernel // (kernels // groups)
        for offset, above, left in np.ndindex(depth, kernel_height, kernel_width):
            y = row * stride[0] - padding[0] + above * dilation[0]
            x = column * stride[1] - padding[1] + left * dilation[1]
            if 0 <= y < height and 0 <= x < width:
                matrix[kernel, row, column, group * depth + offset, y, x] = weight[kernel, offset, above, left]
    shift = np.zeros(kernels) if bias is None else numbers(bias)
    return affine(node, (kernels, out_height, out_width), matrix, shift, "convolution")


def conv_transpose(node: Node, layer: nn.ConvTranspose2d) -> Node:
    """Each value writes the kernel, scaled by it, around its place in the output."""
    weight, groups = numbers(layer.weight), layer.groups
    channels, height, width = node.shape
    _, depth, kernel_height, kernel_width = weight.shape
    stride, padding, dilation, more = (
        pair(value) for value in (layer.stride, layer.padding, layer.dilation, layer.output_padding)
    )
    out_height = (height - 1) * stride[0] - 2 * padding[0] + dilation[0] * (kernel_height - 1) + more[0] + 1
    out_width = (width - 1) * stride[1] - 2 * padding[1] + dilation[1] * (kernel_width - 1) + more[1] + 1
    matrix = np.zeros((depth * groups, out_height, out_width, channels, height, width))
    for channel, y, x in np.ndindex(channels, height, width):
        group = channel // (channels // groups)
        for offset, below, right in np.ndindex(depth, kernel_height, kernel_width):
            row = y * stride[0] - padding[0] + below * dilation[0]
            column = x * stride[1] - padding[1] + right * dilation[1]
            if 0 <= row < out_height and 0 <= column < out_width:
                matrix[group * depth + offset, row, column, channel, y, x] += weight[channel, offset, below, right]
    shift = 0 if layer.bias is None else numbers(layer.bias)
    return affine(node, (depth * groups, out_height, out_width), matrix, shift, "convolution")


def pointwise(node: Node, layer: nn.Linear) -> Node:
    """A linear layer at every position: what a linear layer behind a global average is before it."""
    channels, height, width = node.shape
    weight = numbers(layer.weight)
    matrix = np.zeros((len(weight), height, width, channels, height, width))
    for kernel, y, x, channel in np.ndindex(len(weight), height, width, channels):
        matrix[kernel, y, x, channel, y, x] = weight[kernel, channel]
    shift = 0 if layer.bias is None else numbers(layer.bias)
    return affine(node, (len(weight), height, width), matrix, shift, "dense")


def linear(node: Node, layer: nn.Linear) -> Node:
    """Flatten, then a linear layer."""
    weight = numbers(layer.weight)
    return affine(node, (len(weight), 1, 1), weight, 0 if layer.bias is None else numbers(layer.bias), "dense")


def dense(node: Node, weight: Matrix, bias: Vector | float = 0.0) -> Node:
    """A linear layer along the last axis, (…, K) to (…, J): of tokens, say. weight: (J, K)."""
    rows = len(node.values) // node.shape[-1]
    shape = (*node.shape[:-1], len(weight))
    matrix = np.zeros((rows, len(weight), rows, node.shape[-1]))
    for row in range(rows):
        matrix[row, :, row] = weight
    flat = matrix.reshape(rows * len(weight), len(node.values))
    shift = np.broadcast_to(bias, (rows, len(weight))).flatten()
    return Node(shape, flat @ node.values + shift, "dense", [(node, flat)])


def batch_norm(node: Node, layer: nn.BatchNorm2d) -> Node:
    factor = numbers(layer.weight) / np.sqrt(numbers(layer.running_var) + layer.eps)
    shift = numbers(layer.bias) - factor * numbers(layer.running_mean)
    per_value = np.repeat(factor, len(node.values) // len(factor))
    return affine(node, node.shape, np.diag(per_value), shift, "scaling", merges=True)


def scale(node: Node, factor: Any = 1.0, term: Any = 0.0) -> Node:
    """factor · values + term, constants; both broadcast against the values' shape, and may make it larger."""
    shape = np.broadcast_shapes(node.shape, np.shape(factor), np.shape(term))
    spread = spreading(node.shape, shape)
    matrix = np.broadcast_to(factor, shape).flatten()[:, None] * spread
    return Node(shape, matrix @ node.values + np.broadcast_to(term, shape).flatten(), "scaling", [(node, matrix)])


def spreading(shape: Shape, larger: Shape) -> Matrix:
    """The matrix of 0 and 1 that broadcasts."""
    count = int(np.prod(shape))
    taken = np.broadcast_to(np.arange(count).reshape(shape), larger).flatten()
    return np.eye(count)[taken]


def windows(
    node: Node, kernel: Any, stride: Any, padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> tuple[Pair, Callable[[int, int], Window]]:
    """The height and width of what pools `node`, and which positions each of its windows takes, those outside left out."""
    (kernel_y, kernel_x), steps, pads, apart = pair(kernel), pair(stride), pair(padding), pair(dilation)
    sizes = []
    for size, length, step, pad, gap in zip(node.shape[1:], (kernel_y, kernel_x), steps, pads, apart, strict=True):
        room = size + 2 * pad - gap * (length - 1) - 1
        count = -(-room // step) + 1 if ceil else room // step + 1
        # A window must begin in the image or the padding before it.
        sizes.append(count - 1 if ceil and (count - 1) * step >= size + pad else count)

    def window(row: int, column: int) -> Window:
        ys = [row * steps[0] - pads[0] + offset * apart[0] for offset in range(kernel_y)]
        xs = [column * steps[1] - pads[1] + offset * apart[1] for offset in range(kernel_x)]
        return [(y, x) for y, x in product(ys, xs) if 0 <= y < node.shape[1] and 0 <= x < node.shape[2]]

    return (sizes[0], sizes[1]), window


def bins(node: Node, height: int, width: int) -> tuple[Pair, Callable[[int, int], Window]]:
    """The same for adaptive pooling: bin i of n runs from ⌊i·size/n⌋ to ⌈(i + 1)·size/n⌉; neighbours may overlap."""

    def along(size: int, index: int, count: int) -> range:
        return range(index * size // count, -(-(index + 1) * size // count))

    def window(row: int, column: int) -> Window:
        return list(product(along(node.shape[1], row, height), along(node.shape[2], column, width)))

    return (height, width), window


def max_pool(node: Node, kernel: Any, stride: Any, padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Node:
    return switches(node, *windows(node, kernel, stride, padding, dilation, ceil))


def adaptive_max_pool(node: Node, height: int, width: int) -> Node:
    return switches(node, *bins(node, height, width))


def switches(node: Node, size: Pair, window: Callable[[int, int], Window]) -> Node:
    """The forward pass's switches as a matrix of 0 and 1; of equal values the first in reading order is the maximum."""

    def weights(channel: int, positions: Window) -> Iterator[tuple[int, int, float]]:
        yield *max(positions, key=lambda position: node.array[channel, position[0], position[1]]), 1.0

    return pool(node, size, window, weights, "max pooling")


def avg_pool(node: Node, kernel: Any, stride: Any, padding: Any = 0, counts_padding: bool = True) -> Node:
    whole = pair(kernel)[0] * pair(kernel)[1]
    return average(node, *windows(node, kernel, stride, padding), whole if counts_padding else None)


def adaptive_avg_pool(node: Node, height: int, width: int) -> Node:
    return average(node, *bins(node, height, width), None)


def average(node: Node, size: Pair, window: Callable[[int, int], Window], divisor: int | None) -> Node:
    def weights(channel: int, positions: Window) -> Iterator[tuple[int, int, float]]:
        for y, x in positions:
            yield y, x, 1 / (divisor or len(positions))

    return pool(node, size, window, weights, "average")


def pool(node: Node, size: Pair, window: Callable[[int, int], Window], weights: Any, kind: str) -> Node:
    channels, height, width = node.shape
    matrix = np.zeros((channels, *size, channels, height, width))
    for channel, row, column in np.ndindex(channels, *size):
        for y, x, weight in weights(channel, window(row, column)):
            matrix[channel, row, column, channel, y, x] = weight
    return affine(node, (channels, *size), matrix, 0, kind)


def mean(node: Node, axes: Shape) -> Node:
    """Over some axes, which stay with length 1."""
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(node.shape))
    spread = spreading(kept, node.shape).T
    return affine(node, kept, spread / spread.sum(1, keepdims=True), 0, "average")


def enlarge(node: Node, height: int, width: int) -> Node:
    """To the nearest: each pixel takes the value at its own place, scaled and rounded down."""
    ys, xs = (np.arange(size) * before // size for size, before in ((height, node.shape[1]), (width, node.shape[2])))
    nearest = arrange(node, lambda places: places[:, ys][:, :, xs])
    return Node(nearest.shape, nearest.values, "average", nearest.sources)


def enlarge_bilinear(node: Node, height: int, width: int) -> Node:
    """Pixels are squares: the centre of pixel i of n lies at (i + ½) · size / n − ½ of the smaller map."""
    channels, *before = node.shape
    along = []
    for size, count in zip(before, (height, width), strict=True):
        matrix = np.zeros((count, size))
        for index in range(count):
            place = max((index + 0.5) * size / count - 0.5, 0)
            low = int(place)
            matrix[index, low] += 1 - (place - low)
            matrix[index, min(low + 1, size - 1)] += place - low
        along.append(matrix)
    return affine(node, (channels, height, width), np.kron(np.eye(channels), np.kron(*along)), 0, "average")


def arrange(node: Node, function: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> Node:
    """Values put elsewhere, repeated or left out. function: what it does to the places of the values; −1 is a new zero."""
    places = function(np.arange(len(node.values)).reshape(node.shape))
    matrix = np.zeros((places.size, len(node.values)))
    for row, place in enumerate(places.flatten()):
        if place >= 0:
            matrix[row, place] = 1
    return affine(node, places.shape, matrix, 0, "reshape")


def shuffle(node: Node, groups: int) -> Node:
    """Channel shuffle (ShuffleNet): channels, dealt out in groups, are read across them."""

    def dealt(places: NDArray[np.int64]) -> NDArray[np.int64]:
        return places.reshape(groups, -1, *node.shape[1:]).swapaxes(0, 1).reshape(node.shape)

    return arrange(node, dealt)


def pixel_shuffle(node: Node, factor: int) -> Node:
    """Of factor² neighbouring channels, one with factor² as many pixels."""
    channels, height, width = node.shape

    def spread(places: NDArray[np.int64]) -> NDArray[np.int64]:
        places = places.reshape(channels // factor**2, factor, factor, height, width)
        return places.transpose(0, 3, 1, 4, 2).reshape(-1, height * factor, width * factor)

    return arrange(node, spread)


def tokens(node: Node) -> Node:
    """Maps (K, h, w) as tokens (h·w, K)."""
    return arrange(node, lambda places: places.reshape(len(places), -1).T)


def cat(*nodes: Node, axis: int = 0) -> Node:
    starts = np.cumsum([0, *(len(node.values) for node in nodes)])
    places = [start + np.arange(len(node.values)).reshape(node.shape) for start, node in zip(starts, nodes, strict=False)]
    joined = np.concatenate(places, axis)
    columns = np.split(np.eye(starts[-1])[joined.flatten()], starts[1:-1], axis=1)
    values = np.concatenate([node.values for node in nodes])[joined.flatten()]
    return Node(joined.shape, values, "reshape", list(zip(nodes, columns, strict=True)))


def add(first: Node, second: Node, sign: int = 1) -> Node:
    """The sum of two responses, or their difference; one may broadcast."""
    shape = np.broadcast_shapes(first.shape, second.shape)
    sources = [(first, spreading(first.shape, shape)), (second, sign * spreading(second.shape, shape))]
    return Node(shape, sum(matrix @ node.values for node, matrix in sources), "average", sources)
