"""A survey of many classes by an operator: the same as of the stream of their maps."""

from functools import partial

import pytest
import torch
from torch import Tensor

import auditor.folding.class_statistics
from auditor.folding.class_statistics import Survey, survey, two_strongest
from auditor.folding.low_rank import Patterns
from auditor.statistics.dominance import ClassCosine, Dominance
from tests.auditor.dominance_by_pixel import dominance_by_pixel
from tests.auditor.operators import WIDTH, contestants

SHAPE = (2, WIDTH // 2)


surveyed = partial(contestants, fading=0.5)


def streamed(operator: Tensor, seeds: Tensor, names: Tensor) -> Survey:
    """Of an operator (K, 9, P), in float64, class by class."""
    responses = torch.einsum("knh,khp->nkp", seeds.double(), operator.double()).float().unflatten(2, SHAPE)
    dominance, cosine = Dominance(), ClassCosine()
    for number, name in enumerate(names):
        dominance.update(name[None], responses[:, number : number + 1])
        cosine.update(name[None], responses[:, number : number + 1])
    is_finite = responses.flatten(1).isfinite().all(1)
    return Survey(dominance.result(), responses.clamp(min=0).sum((2, 3)), cosine.result(), is_finite)


def assert_same(actual: Survey, expected: Survey) -> None:
    peak = float(expected.dominance.dominant_response.max())
    for name in ("dominant_response", "second_response"):
        found, wanted = getattr(actual.dominance, name), getattr(expected.dominance, name)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * peak)
    # Where two classes are as good as equal, either may win.
    best, second = expected.dominance.dominant_response, expected.dominance.second_response
    close = (best > 0) & (best - second < 1e-5 * peak)
    assert close.float().mean() < 0.02
    winner = actual.dominance.dominant_class
    assert winner.dtype == torch.int16
    assert torch.equal(winner[~close], expected.dominance.dominant_class[~close])
    torch.testing.assert_close(actual.energy, expected.energy, rtol=1e-4, atol=1e-5 * peak)
    torch.testing.assert_close(actual.class_cosine, expected.class_cosine, rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("values", [1, 20_000, 10**9])
@pytest.mark.parametrize("classes", [2, 8, 61])
def test_what_a_survey_says_is_what_the_stream_says(classes: int, values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether samples are looked at one by one or all at once; of whole groups of classes or not."""
    monkeypatch.setattr(auditor.folding.class_statistics, "VALUES", values)
    operator, patterns, seeds = surveyed(classes)
    names, plain = 3 * torch.arange(classes, dtype=torch.int16) + 1, patterns.expand(operator)
    expected = streamed(plain, seeds, names)
    assert_same(survey(operator, patterns, seeds, names, SHAPE), expected)
    assert_same(survey(plain, None, seeds, names, SHAPE), expected)


def test_samples_of_no_response_and_of_one_have_no_cosine() -> None:
    operator, patterns, seeds = surveyed(10)
    seeds[:, 0], seeds[1:, 1] = 0, 0
    names = torch.arange(10, dtype=torch.int16)
    found = survey(operator, patterns, seeds, names, SHAPE)
    assert_same(found, streamed(patterns.expand(operator), seeds, names))
    assert found.class_cosine[:2].isnan().all()
    assert found.dominance.dominant_class[0].unique().tolist() == [-1]
    assert not found.dominance.dominant_response[0].any()
    assert not found.energy[0].any()


@pytest.mark.parametrize("classes", [8, 24])
def test_ties_go_to_the_first_class_and_are_second_to_themselves(classes: int) -> None:
    """Small whole numbers: most pixels have ties."""
    torch.manual_seed(classes)
    responses, names = torch.randint(-2, 3, (classes, 400)).clamp(min=0).float(), 5 * torch.arange(classes, dtype=torch.int16)
    responses[:, :3] = 0
    found, expected = two_strongest(responses.clone(), names), dominance_by_pixel(responses, names)
    assert all(torch.equal(actual, wanted) for actual, wanted in zip(found, expected, strict=True))


def test_patterns_in_bfloat16_are_near_enough_to_orthonormal() -> None:
    operator, patterns, seeds = surveyed(30)
    names = torch.arange(30, dtype=torch.int16)
    rounded = Patterns(patterns.values.bfloat16(), patterns.ranks, patterns.pixels)
    expected = streamed(rounded.expand(operator.bfloat16().float()), seeds, names)
    found = survey(operator.bfloat16(), rounded, seeds, names, SHAPE)
    assert found.dominance.dominant_response.dtype == torch.float32
    torch.testing.assert_close(found.class_cosine, expected.class_cosine, rtol=0, atol=5e-3)
    torch.testing.assert_close(found.energy, expected.energy, rtol=1e-3, atol=1e-2)
