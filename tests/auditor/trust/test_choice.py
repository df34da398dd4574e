"""The choice among rules that were measured, by summaries made by hand."""

import pytest

from auditor.trust.choice import choose, contenders
from auditor.trust.verdict import UNKNOWN, Summary
from tests.auditor.trust.test_verdict import GOOD, sure

Found = dict[str, Summary]


def rule(contrast: float, grid: float, reach: float = 0.01, **others: Summary) -> Found:
    measured = {"contrast": sure(contrast, reach=reach), "grid_pointing": sure(grid, reach=reach)}
    return GOOD | measured | others


BLIND = {"all_random_spearman": sure(0.98)}


def test_of_rules_that_can_be_used_the_best_is_taken() -> None:
    choice = choose({"a": rule(0.8, 0.4), "b": rule(0.95, 0.6), "c": rule(0.9, 0.5)})
    assert choice.rule == "b"
    assert choice.scores == pytest.approx({"a": 0.6, "b": 0.775, "c": 0.7})
    assert choice.reason == (
        "of 3 rules, 3 give maps that can say where the evidence is and for which class, and none of these is surely better "
        "(contrast 0.95, grid pointing 0.60)"
    )


def test_a_veto_is_worth_more_than_any_score() -> None:
    """z⁺ has the best scores, and the same maps of a network that has learnt nothing."""
    choice = choose({"zplus": rule(1.0, 0.9, **BLIND), "gradient": rule(0.7, 0.3)})
    assert choice.rule == "gradient"
    assert "of 2 rules it alone gives maps that can say where the evidence is and for which class" in choice.reason
    assert choice.verdicts["zplus"].says_where is False


def test_of_rules_that_are_not_surely_different_the_first_is_taken() -> None:
    """Another sample might turn them, and runs that follow each other would not be comparable."""
    near = {"first": rule(1.0, 0.60, reach=0.02), "second": rule(1.0, 0.62, reach=0.02)}
    assert choose(near).rule == "first"
    far = {"first": rule(1.0, 0.50, reach=0.02), "second": rule(1.0, 0.62, reach=0.02)}
    assert choose(far).rule == "second"


def test_which_class_is_worth_more_than_where() -> None:
    classes = rule(0.9, 0.2)
    where = rule(0.5, 0.9)
    choice = choose({"where": where, "classes": classes})
    assert choice.rule == "classes"
    assert "can say for which class the evidence is" in choice.reason


def test_where_none_can_be_used_the_least_bad_is_taken_and_it_is_said() -> None:
    choice = choose({"a": rule(0.7, 0.3, **BLIND), "b": rule(0.9, 0.6, **BLIND)})
    assert choice.rule == "b"
    assert "can be used for nothing" in choice.reason


def test_without_grids_insertion_over_random_pixels_counts() -> None:
    def ungridded(insertion: float) -> Found:
        return rule(0.9, 0, grid_pointing=UNKNOWN, insertion=sure(insertion), random_insertion=sure(0.3))

    choice = choose({"a": ungridded(0.5), "b": ungridded(0.9)})
    assert choice.rule == "b"
    assert choice.scores["b"] == pytest.approx((0.9 + 0.6) / 2)
    assert "grid pointing" not in choice.reason


def test_a_rule_whose_maps_are_empty_has_no_score() -> None:
    choice = choose({"empty": {}, "other": rule(0.7, 0.3)})
    assert (choice.rule, choice.scores["empty"]) == ("other", 0)


def test_contenders_are_those_that_more_images_may_show_to_be_best() -> None:
    found = {
        "best": rule(1.0, 0.60, reach=0.05),
        "near": rule(1.0, 0.52, reach=0.05),
        "far": rule(1.0, 0.36, reach=0.05),
        "vetoed": rule(1.0, 0.9, **BLIND),
    }
    assert contenders(found) == ["best", "near"]
    assert choose(found, ["near"]).rule == "near"
    assert "of 4 rules, 3 give maps" in choose(found, ["near"]).reason
