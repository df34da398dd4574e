"""Agreement with masks: by hand, against definitions over sets of pixels, and what is undefined."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from auditor.trust.ground_truth import intersection_over_union, mass_accuracy, mass_over_area, pointing_game, rank_accuracy

SETTINGS = settings(max_examples=80, deadline=None, derandomize=True, database=None)
Measure = Callable[[Tensor, Tensor], Tensor]
MEASURES: list[Measure] = [pointing_game, mass_accuracy, mass_over_area, rank_accuracy, intersection_over_union]
values = st.lists(st.integers(-3, 6), min_size=8, max_size=8).filter(lambda given: max(given) > 0)
covers = st.lists(st.booleans(), min_size=8, max_size=8).filter(any)


@SETTINGS
@given(values, covers)
def test_against_sets(map_: list[int], mask: list[bool]) -> None:
    maps, masks = torch.tensor(map_).float().view(1, 2, 4), torch.tensor(mask).view(1, 2, 4)
    inside = {place for place, covered in enumerate(mask) if covered}
    positive = [max(value, 0) for value in map_]
    peaks = {place for place, value in enumerate(map_) if value == max(map_)}
    assert pointing_game(maps, masks).item() == pytest.approx(len(peaks & inside) / len(peaks))
    mass = sum(positive[place] for place in inside) / sum(positive)
    assert mass_accuracy(maps, masks).item() == pytest.approx(mass)
    assert mass_over_area(maps, masks).item() == pytest.approx(mass / (len(inside) / 8), rel=1e-5)
    strongest = set(sorted(range(8), key=lambda place: -map_[place])[: len(inside)])
    hits = {place for place in strongest & inside if map_[place] > 0}
    assert rank_accuracy(maps, masks).item() == pytest.approx(len(hits) / len(inside))
    lit = {place for place, value in enumerate(positive) if 8 * value >= sum(positive)}
    assert intersection_over_union(maps, masks).item() == pytest.approx(len(lit & inside) / len(lit | inside))


@pytest.mark.parametrize("measure", MEASURES)
def test_empty_masks_and_maps_are_undefined(measure: Measure) -> None:
    maps, masks = torch.ones(4, 3, 3), torch.ones(4, 3, 3, dtype=torch.bool)
    maps[1], maps[2], masks[3] = 0, -1, False
    assert measure(maps, masks).isnan().tolist() == [False, True, True, True]


@pytest.mark.parametrize("measure", MEASURES)
def test_an_image_does_not_depend_on_its_batch(measure: Measure) -> None:
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.randn(5, 6, 6, generator=generator), torch.rand(5, 6, 6, generator=generator) < 0.3
    maps[0] *= 1e6
    assert measure(maps[3:4], masks[3:4]).item() == measure(maps, masks)[3].item()


def test_a_map_that_knows_nothing() -> None:
    maps, masks = torch.full((1, 4, 4), 0.1), torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, :2, :2] = True
    assert [round(measure(maps, masks).item(), 6) for measure in MEASURES] == [0.25, 0.25, 1, 0.5, 0.25]


def test_the_mask_itself_is_perfect() -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    masks[0, 1:3, 2] = True
    assert [measure(masks.float(), masks).item() for measure in MEASURES] == [1, 1, 8, 1, 1]
