"""A comparison as one HTML file, and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reports import comparison as comparing
from reports.comparison import KINDS, Comparison, FigurePair, Flip, PairedMean
from reports.formats import NO_CLASS, NO_LABEL, UNDEFINED, count, decimal, moment, percent, plural, significant
from reports.gates.judgement import Judgement, as_object, as_rows, overall_of, worst_first
from reports.pages.template import fill_template
from reports.parts.blocks import TABLE_ROWS, Column, Table, facts_table, tabulate
from reports.parts.cards import Card, Fact, Swatch
from reports.parts.gate_columns import ALLOWED, GATE, OUTCOME, WHY, answer_column
from reports.parts.layers import Picture
from reports.parts.pictures import are_pixelated
from reports.queries import Row
from storage.filesystems import replace_file
from storage.runs.run import Run, planned_rule, read_manifest, read_plan
from storage.text import shorten

SCHEMA = "clear-audit/comparison/1"
"""The version of the JSON: keys may be added under the same number; changing or dropping one takes a new number."""

SHOWN = 8
"""How many samples of each kind have their maps shown."""

SHOWN_CLASSES = 5


@dataclass(frozen=True)
class Drawing:
    """What is drawn of a sample that changed.

    swatches: colours of the classes named beside it. peaks: the responses, before and after, that have full brightness in
    the CLEAR maps.
    """

    pictures: list[Picture]
    swatches: list[Swatch]
    peaks: tuple[float, float]


NOTHING = Drawing([], [], (0.0, 0.0))


def as_json(comparison: Comparison, judgements: Sequence[Judgement]) -> str:
    """An object with the runs, every figure with its interval, all flips, drift, samples of one run alone, and gates."""
    document: dict[str, Any] = asdict(comparison) | {
        "schema": SCHEMA,
        "before": comparison.before.run_id,
        "after": comparison.after.run_id,
        "figures": [
            asdict(figure) | {"difference": figure.difference, "method": comparing.METHOD} for figure in comparison.figures
        ],
        "flip_method": comparing.FLIP_METHOD,
        "gates": [as_object(judgement) for judgement in judgements],
        "outcome": overall_of(judgements),
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def chosen_flips(comparison: Comparison) -> dict[str, list[Flip]]:
    """The samples whose maps are shown: the first of each kind."""
    return {kind: flips[:SHOWN] for kind, flips in comparison.flips.items()}


def write_comparison(comparison: Comparison, judgements: Sequence[Judgement], drawings: Mapping[int, Drawing]) -> Path:
    """Renders the page, and writes it and the JSON atomically; returns the path of the page.

    drawings: of the samples in `chosen_flips`, by their index in the later run.
    """
    path = comparison.after.store / "reports" / f"{comparison.before.run_id}--{comparison.after.run_id}.html"
    figures, page = as_json(comparison, judgements), render(comparison, judgements, drawings)
    replace_file(path.with_suffix(".json"), figures)
    replace_file(path, page)
    return path


def render(comparison: Comparison, judgements: Sequence[Judgement], drawings: Mapping[int, Drawing]) -> str:
    plan = read_plan(comparison.after)
    chosen = chosen_flips(comparison)
    return fill_template(
        "compare.html.j2",
        comparison=comparison,
        plan=plan,
        sentence=say_comparison(comparison),
        judged=overall_of(judgements),
        gates=gates_table(judgements, comparison.before),
        figures=figures_table(comparison.figures),
        of_analyses=analysis_table(comparison.of_analyses),
        methods=(comparing.METHOD, comparing.FLIP_METHOD),
        flips={kind: flips_table(title, comparison.flips[kind]) for kind, title in KINDS.items()},
        kinds=KINDS,
        cards={
            kind: [make_card(flip, drawings.get(flip.after_index, NOTHING)) for flip in flips] for kind, flips in chosen.items()
        },
        drift=drift_table(comparison.drift),
        unpaired=[unpaired_table(title, rows) for title, rows in alone(comparison)],
        runs=runs_table(comparison.before, comparison.after),
        is_pixelated=are_pixelated(plan.height, plan.width),
    )


def say_comparison(comparison: Comparison) -> str:
    """The main differences, in a sentence."""
    worse, better, other = (len(comparison.flips[kind]) for kind in KINDS)
    clear = sum(figure.is_clear for figure in comparison.figures)
    test = "" if comparison.flip_p_value is None else f" ({say_chance(comparison.flip_p_value)})"
    return (
        f"Of {plural(comparison.paired_count, 'image')} in both runs, {count(worse)} went from right to wrong and "
        f"{count(better)} from wrong to right{test}; {count(other)} kept their prediction on other evidence. "
        f"{count(clear)} of {plural(len(comparison.figures), 'figure')} moved by more than chance explains."
        f"{say_classes(comparison)}{say_rules(comparison)}"
    )


def say_classes(comparison: Comparison) -> str:
    """A sentence on the classes that only one of the runs has; empty where both have the same."""
    sides = {"before": comparison.lost_classes, "after": comparison.new_classes}
    found = [
        f"{count(len(names))} {side} alone ({shorten([*map(repr, names)], SHOWN_CLASSES)})"
        for side, names in sides.items()
        if names
    ]
    return f" The runs have other classes: {' and '.join(found)}." if found else ""


def say_rules(comparison: Comparison) -> str:
    """A sentence on maps that were made in two ways; empty where they were not."""
    before, after = (planned_rule(run) for run in (comparison.before, comparison.after))
    if before == after:
        return ""
    return f" The maps are by rule '{before}' before and by '{after}' after: what moved of them may be the rule."


def say_chance(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {significant(p_value)}"


def gates_table(judgements: Sequence[Judgement], reference: Run) -> Table:
    rows = as_rows(worst_first(judgements), reference).to_pylist()
    columns = [GATE, OUTCOME, answer_column("Before", "reference_value"), answer_column("After", "value"), ALLOWED, WHY]
    return tabulate("The later run's gates, against the earlier run; worst first.", columns, rows, limit=len(rows))


def figures_table(figures: Sequence[PairedMean]) -> Table:
    rows = [asdict(figure) | {"difference": figure.difference, "is_clear": figure.is_clear} for figure in figures]
    columns = [
        Column("Figure", lambda row: row["name"], is_number=False),
        Column("Pairs", lambda row: count(row["count"])),
        Column("Before", lambda row: decimal(row["before"], 4)),
        Column("After", lambda row: decimal(row["after"], 4)),
        Column("Difference", lambda row: signed(row["difference"])),
        Column("95 % interval", lambda row: f"{signed(row['low'])} to {signed(row['high'])}"),
        Column("Moved", say_move, is_number=False),
    ]
    return tabulate("Means over the images that have the figure in both runs.", columns, rows)


def analysis_table(figures: Sequence[FigurePair]) -> Table:
    columns = [
        Column("Figure", lambda row: row["name"], is_number=False),
        Column("Before", lambda row: decimal(row["before"], 4)),
        Column("After", lambda row: decimal(row["after"], 4)),
        Column("Difference", lambda row: signed(row["after"] - row["before"])),
        Column("What it is", lambda row: row["about"], is_number=False),
    ]
    return tabulate("Figures of analyses that both runs have.", columns, [asdict(figure) for figure in figures])


def signed(value: float | None) -> str:
    if value is None:
        return UNDEFINED
    return ("+" if value > 0 else "") + decimal(value, 4)


def say_move(row: Row) -> str:
    if not row["is_clear"]:
        return "no clear move"
    return "↑ up" if row["difference"] > 0 else "↓ down"


def flips_table(title: str, flips: Sequence[Flip]) -> Table:
    columns = [
        Column("Sample", lambda row: count(row["after_index"])),
        Column("Name", lambda row: row["sample_id"], is_number=False),
        Column("Label", lambda row: row["label"] or NO_LABEL, is_number=False),
        Column("Prediction", lambda row: change(row["predictions"]), is_number=False),
        Column("Dominant class", lambda row: change(row["dominants"]), is_number=False),
    ]
    return tabulate(f"Images {title}.", columns, [asdict(flip) for flip in flips[:TABLE_ROWS]], total=len(flips))


def change(names: Sequence[str | None]) -> str:
    before, after = (NO_CLASS if name is None else name for name in names)
    return before if before == after else f"{before} → {after}"


def make_card(flip: Flip, drawing: Drawing) -> Card:
    facts = [
        Fact("label", flip.label or NO_LABEL),
        Fact("prediction", change(flip.predictions), differs=flip.predictions[0] != flip.predictions[1]),
        Fact("dominant", change(flip.dominants), differs=flip.dominants[0] != flip.dominants[1]),
    ]
    peaks = change([significant(peak) for peak in drawing.peaks])
    return Card(flip.after_index, flip.sample_id, drawing.pictures, facts, drawing.swatches, peaks)


def drift_table(rows: Sequence[Row]) -> Table:
    def pair(name: str, show: Any) -> Any:
        return lambda row: f"{show(row[f'before_{name}'])} → {show(row[f'after_{name}'])}"

    columns = [
        Column("Class", lambda row: row["class_name"], is_number=False),
        Column("Images", pair("sample_count", count)),
        Column("Accuracy", pair("correct_frac", percent)),
        Column("Dominates", pair("dominant_frac", percent)),
        Column("Sparseness", pair("sparseness_mean", decimal)),
        Column("Half-energy area", pair("half_energy_area_frac_mean", percent)),
    ]
    return tabulate(
        "Class by class, before → after, over all images of each run; largest move of dominance first.", columns, rows
    )


def alone(comparison: Comparison) -> list[tuple[str, list[Row]]]:
    return [
        ("Images of the later run alone.", comparison.added),
        ("Images of the earlier run alone.", comparison.missing),
    ]


def unpaired_table(title: str, rows: Sequence[Row]) -> Table:
    columns = [
        Column("Sample", lambda row: count(row["sample_index"])),
        Column("Name", lambda row: row["sample_id"], is_number=False),
    ]
    return tabulate(title, columns, rows)


def runs_table(before: Run, after: Run) -> Table:
    def facts(run: Run) -> dict[str, str]:
        plan, manifest = read_plan(run), read_manifest(run)
        return {
            "Run": run.run_id,
            "Audit": plan.name,
            "Finished": moment(manifest.finished_at),
            "Model, SHA-256": plan.model_hash,
            "Dataset, SHA-256": plan.dataset_hash,
            "Config, SHA-256": plan.config_hash,
            "clear-audit": plan.tool_version,
        }

    old, new = facts(before), facts(after)
    pairs = [(name, old[name] if old[name] == new[name] else f"{old[name]} → {new[name]}") for name in old]
    return facts_table("The two runs, before → after.", pairs)
