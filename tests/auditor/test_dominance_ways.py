"""Eq. 4 and 5 are worked out in several ways, for speed: each gives what each pixel says for itself, to the bit."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor

from auditor.folding.argmax import compete
from auditor.folding.class_statistics import survey
from auditor.folding.low_rank import PIXELS, Patterns
from auditor.statistics.dominance import Dominance
from tests.auditor.dominance_by_pixel import dominance_by_pixel

SAMPLES, POSITIONS, RANK = 3, 2, 9
SHAPE = (2, PIXELS // 2 + 20)
"""A tile of pixels, and 40 more."""

Found = tuple[Tensor, ...]
"""Ĉ and D, and the second strongest response where it is worked out; each (N, P)."""


def contest(classes: int) -> tuple[Tensor, Patterns, Tensor, Tensor]:
    """Operator (K, 2, R), its patterns, seeds (K, N, 2) and names (K,): of small whole numbers, which make ties everywhere."""
    generator = torch.Generator().manual_seed(classes)

    def whole(*shape: int) -> Tensor:
        return torch.randint(-1, 2, shape, generator=generator).float()

    values = whole(2 * RANK, PIXELS)
    values[RANK:, SHAPE[0] * SHAPE[1] - PIXELS :] = 0
    patterns = Patterns(values, (RANK, RANK), SHAPE[0] * SHAPE[1])
    seeds = whole(classes, SAMPLES, POSITIONS)
    seeds[:, 0] = 0
    return whole(classes, POSITIONS, 2 * RANK), patterns, seeds, 3 * torch.arange(classes, dtype=torch.int16) + 1


def streamed(size: int) -> Callable[..., Found]:
    def find(operator: Tensor, patterns: Patterns, seeds: Tensor, names: Tensor) -> Found:
        dominance = Dominance()
        responses = torch.bmm(seeds, patterns.expand(operator)).transpose(0, 1).unflatten(2, SHAPE)
        for part, block in zip(names.split(size), responses.split(size, 1), strict=True):
            dominance.update(part, block)
        return flat(dominance.result())

    return find


def flat(result: object) -> Found:
    return tuple(maps.flatten(1) for maps in vars(result).values())


def without_numba(operator: Tensor, patterns: Patterns, seeds: Tensor, names: Tensor) -> Found:
    with mock.patch("auditor.folding.argmax.compiled", return_value=None):
        return compete(operator, patterns, seeds, names)


WAYS: dict[str, Callable[..., Found]] = {
    "a stream of single classes": streamed(1),
    "a stream of chunks": streamed(5),
    "an operator, in blocks": lambda operator, patterns, seeds, names: compete(patterns.expand(operator), None, seeds, names),
    "patterns, in blocks": without_numba,
    "patterns, the strongest first": compete,
    "a survey": lambda operator, patterns, *given: flat(survey(patterns.expand(operator), None, *given, SHAPE).dominance),
    "a survey of patterns": lambda *given: flat(survey(*given, SHAPE).dominance),
}


@pytest.mark.parametrize("classes", [1, 8, 20, 130])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_what_each_pixel_says_for_itself(way: str, classes: int) -> None:
    operator, patterns, seeds, names = contest(classes)
    responses = torch.einsum("knh,khr,rp->knp", seeds, operator, expanded(patterns))
    winner, best, second = dominance_by_pixel(responses, names)
    assert (winner == -1).any()
    assert (best == second)[best > 0].any() or classes == 1, "there are ties"
    found = WAYS[way](operator, patterns, seeds, names)
    assert torch.equal(found[0], winner)
    assert torch.equal(found[1], best)
    assert all(torch.equal(given, second) for given in found[2:])


def expanded(patterns: Patterns) -> Tensor:
    """(R, P)."""
    whole = torch.zeros(len(patterns.values), patterns.pixels)
    whole[:RANK, :PIXELS] = patterns.values[:RANK]
    whole[RANK:, PIXELS:] = patterns.values[RANK:, : patterns.pixels - PIXELS]
    return whole
