"""What became of a run's gates, for machines and for a pull request: JSON, JUnit XML and markdown."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from reports.gates.judgement import GateOutcome, Judgement, as_object, overall_of, show, worst_first
from storage.runs.run import Run
from storage.text import printable

SCHEMA = "clear-audit/gates/1"
"""The version of the JSON: keys may be added under the same number; changing or dropping one takes a new number."""


def as_json(run: Run, reference: Run | None, judgements: Sequence[Judgement]) -> str:
    """An object with schema, run_id, reference_run_id, outcome and gates, in the config's order."""
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "run_id": run.run_id,
        "reference_run_id": None if reference is None else reference.run_id,
        "outcome": overall_of(judgements),
        "gates": [
            asdict(judgement.gate) | {"sql": judgement.gate.text, "samples": judgement.gate.samples_text} | as_object(judgement)
            for judgement in judgements
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_junit(run: Run, judgements: Sequence[Judgement]) -> str:
    """One test suite, a test case per gate: what fails the audit is a failure or an error, what else did not pass is skipped."""
    suite = ElementTree.Element("testsuite", name=f"clear-audit {run.run_id}", tests=str(len(judgements)))
    counts = {"failures": 0, "errors": 0, "skipped": 0}
    for judgement in judgements:
        case = ElementTree.SubElement(suite, "testcase", classname="clear-audit.gates", name=printable(judgement.gate.name))
        if judgement.outcome is GateOutcome.passed:
            continue
        kind = "skipped"
        if judgement.fails:
            kind = "failure" if judgement.outcome is GateOutcome.failed else "error"
        counts["skipped" if kind == "skipped" else f"{kind}s"] += 1
        message = printable(f"{judgement.outcome.value}: {judgement.message}")
        ElementTree.SubElement(case, kind, message=message).text = printable(judgement.gate.text, lines=True)
    for name, count in counts.items():
        suite.set(name, str(count))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def as_markdown(run: Run, reference: Run | None, judgements: Sequence[Judgement]) -> str:
    """A heading, a sentence and a table, worst first."""
    against = "" if reference is None else f", against {code(reference.run_id)}"
    lines = [f"### clear-audit: gates {overall_of(judgements)}", "", f"Run {code(run.run_id)}{against}.", ""]
    lines += ["| gate | outcome | value | reference | why |", "|---|---|---|---|---|"]
    for judgement in worst_first(judgements):
        cells = [
            cell(judgement.gate.name),
            judgement.outcome.value + (" (warn)" if judgement.gate.severity == "warn" else ""),
            "" if judgement.value is None else show(judgement.value),
            "" if judgement.reference_value is None else show(judgement.reference_value),
            cell(judgement.message),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def code(text: str) -> str:
    return f"`{text}`"


def cell(text: str) -> str:
    """Text for a cell of a markdown table: on one line, with markdown's special characters escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", printable(" ".join(text.split())))
