"""The rule of an audit that leaves it to be chosen: measured once for a model and a dataset, then kept in the store."""

from math import isnan
from pathlib import Path

import numpy as np

from auditor.operations.rule_table import RULES
from auditor.trust.choice import Choice, choose, contenders
from auditor.trust.verdict import Summary, summary_of
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
ALIKE = 0.005
"""Rules of which no measure's mean differs by more are one rule, of which the first counts."""


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
    """All rules are measured on the first images, and on the others those that may yet be the best."""
    order = draw(len(session.dataset), IMAGES, SEED)
    parts = [tuple(order[start : start + UNIT_IMAGES].tolist()) for start in range(0, len(order), UNIT_IMAGES)]
    rules = candidates(session.config)
    results = measure(session, rules, parts[:1])
    means, _ = put_together(results, rules)
    left = contenders(means) if means else rules
    if len(left) > 1 or not means:
        results += measure(session, left, parts[1:])
    return conclude(results, rules, len(order), left)


def measure(session: Session, rules: list[str], parts: list[tuple[int, ...]]) -> list[PilotResult]:
    client, _ = session.cluster.wait()
    units = [PilotUnit(rule, part, SEED) for rule in rules for part in parts]
    results: list[PilotResult] = []

    def take(result: PilotResult) -> None:
        results.append(result)
        session.progress.advance(len(results), 0, len(units), "measurements")

    died = submit_all(client, lambda unit: client.submit(measure_unit, session.work.key, unit, pure=False), units, take)
    return results + [PilotResult(unit.rule, {}, "a worker died of it") for unit in died]


def candidates(config: AuditConfig) -> list[str]:
    return [rule for rule, one in RULES.items() if config.method.reduction == "sum" or not one.enlarges]


def conclude(results: list[PilotResult], rules: list[str], image_count: int, contending: list[str]) -> RuleChoice:
    """contending: the rules that can be chosen. Raises InputError where no rule has maps."""
    means, refusals = put_together(results, rules)
    if not means:
        reason = next(iter(refusals.values()), "no image could be measured")
        raise InputError(f"method.rule is '{AUTO}', and no rule has maps of this network: {reason}")
    choice = choose(means, [rule for rule in contending if rule in means] or None)
    measured = [
        MeasuredRule(rule=rule, refusal=refusals[rule]) if rule in refusals else as_record(rule, choice, means[rule])
        for rule in rules
        if rule in refusals or rule in means
    ]
    return RuleChoice(rule=choice.rule, reason=choice.reason, image_count=image_count, rules=measured)


def put_together(results: list[PilotResult], rules: list[str]) -> tuple[dict[str, dict[str, Summary]], dict[str, str]]:
    """The means of each rule that has maps, by measure; and why the others are left out."""
    refusals = {result.rule: result.refusal for result in reversed(results) if result.refusal is not None}
    means: dict[str, dict[str, Summary]] = {}
    for rule in (rule for rule in rules if rule not in refusals):
        found = summarise([result.values for result in results if result.rule == rule])
        same = next((other for other, known in means.items() if are_alike(found, known)), None)
        if same is not None:
            refusals[rule] = f"its maps of this network are those of {same}"
        elif found:
            means[rule] = found
    return means, refusals


def summarise(parts: list[dict[str, list[float]]]) -> dict[str, Summary]:
    """parts: of each unit, the values of each measure. They come in any order, and sums of floats depend on that."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: summary_of(np.array(sorted(value for part in parts for value in part.get(name, [])))) for name in names}


def are_alike(first: dict[str, Summary], second: dict[str, Summary]) -> bool:
    return first.keys() == second.keys() and all(
        np.isclose(first[name].value, second[name].value, atol=ALIKE, rtol=0, equal_nan=True) for name in first
    )


def as_record(rule: str, choice: Choice, means: dict[str, Summary]) -> MeasuredRule:
    verdict = choice.verdicts[rule]
    return MeasuredRule(
        rule=rule,
        is_usable_for_place=verdict.says_where,
        is_usable_for_classes=verdict.says_class,
        score=choice.scores[rule],
        means={name: None if isnan(one.value) else one.value for name, one in means.items()},
        reasons=[reason for _, _, reason in verdict.tests],
    )
