"""The ways back written out: R(x|c) = G1 U1 G2 U2 … G_L^c z_L, and other papers', over the matrices of `matrix_form`."""

import numpy as np
from numpy.typing import NDArray

from tests.auditor.matrix_form import Matrix, Node, Vector

COMPOSITES = ("lrp_epsilon_plus", "lrp_epsilon_plus_flat")
SHARING = ("lrp_epsilon", "lrp_zplus", *COMPOSITES)
RULES = ("linear", "deconv", "gradient", "guided", "gradient_times_input", *SHARING)
LAYERS = {"convolution", "dense"}
FOLLOWING = {"scaling", "activation", "power", "normalisation"}
SEEDED_BY_ONE = {"gradient_times_input"}


def send_back(node: Node, signal: Vector, rule: str) -> list[tuple[Node, Vector]]:
    """What each of the node's sources receives of what arrives at it."""
    if rule in SHARING:
        return share(node, signal, rule)
    if node.kind in {"activation", "power"}:
        ((source, _),) = node.sources
        if rule == "deconv" or (rule == "guided" and node.kind == "activation"):
            signal = np.maximum(signal, 0)
        return [(source, signal if rule in {"linear", "deconv"} else signal * node.slopes)]
    if node.kind == "product" and rule in {"linear", "deconv"}:
        return [(source, matrix.T @ signal / 2) for source, matrix in node.derivatives or []]
    fixed = rule in {"linear", "deconv"} or node.derivatives is None
    pairs = node.sources if fixed else node.derivatives
    assert pairs, f"{node.kind} has no way back under {rule}"
    return [(source, matrix.T @ signal) for source, matrix in pairs]


def share(node: Node, relevance: Vector, rule: str) -> list[tuple[Node, Vector]]:
    """Layer-wise relevance propagation: R_i = Σ_j (what i contributed to j / what j received) R_j."""
    if node.kind in {"reshape", "max pooling"}:
        return [(source, matrix.T @ relevance) for source, matrix in node.sources]
    by_epsilon = is_epsilon(node, rule)
    if is_flat(node, rule):
        ((source, matrix),) = node.sources
        pattern = (matrix != 0) * reached(source)
        return [(source, pattern.T @ (relevance / np.maximum(pattern.sum(1), 1)))]
    if node.kind in {*LAYERS, "average", "attention"}:
        return shares(node.values, node.sources, relevance, by_epsilon)
    if by_epsilon and (node.kind == "normalisation" or (node.kind == "scaling" and adds(node))):
        # What is added is a bias.
        return shares(node.values, node.sources, relevance, by_epsilon)
    if by_epsilon and node.kind == "activation" and node.at_zero.any():
        # So is what the function is at zero.
        ((source, _),) = node.sources
        own = np.diag(node.values - node.at_zero) / np.where(source.values == 0, 1, source.values)
        return shares(node.values, [(source, own)], relevance, by_epsilon)
    if node.merges and not by_epsilon and node.kind == "scaling" and (merged := layer_before(node)) is not None:
        # Batch norm and the layer before it are one layer.
        layer, matrix = merged
        if not is_flat(layer, rule):
            return shares(node.values, [(layer.sources[0][0], matrix)], relevance, by_epsilon)
    if node.kind == "product":
        # Each of two factors of one shape gets half.
        return [(source, relevance / 2) for source, _ in node.derivatives or []]
    # Activations, norms, gates, constant factors and terms: unchanged. What was broadcast gathers from its copies.
    assert node.kind in {"activation", "power", "normalisation", "gate", "scaling"}, f"{node.kind} has no way back under {rule}"
    ((source, matrix),) = node.sources
    copies = np.eye(len(relevance)) if len(relevance) == len(source.values) else (matrix != 0) * 1.0
    return [(source, copies.T @ relevance)]


def is_epsilon(node: Node, rule: str) -> bool:
    """Whether biases and other constants take their part. In a composite, those behind a dense layer do, as its own."""
    if rule not in COMPOSITES:
        return rule == "lrp_epsilon"
    if node.kind in FOLLOWING:
        ((node, _),) = node.sources
        while node.kind in {"reshape", "max pooling"} and len(node.sources) == 1:
            ((node, _),) = node.sources
        return is_epsilon(node, rule)
    return node.kind == "dense" and not is_flat(node, rule)


def is_flat(node: Node, rule: str) -> bool:
    """Whether it is a layer that the image reaches without passing another."""

    def passes_layer(current: Node) -> bool:
        sources = (current.derivatives or []) if current.kind == "product" else current.sources
        return any(source.kind in LAYERS or passes_layer(source) for source, _ in sources)

    return rule == "lrp_epsilon_plus_flat" and node.kind in LAYERS and not passes_layer(node)


def reached(node: Node) -> Vector:
    """1 where the image reaches a value, 0 in padding, which is a reshaping's zero."""
    if node.kind not in {"reshape", "scaling"}:
        return np.full(len(node.values), float(node.kind != "constant"))
    return (sum(np.abs(matrix) @ reached(source) for source, matrix in node.sources) != 0) * 1.0


def adds(node: Node) -> bool:
    """Whether a constant is added to what the node takes."""
    ((source, matrix),) = node.sources
    return not np.allclose(node.values, matrix @ source.values, rtol=1e-12, atol=0)


def layer_before(norm: Node) -> tuple[Node, Matrix] | None:
    """The layer before a batch norm, with the matrix from what it takes to the norm's outputs."""
    ((node, matrix),) = norm.sources
    while node.kind == "reshape" and len(node.sources) == 1:
        ((node, reshaping),) = node.sources
        matrix = matrix @ reshaping
    if node.kind not in LAYERS or len(node.sources) != 1:
        return None
    ((_, weights),) = node.sources
    return node, matrix @ weights


def shares(output: Vector, sources: list[tuple[Node, Matrix]], relevance: Vector, by_epsilon: bool) -> list[tuple[Node, Vector]]:
    """z⁺, or ε with ε at its limit, 0."""
    contributions = [(source, matrix * source.values) for source, matrix in sources]
    received = output
    if not by_epsilon:
        # Where the output is below zero, its negative contributions count.
        signs = np.where(output < 0, -1, 1)[:, None]
        contributions = [(source, np.maximum(signs * contribution, 0)) for source, contribution in contributions]
        received = sum(contribution.sum(1) for _, contribution in contributions)
    portions = np.array([part / whole if whole else 0 for part, whole in zip(relevance, received, strict=True)])
    return [(source, contribution.T @ portions) for source, contribution in contributions]


def all_sources(node: Node) -> list[Node]:
    pairs = [*node.sources, *(node.derivatives or [])]
    return list({id(source): source for source, _ in pairs}.values())


def in_order(node: Node) -> list[Node]:
    """All nodes that `node` is made of, sources first, itself last."""
    found: dict[int, Node] = {}

    def visit(current: Node) -> None:
        for source in all_sources(current):
            if id(source) not in found:
                visit(source)
        found[id(current)] = current

    visit(node)
    return list(found.values())


def reach_image(root: Node, signal: Vector, rule: str) -> NDArray[np.float64]:
    """What arrives at the image when `root` sends `signal` back."""
    nodes = in_order(root)
    arriving = {id(node): np.zeros(len(node.values)) for node in nodes}
    arriving[id(root)] = signal.flatten()
    for node in reversed(nodes):
        if node.kind not in {"image", "constant"} and arriving[id(node)].any():
            for source, received in send_back(node, arriving[id(node)], rule):
                arriving[id(source)] += received
    (image,) = [node for node in nodes if node.kind == "image"]
    arrived = arriving[id(image)] * (image.values if rule == "gradient_times_input" else 1)
    return arrived.reshape(image.shape)


def responses(class_responses: Node, rule: str) -> NDArray[np.float64]:
    """R(x|c) of every class before the channels are reduced, (C, ch, H, W). class_responses: z_L, (C, h, w)."""
    found, last = [], class_responses
    while last.kind == "activation":
        ((last, _),) = last.sources
    if last.kind == "convolution":
        # What decides the classes is a dense layer.
        last.kind = "dense"
    for label in range(class_responses.shape[0]):
        positive = np.maximum(class_responses.array[label], 0)
        seed = np.zeros(class_responses.shape)
        seed[label] = (positive > 0) if rule in SEEDED_BY_ONE else positive
        found.append(reach_image(class_responses, seed, rule))
    return np.stack(found)
