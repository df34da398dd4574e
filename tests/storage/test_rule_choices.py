"""The choice of a rule in a store: read as written, and not read where it is damaged."""

from pathlib import Path

import pytest

from storage.errors import InputError
from storage.rule_choices import MeasuredRule, RuleChoice, choice_path, read_choice, write_choice

CHOICE = RuleChoice(
    rule="gradient",
    reason="it is best",
    image_count=256,
    rules=[
        MeasuredRule(rule="linear", refusal="no answer"),
        MeasuredRule(rule="gradient", is_usable_for_place=True, score=0.5, means={"a": 1.0, "b": None}, reasons=["x"]),
    ],
)


def test_it_is_read_as_it_was_written(store_place: Path) -> None:
    place = choice_path(store_place, {"model": "a"})
    assert not place.exists()
    write_choice(place, CHOICE)
    assert place.exists()
    assert read_choice(place) == CHOICE


def test_its_place_follows_from_all_that_it_is_of() -> None:
    store = Path("store")
    places = {choice_path(store, facts) for facts in ({"model": "a"}, {"model": "b"}, {"model": "a", "input": 1})}
    assert len(places) == 3
    assert choice_path(store, {"a": 1, "b": 2}) == choice_path(store, {"b": 2, "a": 1})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"rule": "../x", "reason": "", "image_count": 1, "rules": []}', "NaN"])
def test_what_is_damaged_is_named(tmp_path: Path, text: str) -> None:
    place = choice_path(tmp_path, {"model": "a"})
    place.parent.mkdir()
    place.write_text(text)
    with pytest.raises(InputError, match=place.name):
        read_choice(place)
