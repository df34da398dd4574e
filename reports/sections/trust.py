"""Whether the maps can be believed: what was asked of them, what was found, and the controls beside it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from reports.context import ReportContext
from reports.formats import UNDEFINED, count, decimal
from reports.parts.blocks import Block, Column, Table, tabulate
from reports.queries import Row
from reports.sections.section import Section
from storage.rule_choices import RuleChoice

RULE = "rule"
MEASURES = {
    "moved_along": "correlation of a moved image's map with the map moved along",
    "moved_stayed": "correlation of a moved image's map with the map where it was",
    "image_correlation": "correlation with the maps of other images",
    "contrast": "images whose predicted class loses more by its own region than by the runner-up's",
    "leak": "images of which the network says the runner-up from the runner-up's region alone",
    "class_cosine_signed": "cosine of the maps of the two strongest classes, with their signs",
    "class_cosine_positive": "the same, of their positive parts",
    "class_gain": "response at the image for each unit of class response",
    "random_logit_spearman": "rank correlation with the map of a random other class",
    "last_random_spearman": "rank correlation with the map of a network whose last layer is random",
    "last_random_ssim": "structural similarity with the same",
    "all_random_spearman": "rank correlation with the map of a network whose layers are all random",
    "all_random_ssim": "structural similarity with the same",
    "grid_pointing": "of four images side by side, energy on the one of the class; chance is 0.25",
    "kept_correct": "accuracy with the strongest 15 % of the pixels alone",
    "removed_correct": "accuracy without them",
    "insertion": "mean probability of the class as the strongest pixels come in",
    "deletion": "mean probability of the class as the strongest pixels go",
    "cell_sparseness": "sparseness of the map averaged over the network's cells",
    "cell_half_energy_area": "share of the cells that holds half of the energy",
    "variance_within_cells": "share of the map's variance that is finer than a cell",
}
CONTROLS = {"cam": "class activation map", "ink": "the image itself", "edges": "its edges", "random_pixels": "random pixels"}
USES = {"is_usable_for_place": "where the evidence is", "is_usable_for_classes": "for which class it is"}
SAYS = {True: "✓ yes", False: "✗ no", None: "–"}
OUTCOMES = {"passed": "✓", "failed": "✗", "not measured": "–"}


@dataclass(frozen=True)
class MapTest:
    """What was asked of the maps. glyph: its outcome. word: the same in words."""

    name: str
    glyph: str
    word: str
    reason: str

    @property
    def short(self) -> str:
        """The reason without the numbers, which stand in brackets."""
        return re.sub(r" \([^()]*\)", "", self.reason)


@dataclass(frozen=True)
class Trust:
    """heading: what the maps can be used for. outcome: passed, warned or failed."""

    heading: str
    outcome: str
    rule: str
    tests: list[MapTest]


def make_content(context: ReportContext) -> dict[str, Any] | None:
    """None where the analysis did not run."""
    trust = make_trust(context)
    if trust is None:
        return None
    answer = context.ask("trust")
    own = [row for row in answer.rows if row["source"] == RULE]
    return {
        "heading": trust.heading,
        "verdict": context.ask("trust_verdicts"),
        "trust": trust,
        "measures": Block(answer, table=measures_table(own)),
        "controls": controls_table(answer.rows),
        "sample_count": count(max((row["sample_count"] for row in own), default=0)),
        "choice": context.plan.rule_choice,
        "rules": None if context.plan.rule_choice is None else rules_table(context.plan.rule_choice),
    }


def make_trust(context: ReportContext) -> Trust | None:
    """None where the analysis did not run."""
    if not context.has_table("trust_verdicts"):
        return None
    (row,) = context.ask("trust_verdicts").rows
    tests = [
        MapTest(name, OUTCOMES[outcome], outcome, reason)
        for name, outcome, reason in zip(row["test_names"], row["test_outcomes"], row["test_reasons"], strict=True)
    ]
    outcomes = [row[name] for name in USES]
    outcome = "passed" if all(outcomes) else "failed" if outcomes == [False, False] else "warned"
    return Trust(say_heading(row), outcome, row["rule"], tests)


def say_heading(row: Row) -> str:
    usable = [use for name, use in USES.items() if row[name]]
    barred = [use for name, use in USES.items() if row[name] is False]
    if len(usable) == len(USES):
        return f"The maps can be used to say {' and '.join(usable)}"
    if usable:
        return f"The maps can be used to say {usable[0]}, {'not' if barred else 'and it is not known whether'} {other(usable)}"
    if len(barred) == len(USES):
        return f"The maps cannot be used: neither to say {' nor '.join(barred)}"
    if barred:
        return f"The maps cannot be used to say {barred[0]}, and it is not known whether {other(barred)}"
    return "It is not known whether the maps can be used"


def other(uses: Sequence[str]) -> str:
    return next(use for use in USES.values() if use not in uses)


def measures_table(rows: Sequence[Row]) -> Table:
    columns = [
        Column("Measure", lambda row: MEASURES[row["measure"]], is_number=False),
        Column("Maps", lambda row: decimal(row["value"])),
        Column("95 % interval", lambda row: f"{decimal(row['low'])} to {decimal(row['high'])}"),
        Column("Best control", lambda row: decimal(row["control_value"]) if row["control"] else UNDEFINED),
        Column("Which", lambda row: CONTROLS[row["control"]] if row["control"] else UNDEFINED, is_number=False),
        Column("Images", lambda row: count(row["sample_count"])),
    ]
    return tabulate("What was measured of the maps, means over images.", columns, rows)


def controls_table(rows: Sequence[Row]) -> Table:
    """Means of all controls, a column each."""
    values = {(row["source"], row["measure"]): row["value"] for row in rows}
    names = [source for source in CONTROLS if any(row["source"] == source for row in rows)]
    measures = [{"measure": name} for name in MEASURES if any((source, name) in values for source in names)]
    columns = [Column("Measure", lambda row: MEASURES[row["measure"]], is_number=False)]
    columns += [Column(CONTROLS[source].capitalize(), partial(read_mean, values, source)) for source in names]
    return tabulate("The same of the controls.", columns, measures)


def rules_table(choice: RuleChoice) -> Table:
    """What was measured of every rule before one was chosen."""

    def means(name: str) -> Callable[[Row], str]:
        return lambda row: decimal(row["means"].get(name))

    columns = [
        Column("Rule", lambda row: row["rule"], is_number=False),
        Column("Says where", lambda row: SAYS[row["is_usable_for_place"]], is_number=False),
        Column("Says which class", lambda row: SAYS[row["is_usable_for_classes"]], is_number=False),
        Column("Contrast", means("contrast")),
        Column("Grid pointing", means("grid_pointing")),
        Column("Class cosine", means("class_cosine_positive")),
        Column("All layers random", means("all_random_spearman")),
        Column("Left out, for", lambda row: row["refusal"] or "", is_number=False),
    ]
    return tabulate(
        "What was measured of all rules.", columns, [rule.model_dump() for rule in choice.rules], limit=len(choice.rules)
    )


def read_mean(values: Mapping[tuple[str, str], float | None], source: str, row: Row) -> str:
    return decimal(values.get((source, row["measure"])))


SECTION = Section("trust", "Trust in the maps", "trust.html.j2", make_content)
