"""What may be believed, by summaries made by hand; means and intervals against scipy and statistics by hand."""

from math import isinf, isnan, nan

import numpy as np
import pytest
import scipy.stats

from auditor.trust.verdict import UNKNOWN, Summary, Verdict, judge, summary_of


def sure(value: float, count: int = 500, reach: float = 0.01) -> Summary:
    return Summary(value, value - reach, value + reach, count)


GOOD = {
    "moved_along": sure(0.9),
    "moved_stayed": sure(0.2),
    "contrast": sure(0.95),
    "class_cosine_positive": sure(0.5),
    "last_random_spearman": sure(0.4),
    "all_random_spearman": sure(0.1),
    "grid_pointing": sure(0.6),
}


def outcome(changes: dict[str, Summary], controls: dict[str, dict[str, Summary]] | None = None) -> Verdict:
    return judge(GOOD | changes, controls or {})


def test_good_maps_say_where_and_for_which_class() -> None:
    verdict = outcome({})
    assert (verdict.says_where, verdict.says_class) == (True, True)
    assert [holds for _, holds, _ in verdict.tests] == [True] * 4


@pytest.mark.parametrize(
    ("changes", "where", "label", "said"),
    [
        ({"moved_along": sure(0.61), "moved_stayed": sure(0.98)}, False, False, "its map stays where it was (correlation 0.61"),
        ({"moved_along": sure(0.5), "moved_stayed": sure(0.495)}, False, False, "stays where it was"),
        ({"class_cosine_positive": sure(0.99)}, True, False, "nearly the same (cosine 0.99)"),
        ({"contrast": sure(0.5)}, True, False, "is not what tells these classes apart (50% of 500 images"),
        ({"contrast": sure(0.59)}, True, False, "is not what tells these classes apart (59% of 500 images"),
        ({"contrast": UNKNOWN}, True, False, "never differ"),
        ({"all_random_spearman": sure(0.98)}, False, False, "has learnt nothing has nearly the same maps (rank correlation 0.98"),
        ({"last_random_spearman": sure(0.99)}, False, False, "0.99 with the last one"),
        ({"grid_pointing": sure(0.255)}, False, True, "do not find the right one (26% of their energy"),
    ],
)
def test_each_fault_is_said_and_bars_what_rests_on_it(changes: dict[str, Summary], where: bool, label: bool, said: str) -> None:
    verdict = outcome(changes)
    assert (verdict.says_where, verdict.says_class) == (where, label)
    ((_, _, reason),) = [test for test in verdict.tests if test[1] is False]
    assert said in reason


def test_few_images_prove_nothing() -> None:
    """Of five images all five: a coin does that in three of a hundred audits."""
    assert outcome({"contrast": Summary(1.0, 0.57, 1.0, 5)}).says_class is False


@pytest.mark.parametrize(
    ("own", "random", "holds"),
    [(sure(0.8), sure(0.5), True), (sure(0.5), sure(0.495), False), (sure(0.8), UNKNOWN, None), (UNKNOWN, sure(0.5), None)],
)
def test_without_grids_the_place_is_what_the_network_needs(own: Summary, random: Summary, holds: bool | None) -> None:
    verdict = outcome({"grid_pointing": UNKNOWN, "insertion": own}, {"random_pixels": {"insertion": random}})
    assert (verdict.says_where, verdict.says_class) == (holds, True)


def test_what_could_not_be_measured_leaves_it_open_and_a_fault_decides() -> None:
    empty = {"moved_along": UNKNOWN, "moved_stayed": UNKNOWN}
    assert (outcome(empty).says_where, outcome(empty).says_class) == (None, None)
    assert outcome(empty | {"class_cosine_positive": sure(1.0)}).says_class is False
    nothing = judge({}, {})
    assert (nothing.says_where, nothing.says_class) == (None, None)


def test_keeping_and_removing_decide_nothing() -> None:
    """By these alone, z⁺ would be chosen, whose maps are those of a network with random weights."""
    bad = GOOD | {"all_random_spearman": sure(0.98)}
    superb = {name: sure(value) for name, value in {"kept_correct": 1.0, "removed_correct": 0.0, "insertion": 1.0}.items()}
    assert judge(bad | superb, {}) == judge(bad, {})


def test_the_mean_and_its_interval() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400).astype(np.float32)
    found = summary_of(values)
    low, high = scipy.stats.norm.interval(0.95, values.mean(dtype=float), scipy.stats.sem(values.astype(float)))
    assert (found.value, found.count) == (pytest.approx(values.mean(dtype=float)), 400)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_the_interval_of_a_share_is_wilsons() -> None:
    """By hand (Wilson 1927): of n ones, centre (1 + z²/2n) / (1 + z²/n); not [1, 1], as a normal one would be."""
    found = summary_of(np.ones(10, np.float32))
    z = scipy.stats.norm.ppf(0.975)
    assert (found.value, found.high) == (1, pytest.approx(1))
    assert found.low == pytest.approx((1 + z**2 / 20 - z * (z**2 / 400) ** 0.5) / (1 + z**2 / 10))


def test_nothing_and_one_image() -> None:
    nothing = summary_of(np.zeros(0, np.float32))
    assert (isnan(nothing.value), nothing.count) == (True, 0)
    alone = summary_of(np.array([0.25], np.float32))
    assert (alone.value, isinf(alone.low), isinf(alone.high)) == (0.25, True, True)
    assert nan not in (alone.value, alone.low)
