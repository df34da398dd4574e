"""What was found, and what it was found on: the beginning and the end of the report."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from reports.gates.gates import overall
from reports.parts.blocks import Block, Column, Table, tabulate
from reports.parts.formats import UNDEFINED, count, decimal, duration, file_size, moment, percent, plural, power
from reports.queries import Answer, Row
from storage.datasets.dataset import say_empty, say_passed_over
from storage.runs.manifest import Manifest
from storage.runs.plan import ConservedRelevance, Examination, Plan, Trigger
from storage.runs.run import Run

COMPLETE = "complete"
WITH_FAILURES = "complete with failures"


@dataclass(frozen=True)
class Figure:
    """A number that a reader should see at once. about: what it is a number of."""

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
    figures: list[Figure]
    answer: Answer


def make_verdict(answer: Answer, means: Row, gates: Sequence[Row]) -> Verdict:
    """answer: of query `verdict`. means: the run's row in table `runs`. gates: its rows in table `gates`."""
    found = answer.rows[0]
    status = WITH_FAILURES if found["failed_count"] else COMPLETE
    tally = Counter(row["outcome"] for row in gates)
    said = ", ".join(f"{count(number)} {outcome}" for outcome, number in tally.items())
    return Verdict(
        status, overall((row["severity"], row["outcome"]) for row in gates), said, say(found), key_figures(found, means), answer
    )


def say(found: Row) -> str:
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


def key_figures(found: Row, means: Row) -> list[Figure]:
    processed, labelled = found["processed_count"], found["labelled_count"]
    accuracy = percent(found["correct_count"] / labelled) if labelled else "not known"
    return [
        Figure("Images measured", count(processed), f"{count(labelled)} with a label"),
        Figure("Accuracy", accuracy, f"{count(found['correct_count'])} correct" if labelled else "no image has a label"),
        Figure(
            "Agreement",
            percent(found["agreement_count"] / processed if processed else None),
            f"dominant class is the prediction; {count(found['no_dominant_count'])} have none",
        ),
        Figure(
            "Correct, another dominates",
            count(found["other_evidence_count"]) if labelled else "not known",
            "right with most energy for another class",
        ),
        Figure("Class cosine", decimal(means["class_cosine_mean"]), "0: maps differ by class, 1: all alike"),
        Figure("Failures", count(found["failed_count"]), "images without maps"),
    ]


def facts_table(caption: str, facts: Sequence[tuple[str, str]]) -> Table:
    columns = [
        Column("Fact", lambda row: row["name"], is_number=False),
        Column("Value", lambda row: row["value"], is_number=False),
    ]
    return tabulate(caption, columns, [{"name": name, "value": value} for name, value in facts], limit=len(facts))


def run_facts(answer: Answer, plan: Plan) -> Block:
    """answer: of query `run_facts`."""
    run = answer.rows[0]
    facts = [
        ("Audit", run["name"]),
        ("Run", plan.run_id),
        ("Model", run["model_factory"] or run["model_program"]),
        ("Dataset", run["dataset_path"]),
        ("Images", f"{count(run['sample_count'])}, of {plan.height} × {plan.width} pixels"),
        *([("Files passed over", say_passed_over(plan.passed_over))] if plan.passed_over else []),
        ("Classes", count(run["class_count"])),
        *([("Classes without an image", say_empty(plan.empty_classes))] if plan.empty_classes else []),
        ("Rule", run["rule"]),
        ("Precision", run["precision"]),
        ("Started", moment(run["started_at"])),
        ("Took", duration(run["duration_secs"])),
        ("Mean sparseness", decimal(run["sparseness_mean"])),
        ("Mean dominance margin", decimal(run["dominance_margin_mean"])),
        ("Mean class cosine", decimal(run["class_cosine_mean"])),
    ]
    return Block(answer, table=facts_table("What was audited, and how.", facts))


REDUCTIONS = {
    "sum": "their responses are added",
    "l2": "root of the sum of their squared responses",
    "max": "the greatest response",
}


def method_table(run: Row, examination: Examination | None) -> Table:
    """How the maps were made. run: its row in table `runs`. examination: what was found when the run was planned."""
    precision = run["precision"]
    if run["precision_agreement_frac"] is not None and examination is not None:
        pixels = f"the pixels of the first {plural(examination.sample_count, 'image')}"
        precision += f": {percent(run['precision_agreement_frac'])} of {pixels} have the same dominant class as in float32"
    competing = f"all {count(run['class_count'])}"
    if run["competing_count"] is not None and run["competing_count"] < run["class_count"]:
        competing = (
            f"in each image the {count(run['competing_count'])} with most positive response, of {count(run['class_count'])}; the "
            f"others have {percent(run['left_out_frac_mean'])} of it on average, {percent(run['left_out_frac_max'])} at worst"
        )
    facts = [
        ("Rule", run["rule"]),
        ("Channels of the input", REDUCTIONS.get(run["reduction"], UNDEFINED)),
        ("Precision", precision),
        ("Classes that compete", competing),
        ("Where classes are decided", "found from the operations" if run["head"] is None else f"named: {run['head']}"),
        *([("How the model is read", "; ".join(examination.notes))] if examination is not None and examination.notes else []),
        ("Fixed operator", say_operator(run, examination)),
        *(
            []
            if examination is None or examination.conservation is None
            else [("Conservation", say_conservation(examination.conservation))]
        ),
    ]
    return facts_table("Method of this run.", facts)


def say_operator(run: Row, examination: Examination | None) -> str:
    """Whether what is the same for every image was worked out once, and how exactly."""
    if run["is_folded"] is None or examination is None:
        return UNDEFINED
    if not run["is_folded"]:
        return f"none, each class was sent back for each image: {run['fold_reason']}"
    fold = examination.fold or {}
    where = "the image" if fold["where"] == "image" else f"the output of “{fold['where']}”"
    return (
        f"one for all images, from the classes back to {where}: {file_size(fold['memory'])}, built by "
        f"{count(fold['rows'])} passes through the network; on the first "
        f"{plural(examination.sample_count, 'image')} its responses deviate from the network's by at most "
        f"{power(run['fold_deviation'])} of the greatest"
    )


def say_conservation(found: ConservedRelevance) -> str:
    """How much of what the classes send back the maps show, under a rule whose responses are to add up to it."""
    said = f"responses add up to {decimal(found.kept)} of what their class sends back, without signs to {decimal(found.size)}"
    if found.operation is None:
        return said
    return f"{said}; constants, as biases and class tokens, take most at operation {found.operation}: {decimal(found.taken)}"


def provenance_tables(plan: Plan, manifest: Manifest) -> list[Table]:
    """From plan and manifest alone: these are files of the run, not tables."""
    identity = [
        ("Run", plan.run_id),
        ("clear-audit", plan.tool_version),
        ("Version of the tables", str(plan.schema_version)),
        ("Plan, SHA-256", manifest.plan_hash),
        ("Model, SHA-256", plan.model_hash),
        ("Dataset, SHA-256", plan.dataset_hash),
        ("Config, SHA-256", plan.config_hash),
        ("Planned", moment(plan.created_at)),
        ("Started by", say_trigger(plan.trigger)),
        *([("Resumed by", say_trigger(manifest.trigger))] if manifest.trigger != plan.trigger else []),
        ("Started", moment(manifest.started_at)),
        ("Finished", moment(manifest.finished_at)),
        ("Images expected", count(manifest.expected_count)),
        ("Images measured", count(manifest.processed_count)),
        ("Images failed", count(manifest.failed_count)),
    ]
    files = [
        Column("File in the store", lambda row: row["path"], is_number=False),
        Column("SHA-256", lambda row: row["hash"], is_number=False),
    ]
    artefacts = [{"path": path, "hash": digest} for path, digest in sorted(manifest.artefacts.items())]
    return [
        facts_table("Identity of the run.", identity),
        facts_table("Environment.", sorted(manifest.environment.items())),
        tabulate("Files of the run.", files, artefacts),
    ]


def say_trigger(trigger: Trigger | None) -> str:
    """What started an audit, with what is needed to find it in Prefect again."""
    if trigger is None:
        return UNDEFINED
    said: str = trigger.kind
    if trigger.deployment_id is not None:
        said += f": deployment “{trigger.deployment_name}” ({trigger.deployment_id})"
    if trigger.scheduled_at is not None:
        said += f", to start at {moment(trigger.scheduled_at)}"
    said += f"; flow run {trigger.flow_run_id}"
    return said if trigger.parent_flow_run_id is None else f"{said}, a part of flow run {trigger.parent_flow_run_id}"


def about_table(plan: Plan) -> Table:
    """What the config says of the model, and what a reviewer is to fill in."""
    about = plan.config.get("about") or {}
    said = {"owner": "Owner", "intended_use": "Intended use", "known_limits": "Known limits"}
    facts = [(title, about.get(key) or "not given in the config") for key, title in said.items()]
    return facts_table("The model, in the words of who is responsible for it.", facts)


def rerun_command(run: Run, plan: Plan) -> str | None:
    """What makes the maps again, from the config as it was resolved; None where an older version did not keep all of it."""
    if "folder" not in plan.config:
        return None
    return shlex.join(["clear-audit", "run", str(run.folder.absolute() / "plan.json"), "--store", str(run.store.absolute())])


def config_text(plan: Plan) -> str:
    return json.dumps(plan.config, indent=2, ensure_ascii=False)
