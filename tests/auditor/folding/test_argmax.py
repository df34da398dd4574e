"""Classes that compete in blocks, by patterns, or by the strongest patterns first: the same as one by one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import auditor.folding.argmax
from auditor.folding.argmax import CLASSES, STRONG, Outcome, compete, compete_by_strongest, find_winners, merge
from auditor.folding.low_rank import Patterns
from auditor.kernels.numba_loops import compiled
from tests.auditor.dominance_by_pixel import dominance_by_pixel
from tests.auditor.operators import POSITIONS, WIDTH, contestants


@pytest.mark.parametrize("classes", [1, 7, 8, 64, 72, 150])
def test_classes_that_compete_in_blocks_are_those_that_compete_one_by_one(classes: int) -> None:
    torch.manual_seed(classes)
    # Small whole numbers: most pixels have ties.
    responses = torch.randint(-3, 4, (classes, 500)).float()
    names = 3 * torch.arange(classes, dtype=torch.int16) + 1
    best, winner = torch.zeros(500), torch.full((500,), -1, dtype=torch.int16)
    for block in range(0, classes, CLASSES):
        merge(responses[block : block + CLASSES], names[block : block + CLASSES], best, winner)
    expected, strongest, _ = dominance_by_pixel(responses, names)
    assert torch.equal(winner, expected)
    assert torch.equal(best, strongest)


def every_response(operator: Tensor, patterns: Patterns, seeds: Tensor) -> Tensor:
    """(K, N, P) float64."""
    return torch.einsum("knh,khp->knp", seeds.double(), patterns.expand(operator).double())


def assert_same(actual: Outcome, expected: Outcome, responses: Tensor) -> None:
    """Where two classes are as good as equal, either may win."""
    (winner, best), (expected_winner, expected_best) = actual, expected
    assert winner.dtype == torch.int16
    torch.testing.assert_close(best.double(), expected_best, rtol=0, atol=1e-5 * float(expected_best.max()))
    close = (responses.topk(2, dim=0).values.diff(dim=0)[0].abs() if len(responses) > 1 else responses[0]).abs() < 1e-4
    assert close.float().mean() < 0.02
    assert torch.equal(winner[~close], expected_winner[~close])


@pytest.fixture(params=["numba", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numba's loops, and as it is without numba."""
    if request.param == "torch":
        monkeypatch.setattr(auditor.folding.argmax, "compiled", lambda loops: None)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rank", [4, 9])
@pytest.mark.parametrize("classes", [1, 2, 65, 300])
def test_an_operator_as_it_is_and_one_of_patterns_give_what_each_pixel_says_for_itself(classes: int, rank: int) -> None:
    operator, patterns, seeds = contestants(classes, fading=0.4, rank=rank)
    responses, names = every_response(operator, patterns, seeds), 2 * torch.arange(classes, dtype=torch.int16)
    expected = dominance_by_pixel(responses, names)[:2]
    assert_same(compete(operator, patterns, seeds, names), expected, responses)
    assert_same(compete(patterns.expand(operator), None, seeds, names), expected, responses)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rank", [4, 9])
def test_of_equals_the_lower_class_wins_and_nobody_where_nothing_is_positive(rank: int) -> None:
    operator, patterns, seeds = contestants(300, fading=0.4, rank=rank)
    # Each class has a twin 150 further on; one sample has no seed, and one only for a class that is nowhere positive.
    operator[150:], seeds[150:] = operator[:150], seeds[:150]
    seeds[:, 0] = 0
    operator[7] = operator[157] = -patterns.reduce(torch.ones(1, POSITIONS, WIDTH))
    seeds[:, 1], seeds[7, 1] = 0, 1
    winner, best = compete(operator, patterns, seeds, torch.arange(300, dtype=torch.int16))
    assert winner.max() < 150
    assert (winner[2:] >= 0).all()
    assert (winner[0] == -1).all()
    assert not best[0].any()
    assert (best >= 0).all()
    assert torch.equal(winner == -1, best == 0)


@given(
    rank=st.integers(1, 2 * STRONG),
    classes=st.integers(1, 40),
    samples=st.integers(1, 4),
    fading=st.sampled_from([1e-3, 0.1, 0.5, 1.0, 3.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_whoever_wins_responds_as_strongly_as_any(rank: int, classes: int, samples: int, fading: float, seed: int) -> None:
    """Whether the strongest patterns decide or, where they fade the other way, say nothing."""
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.randn(classes, samples, rank, generator=generator) * fading ** torch.arange(rank - 1, -1, -1)
    shapes = torch.randn(rank, 50, generator=generator)
    winner, best = compete_by_strongest(coefficients, shapes, torch.arange(classes, dtype=torch.int16))
    responses = torch.einsum("knr,rp->knp", coefficients.double(), shapes.double())
    rounding = 1e-5 * coefficients.norm(dim=2).amax(0)[:, None] * shapes.norm(dim=0)
    strongest = responses.amax(0).clamp(min=0)
    assert ((best - strongest).abs() <= rounding).all()
    won = responses.gather(0, winner.long().clamp(min=0)[None])[0]
    assert (torch.where(winner < 0, 0, strongest - won) <= rounding).all()
    assert torch.equal(winner == -1, best == 0)


def test_classes_that_the_strongest_patterns_rule_out_are_not_compared_further() -> None:
    """By all patterns, the second of three classes would win; by weights of zero nobody doubts that the first does."""
    coefficients = np.zeros((3, 1, STRONG + 1), np.float32)
    coefficients[:, 0, -1] = 3, 2, 1
    coefficients[1, 0, 0] = 100
    strong, columns = np.ones((STRONG, 5), np.float32), np.ones((5, STRONG + 1), np.float32)
    find = compiled(find_winners)
    assert find is not None
    for weights, expected in ((np.zeros(STRONG + 1, np.float32), (4, 3)), (np.eye(STRONG + 1, dtype=np.float32)[0], (5, 102))):
        winner, best = np.zeros((1, 5), np.int16), np.zeros((1, 5), np.float32)
        names, doubts = np.array([4, 5, 6], np.int16), np.ones(5, np.float32)
        find(coefficients, strong, columns, weights, doubts, names, winner, best, 0, 1)
        assert (set(winner.flat), set(best.flat)) == ({expected[0]}, {expected[1]})


def test_how_many_threads_there_are_does_not_change_a_bit(threads: Callable[[int], None]) -> None:
    operator, patterns, seeds = contestants(300, rank=9, fading=0.4)
    outcomes = []
    for number in (1, 2, 5):
        threads(number)
        outcomes.append(compete(operator, patterns, seeds, torch.arange(300, dtype=torch.int16)))
    for winner, best in outcomes[1:]:
        assert torch.equal(winner, outcomes[0][0])
        assert torch.equal(best, outcomes[0][1])
