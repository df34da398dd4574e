"""Statistics over many classes, by an operator that reaches the image: a small part of all classes' maps at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.folding.argmax import CLASSES, GROUP
from auditor.folding.low_rank import Patterns, tiles
from auditor.statistics.dominance import DominanceResult, mean_cosine

VALUES = 4_000_000
"""How many responses are worked on at once: of 1000 classes, those of five samples at the pixels of a tile."""


@dataclass(frozen=True)
class Survey:
    """Of N samples, K classes. energy: (N, K) float32, each class's sum of positive response. class_cosine: see `ClassCosine`.

    is_finite: (N,) bool, whether all of a sample's responses are finite, and their sums.
    """

    dominance: DominanceResult
    energy: Tensor
    class_cosine: Tensor
    is_finite: Tensor


def survey(operator: Tensor, patterns: Patterns | None, seeds: Tensor, names: Tensor, shape: tuple[int, ...]) -> Survey:
    """operator: (K, h·w, P), or (K, h·w, R) of patterns. seeds: (K, N, h·w). names: (K,) int16, ascending, of the K classes.

    shape: (H, W), of which the P are.
    """
    classes, samples, _ = seeds.shape
    energy, squares = torch.zeros(classes, samples), torch.zeros(classes, samples, dtype=torch.float64)
    outcomes = []
    for part, shapes in tiles(operator, patterns):
        arrived = torch.bmm(seeds, part.to(seeds.dtype))
        # Patterns are orthonormal: there is as much in their coefficients as at the pixels.
        squares += torch.linalg.vector_norm(arrived, dim=2).double().square()
        outcomes.append(survey_tile(arrived, shapes, names, energy))
    winner, best, second = (torch.cat(parts, 1).view(samples, *shape) for parts in zip(*outcomes, strict=True))
    # A verified operator is finite, so that responses are finite where the seeds are.
    is_finite = energy.isfinite().all(0) & seeds.isfinite().all(2).all(0)
    return Survey(DominanceResult(winner, best, second), energy.t(), class_cosine(operator, seeds, squares.sqrt()), is_finite)


def survey_tile(arrived: Tensor, shapes: Tensor | None, names: Tensor, energy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ĉ, D and the second strongest response, (N, p), at some pixels; the classes' energy there is added to `energy`.

    arrived: (K, N, p), or (K, N, r) of patterns `shapes`. energy: (K, N).
    """
    classes, samples, width = arrived.shape[0], arrived.shape[1], (arrived if shapes is None else shapes).shape[-1]
    size = max(1, VALUES // (classes * width))
    outcomes = []
    for first in range(0, samples, size):
        given = arrived[:, first : first + size]
        count = given.shape[1]
        responses = given.new_empty(-(-classes // GROUP) * GROUP, count, width)
        # Filled up to whole groups of classes, with classes that have no response.
        responses[classes:] = 0
        if shapes is None:
            responses[:classes] = given
        else:
            torch.mm(given.reshape(classes * count, -1), shapes.to(given.dtype), out=responses[:classes].view(-1, width))
        responses.clamp_(min=0)
        energy[:, first : first + size] += torch.mv(responses[:classes].view(-1, width), given.new_ones(width)).view(-1, count)
        outcomes.append(tuple(found.view(count, width) for found in two_strongest(responses.flatten(1), names)))
    winner, best, second = (torch.cat(parts) for parts in zip(*outcomes, strict=True))
    return winner, best, second


def two_strongest(responses: Tensor, names: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 4 and 5, with the response after the strongest: Ĉ, int16, D and the second, (M,); ties go to the first.

    responses: (K or more, M) ≥ 0, of whole groups of classes. names: (K,) int16.
    """
    pixels = responses.shape[1]
    groups = responses.view(-1, GROUP, pixels).amax(1)
    best, group = groups.max(0)
    second = groups.scatter_(0, group[None], 0).amax(0)
    # The second may be in the group of the strongest, and only there does its maximum hide it.
    places = pixels * torch.arange(GROUP)[:, None] + (group * (GROUP * pixels) + torch.arange(pixels))
    members = responses.view(-1).take(places)
    member = members.max(0).indices
    second = torch.maximum(second, members.scatter_(0, member[None], 0).amax(0))
    return names[group * GROUP + member].where(best > 0, -1), best, second


def class_cosine(operator: Tensor, seeds: Tensor, norms: Tensor) -> Tensor:
    """See `ClassCosine`: the sum of its unit vectors is what the operator makes of seeds divided by norms. norms: (K, N)."""
    scaled = seeds * torch.where(norms > 0, 1 / norms, 0).to(seeds.dtype)[:, :, None]
    total = seeds.new_zeros(seeds.shape[1], operator.shape[2])
    for units, part in zip(torch.split(scaled, CLASSES), torch.split(operator, CLASSES), strict=True):
        total += torch.tensordot(units, part.to(seeds.dtype), ([0, 2], [0, 1]))
    return mean_cosine(total, (norms > 0).sum(0))
