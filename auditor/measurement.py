"""Everything an audit measures of a batch, from one stream of its responses."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from auditor.backward.trace import Backprojection
from auditor.clear import Clear, Maps
from auditor.enlarging.enlarged import seeds_of_each
from auditor.enlarging.survey import survey
from auditor.folding.class_statistics import Survey
from auditor.folding.folded import Folded
from auditor.images import Images
from auditor.operations.rule_table import RULES
from auditor.statistics.dominance import ClassCosine, Dominance, dominance_margin, shares
from auditor.statistics.map_statistics import MapStatistics, describe, join


@dataclass(frozen=True)
class Measurement:
    """CLEAR maps of N samples and their statistics.

    maps: see `Maps`. probability: (N, C) float32.
    class_area_frac, class_energy_frac: (N, C), each class's share of the pixels, and of the dominant response map's
        energy, that it dominates; the energy is NaN for a sample without positive response.
    positive_area_frac, dominance_margin, class_cosine: (N,).
    left_out_frac: (N,) in [0, 1], the share of positive class response that top_k left out; NaN where there is none.
    dominant: scores of the dominant response map, each (N, 1).
    kept: (N, k) int64, the classes described. responses: their scores, each (N, k).
    has_finite_scores, has_finite_maps: (N,) bool, whether all of a sample's logits are finite, and all of its responses.
        Where not, no other value of that sample has a meaning; the other samples of the batch are not affected.
    """

    maps: Maps
    probability: Tensor
    class_area_frac: Tensor
    class_energy_frac: Tensor
    positive_area_frac: Tensor
    dominance_margin: Tensor
    class_cosine: Tensor
    left_out_frac: Tensor
    dominant: MapStatistics
    kept: Tensor
    responses: MapStatistics
    has_finite_scores: Tensor
    has_finite_maps: Tensor

    def of(self, chosen: Tensor) -> "Measurement":
        """The same for some of the samples. chosen: (N,) bool, or indices."""
        part: Measurement = take(self, chosen)
        return part


def take(whole: Any, chosen: Tensor) -> Any:
    """Some samples of a tensor, or of a dataclass of tensors and such dataclasses."""
    if isinstance(whole, Tensor):
        return whole[chosen]
    return type(whole)(**{field.name: take(getattr(whole, field.name), chosen) for field in fields(whole)})


def measure(clear: Clear, images: Images, labels: Tensor, keep: int = 20) -> Measurement:
    """Maps and statistics of a batch.

    images: (N, ch, H, W) as the model takes them, see `Images`. labels: (N,) int64, −1 = unknown. keep: how many classes a
    sample are described; of more, those with most energy, and always the predicted class and the label.
    """
    if keep < 2:
        raise ValueError(f"keep is {keep}: the prediction and the label need two places")
    backprojection = clear.forward(images)
    images = backprojection.images
    competing = clear.competing(backprojection)
    describe_all = competing.shape[-1] <= keep
    operator = backprojection.operator if isinstance(backprojection, Folded) else None
    parts: list[MapStatistics] = []
    if RULES[clear.method.rule].enlarges:
        found = survey(seeds_of_each(backprojection.seeds, competing), competing, images.shape[2:])
    elif not describe_all and competing.dim() == 1 and operator is not None and operator.takes_whole(images):
        found = operator.survey(backprojection.seeds, competing)
    else:
        found, parts = survey_stream(backprojection, competing, describe_all)
    every = competing.expand(len(images), -1)
    kept = every if describe_all else strongest(found.energy, every, backprojection.logits.argmax(1), labels, keep)
    described = join(parts) if parts else describe_again(backprojection, kept)
    result = found.dominance
    area, energy = shares(result, backprojection.logits.shape[1])
    return Measurement(
        maps=Maps(result.dominant_class, result.dominant_response, backprojection.logits),
        probability=backprojection.logits.softmax(1),
        class_area_frac=area,
        class_energy_frac=energy,
        positive_area_frac=(result.dominant_class >= 0).float().mean((1, 2)),
        dominance_margin=dominance_margin(result),
        class_cosine=found.class_cosine,
        left_out_frac=left_out(clear, backprojection, every),
        dominant=describe(result.dominant_response[:, None]),
        kept=kept,
        responses=described,
        has_finite_scores=backprojection.logits.isfinite().all(1),
        has_finite_maps=found.is_finite,
    )


def survey_stream(backprojection: Backprojection, competing: Tensor, describe_all: bool) -> tuple[Survey, list[MapStatistics]]:
    """Statistics over all competing classes, and if `describe_all` those of each class, chunk by chunk."""
    dominance, cosine = Dominance(), ClassCosine()
    parts: list[MapStatistics] = []
    energies, sums = [], []
    for classes, responses in backprojection.stream(competing):
        dominance.update(classes, responses)
        cosine.update(classes, responses)
        if describe_all:
            parts.append(describe(responses))
        energies.append(parts[-1].energy if describe_all else responses.clamp(min=0).sum((2, 3)))
        sums.append(responses.sum((2, 3)))
    energy = torch.cat(energies, 1)
    # Sums of all values, because the energy leaves −inf out.
    is_finite = energy.isfinite().all(1) & torch.cat(sums, 1).isfinite().all(1)
    return Survey(dominance.result(), energy, cosine.result(), is_finite), parts


def left_out(clear: Clear, backprojection: Backprojection, competing: Tensor) -> Tensor:
    """The share of positive class response whose class may compete but does not, (N,) float32. competing: (N, K)."""
    positive = backprojection.positive.sum((2, 3))
    allowed = positive if clear.classes is None else positive[:, clear.classes]
    total = allowed.sum(1)
    taken = positive.gather(1, competing).sum(1)
    return torch.where(total > 0, 1 - taken / total, torch.nan).clamp(0, 1)


def strongest(energy: Tensor, classes: Tensor, predictions: Tensor, labels: Tensor, keep: int) -> Tensor:
    """The `keep` classes with most energy a sample, ascending, the prediction and the label among them where they compete.

    energy, classes: (N, K). predictions, labels: (N,). Returns (N, keep) int64.
    """
    wanted = (classes == predictions[:, None]) | (classes == labels[:, None])
    chosen = energy.masked_fill(wanted, torch.inf).topk(keep, dim=1).indices
    return classes.gather(1, chosen).sort(dim=1).values


def describe_again(backprojection: Backprojection, kept: Tensor) -> MapStatistics:
    """Sends the kept classes back once more: which they are is known only after the stream, and holding all maps costs more."""
    return join([describe(responses) for _, responses in backprojection.stream(kept)])
