"""The first screen: what was audited, whether its maps can be trusted, and whether the model can."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from reports.context import ReportContext
from reports.formats import UNDEFINED, count, percent, plural
from reports.gates.judgement import GateOutcome, overall
from reports.parts.columns import RANKED_FROM
from reports.parts.gate_columns import GLYPHS
from reports.queries import Answer, Row
from reports.sections import data_checks, gates, trust
from reports.sections.run_facts import model_of
from reports.sections.section import Section

COMPLETE = "complete"
WITH_FAILURES = "complete with failures"


@dataclass(frozen=True)
class KeyFigure:
    """A number that a reader should see at once. about: what it counts or measures."""

    name: str
    value: str
    about: str


@dataclass(frozen=True)
class Check:
    """What became of one kind of check. outcome: passed, warned, failed or not judged. said: the same in words.

    anchor: where there is more of it.
    """

    outcome: str
    said: str
    anchor: str

    @property
    def glyph(self) -> str:
        return GLYPHS.get(self.outcome, UNDEFINED)


@dataclass(frozen=True)
class Finding:
    """What speaks most against the model. outcome: failed, warned, or noted where no limit was set that it breaks."""

    outcome: str
    said: str


def make_content(context: ReportContext) -> dict[str, Any]:
    (found,) = context.verdict.rows
    checks = read_data_checks(context)
    return {
        "audited": say_audited(context, found),
        "status": WITH_FAILURES if found["failed_count"] else COMPLETE,
        "trust": trust.make_trust(context),
        "finding": find_worst(context, found, checks, ask_suspicion(context).rows),
        "figures": key_figures(found),
        "gates": judge_gates(context),
        "data": judge_data(checks),
    }


def ask_suspicion(context: ReportContext) -> Answer:
    """The class with the greatest share of correct images whose evidence is for another class, one row or none."""
    return context.ask("other_evidence_classes", ranked_from=RANKED_FROM)


def say_audited(context: ReportContext, found: Row) -> str:
    """What was audited, in one sentence. found: the row of query `verdict`."""
    (run,) = context.facts.rows
    model, dataset = model_of(run, context.plan), "/".join(PurePath(run["dataset_path"]).parts[-2:])
    images, classes = plural(found["processed_count"], "image"), count(run["class_count"])
    failed = found["failed_count"]
    but = f", and {plural(failed, 'image')} could not be measured" if failed else ""
    how = f"explained by rule {run['rule']} on {run['started_at']:%Y-%m-%d}"
    return f"Model {model} on {images} of {dataset} in {classes} classes, {how}{but}."


def read_data_checks(context: ReportContext) -> list[Row] | None:
    """The rows of the data checks; None where the analysis did not run."""
    return context.ask("data_checks").rows if context.has_table("data_checks") else None


def find_worst(context: ReportContext, found: Row, checks: list[Row] | None, suspicion: list[Row]) -> Finding:
    """The first of these: nothing measured, data not as in training, a gate not passed, a class that rests on others.

    found: the row of query `verdict`. suspicion: the rows of query `other_evidence_classes`.
    """
    if not found["processed_count"]:
        return Finding("failed", "No image could be measured, so nothing is known of the model.")
    if any(row["is_passed"] is False for row in checks or []):
        return Finding("failed", f"{data_checks.say_heading(checks or [])}.")
    for row in context.gates.rows:
        fails = row["severity"] == "error" and row["outcome"] != GateOutcome.passed
        if fails or row["outcome"] == GateOutcome.warned:
            return Finding("failed" if fails else "warned", f"Gate “{row['gate_name']}” {row['outcome']}: {row['message']}.")
    if not found["labelled_count"]:
        return Finding("noted", "No image has a label: whether the model is right is not known.")
    if not suspicion:
        return Finding("noted", f"No class of {RANKED_FROM} correct images or more rests on another class.")
    worst = suspicion[0]
    share, name = percent(worst["other_frac"]), context.name(worst["class_index"])
    most = context.name(worst["most_frequent_class"])
    return Finding(
        "noted",
        f"Most suspicious: of the {count(worst['correct_count'])} correct images of class {name}, {share} have their evidence "
        f"for another class, mostly {most}.",
    )


def key_figures(found: Row) -> list[KeyFigure]:
    """Accuracy beside evidence. found: the row of query `verdict`."""
    processed, labelled = found["processed_count"], found["labelled_count"]
    correct = f"{count(found['correct_count'])} of {count(labelled)} with a label" if labelled else "no image has a label"
    return [
        KeyFigure("Accuracy", percent(found["correct_count"] / labelled) if labelled else "not known", correct),
        KeyFigure(
            "Agreement",
            percent(found["agreement_count"] / processed if processed else None),
            f"evidence is for the prediction; {count(found['no_dominant_count'])} have none",
        ),
        KeyFigure(
            "Right on other evidence",
            count(found["other_evidence_count"]) if labelled else "not known",
            "correct images, most energy for another class",
        ),
    ]


def judge_gates(context: ReportContext) -> Check:
    outcome = overall((row["severity"], row["outcome"]) for row in context.gates.rows)
    return Check(outcome, gates.say_heading(context.gates.rows), "gates")


def judge_data(rows: list[Row] | None) -> Check | None:
    """None where the analysis did not run."""
    if rows is None:
        return None
    passed = [row["is_passed"] for row in rows]
    outcome = "failed" if False in passed else "passed" if True in passed else "not judged"
    return Check(outcome, data_checks.say_heading(rows), "data")


SECTION = Section("verdict", "Verdict", "verdict.html.j2", make_content)
