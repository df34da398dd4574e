"""The rule of an audit that leaves it to be chosen: measured once for a model and a dataset, then kept in the store."""

from collections.abc import Iterable
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from auditor.operations.rule_table import RULES
from auditor.trust.choice import choose
from auditor.trust.verdict import summary_of
from flows.config import AuditConfig
from flows.runtime.pilot import PilotResult, PilotUnit, measure_unit
from flows.runtime.sampling import draw
from flows.runtime.submit import submit_all
from flows.stages.session import Session
from storage.errors import InputError
from storage.models.sources import model_hash
from storage.rule_choices import MeasuredRule, RuleChoice, choice_path, read_choice, write_choice

AUTO = "auto"
IMAGES = 256
UNIT_IMAGES = 64
SEED = 0
ALIKE = 1e-3
"""Rules of which no measure differs by more in any image are one rule, of which the first is tried."""


def place_of(config: AuditConfig, store: Path) -> Path:
    """Where the choice for a config's model and dataset lies: it stays where images are added to the dataset."""
    method = config.method.model_dump(mode="json", exclude={"rule", "kept_classes"})
    dataset = config.dataset
    facts = {"model": model_hash(config.model), "input": vars(config.input), "method": method}
    return choice_path(store, facts | {"dataset": [dataset.format, dataset.path]})


def settle_rule(session: Session, rechoose: bool = False) -> RuleChoice | None:
    """Takes the rule that was chosen before, or measures all and chooses; None where the config names one.

    Raises InputError where no rule answers the network, or no image can be measured.
    """
    if session.config.method.rule != AUTO:
        return None
    place = place_of(session.config, session.store)
    choice = None if rechoose else known_choice(session, place)
    if choice is None:
        session.progress.stage("choosing the rule")
        choice = make_choice(session)
        write_choice(place, choice)
    session.progress.say(f"rule: {choice.rule}: {choice.reason}")
    session.take_rule(choice.rule)
    return choice


def known_choice(session: Session, place: Path) -> RuleChoice | None:
    if not place.exists():
        return None
    try:
        choice = read_choice(place)
    except InputError as error:
        session.progress.say(f"the rule is chosen again: {error}")
        return None
    return choice if choice.rule in RULES else None


def make_choice(session: Session) -> RuleChoice:
    client, _ = session.cluster.wait()
    order = draw(len(session.dataset), IMAGES, SEED)
    parts = [tuple(order[start : start + UNIT_IMAGES].tolist()) for start in range(0, len(order), UNIT_IMAGES)]
    units = [PilotUnit(rule, part, SEED) for rule in candidates(session.config) for part in parts]
    results: list[PilotResult] = []

    def take(result: PilotResult) -> None:
        results.append(result)
        session.progress.advance(len(results), 0, len(units), "measurements")

    died = submit_all(client, lambda unit: client.submit(measure_unit, session.work.key, unit, pure=False), units, take)
    results += [PilotResult(unit.rule, {}, "a worker died of it") for unit in died]
    return conclude(results, candidates(session.config), len(order))


def candidates(config: AuditConfig) -> list[str]:
    return [rule for rule, one in RULES.items() if config.method.reduction == "sum" or not one.enlarges]


def conclude(results: Iterable[PilotResult], rules: Iterable[str], image_count: int) -> RuleChoice:
    """Raises InputError where no rule has maps."""
    results = list(results)
    refusals = {result.rule: result.refusal for result in reversed(results) if result.refusal is not None}
    values: dict[str, dict[str, np.ndarray]] = {}
    for rule in rules:
        own = [result.values for result in results if result.rule == rule]
        names = dict.fromkeys(name for part in own for name in part)
        found = {name: np.array(sorted(value for part in own for value in part.get(name, []))) for name in names}
        same = next((other for other, known in values.items() if are_alike(found, known)), None)
        if rule not in refusals and same is not None:
            refusals[rule] = f"its maps of this network are those of {same}"
        elif rule not in refusals and found:
            values[rule] = found
    if not values:
        reason = next(iter(refusals.values()), "no image could be measured")
        raise InputError(f"method.rule is '{AUTO}', and no rule has maps of this network: {reason}")
    means = {rule: {name: summary_of(one) for name, one in found.items()} for rule, found in values.items()}
    choice = choose(means)
    measured = []
    for rule in rules:
        if rule in refusals:
            measured.append(MeasuredRule(rule=rule, refusal=refusals[rule]))
        elif rule in values:
            verdict = choice.verdicts[rule]
            measured.append(
                MeasuredRule(
                    rule=rule,
                    is_usable_for_place=verdict.says_where,
                    is_usable_for_classes=verdict.says_class,
                    score=choice.scores[rule],
                    means={name: None if isnan(one.value) else one.value for name, one in means[rule].items()},
                    reasons=[reason for _, _, reason in verdict.tests],
                )
            )
    return RuleChoice(rule=choice.rule, reason=choice.reason, image_count=image_count, rules=measured)


def are_alike(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """values: by measure, sorted."""
    return first.keys() == second.keys() and all(
        len(first[name]) == len(second[name]) and np.allclose(first[name], second[name], atol=ALIKE, rtol=0) for name in first
    )
