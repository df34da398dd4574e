"""The verdict: what was found, in a sentence and a few numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reports.context import ReportContext
from reports.formats import count, decimal, percent, plural
from reports.gates.judgement import overall
from reports.queries import Answer, Row
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
class Verdict:
    """What was found, in a sentence, with the query it rests on.

    gates: what became of the gates, passed, warned, failed or not judged; tally: of how many each.
    """

    status: str
    gates: str
    tally: str
    sentence: str
    figures: list[KeyFigure]
    answer: Answer


def make_content(context: ReportContext) -> dict[str, Any]:
    return {"verdict": make_verdict(context.verdict, context.facts.rows[0], context.gates.rows)}


def make_verdict(answer: Answer, means: Row, gates: Sequence[Row]) -> Verdict:
    """answer: of query `verdict`. means: the run's row in table `runs`. gates: its rows in table `gates`."""
    found = answer.rows[0]
    status = WITH_FAILURES if found["failed_count"] else COMPLETE
    tally = Counter(row["outcome"] for row in gates)
    said = ", ".join(f"{count(number)} {outcome}" for outcome, number in tally.items())
    return Verdict(
        status,
        overall((row["severity"], row["outcome"]) for row in gates),
        said,
        say_verdict(found),
        key_figures(found, means),
        answer,
    )


def say_verdict(found: Row) -> str:
    """The verdict in one sentence."""
    processed, labelled, failed = found["processed_count"], found["labelled_count"], found["failed_count"]
    failures = f"{plural(failed, 'image')} failed" if failed else "no image failed"
    if not processed:
        return f"No image could be measured, so nothing is known of the model; {failures}."
    accuracy = percent(found["correct_count"] / labelled) if labelled else "not known"
    if labelled == processed:
        beginning = f"Of {plural(processed, 'image')}, the model predicted {accuracy} correctly"
    elif labelled:
        of_these = f"the model predicted {accuracy} of the {count(labelled)} that have a label correctly"
        beginning = f"Of {plural(processed, 'image')}, {of_these}"
    else:
        beginning = f"None of {plural(processed, 'image')} has a label, so the accuracy is not known"
    agreement = percent(found["agreement_count"] / processed)
    return f"{beginning}; for {agreement} of all images the dominant class is the predicted one, and {failures}."


def key_figures(found: Row, means: Row) -> list[KeyFigure]:
    processed, labelled = found["processed_count"], found["labelled_count"]
    accuracy = percent(found["correct_count"] / labelled) if labelled else "not known"
    return [
        KeyFigure("Images measured", count(processed), f"{count(labelled)} with a label"),
        KeyFigure("Accuracy", accuracy, f"{count(found['correct_count'])} correct" if labelled else "no image has a label"),
        KeyFigure(
            "Agreement",
            percent(found["agreement_count"] / processed if processed else None),
            f"dominant class is the prediction; {count(found['no_dominant_count'])} have none",
        ),
        KeyFigure(
            "Correct, another dominates",
            count(found["other_evidence_count"]) if labelled else "not known",
            "right with most energy for another class",
        ),
        KeyFigure("Class cosine", decimal(means["class_cosine_mean"]), "0: maps differ by class, 1: all alike"),
        KeyFigure("Failures", count(found["failed_count"]), "images without maps"),
    ]


SECTION = Section("verdict", "Verdict", "verdict.html.j2", make_content)
