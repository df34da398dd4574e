"""What was audited, and how."""

from typing import Any

from reports.context import ReportContext
from reports.formats import count, decimal, duration, moment, plural
from reports.parts.blocks import Block, facts_table
from reports.queries import Answer, Row
from reports.sections.section import Section
from storage.datasets.dataset import say_empty, say_passed_over
from storage.models.sources import key_of
from storage.runs.plan import Plan


def make_content(context: ReportContext) -> dict[str, Any]:
    return {"facts": run_facts(context.facts, context.plan), "heading": say_heading(context.facts.rows[0])}


def say_heading(run: Row) -> str:
    images, classes = plural(run["sample_count"], "image"), count(run["class_count"])
    return f"{images} of {classes} classes, by rule {run['rule']}, in {duration(run['duration_secs'])}"


def run_facts(answer: Answer, plan: Plan) -> Block:
    """answer: of query `run_facts`."""
    run = answer.rows[0]
    facts = [
        ("Audit", run["name"]),
        ("Run", plan.run_id),
        ("Model", model_of(run, plan)),
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


def model_of(run: Row, plan: Plan) -> str:
    """What names the model. run: its row in table `runs`, where not every source of models has a column of its own."""
    section = plan.config.get("model", {})
    return str(run["model_factory"] or run["model_program"] or section[key_of(section)])


SECTION = Section("run", "Run", "run_facts.html.j2", make_content)
