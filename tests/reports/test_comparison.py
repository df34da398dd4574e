"""Two runs paired by content: flips and figures by hand, intervals against the normal distribution."""

from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from reports.comparison import PAIRED, Comparison, PairedMean, compare, interval
from storage.errors import InputError
from storage.runs.run import Run
from tests.reports.stores import SCRIPT, Content, Row, make_store, sample

CLASSES = ["cat", SCRIPT, "dog"]
EARLIER = "20261120T030000Z-digits-0001"


def row(index: int, content: str, label: int | None, prediction: int, dominant: int | None) -> Row:
    return sample(index, label, prediction, 0.5, dominant, (0.5, 0.5, 0.5)) | {"content_hash": content, "sample_id": content}


BEFORE = [
    row(0, "a", 0, 0, 0),
    row(1, "b", 1, 1, 1),
    row(2, "c", 2, 0, 0),
    row(3, "d", 0, 0, 1),
    row(4, "e", 0, 0, 0),
    row(5, "a", 0, 0, 0),
    row(6, "f", None, 1, None),
]
AFTER = [
    row(0, "b", 1, 2, 1),
    row(1, "a", 0, 0, 2),
    row(2, "c", 2, 2, 2),
    row(3, "d", 0, 0, 1),
    row(4, "a", 0, 0, 0),
    row(5, "g", 0, 0, 0),
    row(6, "f", 1, 1, 0),
]


@pytest.fixture
def before(tmp_path: Path) -> Run:
    return make_store(tmp_path, Content(CLASSES, BEFORE, run_id=EARLIER))


@pytest.fixture
def comparison(before: Run) -> Comparison:
    return compare(before, make_store(before.store, Content(CLASSES, AFTER)))


def test_samples_are_paired_by_content_and_copies_in_order(comparison: Comparison) -> None:
    assert comparison.paired_count == 6
    assert [(row["sample_index"], row["sample_id"]) for row in comparison.added] == [(5, "g")]
    assert [(row["sample_index"], row["sample_id"]) for row in comparison.missing] == [(4, "e")]
    assert comparison.relabelled_count == 1, "f had no label"


def test_flips_by_hand(comparison: Comparison) -> None:
    found = {kind: [(flip.before_index, flip.after_index) for flip in flips] for kind, flips in comparison.flips.items()}
    assert found == {"right_to_wrong": [(1, 0)], "wrong_to_right": [(2, 2)], "other_evidence": [(0, 1), (6, 6)]}
    (worse,) = comparison.flips["right_to_wrong"]
    assert (worse.label, worse.predictions, worse.dominants) == (SCRIPT, (SCRIPT, "dog"), (SCRIPT, SCRIPT))
    assert comparison.flips["other_evidence"][1].dominants == (None, "cat")
    assert comparison.flip_p_value == 1


def test_figures_by_hand(comparison: Comparison) -> None:
    figures = {figure.name: figure for figure in comparison.figures}
    accuracy = figures["accuracy"]
    assert (accuracy.count, accuracy.before, accuracy.after, accuracy.difference) == (5, 0.8, 0.8, 0)
    assert accuracy.low is not None
    assert accuracy.low < 0 < accuracy.high  # type: ignore[operator]
    agreement = figures["agreement"]
    assert (agreement.count, agreement.before, agreement.after) == (6, 4 / 6, 2 / 6)
    sparseness = figures["sparseness"]
    # f had no map before; a, b, c, d and a again do: index + 1 of 32.
    assert sparseness.count == 5
    assert sparseness.before == pytest.approx((1 + 2 + 3 + 4 + 6) / 5 / 32)
    assert sparseness.after == pytest.approx((2 + 1 + 3 + 4 + 5) / 5 / 32)


def test_figures_come_in_the_order_that_readers_know() -> None:
    known = ["accuracy", "agreement", "probability", "prediction_energy_frac", "label_energy_frac", "sparseness", "complexity"]
    known += ["half_energy_area_frac", "positive_area_frac", "dominance_margin", "class_cosine"]
    assert [name for name in PAIRED if name in known] == known


def test_one_sided_flips_are_no_chance(before: Run) -> None:
    rows = [row(i, str(i), 0, 0, 0) for i in range(8)]
    wrong = [row(i, str(i), 0, 1, 0) for i in range(8)]
    first = make_store(before.store, Content(CLASSES, rows, run_id="20261119T030000Z-digits-0000"))
    comparison = compare(first, make_store(before.store, Content(CLASSES, wrong)))
    assert comparison.flip_p_value == pytest.approx(2 / 2**8)
    (accuracy,) = [figure for figure in comparison.figures if figure.name == "accuracy"]
    assert (accuracy.low, accuracy.high, accuracy.is_clear) == (-1, -1, True)


def test_classes_are_compared_by_name(before: Run) -> None:
    """The same model with its outputs in another order has not changed its mind."""
    order = {0: 2, 1: 1, 2: 0, None: None}
    turned = [entry | {fact: order[entry[fact]] for fact in ("label", "prediction", "dominant_class")} for entry in BEFORE]
    comparison = compare(before, make_store(before.store, Content(CLASSES[::-1], turned)))
    assert not any(comparison.flips.values())
    assert comparison.relabelled_count == 0
    assert {row["class_name"]: row["before_sample_count"] for row in comparison.drift} == {"cat": 4, SCRIPT: 1, "dog": 1}
    assert all(row["before_dominant_frac"] == row["after_dominant_frac"] for row in comparison.drift)


def test_drift_by_hand(comparison: Comparison) -> None:
    drift = {row["class_name"]: row for row in comparison.drift}
    # Dominant before: cat 4, <script> 2, dog 0 of 6 with a dominant class; after: cat 3, <script> 2, dog 2 of 7.
    assert drift["cat"]["before_dominant_frac"] == pytest.approx(4 / 6)
    assert drift["cat"]["after_dominant_frac"] == pytest.approx(3 / 7)
    assert drift["dog"]["after_dominant_frac"] == pytest.approx(2 / 7)
    assert [row["class_name"] for row in comparison.drift] == ["dog", "cat", SCRIPT]


def test_a_class_of_one_run_alone_has_no_other_side(before: Run) -> None:
    comparison = compare(before, make_store(before.store, Content([*CLASSES, "new"], AFTER)))
    (new,) = [row for row in comparison.drift if row["class_name"] == "new"]
    assert new["before_sample_count"] is None
    assert new["after_sample_count"] == 0
    assert (comparison.lost_classes, comparison.new_classes) == ([], ["new"])


def test_a_run_against_itself_moves_nothing(before: Run) -> None:
    comparison = compare(before, before)
    assert (comparison.added, comparison.missing, comparison.flip_p_value) == ([], [], None)
    assert not any(comparison.flips.values())
    assert {(figure.difference, figure.low, figure.high, figure.is_clear) for figure in comparison.figures} == {(0, 0, 0, False)}


def test_nothing_in_common_is_said(before: Run) -> None:
    other = make_store(before.store, Content(CLASSES, [row(0, "z", 0, 0, 0)]))
    with pytest.raises(InputError, match="have no sample in common"):
        compare(before, other)


@pytest.mark.parametrize("count", [500, 20_000])
def test_interval_is_that_of_the_normal_distribution(count: int) -> None:
    differences = np.random.default_rng(1).normal(0.3, 2, count)
    low, high = interval(differences)
    assert low is not None
    assert high is not None
    half = 1.959964 * differences.std(ddof=1) / sqrt(count)
    assert [low, high] == pytest.approx([differences.mean() - half, differences.mean() + half], abs=0.15 * half)
    assert interval(differences) == (low, high), "the same every time"


def test_one_pair_has_no_interval() -> None:
    assert interval(np.array([0.5])) == (None, None)
    figure = PairedMean("x", 1, 0.0, 0.5, None, None)
    assert not figure.is_clear
    assert replace(figure, low=0.1, high=0.9).is_clear
    assert not replace(figure, low=-0.1, high=0.9).is_clear
