"""Which class dominates: eq. 4 and 5, by how much, and how much the classes' maps differ."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DominanceResult:
    """dominant_class: (N, H, W) int16, −1 = none. dominant_response, second_response: (N, H, W) float32 ≥ 0."""

    dominant_class: Tensor
    dominant_response: Tensor
    second_response: Tensor


class Dominance:
    """Keeps, over a stream of classes, the strongest positive response a pixel, its class, and the second strongest.

    No class is normalised before it competes: that would change the answer.
    """

    def __init__(self) -> None:
        self.best: Tensor | None = None

    def update(self, classes: Tensor, responses: Tensor) -> None:
        """classes: (k,) or (N, k), ascending over the whole stream. responses: (N, k, H, W) float32."""
        if self.best is None:
            self.best = torch.zeros_like(responses[:, 0])
            self.second = torch.zeros_like(self.best)
            self.winner = torch.full_like(self.best, -1, dtype=torch.int16)
        names = classes.to(torch.int16).expand(len(responses), -1)[:, :, None, None]
        for column in range(responses.shape[1]):
            response = responses[:, column]
            # Strictly greater: ties stay with the lower class, and zero never wins.
            self.winner = replace_where_greater(response, self.best, names[:, column], self.winner)
            self.second = torch.maximum(self.second, torch.minimum(self.best, response))
            self.best = torch.maximum(self.best, response)

    def result(self) -> DominanceResult:
        if self.best is None:
            raise ValueError("no class was streamed: there is no dominant class")
        return DominanceResult(self.winner, self.best, self.second)


def replace_where_greater(values: Tensor, limit: Tensor, names: Tensor, old: Tensor) -> Tensor:
    """`torch.where(values > limit, names, old)`, for int16 names. values, limit: finite float32 of one shape.

    On a CPU by the sign of the difference, in integers: comparing and choosing are ten times slower there.
    """
    if values.device.type != "cpu":
        return torch.where(values > limit, names, old)
    # −0.0 − 0.0 is −0.0, which is not less than nothing: adding 0.0 takes its sign away.
    greater = ((limit - values).add_(0.0).view(torch.int32) >> 31).to(torch.int16)
    return old ^ ((old ^ names) & greater)


class ClassCosine:
    """Mean cosine between the response maps of two classes, over all pairs whose maps are not zero.

    Near 1 the maps hardly depend on the class (Sixt, Granz & Landgraf 2020). Streamed exactly: the mean over pairs of
    unit vectors follows from the norm of their sum.
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count: Tensor | None = None

    def update(self, classes: Tensor, responses: Tensor) -> None:
        flat = responses.flatten(2)
        norms = torch.linalg.vector_norm(flat, dim=2)
        scales = torch.where(norms > 0, 1 / norms, 0)
        units = torch.bmm(scales[:, None], flat)[:, 0]
        counts = (norms > 0).sum(1)
        self.total = units if self.total is None else self.total + units
        self.count = counts if self.count is None else self.count + counts

    def result(self) -> Tensor:
        """(N,) float32 in [−1, 1]; NaN where fewer than two classes have a response."""
        if self.total is None or self.count is None:
            raise ValueError("no class was streamed: there is no class cosine")
        return mean_cosine(self.total, self.count)


def mean_cosine(total: Tensor, count: Tensor) -> Tensor:
    """Of all pairs of `count` (N,) unit vectors that add up to `total` (N, d): (N,) float32; NaN where there is no pair."""
    vectors = count.double()
    pairs = vectors * (vectors - 1)
    cosine = (total.double().square().sum(1) - vectors) / pairs
    return torch.where(pairs > 0, cosine, torch.nan).clamp(-1, 1).float()


def shares(result: DominanceResult, classes: int) -> tuple[Tensor, Tensor]:
    """Each class's share of the pixels and of the energy that it dominates.

    Returns area (N, C), of all pixels, and energy (N, C), of the dominant response map's; the energy is NaN where no
    class has positive response.
    """
    flat = result.dominant_class.flatten(1).long() + 1
    response = result.dominant_response.flatten(1)
    empty = response.new_zeros((len(flat), classes + 1))
    area = empty.scatter_add(1, flat, torch.ones_like(response))[:, 1:]
    energy = empty.scatter_add(1, flat, response)[:, 1:]
    return area / flat.shape[1], energy / energy.sum(1, keepdim=True)


def dominance_margin(result: DominanceResult) -> Tensor:
    """How far the dominant class leads the second: Σ(D − second) / ΣD, (N,) in [0, 1]; NaN where D is zero."""
    leads = (result.dominant_response - result.second_response).sum((1, 2))
    return leads / result.dominant_response.sum((1, 2))
