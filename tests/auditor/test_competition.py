"""Classes that compete in blocks, by patterns, or only where they may win: the same as one by one."""

import pytest
import torch
from torch import Tensor

import auditor.competition
from auditor.competition import CLASSES, Outcome, compete, compete_where_open, merge, who_may_win
from auditor.patterns import PIXELS, Patterns, Stretch
from tests.auditor.operators import POSITIONS, SAMPLES, WIDTH, contestants


@pytest.mark.parametrize("classes", [1, 7, 8, 64, 72, 150])
def test_classes_that_compete_in_blocks_are_those_that_compete_one_by_one(classes: int) -> None:
    torch.manual_seed(classes)
    # Small whole numbers: most pixels have ties.
    responses = torch.randint(-3, 4, (classes, 500)).float()
    names = 3 * torch.arange(classes, dtype=torch.int16) + 1
    best, winner = torch.zeros(500), torch.full((500,), -1, dtype=torch.int16)
    for block in range(0, classes, CLASSES):
        merge(responses[block : block + CLASSES], names[block : block + CLASSES], best, winner)
    expected = torch.full((500,), -1, dtype=torch.int16)
    strongest = torch.zeros(500)
    for name, response in zip(names, responses, strict=True):
        expected[response > strongest] = name
        strongest = torch.maximum(strongest, response)
    assert torch.equal(winner, expected)
    assert torch.equal(best, strongest)


def every_response(operator: Tensor, patterns: Patterns, seeds: Tensor) -> Tensor:
    """(K, N, P) float64."""
    return torch.einsum("knh,khp->knp", seeds.double(), patterns.expand(operator).double())


def by_itself(responses: Tensor, names: Tensor) -> Outcome:
    """One class after another, each pixel for itself."""
    best, winner = torch.zeros(responses.shape[1:], dtype=responses.dtype), torch.full(responses.shape[1:], -1, dtype=torch.int16)
    for name, response in zip(names, responses, strict=True):
        winner[response > best] = name
        best = torch.maximum(best, response)
    return winner, best


def assert_same(actual: Outcome, expected: Outcome, responses: Tensor) -> None:
    """Where two classes are as good as equal, either may win."""
    (winner, best), (expected_winner, expected_best) = actual, expected
    assert winner.dtype == torch.int16
    torch.testing.assert_close(best.double(), expected_best, rtol=0, atol=1e-5 * float(expected_best.max()))
    close = (responses.topk(2, dim=0).values.diff(dim=0)[0].abs() if len(responses) > 1 else responses[0]).abs() < 1e-4
    assert close.float().mean() < 0.02
    assert torch.equal(winner[~close], expected_winner[~close])


@pytest.mark.parametrize("classes", [2, 65, 300])
def test_an_operator_as_it_is_and_one_of_patterns_give_what_each_pixel_says_for_itself(classes: int) -> None:
    operator, patterns, seeds = contestants(classes)
    responses, names = every_response(operator, patterns, seeds), 2 * torch.arange(classes, dtype=torch.int16)
    expected = by_itself(responses, names)
    assert_same(compete(operator, patterns, seeds, names), expected, responses)
    assert_same(compete(patterns.expand(operator), None, seeds, names), expected, responses)


@pytest.mark.parametrize("rivals", [0, 2, 10**6])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_those_that_cannot_win_change_nothing(monkeypatch: pytest.MonkeyPatch, seed: int, rivals: int) -> None:
    """Whether no pixel is settled by few, or some are, or all."""
    operator, patterns, seeds = contestants(300, seed)
    names = torch.arange(300, dtype=torch.int16)
    monkeypatch.setattr(auditor.competition, "RIVALS", rivals)
    monkeypatch.setattr(auditor.competition, "MANY", 10**6)
    everywhere = compete(operator, patterns, seeds, names)
    monkeypatch.setattr(auditor.competition, "MANY", 1)
    where_open = compete(operator, patterns, seeds, names)
    assert torch.equal(where_open[0], everywhere[0])
    torch.testing.assert_close(where_open[1], everywhere[1], rtol=0, atol=1e-6 * float(everywhere[1].max()))


@pytest.mark.parametrize("rivals", [0, 10**6])
def test_of_equals_the_lower_class_wins_and_nobody_where_nothing_is_positive(
    monkeypatch: pytest.MonkeyPatch, rivals: int
) -> None:
    monkeypatch.setattr(auditor.competition, "RIVALS", rivals)
    operator, patterns, seeds = contestants(300)
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


@pytest.mark.parametrize("seed", range(5))
def test_whoever_wins_is_among_those_who_may(seed: int) -> None:
    operator, patterns, seeds = contestants(300, seed)
    responses = every_response(operator, patterns, seeds)
    kept = []
    for stretch, left in zip(patterns.stretches(), (0, PIXELS), strict=True):
        may_win = who_may_win(torch.bmm(seeds, operator[:, :, stretch.numbers]), stretch)
        winners = responses[:, :, left : left + PIXELS].argmax(0)
        samples = torch.arange(SAMPLES)[:, None].expand_as(winners)
        assert (may_win[stretch.groups.expand_as(winners), winners, samples] == 1).all()
        kept.append(float(may_win.mean()))
    assert max(kept) < 0.5, "most classes are ruled out"


def test_nobody_may_win_in_a_sample_without_response() -> None:
    """Else all classes would compete at all pixels, for the sake of one blank image in a batch."""
    operator, patterns, seeds = contestants(300)
    seeds[:, 2] = 0
    for stretch in patterns.stretches():
        may_win = who_may_win(torch.bmm(seeds, operator[:, :, stretch.numbers]), stretch)
        assert not may_win[:, :, 2].any()
        assert may_win[:, :, [0, 1, 3, 4, 5]].any(1).all()


def test_samples_in_parts_have_the_outcome_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    operator, patterns, seeds = contestants(300)
    names = torch.arange(300, dtype=torch.int16)
    whole = compete(operator, patterns, seeds, names)
    monkeypatch.setattr(auditor.competition, "BOUNDS", 4 * 64 * 300)
    parts = compete(operator, patterns, seeds, names)
    assert (parts[0] == whole[0]).float().mean() > 0.999
    torch.testing.assert_close(parts[1], whole[1])


def test_all_pixels_are_worked_out_when_some_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    operator, patterns, seeds = contestants(300)
    stretch = next(patterns.stretches())
    coefficients = torch.bmm(seeds, operator[:, :, stretch.numbers])
    counts = who_may_win(coefficients, stretch).sum(1).amax(1)
    assert counts.min() < counts.max()
    monkeypatch.setattr(auditor.competition, "RIVALS", float(counts.median()))
    settled: list[int] = []
    among = auditor.competition.compete_among

    def watched(numbers: Tensor, pixels: Stretch, *rest: Tensor) -> Outcome:
        settled.append(pixels.shapes.shape[1])
        return among(numbers, pixels, *rest)

    monkeypatch.setattr(auditor.competition, "compete_among", watched)
    winner, best = compete_where_open(coefficients, stretch, torch.arange(300, dtype=torch.int16))
    assert 0 < settled[0] < PIXELS
    expected = (coefficients.transpose(0, 1) @ stretch.shapes).max(1)
    torch.testing.assert_close(best, expected.values.clamp(min=0), rtol=1e-5, atol=1e-5)
    assert (winner == expected.indices).float().mean() > 0.99
