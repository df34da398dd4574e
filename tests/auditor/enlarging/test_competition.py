"""Eq. 4 and 5 of enlarged maps against all of them, whole: by torch's interpolation and an argmax, and bit by bit."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from auditor.enlarging.competition import compete
from auditor.kernels.enlargement import enlarge
from auditor.statistics.dominance import Dominance, DominanceResult

SIZES = [
    ((7, 7), (224, 224)),
    ((4, 4), (32, 64)),
    ((5, 3), (17, 50)),
    ((1, 4), (12, 9)),
    ((6, 1), (40, 5)),
    ((3, 4), (3, 4)),
    ((9, 8), (4, 5)),
]


def literal(seeds: Tensor, names: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Ĉ, D and the second strongest response, of whole maps."""
    maps = F.interpolate(seeds, size=size, mode="bilinear", align_corners=False)
    best, column = maps.max(1)
    second = maps.topk(2, dim=1).values[:, 1]
    winner = names.expand(len(seeds), -1).gather(1, column.flatten(1)).view_as(column)
    return winner.where(best > 0, -1), best, second


def streamed(seeds: Tensor, names: Tensor, size: tuple[int, int]) -> DominanceResult:
    dominance = Dominance()
    dominance.update(names, enlarge(seeds, size))
    return dominance.result()


def assert_same(found: DominanceResult, expected: DominanceResult) -> None:
    assert torch.equal(found.dominant_class, expected.dominant_class)
    assert torch.equal(found.dominant_response, expected.dominant_response)
    assert torch.equal(found.second_response, expected.second_response)


def random_seeds(samples: int, classes: int, positions: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(classes)
    return torch.randn(samples, classes, *positions, generator=generator).clamp(min=0)


@pytest.mark.parametrize("classes", [2, 60])
@pytest.mark.parametrize(("positions", "size"), SIZES)
def test_as_of_whole_maps(positions: tuple[int, int], size: tuple[int, int], classes: int) -> None:
    seeds, names = random_seeds(3, classes, positions), 5 + 2 * torch.arange(classes)
    found = compete(seeds, names, size)
    assert_same(found, streamed(seeds, names, size))
    winner, best, second = literal(seeds, names, size)
    torch.testing.assert_close(found.dominant_response, best, rtol=0, atol=2e-6)
    torch.testing.assert_close(found.second_response, second, rtol=0, atol=2e-6)
    # Where the two lead by no more than rounding, either may be first.
    assert torch.equal(found.dominant_class.long()[best - second > 1e-5], winner[best - second > 1e-5])
    assert torch.equal(found.dominant_class.long()[best == 0], winner[best == 0])


@pytest.mark.parametrize("size", [(32, 64), (16, 16), (30, 21)])
def test_ties_go_to_the_lower_class(size: tuple[int, int]) -> None:
    """Few whole numbers, at many places the same of several classes; in quarters and eighths they are worked out exactly."""
    seeds = torch.randint(0, 3, (4, 12, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    seeds[1, 7] = seeds[1, 2]
    seeds[2] = 1
    found, names = compete(seeds, torch.arange(12), size), torch.arange(12)
    assert_same(found, streamed(seeds, names, size))
    assert (found.dominant_class[2] == 0).all()
    assert torch.equal(found.second_response[2], found.dominant_response[2])
    if size != (30, 21):
        winner, best, second = literal(seeds, names, size)
        assert torch.equal(found.dominant_class.long(), winner)
        assert torch.equal(found.dominant_response, best)
        assert torch.equal(found.second_response, second)
        assert (best == second).float().mean() > 0.05, "there must be ties"


def test_each_sample_has_classes_of_its_own() -> None:
    seeds = random_seeds(2, 4, (3, 3))
    names = torch.tensor([[0, 2, 5, 9], [1, 2, 3, 400]])
    found = compete(seeds, names, (20, 20))
    assert_same(found, streamed(seeds, names, (20, 20)))
    assert set(found.dominant_class[1].unique().tolist()) <= {1, 2, 3, 400}


def test_no_class_where_none_has_positive_response() -> None:
    """By hand: of two positions over eight pixels, only the second has response: pixels 0 and 1 have none."""
    seeds = torch.zeros(3, 2, 1, 2)
    seeds[1, 1, 0, 1] = 8
    seeds[2, 0, 0] = 1e-30
    found = compete(seeds, torch.arange(2), (1, 8))
    assert found.dominant_class[:, 0].tolist() == [[-1] * 8, [-1, -1, 1, 1, 1, 1, 1, 1], [0] * 8]
    assert found.dominant_response[1, 0].tolist() == [0, 0, 1, 3, 5, 7, 8, 8]
    assert found.second_response.count_nonzero() == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_spoils_no_other_sample(bad: float) -> None:
    seeds = random_seeds(3, 20, (4, 4))
    expected = compete(seeds[[0, 2]], torch.arange(20), (32, 32))
    seeds[1, 3, 2, 2] = bad
    found = compete(seeds, torch.arange(20), (32, 32))
    assert torch.equal(found.dominant_class[[0, 2]], expected.dominant_class)
    assert torch.equal(found.dominant_response[[0, 2]], expected.dominant_response)


def test_any_number_of_samples_is_looked_through_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = random_seeds(5, 30, (4, 4))
    expected = compete(seeds, torch.arange(30), (40, 40))
    for values in (1, 4 * 30 * 64 * 2):
        monkeypatch.setattr("auditor.enlarging.competition.CACHED_VALUES", values)
        assert_same(compete(seeds, torch.arange(30), (40, 40)), expected)


def test_no_samples() -> None:
    found = compete(torch.zeros(0, 4, 3, 3), torch.arange(4), (9, 9))
    assert found.dominant_class.shape == (0, 9, 9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_the_maps_of_the_cpu() -> None:
    seeds, names = random_seeds(4, 100, (7, 7)), torch.arange(100)
    on_cpu, on_cuda = compete(seeds, names, (224, 224)), compete(seeds.cuda(), names.cuda(), (224, 224))
    for name in ("dominant_class", "dominant_response", "second_response"):
        torch.testing.assert_close(getattr(on_cuda, name).cpu(), getattr(on_cpu, name))
