"""How the maps were made, and what speaks against them."""

from typing import Any

from reports.context import ReportContext
from reports.formats import UNDEFINED, count, decimal, file_size, percent, plural, power
from reports.parts.blocks import Block, Table, facts_table, tabulate
from reports.parts.columns import IMAGES, NO_LABELS, RANKED_FROM, class_column, number, say_unranked
from reports.queries import Row
from reports.sections.section import Section
from storage.runs.plan import ConservedRelevance, Examination

REDUCTIONS = {
    "sum": "their responses are added",
    "l2": "root of the sum of their squared responses",
    "max": "the greatest response",
}


def make_content(context: ReportContext) -> dict[str, Any]:
    (run,) = context.facts.rows
    return {
        "heading": say_heading(run),
        "run": run,
        "method": method_table(run, context.manifest.examination),
        "class_cosine": decimal(run["class_cosine_mean"]),
        "dominance_margin": decimal(run["dominance_margin_mean"]),
        "sensitivity": sensitivity_block(context),
    }


def say_heading(run: Row) -> str:
    """run: its row in table `runs`."""
    return f"By rule {run['rule']}; the maps of two classes have a cosine of {decimal(run['class_cosine_mean'])} (1: all alike)"


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
    """Whether one operator was built for all images, and how closely it agrees with the network."""
    if run["is_folded"] is None or examination is None:
        return UNDEFINED
    if not run["is_folded"]:
        instead = "" if run["rule"] == "cam" else ", each class was sent back for each image"
        return f"none{instead}: {run['fold_reason']}"
    fold = examination.fold or {}
    where = "the image" if fold["where"] == "image" else f"the output of “{fold['where']}”"
    return (
        f"one for all images, from the classes back to {where}: {file_size(fold['memory'])}, built by "
        f"{count(fold['rows'])} passes through the network; on the first "
        f"{plural(examination.sample_count, 'image')} its responses deviate from the network's by at most "
        f"{power(run['fold_deviation'])} of the greatest"
    )


def say_conservation(found: ConservedRelevance) -> str:
    """How much of what the classes send back arrives in the maps, under a rule that should conserve it."""
    said = f"responses add up to {decimal(found.kept)} of what their class sends back, without signs to {decimal(found.size)}"
    if found.operation is None:
        return said
    return f"{said}; constants, as biases and class tokens, take most at operation {found.operation}: {decimal(found.taken)}"


def sensitivity_block(context: ReportContext) -> Block:
    answer = context.ask("class_sensitivity", ranked_from=RANKED_FROM)
    if not answer.rows:
        return Block(answer, note=NO_LABELS)
    columns = [
        class_column(context),
        IMAGES,
        number("Class cosine", "class_cosine_mean"),
        number("Dominance margin", "dominance_margin_mean"),
    ]
    return Block(
        answer,
        table=tabulate("How far the maps of different classes differ, by label; most alike first.", columns, answer.rows),
        note=say_unranked(answer.rows),
    )


SECTION = Section("method", "How the maps were made", "method.html.j2", make_content)
