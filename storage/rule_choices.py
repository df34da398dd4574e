"""Which rule was chosen for a model and a dataset: kept in the store, so that runs that follow each other take the same.

rules/<key>.json    key: SHA-256 of all that decides which records it is: model, where the dataset lies, input, method
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from storage.filesystems import replace_file
from storage.json_records import Count, Name, Record, read_record

FORMAT_VERSION = 1


class MeasuredRule(Record):
    """What a pilot found of a rule. refusal: why it has no maps of the network; None where it has.

    is_usable_for_place, is_usable_for_classes: None where that could not be measured. score: by which rules are ranked. means:
    of the measures, None where one is undefined. reasons: a sentence for each test of the maps.
    """

    rule: Name
    refusal: str | None = None
    is_usable_for_place: bool | None = None
    is_usable_for_classes: bool | None = None
    score: float | None = None
    means: dict[str, float | None] = Field(default={})
    reasons: Annotated[list[str], Field(max_length=16)] = Field(default=[])


class RuleChoice(Record):
    """rule: that was chosen. reason: in words. image_count: of the pilot, at most. rules: all that were tried, in order."""

    rule: Name
    reason: str
    image_count: Count
    rules: Annotated[list[MeasuredRule], Field(max_length=64)]


def choice_path(store: Path, facts: Mapping[str, Any]) -> Path:
    """Where the choice for a model, dataset, input and method lies."""
    text = json.dumps({"format": FORMAT_VERSION, **facts}, sort_keys=True, ensure_ascii=False)
    return store / "rules" / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


def read_choice(path: Path) -> RuleChoice:
    """Raises InputError where what is there is damaged."""
    return read_record(RuleChoice, path)


def write_choice(path: Path, choice: RuleChoice) -> None:
    """Raises OSError."""
    replace_file(path, choice.model_dump_json(indent=1) + "\n")
