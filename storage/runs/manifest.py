"""What a finished run holds and how it was made: written last, so that a run without it is not read by anyone."""

from typing import Any

from pydantic import AwareDatetime, Field

from storage.json_records import Count, Inside, Name, Record
from storage.runs.plan import Examination, Trigger


class Manifest(Record):
    """What a finished run holds and how it was made.

    passed_over, empty_classes, examination: the plan's; empty, and None, where an older version planned. trigger: of what
    finished the run, which is not what the plan says where it was resumed. analyses: what was done beside the maps, with the
    options that it was done by; empty where a version before 7 did it. artefacts: SHA-256 by path in the store.
    """

    run_id: Name
    plan_hash: str
    started_at: AwareDatetime
    finished_at: AwareDatetime
    expected_count: Count
    processed_count: Count
    failed_count: Count
    readings: list[str]
    passed_over: dict[str, Count] = Field(default={})
    empty_classes: list[str] = Field(default=[])
    examination: Examination | None = None
    trigger: Trigger | None = None
    environment: dict[str, str]
    analyses: dict[Name, dict[str, Any]] = Field(default={})
    artefacts: dict[Inside, str]


class Addition(Record):
    """What an analysis holds that was added to a finished run. options: its own. artefacts: SHA-256 by path in the store."""

    run_id: Name
    analysis: Name
    options: dict[str, Any]
    started_at: AwareDatetime
    finished_at: AwareDatetime
    tool_version: str
    processed_count: Count
    failed_count: Count
    environment: dict[str, str]
    artefacts: dict[Inside, str]
