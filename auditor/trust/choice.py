"""Which of several rules is taken for a network, by what was measured of its maps under each."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isfinite, isnan

from auditor.trust.verdict import Summary, Verdict, judge, of

Summaries = Mapping[str, Summary]
"""Of a rule, by measure, see `auditor.trust.assess.pilot`."""


@dataclass(frozen=True)
class Choice:
    """rule: that is taken. reason: why, in a sentence. verdicts, scores: of each rule that was measured."""

    rule: str
    reason: str
    verdicts: dict[str, Verdict]
    scores: dict[str, float]


def choose(found: Mapping[str, Summaries], contending: Collection[str] | None = None) -> Choice:
    """Of the rules whose maps can be used for most, the first of those that tell two classes apart and find the place best.

    Best are all that are not surely worse than the one of the highest score: a choice that another sample would turn is none.
    found: by rule, at least one, in the order in which they are preferred. contending: those that can be chosen; all by default.
    """
    verdicts, scores = verdicts_of(found), {rule: score(own) for rule, own in found.items()}
    rivals = usable_for_most(verdicts)
    eligible = [rule for rule in found if contending is None or rule in contending]
    eligible = [rule for rule in eligible if rule in rivals] or eligible
    highest = max(eligible, key=lambda rule: scores[rule])
    least = scores[highest] - doubt(found[highest])
    best = next(rule for rule in eligible if scores[rule] >= least)
    return Choice(best, say_choice(best, rivals, found, verdicts), verdicts, scores)


def contenders(found: Mapping[str, Summaries]) -> list[str]:
    """Those that more images may yet show to be best: their maps can be used for most, and their score is not surely lower."""
    rivals = usable_for_most(verdicts_of(found))
    highest = max(score(found[rule]) - doubt(found[rule]) for rule in rivals)
    return [rule for rule in rivals if score(found[rule]) + doubt(found[rule]) >= highest]


def verdicts_of(found: Mapping[str, Summaries]) -> dict[str, Verdict]:
    return {rule: judge(own, {"random_pixels": {"insertion": of(own, "random_insertion")}}) for rule, own in found.items()}


def usable_for_most(verdicts: Mapping[str, Verdict]) -> list[str]:
    """The rules whose maps can be used for most, in order."""
    most = max(map(uses, verdicts.values()))
    return [rule for rule, verdict in verdicts.items() if uses(verdict) == most]


def doubt(found: Summaries) -> float:
    """By how much a score may be too high, to the ends of its intervals."""
    place = "insertion" if isnan(of(found, "grid_pointing").value) else "grid_pointing"
    parts = [of(found, name) for name in ("contrast", place)]
    return sum(part.value - part.low for part in parts if isfinite(part.low)) / 2


def uses(verdict: Verdict) -> tuple[int, int]:
    """For how much maps can be used: both before which class alone, and this before where alone."""
    says = bool(verdict.says_class), bool(verdict.says_where)
    return sum(says), int(says[0])


def score(found: Summaries) -> float:
    """The mean of contrast and the Grid Pointing Game, each in [0, 1]; insertion over random pixels where there are no grids."""
    contrast, place = of(found, "contrast").value, of(found, "grid_pointing").value
    if isnan(place):
        place = of(found, "insertion").value - of(found, "random_insertion").value
    return sum(0.0 if isnan(value) else value for value in (contrast, place)) / 2


def say_choice(best: str, rivals: list[str], found: Mapping[str, Summaries], verdicts: Mapping[str, Verdict]) -> str:
    says = {
        (True, True): "say where the evidence is and for which class",
        (False, True): "say for which class the evidence is",
        (True, False): "say where the evidence is",
        (False, False): "be used for nothing",
    }[bool(verdicts[best].says_where), bool(verdicts[best].says_class)]
    contrast, grid = of(found[best], "contrast").value, of(found[best], "grid_pointing").value
    numbers = f"contrast {contrast:.2f}" + ("" if isnan(grid) else f", grid pointing {grid:.2f}")
    if len(rivals) == 1:
        return f"of {len(found)} rules it alone gives maps that can {says} ({numbers})"
    return f"of {len(found)} rules, {len(rivals)} give maps that can {says}, and none of these is surely better ({numbers})"
