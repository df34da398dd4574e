"""Operators of low rank, tile by tile.

Many linear layers lie between the classes and the image. What a tile of the image receives through them, from whatever class and
position, is a combination of few patterns: of about 38 for 784 pixels of a photograph, to the accuracy of float32. An operator is
then one coefficient a pattern, and one set of patterns for all classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

PIXELS = 784
"""Of a tile: few enough that the responses of some classes to it stay in the caches."""
WORTH = 1.5
"""Patterns are used where they need at most so many times the arithmetic: they take far less memory."""


@dataclass(frozen=True)
class Patterns:
    """values: (R, PIXELS), orthonormal within a tile; zeros behind the end of the last one.

    ranks: how many of the R belong to each tile, the strongest last. pixels: P.
    """

    values: Tensor
    ranks: tuple[int, ...]
    pixels: int

    def slices(self) -> Iterator[tuple[slice, slice]]:
        """Yields which of the R patterns belong to a tile, and which of the P pixels."""
        ends = accumulate(self.ranks, initial=0)
        for (first, last), left in zip(pairwise(ends), range(0, self.pixels, PIXELS), strict=True):
            yield slice(first, last), slice(left, min(left + PIXELS, self.pixels))

    def of_tile(self, numbers: slice, pixels: slice) -> Tensor:
        return self.values[numbers, : pixels.stop - pixels.start]

    def reduce(self, rows: Tensor) -> Tensor:
        """The coefficient of each pattern, (K, M, R). rows: (K, M, P)."""
        parts = [rows[:, :, pixels] @ self.of_tile(numbers, pixels).t() for numbers, pixels in self.slices()]
        return torch.cat(parts, 2)

    def expand(self, coefficients: Tensor) -> Tensor:
        """(K, N, P), of (K, N, R): each of the K separately, so that the result does not depend on how many there are."""
        count = len(coefficients)
        parts = [
            torch.bmm(coefficients[:, :, numbers], self.of_tile(numbers, pixels).to(coefficients.dtype).expand(count, -1, -1))
            for numbers, pixels in self.slices()
        ]
        return torch.cat(parts, 2)


def tiles(operator: Tensor, patterns: Patterns | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yields the part of an operator that belongs to a tile, and the patterns (r, p) that it is made of, if it is."""
    if patterns is None:
        for part in torch.split(operator, PIXELS, 2):
            yield part, None
        return
    for numbers, pixels in patterns.slices():
        yield operator[:, :, numbers], patterns.of_tile(numbers, pixels)


def find_patterns(basis: Tensor, weights: Tensor | None, tolerance: float) -> Patterns | None:
    """The patterns of T_c = Σ_k weights[c, k] basis[k], or of the basis itself; None where they are not worth it.

    basis: (K, h·w, P), float32 or float64. weights: (C, K). tolerance: the part of its norm that a tile may lose.
    """
    _, positions, pixels = basis.shape
    if weights is not None and not weights.isfinite().all():
        return None
    root = None if weights is None else square_root(weights)
    values, ranks = [], []
    spent = whole = 0
    for left in range(0, pixels, PIXELS):
        rows = basis[:, :, left : left + PIXELS].flatten(1)
        rows = (rows if root is None else root @ rows).view(-1, min(PIXELS, pixels - left)).double()
        products = rows.t() @ rows
        if not products.isfinite().all():
            return None
        energies, vectors = torch.linalg.eigh(products)
        lost = energies.clamp(min=0).cumsum(0)
        rank = max(1, int((lost > tolerance**2 * lost[-1]).sum()))
        width = len(vectors)
        spent, whole = spent + rank * (positions + width), whole + positions * width
        if spent > WORTH * whole:
            return None
        shapes = vectors[:, -rank:].t()
        values.append(F.pad(shapes, (0, PIXELS - width)))
        ranks.append(rank)
    return Patterns(torch.cat(values).to(basis.dtype), tuple(ranks), pixels)


def square_root(weights: Tensor) -> Tensor:
    """(K, K), whose square is weightsᵀ weights: as many rows as kernels, however many classes there are."""
    energies, vectors = torch.linalg.eigh(weights.double().t() @ weights.double())
    root: Tensor = vectors * energies.clamp(min=0).sqrt() @ vectors.t()
    return root.to(weights.dtype)
