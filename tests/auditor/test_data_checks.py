"""Chance, order and input, against closed forms, all orders tried one by one, and numpy."""

from itertools import permutations

import numpy as np
import pytest
import scipy.stats
import torch

from auditor.data_checks import IMAGENET, INVERTED, SWAPPED, chance, changes, paired_p_value, reordered


def test_chance_is_what_independent_labels_and_predictions_come_to() -> None:
    confusion = np.array([[30, 10], [20, 40]])
    found = chance(confusion)
    assert found.accuracy == 0.7
    assert found.expected == pytest.approx(0.4 * 0.5 + 0.6 * 0.5)
    assert found.p_value == pytest.approx(scipy.stats.binom.sf(69, 100, 0.5))


def test_guessing_the_commonest_class_is_chance() -> None:
    """Accuracy is nine in ten, and nothing is known."""
    found = chance(np.array([[90, 0], [10, 0]]))
    assert (found.accuracy, found.expected) == (0.9, 0.9)
    assert found.p_value > 0.5


def test_the_best_order_is_that_of_all_orders() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        confusion = generator.integers(0, 50, (5, 5))
        best = max(confusion[range(5), order].sum() for order in permutations(range(5)))
        assert confusion[range(5), reordered(confusion)].sum() == best


def test_of_two_orders_as_good_the_one_with_less_moved_is_taken() -> None:
    assert reordered(np.array([[3, 3, 0], [3, 3, 0], [0, 0, 0]])).tolist() == [0, 1, 2]


def test_other_ways_undo_what_is_configured() -> None:
    images = torch.rand((2, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    ways = changes(3, *IMAGENET)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in IMAGENET)
    plain = images.numpy()
    expected = {
        "values in [0, 1]": plain,
        "values in [−1, 1]": 2 * plain - 1,
        "values in [0, 255]": 255 * plain,
        "values in [−128, 127]": 255 * plain - 128,
        INVERTED: (1 - plain - mean) / std,
        SWAPPED: (plain[:, ::-1] - mean) / std,
    }
    assert ways.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(ways[name](images).numpy(), values, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    ("channels", "mean", "std", "absent"),
    [
        (1, (), (), "values in [0, 1]"),
        (1, (0.5,), (0.5,), "values in [−1, 1]"),
        (3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "values in [−1, 1]"),
        (3, (0.4850, 0.4560, 0.4060), (0.2290, 0.2240, 0.2250), "mean and deviation of ImageNet"),
    ],
)
def test_the_configured_way_is_no_other_way(channels: int, mean: tuple[float, ...], std: tuple[float, ...], absent: str) -> None:
    ways = changes(channels, mean, std)
    assert absent not in ways
    assert len(ways) == (5 if channels == 1 else 4) + 2 * (channels == 3) - (channels == 1)


def test_pairs_are_tossed_like_coins() -> None:
    assert paired_p_value(0, 0) == 1
    assert paired_p_value(9, 1) == pytest.approx(11 / 1024)
    assert paired_p_value(1, 9) == pytest.approx(1023 / 1024)
