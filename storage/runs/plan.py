"""What a run is to do, frozen when it begins, and how its work is divided."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, model_validator

from storage.json_records import Count, Fraction, Name, Record, Size
from storage.rule_choices import RuleChoice

MOST_SHARDS = 1 << 24


MOST_CLASSES = 1 << 15


Pixels = Annotated[int, Field(gt=0, le=1 << 16)]


class ConservedRelevance(Record):
    """How much of what classes send back arrives at the image, medians over a few samples and their strongest classes.

    kept: Σ R(x|c) over the image, in units of what class c sent back; size: the same of |R(x|c)|. taken: what the operation
    `operation` took of all that was sent back, most of all operations; None where none took anything.
    """

    kept: float
    size: float
    operation: str | None
    taken: float


class Examination(Record):
    """What one worker found of the model on the dataset's first samples, and what follows for the whole run.

    sample_count: how many samples it saw. precision_agreement_frac: share of their pixels whose dominant class is that of
    float32; None where the run is in float32. fold: the fixed operator that makes the maps, field by field, None where each
    class is sent back for each sample; then fold_reason says why. fold_deviation: the largest deviation of the operator's
    responses from the network's, relative to the peak. conservation: None under a rule that is to conserve nothing. notes: how
    the model was read, where that is not plain, in sentences.
    """

    sample_count: Count
    precision_agreement_frac: Fraction | None = None
    fold: dict[str, Any] | None = None
    fold_deviation: float | None = None
    fold_reason: str | None = None
    conservation: ConservedRelevance | None = None
    notes: list[str] = Field(default=[])


class Trigger(Record):
    """What started an audit. Times are UTC; what there is not is None.

    kind: `command line`; `schedule`, a deployment's; `deployment`, run by hand or through Prefect's API; or `python`, a
    program that called the flow. flow_run_id: of the audit's flow run in Prefect. parent_flow_run_id: of the flow run that
    it is a part of. scheduled_at: when the deployment's run was to start.
    """

    kind: Literal["command line", "schedule", "deployment", "python"]
    flow_run_id: str
    parent_flow_run_id: str | None = None
    deployment_id: str | None = None
    deployment_name: str | None = None
    scheduled_at: datetime | None = None


class Plan(Record):
    """What a run will do, frozen: a run is resumed only where all that identifies it still holds.

    passed_over, empty_classes: of the dataset, see `Dataset`; empty where an older version planned. examination, trigger: None
    where one did. rule_choice: how the rule was chosen; None where the config named it.
    """

    run_id: Name
    created_at: AwareDatetime
    schema_version: int
    tool_version: str
    name: str
    config: dict[str, Any]
    config_hash: str
    model_hash: str
    dataset_hash: str
    class_names: Annotated[list[str], Field(max_length=MOST_CLASSES)]
    sample_count: Count
    height: Pixels
    width: Pixels
    shard_samples: Size
    passed_over: dict[str, Count] = Field(default={})
    empty_classes: list[str] = Field(default=[])
    examination: Examination | None = None
    trigger: Trigger | None = None
    rule_choice: RuleChoice | None = None

    @model_validator(mode="after")
    def check_shards(self) -> "Plan":
        if self.sample_count > MOST_SHARDS * self.shard_samples:
            raise ValueError(f"{self.sample_count} samples in shards of {self.shard_samples} are too many shards")
        return self

    @property
    def layout(self) -> tuple[list[str], int, int, int, int]:
        """What follows from config and dataset."""
        return self.class_names, self.sample_count, self.height, self.width, self.shard_samples

    @property
    def identity(self) -> tuple[Any, ...]:
        """What must be equal for a run to be resumed."""
        return self.schema_version, self.tool_version, self.config_hash, self.model_hash, self.dataset_hash, self.layout

    def shards(self) -> "list[Unit]":
        starts = range(0, self.sample_count, self.shard_samples)
        return [Unit(i, start, min(start + self.shard_samples, self.sample_count)) for i, start in enumerate(starts)]


@dataclass(frozen=True)
class Unit:
    """A part of an analysis's work, items [start, stop) of it: one task, one commit, one part of each of its tables.

    What the items are is the analysis's to say: of `maps` they are the samples of a shard, which is one Zarr shard too.
    """

    index: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start
