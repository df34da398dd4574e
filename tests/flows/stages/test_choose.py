"""The rule that is chosen: what of many results, when it is measured at all, and where it is kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from auditor.operations.rule_table import RULES
from flows.config import load_config
from flows.runtime.pilot import PilotResult
from flows.stages import choose
from flows.stages.choose import candidates, conclude, place_of, settle_rule
from storage.errors import InputError
from storage.rule_choices import RuleChoice, read_choice

GOOD = {
    "moved_along": [0.9, 0.9],
    "moved_stayed": [0.1, 0.1],
    "contrast": [1.0] * 50,
    "class_cosine_positive": [0.5],
    "last_random_spearman": [0.3],
    "all_random_spearman": [0.1],
    "grid_pointing": [0.5, 0.6, 0.7],
}


class FakeSession:
    """Of a session what a choice needs."""

    def __init__(self, config: Any, store: Path) -> None:
        self.config, self.store = config, store
        self.said: list[str] = []
        self.taken: list[str] = []
        self.progress = self

    def stage(self, name: str) -> None:
        self.said.append(name)

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def take_rule(self, rule: str) -> None:
        self.taken.append(rule)


def session_of(digits_config: Path, store: Path, *settings: str) -> Any:
    return FakeSession(load_config(digits_config, ("method.rule=auto", *settings), {}), store)


CHOICE = RuleChoice(rule="deconv", reason="because", image_count=3, rules=[])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often a choice was made."""
    times: list[str] = []

    def make(session: Any) -> RuleChoice:
        times.append("made")
        return CHOICE

    monkeypatch.setattr(choose, "make_choice", make)
    return times


def test_results_of_all_units_are_put_together_in_any_order() -> None:
    worse = GOOD | {"grid_pointing": [0.3, 0.3, 0.3]}
    results = [PilotResult("a", worse), PilotResult("b", GOOD), PilotResult("a", worse), PilotResult("b", GOOD)]
    choice = conclude(results, ["a", "b"], 4, ["a", "b"])
    assert choice == conclude(results[::-1], ["a", "b"], 4, ["a", "b"])
    assert (choice.rule, choice.image_count) == ("b", 4)
    assert [one.rule for one in choice.rules] == ["a", "b"]
    assert choice.rules[1].means["grid_pointing"] == pytest.approx(0.6)
    assert choice.rules[1].is_usable_for_classes is True
    assert len(choice.rules[1].reasons) == 4


def test_a_rule_that_does_not_answer_is_no_candidate_and_why_is_kept() -> None:
    choice = conclude(
        [PilotResult("a", GOOD), PilotResult("a", {}, "no way back"), PilotResult("b", GOOD)], ["a", "b"], 2, ["a", "b"]
    )
    assert choice.rule == "b"
    assert choice.rules[0].refusal == "no way back"


def test_rules_that_are_one_count_once() -> None:
    other = {name: [value + 1e-4 for value in values] if name == "moved_along" else values for name, values in GOOD.items()}
    choice = conclude([PilotResult("a", GOOD), PilotResult("b", other)], ["a", "b"], 2, ["a"])
    assert choice.rules[1].refusal == "its maps of this network are those of a"
    assert "of 1 rules" in choice.reason


def test_those_that_may_yet_be_best_are_measured_on_more_images(
    digits_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four rules one is vetoed, one surely worse, and two are close: which of these is better the further images say."""
    first = {
        "vetoed": GOOD | {"all_random_spearman": [0.98]},
        "worse": GOOD | {"grid_pointing": [0.30, 0.31, 0.32]},
        "close": GOOD | {"grid_pointing": [0.50, 0.60, 0.70]},
        "closer": GOOD | {"grid_pointing": [0.51, 0.61, 0.71]},
    }
    later = {"close": GOOD | {"grid_pointing": [0.4] * 9}, "closer": GOOD | {"grid_pointing": [0.7] * 9}}
    asked: list[tuple[list[str], int]] = []

    def measure(session: Any, rules: list[str], parts: list[tuple[int, ...]]) -> list[PilotResult]:
        asked.append((rules, len(parts)))
        return [PilotResult(rule, (first if len(asked) == 1 else later)[rule]) for rule in rules]

    monkeypatch.setattr(choose, "measure", measure)
    monkeypatch.setattr(choose, "candidates", lambda config: list(first))
    session = session_of(digits_config, tmp_path)
    session.dataset = range(300)
    choice = choose.make_choice(session)
    assert asked == [(list(first), 1), (["close", "closer"], 3)]
    assert choice.rule == "closer"
    assert {one.rule: one.is_usable_for_place for one in choice.rules} == dict.fromkeys(first, True) | {"vetoed": False}


@pytest.mark.parametrize(
    ("results", "said"),
    [([PilotResult("a", {}, "no way back")], "no way back"), ([PilotResult("a", {})], "no image could be measured")],
)
def test_where_no_rule_has_maps_it_is_an_error(results: list[PilotResult], said: str) -> None:
    with pytest.raises(InputError, match=f"method.rule is 'auto', and no rule has maps of this network: {said}"):
        conclude(results, ["a"], 1, ["a"])


def test_a_rule_that_is_named_is_not_chosen(digits_config: Path, tmp_path: Path, made: list[str]) -> None:
    session = FakeSession(load_config(digits_config, (), {}), tmp_path)
    assert settle_rule(session) is None  # type: ignore[arg-type]
    assert not made
    assert not session.taken


def test_it_is_made_once_and_taken_from_the_store_then(digits_config: Path, tmp_path: Path, made: list[str]) -> None:
    for time in range(3):
        session = session_of(digits_config, tmp_path)
        assert settle_rule(session) == CHOICE
        assert session.taken == ["deconv"]
        assert session.said == ["choosing the rule"] * (time == 0) + ["rule: deconv: because"]
    assert made == ["made"]
    assert settle_rule(session_of(digits_config, tmp_path), rechoose=True) == CHOICE
    assert made == ["made"] * 2


def test_a_damaged_choice_is_made_again_and_that_is_said(digits_config: Path, tmp_path: Path, made: list[str]) -> None:
    session = session_of(digits_config, tmp_path)
    place = place_of(session.config, tmp_path)
    place.parent.mkdir()
    place.write_text("{")
    settle_rule(session)
    assert made == ["made"]
    assert session.said[0].startswith(f"the rule is chosen again: '{place}' is not a rulechoice of this version")
    assert read_choice(place) == CHOICE
    place.write_text(CHOICE.model_copy(update={"rule": "nonesuch"}).model_dump_json())
    settle_rule(session)
    assert made == ["made"] * 2


def test_its_place_is_that_of_model_dataset_and_method(digits_config: Path, tmp_path: Path) -> None:
    config = session_of(digits_config, tmp_path).config
    place = place_of(config, tmp_path)
    assert place_of(config.model_copy(update={"name": "other"}), tmp_path) == place
    others = [
        config.model_copy(update={"dataset": replace(config.dataset, path="elsewhere")}),
        config.model_copy(update={"input": replace(config.input, mean=(0.5,), std=(0.5,))}),
        config.model_copy(update={"method": config.method.model_copy(update={"reduction": "l2"})}),
    ]
    assert len({place, *(place_of(one, tmp_path) for one in others)}) == 4


def test_all_rules_are_tried_that_the_config_allows(digits_config: Path, tmp_path: Path) -> None:
    assert candidates(session_of(digits_config, tmp_path).config) == list(RULES)
    of_two = session_of(digits_config, tmp_path, "method.reduction=l2")
    assert candidates(of_two.config) == [rule for rule in RULES if rule != "cam"]
