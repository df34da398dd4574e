"""Operators in few patterns.

Many linear layers lie between the classes and the image, and what a stretch of the image receives through them, of whatever
class and from whatever position, is made of few patterns: of 784 pixels of a photograph about 38, to the accuracy of float32.
An operator is then a number a pattern, and one set of patterns for all classes.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor

PIXELS = 784
"""Of a stretch. What is worked on at once, responses of some classes to it, stays in the caches."""
GROUPS = 64
"""Of a stretch's pixels, see `Stretch`."""
WORTH = 1.5
"""Patterns are used where products by way of them take at most this part of the arithmetic: they take far less memory."""


@dataclass(frozen=True)
class Stretch:
    """Patterns at some pixels. numbers: which of the R. shapes: (r, p). groups: (p,) int64, pixels alike in their patterns.

    lengths: (p,), norms of the pixels' patterns. centres, radii: (r, J), of the box that holds a group's directions.
    """

    numbers: slice
    shapes: Tensor
    groups: Tensor
    lengths: Tensor
    centres: Tensor
    radii: Tensor

    def at(self, pixels: Tensor) -> "Stretch":
        return replace(self, shapes=self.shapes[:, pixels], groups=self.groups[pixels], lengths=self.lengths[pixels])


@dataclass(frozen=True)
class Patterns:
    """values: (R, PIXELS), orthonormal within a stretch; zeros behind the end of the last one.

    ranks: how many of the R belong to each stretch. groups: (P,) int64, see `Stretch`.
    """

    values: Tensor
    ranks: tuple[int, ...]
    groups: Tensor

    def stretches(self) -> Iterator[Stretch]:
        for numbers, pixels in self.slices():
            yield stretch_of(numbers, self.of_stretch(numbers, pixels), self.groups[pixels])

    def slices(self) -> Iterator[tuple[slice, slice]]:
        """Yields which of the R patterns belong to a stretch, and which of the P pixels."""
        pixels = len(self.groups)
        ends = accumulate(self.ranks, initial=0)
        for (first, last), left in zip(pairwise(ends), range(0, pixels, PIXELS), strict=True):
            yield slice(first, last), slice(left, min(left + PIXELS, pixels))

    def of_stretch(self, numbers: slice, pixels: slice) -> Tensor:
        return self.values[numbers, : pixels.stop - pixels.start]

    def reduce(self, rows: Tensor) -> Tensor:
        """How much of each pattern there is, (K, M, R). rows: (K, M, P)."""
        parts = [rows[:, :, pixels] @ self.of_stretch(numbers, pixels).t() for numbers, pixels in self.slices()]
        return torch.cat(parts, 2)

    def expand(self, coefficients: Tensor) -> Tensor:
        """(K, N, P), of (K, N, R): each of the K by itself, so that how many there are changes nothing."""
        count = len(coefficients)
        parts = [
            torch.bmm(coefficients[:, :, numbers], self.of_stretch(numbers, pixels).to(coefficients.dtype).expand(count, -1, -1))
            for numbers, pixels in self.slices()
        ]
        return torch.cat(parts, 2)


def stretch_of(numbers: slice, values: Tensor, groups: Tensor) -> Stretch:
    """values: (r, p)."""
    shapes = values.float()
    lengths = torch.linalg.vector_norm(shapes, dim=0).clamp(min=torch.finfo(torch.float32).tiny)
    directions, places = shapes / lengths, groups.expand(len(shapes), -1)
    ends = [
        shapes.new_zeros(len(shapes), int(groups.max()) + 1).scatter_reduce(1, places, directions, reduce, include_self=False)
        for reduce in ("amin", "amax")
    ]
    least, greatest = ends
    return Stretch(numbers, shapes, groups, lengths, (least + greatest) / 2, (greatest - least) / 2)


def find_patterns(basis: Tensor, weights: Tensor | None, tolerance: float) -> Patterns | None:
    """The patterns of T_c = Σ_k weights[c, k] basis[k], or of the basis itself; None where they are not worth it.

    basis: (K, h·w, P), float32 or float64. weights: (C, K). tolerance: the part of its norm that a stretch may lose.
    """
    _, positions, pixels = basis.shape
    if weights is not None and not weights.isfinite().all():
        return None
    root = None if weights is None else square_root(weights)
    values, ranks, groups = [], [], []
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
        groups.append(group_pixels(shapes, energies[-rank:].clamp(min=0).sqrt()))
    return Patterns(torch.cat(values).to(basis.dtype), tuple(ranks), torch.cat(groups))


def group_pixels(shapes: Tensor, strengths: Tensor) -> Tensor:
    """Groups of pixels whose directions are alike, the more so the stronger the pattern: (p,) int64. shapes: (r, p)."""
    directions = F.normalize(shapes, dim=0) * (strengths / strengths.amax().clamp(min=torch.finfo(strengths.dtype).tiny))[:, None]
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        # Pixels of fewer directions than groups leave some of them empty.
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)
        _, labels = kmeans2(directions.t().cpu().numpy(), min(GROUPS, shapes.shape[1]), minit="++", rng=0)
    _, numbered = np.unique(labels, return_inverse=True)
    return torch.from_numpy(numbered).to(shapes.device)


def square_root(weights: Tensor) -> Tensor:
    """(K, K), of which the square is weightsᵀ weights: as many rows as kernels, however many classes."""
    energies, vectors = torch.linalg.eigh(weights.double().t() @ weights.double())
    root: Tensor = vectors * energies.clamp(min=0).sqrt() @ vectors.t()
    return root.to(weights.dtype)
