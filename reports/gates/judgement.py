"""The outcomes of gates, one by one and all together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from reports.gates.gate import Gate
from storage.runs.run import Run
from storage.tables import SCHEMAS


class GateOutcome(StrEnum):
    """The outcome of a gate. Neither an error nor a gate that was not evaluated counts as passed."""

    passed = "passed"
    warned = "warned"
    failed = "failed"
    error = "error"
    not_evaluated = "not evaluated"


NOT_JUDGED = "not judged"
WORST_FIRST = (GateOutcome.failed, GateOutcome.error, GateOutcome.not_evaluated, GateOutcome.warned, GateOutcome.passed)


@dataclass(frozen=True)
class Judgement:
    """A gate's outcome, with a sentence that says why. A limit not kept at severity `warn` is warned, not failed.

    samples: the images that count against it, worst first, by their index.
    """

    gate: Gate
    outcome: GateOutcome
    message: str
    value: float | None = None
    reference_value: float | None = None
    samples: tuple[int, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether it fails the audit."""
        return self.gate.severity == "error" and self.outcome is not GateOutcome.passed


def overall(results: Iterable[tuple[str, str]]) -> str:
    """The outcome of all gates: failed where a gate of severity `error` did not pass, warned where only others did not.

    results: each gate's severity and outcome. Returns failed, warned, passed, or not judged where there is no gate.
    """
    results = list(results)
    if not results:
        return NOT_JUDGED
    if any(severity == "error" and outcome != GateOutcome.passed for severity, outcome in results):
        return "failed"
    return "passed" if all(outcome == GateOutcome.passed for _, outcome in results) else "warned"


def overall_of(judgements: Iterable[Judgement]) -> str:
    return overall((judgement.gate.severity, judgement.outcome) for judgement in judgements)


def worst_first(judgements: Sequence[Judgement]) -> list[Judgement]:
    return sorted(judgements, key=lambda judgement: (not judgement.fails, WORST_FIRST.index(judgement.outcome)))


def say_judgement(judgement: Judgement) -> str:
    """The outcome of a gate and its reason, in a sentence."""
    weight = "" if judgement.fails else " (a warning)"
    return f"gate '{judgement.gate.name}' {judgement.outcome}{weight}: {judgement.message}"


def show(value: float) -> str:
    return f"{value:.6g}"


def as_object(judgement: Judgement) -> dict[str, str | float | None]:
    """A judgement as it stands in every JSON file that we write."""
    return {
        "name": judgement.gate.name,
        "severity": judgement.gate.severity,
        "outcome": judgement.outcome.value,
        "value": judgement.value,
        "reference_value": judgement.reference_value,
        "message": judgement.message,
    }


def as_rows(judgements: Sequence[Judgement], reference: Run | None) -> pa.Table:
    """The rows of the table `gates`, in the config's order."""
    rows = [
        {
            "gate_name": judgement.gate.name,
            "outcome": judgement.outcome.value,
            "severity": judgement.gate.severity,
            "value": judgement.value,
            "reference_value": judgement.reference_value,
            "reference_run_id": None if reference is None else reference.run_id,
            "least": judgement.gate.min,
            "most": judgement.gate.max,
            "max_drop": judgement.gate.max_drop,
            "max_rise": judgement.gate.max_rise,
            "min_sample_count": judgement.gate.min_samples,
            "message": judgement.message,
            "sql": judgement.gate.text,
            "samples_sql": judgement.gate.samples_text,
        }
        for judgement in judgements
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMAS["gates"])
