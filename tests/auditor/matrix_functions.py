"""Operations that are not linear, in numpy float64: activations, norms, gates, attention; as `matrix_form`.

Activations and their derivatives are closed forms; what is true of the others' derivatives is found by finite differences.
"""

from collections.abc import Callable
from math import erf, pi, sqrt

import numpy as np

from tests.auditor.matrix_form import Matrix, Node, Shape, Vector, spreading

Function = Callable[[Vector], Vector]

SELU = 1.0507009873554805, 1.6732632423543772


def normal(x: Vector) -> tuple[Vector, Vector]:
    """The normal distribution's cumulative probability and density."""
    return np.array([(1 + erf(value / sqrt(2))) / 2 for value in x]), np.exp(-(x**2) / 2) / sqrt(2 * pi)


def logistic(x: Vector) -> Vector:
    return 1 / (1 + np.exp(-x))


def gelu_slope(x: Vector) -> Vector:
    probability, density = normal(x)
    return probability + x * density


def gelu_by_tanh(x: Vector) -> Vector:
    return 0.5 * x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))


def gelu_by_tanh_slope(x: Vector) -> Vector:
    bend = np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))
    return 0.5 * (1 + bend) + 0.5 * x * (1 - bend**2) * sqrt(2 / pi) * (1 + 3 * 0.044715 * x**2)


def mish(x: Vector) -> Vector:
    return x * np.tanh(np.log1p(np.exp(x)))


def mish_slope(x: Vector) -> Vector:
    bend = np.tanh(np.log1p(np.exp(x)))
    return bend + x * (1 - bend**2) * logistic(x)


def elu(x: Vector, alpha: float = 1.0, decay: float = 1.0) -> Vector:
    return np.where(x > 0, x, alpha * (np.exp(x / decay) - 1))


def elu_slope(x: Vector, alpha: float = 1.0, decay: float = 1.0) -> Vector:
    return np.where(x > 0, 1, alpha / decay * np.exp(x / decay))


ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "relu6": (lambda x: np.clip(x, 0, 6), lambda x: ((x > 0) & (x < 6)) * 1.0),
    "leaky_relu": (lambda x: np.where(x > 0, x, 0.2 * x), lambda x: np.where(x > 0, 1, 0.2)),
    "elu": (elu, elu_slope),
    "celu": (lambda x: elu(x, 2, 2), lambda x: elu_slope(x, 2, 2)),
    "selu": (lambda x: SELU[0] * elu(x, SELU[1]), lambda x: SELU[0] * elu_slope(x, SELU[1])),
    "silu": (lambda x: x * logistic(x), lambda x: logistic(x) * (1 + x * (1 - logistic(x)))),
    "silu_mirrored": (lambda x: x * logistic(-x), lambda x: logistic(-x) * (1 - x * logistic(x))),
    "hardswish": (
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
        lambda x: np.where(x <= -3, 0, np.where(x >= 3, 1, (2 * x + 3) / 6)),
    ),
    # Without the division by 6, as where hard-swish is written out.
    "hardswish_times_6": (
        lambda x: x * np.clip(x + 3, 0, 6),
        lambda x: np.where(x <= -3, 0, np.where(x >= 3, 6, 2 * x + 3)),
    ),
    "gelu": (lambda x: x * normal(x)[0], gelu_slope),
    "gelu_by_tanh": (gelu_by_tanh, gelu_by_tanh_slope),
    "mish": (mish, mish_slope),
    "softplus": (lambda x: np.log1p(np.exp(x)), logistic),
    "sigmoid": (logistic, lambda x: logistic(x) * (1 - logistic(x))),
    "hardsigmoid": (lambda x: np.clip(x / 6 + 0.5, 0, 1), lambda x: (abs(x) < 3) / 6),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "clamp": (lambda x: np.clip(x, -0.5, 0.75), lambda x: ((x >= -0.5) & (x <= 0.75)) * 1.0),
    "softsign": (lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "threshold": (lambda x: np.where(x > 0.1, x, 0.05), lambda x: (x > 0.1) * 1.0),
}


def activation(node: Node, name: str) -> Node:
    function, slope = ACTIVATIONS[name]
    identity = np.eye(len(node.values))
    at_zero = function(np.zeros(len(node.values)))
    slopes = slope(node.values) * 1.0
    return Node(node.shape, function(node.values), "activation", [(node, identity)], slopes=slopes, at_zero=at_zero)


def relu(node: Node) -> Node:
    return activation(node, "relu")


def derivative(function: Function, values: Vector, step: float = 1e-5) -> Matrix:
    """∂ function / ∂ values by central differences: (len(function(values)), len(values))."""
    columns = []
    for index in range(len(values)):
        moved = np.zeros(len(values))
        moved[index] = step
        columns.append((function(values + moved) - function(values - moved)) / (2 * step))
    return np.stack(columns, 1)


def power(node: Node, exponent: float) -> Node:
    identity = np.eye(len(node.values))
    slopes = exponent * node.values ** (exponent - 1)
    return Node(node.shape, node.values**exponent, "power", [(node, identity)], slopes=slopes)


def larger(first: Node, second: Node) -> Node:
    """Of two responses of one shape, the larger at each place."""
    wins = np.diag((first.values > second.values) * 1.0)
    sources = [(first, wins), (second, np.eye(len(wins)) - wins)]
    return Node(first.shape, np.maximum(first.values, second.values), "max pooling", sources)


def normalise(node: Node, groups: list[Vector], weight: Vector, bias: Vector, epsilon: float, centred: bool = True) -> Node:
    """(values − mean) / √(variance + ε) over each group of places, times weight, plus bias, one of each a value.

    Held fixed: the denominator. centred: False for the root-mean-square norm, which subtracts no mean.
    """

    def centring(count: int) -> Matrix:
        return np.eye(count) - 1 / count if centred else np.eye(count)

    def function(values: Vector) -> Vector:
        result = np.zeros(len(values))
        for group in groups:
            deviations = centring(len(group)) @ values[group]
            result[group] = deviations / np.sqrt(np.mean(deviations**2) + epsilon)
        return weight * result + bias

    matrix = np.zeros((len(node.values), len(node.values)))
    for group in groups:
        deviations = centring(len(group)) @ node.values[group]
        matrix[np.ix_(group, group)] = centring(len(group)) / np.sqrt(np.mean(deviations**2) + epsilon)
    matrix = weight[:, None] * matrix
    true = derivative(function, node.values)
    return Node(node.shape, function(node.values), "normalisation", [(node, matrix)], derivatives=[(node, true)])


def group_norm(node: Node, groups: int, weight: Vector, bias: Vector, epsilon: float = 1e-5) -> Node:
    """weight, bias: one a channel. groups: as many as channels in an instance norm."""
    count = len(node.values) // len(weight)
    members = np.split(np.arange(len(node.values)), groups)
    return normalise(node, members, np.repeat(weight, count), np.repeat(bias, count), epsilon)


def layer_norm(node: Node, weight: Vector, bias: Vector, epsilon: float = 1e-5, centred: bool = True) -> Node:
    """Over the last axes, as many values as there are weights."""
    rows = len(node.values) // weight.size
    members = np.split(np.arange(len(node.values)), rows)
    return normalise(node, members, np.tile(weight.flatten(), rows), np.tile(bias.flatten(), rows), epsilon, centred)


def over(node: Node, divisors: Function) -> Node:
    """Over what is worked out of the values, one number a value, held fixed."""

    def function(values: Vector) -> Vector:
        return values / divisors(values)

    matrix = np.diag(1 / divisors(node.values))
    derivatives = [(node, derivative(function, node.values))]
    return Node(node.shape, function(node.values), "normalisation", [(node, matrix)], derivatives=derivatives)


def weighted(weights: Node, values: Node) -> Node:
    """The matrix product of weights (T, S), which are held fixed, and values (S, d)."""
    matrix = np.kron(weights.array, np.eye(values.shape[1]))
    by_weights = np.kron(np.eye(weights.shape[0]), values.array.T)
    derivatives = [(values, matrix), (weights, by_weights)]
    shape = (weights.shape[0], values.shape[1])
    return Node(shape, (weights.array @ values.array).flatten(), "attention", [(values, matrix)], derivatives=derivatives)


def gate(node: Node, factor: Node) -> Node:
    """A response times a gate, which is held fixed; their shapes broadcast."""
    shape = np.broadcast_shapes(node.shape, factor.shape)
    spread, spread_factor = spreading(node.shape, shape), spreading(factor.shape, shape)
    by_factor = (spread_factor @ factor.values)[:, None] * spread
    by_node = (spread @ node.values)[:, None] * spread_factor
    values = (spread @ node.values) * (spread_factor @ factor.values)
    return Node(shape, values, "gate", [(node, by_factor)], derivatives=[(node, by_factor), (factor, by_node)])


def divided(node: Node, divisor: Node) -> Node:
    """A response over a smaller one, which is held fixed."""
    shape = np.broadcast_shapes(node.shape, divisor.shape)
    spread, spread_divisor = spreading(node.shape, shape), spreading(divisor.shape, shape)
    over = spread_divisor @ divisor.values
    values = (spread @ node.values) / over
    direct, through = spread / over[:, None], -(values / over)[:, None] * spread_divisor
    return Node(shape, values, "gate", [(node, direct)], derivatives=[(node, direct), (divisor, through)])


def multiplied(first: Node, second: Node) -> Node:
    """The product of two responses of which neither is a gate: only derivatives go back."""
    by_first = gate(first, second)
    return Node(by_first.shape, by_first.values, "product", [], derivatives=by_first.derivatives)


def attention(query: Node, key: Node, value: Node, scale: float | None = None, mask: Matrix | float = 0.0) -> Node:
    """softmax(scale · QKᵀ + mask) V, each (heads, T, d); scale: 1/√d by default. Held fixed: the softmax."""
    heads, length, depth = query.shape
    factor = 1 / sqrt(depth) if scale is None else scale
    shape: Shape = (heads, length, value.shape[2])

    def weights(queries: Vector, keys: Vector) -> Matrix:
        scores = factor * queries.reshape(query.shape) @ keys.reshape(key.shape).swapaxes(1, 2) + mask
        raised = np.exp(scores - scores.max(2, keepdims=True))
        return raised / raised.sum(2, keepdims=True)

    def function(queries: Vector, keys: Vector) -> Vector:
        return (weights(queries, keys) @ value.array).flatten()

    fixed, across = weights(query.values, key.values), np.eye(value.shape[2])
    matrix = np.zeros((len(fixed) * length * value.shape[2], len(value.values)))
    for head, part in enumerate(np.split(np.arange(len(value.values)), heads)):
        rows = np.split(np.arange(len(matrix)), heads)[head]
        matrix[np.ix_(rows, part)] = np.kron(fixed[head], across)
    derivatives = [
        (value, matrix),
        (query, derivative(lambda queries: function(queries, key.values), query.values)),
        (key, derivative(lambda keys: function(query.values, keys), key.values)),
    ]
    return Node(shape, function(query.values, key.values), "attention", [(value, matrix)], derivatives=derivatives)


def true_function(node: Node, function: Function, shape: Shape) -> Node:
    """Any other operation, whose derivative alone is known."""
    matrix = derivative(function, node.values)
    return Node(shape, function(node.values), "other", [], derivatives=[(node, matrix)])
