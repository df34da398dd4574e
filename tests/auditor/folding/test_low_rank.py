"""Operators in few patterns, against what a singular value decomposition says."""

import pytest
import torch
from torch import Tensor

from auditor.folding.low_rank import PIXELS, Patterns, find_patterns, square_root, tiles

SOURCES, POSITIONS, WIDTH = 30, 9, PIXELS + 200
TOLERANCE = 1e-5


def made_of(ranks: list[int], seed: int = 0, fading: float = 0.3) -> Tensor:
    """(30, 9, 984) of as many patterns as `ranks` says in each of its two tiles, each weaker than the one before."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for rank, width in zip(ranks, (PIXELS, WIDTH - PIXELS), strict=True):
        numbers = torch.randn(SOURCES, POSITIONS, rank, generator=generator) * fading ** torch.arange(rank)
        parts.append(numbers @ torch.randn(rank, width, generator=generator))
    return torch.cat(parts, 2)


def found(basis: Tensor, weights: Tensor | None = None, tolerance: float = TOLERANCE) -> Patterns:
    patterns = find_patterns(basis, weights, tolerance)
    assert patterns is not None
    return patterns


def restored(patterns: Patterns, rows: Tensor) -> Tensor:
    return patterns.expand(patterns.reduce(rows))


def lost(rows: Tensor, patterns: Patterns) -> list[float]:
    """The part of its norm that each tile loses."""
    away = rows - restored(patterns, rows)
    return [float(part.norm() / whole.norm()) for part, whole in zip(away.split(PIXELS, 2), rows.split(PIXELS, 2), strict=True)]


def test_there_are_as_many_as_the_operator_is_made_of() -> None:
    basis = made_of([5, 3])
    patterns = found(basis)
    assert patterns.ranks == (5, 3)
    torch.testing.assert_close(restored(patterns, basis), basis, rtol=0, atol=1e-5 * float(basis.abs().max()))


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3, 1e-4])
def test_as_few_as_lose_no_more_than_allowed(tolerance: float) -> None:
    basis = made_of([6, 6], fading=0.1)
    patterns = found(basis, tolerance=tolerance)
    for rank, part, away in zip(patterns.ranks, basis.split(PIXELS, 2), lost(basis, patterns), strict=True):
        values = torch.linalg.svdvals(part.flatten(0, 1).double())
        one_less, least = (values[rank - less :].norm() / values.norm() for less in (1, 0))
        assert away == pytest.approx(float(least), rel=1e-2)
        assert away <= tolerance < one_less


def test_patterns_of_weighted_sources_are_those_of_the_classes() -> None:
    """Sixty classes of thirty sources, half of which no class uses: what they receive is not kept."""
    basis, weights = made_of([4, 4]), torch.randn(60, SOURCES, generator=torch.Generator().manual_seed(1))
    weights[:, 15:] = 0
    basis[15:] += 100 * made_of([8, 8], seed=2)[15:]
    patterns, classes = found(basis, weights), torch.einsum("ck,khp->chp", weights, basis)
    assert patterns.ranks == (4, 4)
    assert max(lost(classes, patterns)) <= 2 * TOLERANCE
    by_parts = torch.einsum("ck,khr->chr", weights, patterns.reduce(basis))
    torch.testing.assert_close(patterns.expand(by_parts), classes, rtol=0, atol=1e-4 * float(classes.abs().max()))


def test_an_operator_of_many_patterns_is_left_as_it_is() -> None:
    assert find_patterns(torch.randn(SOURCES, POSITIONS, WIDTH), None, TOLERANCE) is None
    assert find_patterns(made_of([15, 3], fading=0.9), None, TOLERANCE) is None, "15 · (9 + 784) is more than 1.5 · 9 · 784"
    assert find_patterns(torch.randn(3, 2, 20), None, TOLERANCE) is None
    assert find_patterns(made_of([3, 3]).index_fill(0, torch.tensor(2), torch.inf), None, TOLERANCE) is None


def test_a_stretch_that_receives_nothing_stays_empty() -> None:
    basis = made_of([3, 3])
    basis[:, :, :PIXELS] = 0
    patterns = found(basis)
    assert patterns.ranks == (1, 3)
    assert not restored(patterns, basis)[:, :, :PIXELS].any()


def test_patterns_are_orthonormal_within_a_stretch() -> None:
    patterns = found(made_of([5, 3]))
    for slices in patterns.slices():
        shapes = patterns.of_tile(*slices)
        torch.testing.assert_close(shapes @ shapes.t(), torch.eye(len(shapes)), rtol=0, atol=1e-5)


def test_the_strongest_pattern_of_a_stretch_is_the_last() -> None:
    basis = made_of([5, 3])
    patterns = found(basis)
    for part in patterns.reduce(basis).split(patterns.ranks, 2):
        energies = part.square().sum((0, 1))
        assert torch.equal(energies, energies.sort().values)


def test_stretches_put_together_are_the_operator() -> None:
    basis = made_of([5, 3])
    patterns = found(basis)
    coefficients = patterns.reduce(basis)
    assert torch.equal(torch.cat([part for part, shapes in tiles(basis, None) if shapes is None], 2), basis)
    whole = torch.cat([part @ shapes for part, shapes in tiles(coefficients, patterns) if shapes is not None], 2)
    torch.testing.assert_close(whole, patterns.expand(coefficients))


def test_how_many_are_expanded_at_once_does_not_change_a_bit() -> None:
    basis = made_of([5, 3])
    patterns = found(basis)
    coefficients = patterns.reduce(basis)
    one_by_one = torch.cat([patterns.expand(part) for part in coefficients.split(1)])
    assert torch.equal(one_by_one, patterns.expand(coefficients))


def test_square_root() -> None:
    weights = torch.randn(50, 7, generator=torch.Generator().manual_seed(3))
    root = square_root(weights)
    torch.testing.assert_close(root @ root, weights.t() @ weights, rtol=1e-4, atol=1e-4)
