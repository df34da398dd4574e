"""All measures of trust of a batch of images, of the maps of a rule and of controls beside them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from auditor.backward.trace import few_at_a_time
from auditor.clear import Clear
from auditor.images import raised
from auditor.trust.class_dependence import class_cosine, contrast
from auditor.trust.explainers import Explainer, by_rule, edges, ink, random_pixels
from auditor.trust.fills import background
from auditor.trust.grid_pointing import grid_pointing, grids_of, mosaics
from auditor.trust.image_dependence import between_images, moved, movement
from auditor.trust.networks import Network, scores_of
from auditor.trust.perturbation import area, perturb
from auditor.trust.place import Cell, cell_of, cell_statistics, class_gain, variance_within_cells
from auditor.trust.randomization import layers, likeness, other_class, randomized

RULE = "rule"
"""The source that is judged: the audit's own rule. The others are controls."""

REGION = 0.15
"""The share of the pixels that is kept or removed (Kumar, Wong & Taylor 2017, table 1), and of a region of contrast."""
CURVE = (0.05, 0.15, 0.5)
"""Shares of the pixels at which the curves of insertion and deletion are measured."""
SURE = 0.9
"""Least probability of an image's class for the image to be part of a grid."""
GRIDS = 8
"""Most grids a batch: each is four images, sent back four times."""

LEARNT_IMAGES = 16
"""Images of a pilot's batch of which it is asked whether their maps depend on what was learnt."""

Values = dict[str, Tensor]
"""(N,) float32 by the name of a measure, NaN = undefined."""


@dataclass(frozen=True)
class Source:
    """What makes maps. explain: of an image and chosen classes. dominate: of images, eq. 5's D: (N, H, W).

    knows_class: whether maps of two classes can differ.
    """

    explain: Explainer
    dominate: Callable[[Tensor], Tensor]
    knows_class: bool = False


@dataclass(frozen=True)
class Batch:
    """What is known of the images before they are explained. classes: (N, 2) int64, the predicted class and the runner-up.

    wanted: (N,) int64, the label, or the predicted class where there is none. cell: see `cell_of`. fill: of removed pixels.
    """

    images: Tensor
    classes: Tensor
    wanted: Tensor
    probability: Tensor
    class_count: int
    cell: Cell | None
    fill: Tensor
    network: Network
    model: Any

    @property
    def pixels(self) -> int:
        """How far an image is moved: the network's stride, or an eighth of the width where it has none."""
        width = self.images.shape[3]
        return min(max(1, width // 8 if self.cell is None else self.cell[1]), width - 1)

    def first(self, count: int) -> "Batch":
        """The same of the first images."""
        each = ("images", "classes", "wanted", "probability", "fill")
        return replace(self, **{name: getattr(self, name)[:count] for name in each})


def assess(clear: Clear, images: Tensor, labels: Tensor, seed: int) -> dict[str, Values]:
    """The measures by source: `rule`, and the controls ink, edges, random_pixels and, where z_L has places, cam.

    images: (N, ch, H, W) as the model takes them. labels: (N,) int64, −1 = unknown. seed: of what is drawn at random.
    Raises ValueError and UnsupportedModel.
    """
    batch = look_at(clear, images, labels)
    found = {}
    for name, source in sources(clear, batch.cell is not None, seed).items():
        maps = source.explain(images, batch.classes)
        found[name] = measure_source(batch, source, maps)
        if source.knows_class:
            found[name] |= measure_classes(batch, maps)
        if name == RULE:
            found[name] |= measure_learnt(clear, batch, maps[:, 0], seed) | measure_gain(clear, batch, maps[:, :1])
    return found


def pilot(clear: Clear, images: Tensor, seed: int) -> Values:
    """What a verdict on the rule of `clear` and its rank rest on: those measures alone, of the rule alone.

    What was learnt is asked of the first images only. Where the network takes no grid of images, `insertion` and
    `random_insertion`, that of random pixels, stand for it.
    """
    batch = look_at(clear, images, torch.full((len(images),), -1, device=images.device))
    source = of_rule(clear)
    maps = source.explain(images, batch.classes)
    found = measure_movement(batch, source, maps) | measure_classes(batch, maps)
    found["grid_pointing"] = point_at_grids(batch, source)
    if found["grid_pointing"].isnan().all():
        for name, own in {"insertion": maps[:, 0], "random_insertion": alone(random_pixels(seed), images)}.items():
            found[name] = area(perturb(batch.network, images, batch.wanted, own, batch.fill, CURVE).kept_probability, CURVE)
    return found | measure_learnt(clear, batch.first(LEARNT_IMAGES), maps[:LEARNT_IMAGES, 0], seed)


def look_at(clear: Clear, images: Tensor, labels: Tensor) -> Batch:
    """What is known of images before they are explained. labels: (N,) int64, −1 = unknown."""
    network = scores_of(clear, images)
    scores = network(images)
    classes = scores.topk(2, 1).indices
    return Batch(
        images,
        classes,
        torch.where(labels < 0, classes[:, 0], labels),
        scores.softmax(1).amax(1),
        scores.shape[1],
        cell_of(images[:1], clear.plain(images[:1]).positive),
        background(images),
        network,
        clear.model,
    )


def sources(clear: Clear, has_places: bool, seed: int) -> dict[str, Source]:
    found = {RULE: of_rule(clear)}
    if has_places and clear.method.rule != "cam":
        found["cam"] = of_rule(clear.changed(rule="cam"))
    return found | {
        name: Source(explain, partial(alone, explain))
        for name, explain in {"ink": ink, "edges": edges, "random_pixels": random_pixels(seed)}.items()
    }


def of_rule(clear: Clear) -> Source:
    return Source(
        by_rule(clear), lambda images: torch.cat([clear(part).dominant_response for part in few_at_a_time(images)]), True
    )


def alone(explain: Explainer, images: Tensor) -> Tensor:
    """Of a control that is the same for all classes."""
    return explain(images, torch.zeros((len(images), 1), dtype=torch.int64, device=images.device))[:, 0]


def measure_source(batch: Batch, source: Source, maps: Tensor) -> Values:
    """All that is measured of controls as well. maps: of the predicted class and the runner-up, (N, 2, H, W)."""
    images, dominant = batch.images, source.dominate(batch.images)
    curve = perturb(batch.network, images, batch.wanted, dominant, batch.fill, CURVE)
    at = CURVE.index(REGION)
    found = measure_movement(batch, source, maps) | {
        "image_correlation": with_others(dominant, batch.pixels),
        "kept_correct": curve.kept_correct[:, at],
        "removed_correct": curve.removed_correct[:, at],
        "insertion": area(curve.kept_probability, CURVE),
        "deletion": area(curve.removed_probability, CURVE),
        "grid_pointing": point_at_grids(batch, source),
    }
    if batch.cell is not None:
        cells = cell_statistics(dominant, batch.cell)
        found |= {
            "cell_sparseness": cells.sparseness,
            "cell_half_energy_area": cells.half_energy_area_frac,
            "variance_within_cells": variance_within_cells(dominant, batch.cell),
        }
    return found


def measure_movement(batch: Batch, source: Source, maps: Tensor) -> Values:
    """Of the predicted class's map, the first of maps, (N, 2, H, W)."""
    after = source.explain(moved(batch.images, batch.pixels), batch.classes[:, :1])[:, 0]
    found = movement(maps[:, 0], after, batch.pixels)
    return {"moved_along": found.along, "moved_stayed": found.stayed}


def measure_classes(batch: Batch, maps: Tensor) -> Values:
    """Of the maps of the predicted class and the runner-up, (N, 2, H, W)."""
    cosine = class_cosine(maps[:, 0], maps[:, 1])
    differ = contrast(batch.network, batch.images, batch.classes, maps, REGION, batch.fill)
    return {
        "class_cosine_signed": cosine.signed,
        "class_cosine_positive": cosine.positive,
        "contrast": differ.told_apart,
        "leak": differ.leaked,
    }


def measure_learnt(clear: Clear, batch: Batch, maps: Tensor, seed: int) -> Values:
    """How alike the maps are to those of another class, and of a network whose last layer, or all layers, are random.

    maps: of the predicted class, (N, H, W).
    """
    another = other_class(batch.images, batch.classes[:, 0], batch.class_count, seed)
    found = {"random_logit_spearman": likeness(maps, by_rule(clear)(batch.images, another[:, None])[:, 0]).spearman}
    names = layers(clear, batch.images)
    for depth, chosen in {"last": names[-1:], "all": names}.items():
        after = by_rule(randomized(clear, chosen, seed))(batch.images, batch.classes[:, :1])[:, 0]
        alike = likeness(maps, after)
        found |= {f"{depth}_random_spearman": alike.spearman, f"{depth}_random_ssim": alike.structural}
    return found


def measure_gain(clear: Clear, batch: Batch, maps: Tensor) -> Values:
    """See `class_gain`, of the predicted class. maps: its own, (N, 1, H, W)."""
    positive = torch.cat([clear.plain(part).positive for part in few_at_a_time(batch.images)])
    chosen = positive[torch.arange(len(positive), device=positive.device), batch.classes[:, 0]]
    return {"class_gain": class_gain(maps, chosen[:, None])[:, 0]}


def with_others(maps: Tensor, pixels: int) -> Tensor:
    """The mean correlation of each map with those of the batch's other images, (N,); NaN where there is no other."""
    count = len(maps)
    pairs = torch.full((count, count), torch.nan, device=maps.device)
    first, second = torch.triu_indices(count, count, 1, device=maps.device)
    pairs[first, second] = pairs[second, first] = between_images(maps, pixels)
    return pairs.nanmean(1)


def point_at_grids(batch: Batch, source: Source) -> Tensor:
    """The Grid Pointing Game's score of the images that are in a grid, NaN of the others, and where the network takes no grid."""
    scored = torch.full((len(batch.images),), torch.nan, device=batch.images.device)
    sure = torch.nonzero(batch.probability >= SURE)[:, 0]
    grids = sure[grids_of(batch.classes[sure, 0])[:GRIDS]]
    if not len(grids) or raised(batch.model, mosaics(batch.images, grids[:1])) is not None:
        return scored
    scored[grids.flatten()] = grid_pointing(source.explain, batch.images, batch.classes[:, 0], grids)
    return scored
