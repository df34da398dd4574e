"""Dominance, margin, shares, class cosine: by hand, and against loops over pixels and pairs."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from auditor.statistics.dominance import ClassCosine, Dominance, dominance_margin, shares
from tests.auditor.dominance_by_pixel import dominance_by_pixel

BY_HAND = torch.tensor([[[[3.0, 0, -1, 2]], [[3, 0, -2, 4]], [[1, 0, -3, 5]]]])
"""One sample, three classes, 1 × 4 pixels: a tie, nothing, all against, a clear winner."""


def random_responses(seed: int = 0, samples: int = 3, classes: int = 6) -> Tensor:
    """Of both signs, with ties and with classes that are zero everywhere; the last sample has none that is not."""
    responses = torch.randint(-3, 4, (samples, classes, 4, 5), generator=torch.Generator().manual_seed(seed)).float()
    responses[:, 2] = 0
    responses[-1] = 0
    return responses


def stream(reducer: Any, responses: Tensor, sizes: list[int] | None = None) -> Any:
    classes = torch.arange(responses.shape[1])
    sizes = sizes or [len(classes)]
    for part, block in zip(classes.split(sizes), responses.split(sizes, 1), strict=True):
        reducer.update(part, block)
    return reducer.result()


def pixels(responses: Tensor) -> Iterator[tuple[tuple[int, int, int], list[float]]]:
    """Every sample's every pixel, with the responses of all classes there."""
    samples, _, height, width = responses.shape
    for sample, y, x in np.ndindex(samples, height, width):
        yield (sample, y, x), responses[sample, :, y, x].tolist()


def test_dominance_by_hand() -> None:
    result = stream(Dominance(), BY_HAND)
    assert result.dominant_class.tolist() == [[[0, -1, -1, 2]]]
    assert result.dominant_response.tolist() == [[[3, 0, 0, 5]]]
    assert result.second_response.tolist() == [[[3, 0, 0, 4]]]
    assert result.dominant_class.dtype == torch.int16


def test_dominance_pixel_by_pixel() -> None:
    responses = random_responses()
    result = stream(Dominance(), responses)
    expected = dominance_by_pixel(responses.transpose(0, 1), torch.arange(responses.shape[1]))
    assert all(torch.equal(actual, wanted) for actual, wanted in zip(vars(result).values(), expected, strict=True))


def test_dominance_of_one_class_has_no_second() -> None:
    result = stream(Dominance(), BY_HAND[:, :1])
    assert result.second_response.tolist() == [[[0, 0, 0, 0]]]
    assert dominance_margin(result).tolist() == [1]


def test_dominance_of_classes_that_differ_between_samples() -> None:
    dominance = Dominance()
    dominance.update(torch.tensor([[1, 4], [0, 300]]), torch.tensor([[[[2.0]], [[2.0]]], [[[1.0]], [[5.0]]]]))
    assert dominance.result().dominant_class.tolist() == [[[1]], [[300]]]


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1, 1, 1], [4, 2], [1, 5], [3, 3]])
def test_streaming_in_chunks_changes_nothing(sizes: list[int]) -> None:
    responses = random_responses(seed=1)
    whole, parts = stream(Dominance(), responses), stream(Dominance(), responses, sizes)
    fields = [vars(result).values() for result in (whole, parts)]
    assert all(torch.equal(first, second) for first, second in zip(*fields, strict=True))


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1, 1, 1], [4, 2], [1, 5]])
def test_class_cosine_in_chunks(sizes: list[int]) -> None:
    responses = random_responses(seed=2)
    whole, parts = stream(ClassCosine(), responses), stream(ClassCosine(), responses, sizes)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("reducer", [Dominance(), ClassCosine()])
def test_no_class_is_an_error(reducer: Any) -> None:
    with pytest.raises(ValueError, match="no class was streamed"):
        reducer.result()


def test_margin_by_hand() -> None:
    """(3 − 3 + 5 − 4) / (3 + 5)"""
    assert dominance_margin(stream(Dominance(), BY_HAND)).tolist() == [1 / 8]


def test_margin_pixel_by_pixel() -> None:
    responses = random_responses(seed=3)
    leads, total = np.zeros(3), np.zeros(3)
    for (sample, _, _), values in pixels(responses):
        first, second = sorted((max(value, 0) for value in values), reverse=True)[:2]
        leads[sample] += first - second
        total[sample] += first
    actual = dominance_margin(stream(Dominance(), responses)).numpy()
    np.testing.assert_allclose(actual[:2], leads[:2] / total[:2], rtol=1e-6)
    assert np.isnan(actual[2])


def test_shares_by_hand() -> None:
    area, energy = shares(stream(Dominance(), BY_HAND), 4)
    assert area.tolist() == [[1 / 4, 0, 1 / 4, 0]]
    assert energy.tolist() == [[3 / 8, 0, 5 / 8, 0]]


def test_shares_pixel_by_pixel() -> None:
    responses = random_responses(seed=4)
    area, energy = np.zeros((3, 6)), np.zeros((3, 6))
    for (sample, _, _), values in pixels(responses):
        if max(values) > 0:
            winner = values.index(max(values))
            area[sample, winner] += 1 / 20
            energy[sample, winner] += max(values)
    actual_area, actual_energy = shares(stream(Dominance(), responses), 6)
    np.testing.assert_allclose(actual_area.numpy(), area, atol=1e-6)
    np.testing.assert_allclose(actual_energy[:2].numpy(), energy[:2] / energy[:2].sum(1, keepdims=True), atol=1e-6)
    assert actual_energy[2].isnan().all(), "no energy cannot be shared"


def test_class_cosine_by_hand() -> None:
    """(1, 0), (0, 2) and (−3, −3): cosines 0, −1/√2, −1/√2. A class without response is no part of a pair."""
    maps = torch.tensor([[[[1.0, 0]], [[0, 2]], [[0, 0]], [[-3, -3]]]])
    torch.testing.assert_close(stream(ClassCosine(), maps), torch.tensor([-(2**0.5) / 3]))


def test_class_cosine_pair_by_pair() -> None:
    responses = torch.randn(4, 7, 3, 5, generator=torch.Generator().manual_seed(5))
    responses[1, [0, 4]] = 0
    expected = []
    for sample in responses.double().flatten(2).numpy():
        maps = [row / np.sqrt((row**2).sum()) for row in sample if row.any()]
        expected.append(np.mean([(first * second).sum() for first, second in combinations(maps, 2)]))
    np.testing.assert_allclose(stream(ClassCosine(), responses).numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_class_cosine_of_the_same_map_at_any_scale_is_one(scale: float) -> None:
    one = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(6))
    maps = one * torch.tensor([1, 2, scale])[:, None, None]
    torch.testing.assert_close(stream(ClassCosine(), maps), torch.ones(2))


def test_class_cosine_of_fewer_than_two_maps_is_undefined() -> None:
    responses = torch.zeros(2, 3, 2, 2)
    responses[0, 1] = 1
    assert stream(ClassCosine(), responses).isnan().tolist() == [True, True]
