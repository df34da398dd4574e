"""All scores of a map of positive response, whichever map it is: a class's, or the dominant one."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from auditor.statistics.localization import locate
from auditor.statistics.sparsity import complexity, half_energy_area, sort_values, sparseness


@dataclass(frozen=True)
class MapStatistics:
    """Scores of maps, each (N, k) float32; every score but energy and peak is NaN where a map has no positive response.

    energy: sum of positive response. peak: its maximum. The others: see `sparsity` and `localization`.
    """

    energy: Tensor
    peak: Tensor
    sparseness: Tensor
    complexity: Tensor
    centroid_y: Tensor
    centroid_x: Tensor
    spread: Tensor
    half_energy_area_frac: Tensor


SCORES = tuple(field.name for field in fields(MapStatistics))


def describe(responses: Tensor) -> MapStatistics:
    """responses: (N, k, H, W) float32, of any sign: only the positive part is described."""
    positive = responses.clamp(min=0)
    flat = positive.flatten(2)
    energy, ascending = flat.sum(-1), sort_values(flat)
    centroid_y, centroid_x, spread = locate(positive, energy)
    return MapStatistics(
        energy=energy,
        peak=ascending[..., -1],
        sparseness=sparseness(ascending),
        complexity=complexity(flat, energy),
        centroid_y=centroid_y,
        centroid_x=centroid_x,
        spread=spread,
        half_energy_area_frac=half_energy_area(ascending),
    )


def join(parts: list[MapStatistics]) -> MapStatistics:
    """The statistics of the classes of several chunks, in order."""
    return MapStatistics(**{name: torch.cat([getattr(part, name) for part in parts], 1) for name in SCORES})
