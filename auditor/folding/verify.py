"""Whether an operator gives what the network gives, on real images."""

from dataclasses import replace

import torch
from torch import Tensor

from auditor.backward.trace import Traced, few_at_a_time
from auditor.folding.folded import Folded, fits
from auditor.folding.forward_only import shortcut
from auditor.folding.operator import TOLERANCE, Operator
from auditor.folding.plan import CannotFold, Tracer

CHECKED_CLASSES = 16


def verify(tracer: Tracer, operator: Operator, images: Tensor) -> tuple[Operator, float]:
    """The operator, with a shortcut where that gives what a tape gives, and its largest deviation from the plain path.

    images: (N, ch, H, W), real ones. The deviation is of folded from plain responses, relative to each sample's largest,
    of the classes with most response. Raises CannotFold.
    """
    shorter, agrees = operator, True
    deviations = []
    for part in few_at_a_time(images):
        plain = tracer.plain(part)
        if not fits(operator, plain):
            raise CannotFold("the forward pass is another than the one that was folded")
        if operator.plan.step < 0 and shorter is operator:
            shorter = replace(operator, shortcut=shortcut(tracer.model, plain))
        agrees = agrees and decides_as(shorter.class_responses(tracer.model, plain.images), plain, tracer.dtype)
        deviations.append(deviation_of(operator, plain))
    found = torch.cat(deviations)
    if not len(found):
        raise CannotFold("no class has positive response in the images that were to verify the operator")
    largest = float(found.max())
    if not largest <= TOLERANCE[tracer.dtype]:
        raise CannotFold(f"folded responses deviate from plain ones by {largest:.1e} of the peak")
    return shorter if agrees else operator, largest


def deviation_of(operator: Operator, plain: Traced) -> Tensor:
    """Of each sample and class that was compared, of samples with a finite response that is not zero. plain: of real images."""
    classes = plain.positive.sum((2, 3)).topk(min(CHECKED_CLASSES, plain.positive.shape[1]), dim=1).indices
    folded = Folded.of(operator, plain)
    expected, actual = (torch.stack([way.send_back(column) for column in classes.unbind(1)], 1) for way in (plain, folded))
    peaks, apart = expected.abs().amax((1, 2, 3)), (actual - expected).abs().amax((1, 2, 3))
    return (apart / peaks)[(peaks > 0) & peaks.isfinite()]


def decides_as(responses: Tensor | None, plain: Traced, dtype: torch.dtype) -> bool:
    """Whether class responses that a shortcut gave are those of a tape, for arithmetic in `dtype`."""
    expected = plain.class_responses
    tolerance = TOLERANCE[dtype] * float(expected.where(expected.isfinite(), 0).abs().max())
    # Where one is not finite, the other must not be: a fused rectifier turns NaN into a number.
    return (
        responses is not None
        and responses.shape == expected.shape
        and torch.allclose(responses, expected, rtol=0, atol=tolerance, equal_nan=True)
    )
