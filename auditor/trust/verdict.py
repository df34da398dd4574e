"""What may be believed of maps, by what was measured of them: whether they say where, and whether they say which class."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isnan, nan

import numpy as np
import scipy.stats

from auditor.trust.grid_pointing import CELLS

Test = tuple[str, bool | None, str]
"""What was asked, whether it holds, None where it could not be measured, and a sentence that says so."""


@dataclass(frozen=True)
class Summary:
    """A measure over images. value: its mean. low, high: the 95 % interval of the mean. count: of images where it is defined."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Verdict:
    """says_where, says_class: whether maps can be used for it; None where a test that this rests on could not be made.

    tests: all of them, in order.
    """

    says_where: bool | None
    says_class: bool | None
    tests: tuple[Test, ...]


UNKNOWN = Summary(nan, nan, nan, 0)

LIKE_RANDOM = 0.8
"""A map hardly shows what was learnt from this mean rank correlation on with the map of a network whose layers are all random."""
LIKE_LAST = 0.95
"""The same, where only the last layer is random: much of what was learnt is still there."""
ALIKE = 0.97
"""From this mean cosine on, the positive maps of the two strongest classes are one map."""
COIN = 0.5
TOLD_APART = 0.6
"""Of surely more images than this, what the maps of two classes differ by must tell these classes apart: a coin has half."""
CONFIDENCE = 0.95


def summary_of(values: np.ndarray) -> Summary:
    """values: (n,) finite. The interval is Wilson's where all of them are 0 or 1, else of a normal distribution."""
    if not len(values):
        return UNKNOWN
    value = float(values.mean(dtype=np.float64))
    if np.isin(values, (0, 1)).all():
        interval = scipy.stats.binomtest(int(values.sum()), len(values)).proportion_ci(CONFIDENCE, method="wilson")
        return Summary(value, float(interval.low), float(interval.high), len(values))
    error = float(values.std(ddof=1, dtype=np.float64)) / len(values) ** 0.5 if len(values) > 1 else inf
    reach = error * float(scipy.stats.norm.ppf((1 + CONFIDENCE) / 2))
    return Summary(value, value - reach, value + reach, len(values))


def judge(found: Mapping[str, Summary], controls: Mapping[str, Mapping[str, Summary]]) -> Verdict:
    """found: of the rule, by measure, see `assess`. controls: of each control the same.

    What is kept or removed of an image by a map decides nothing here: the input itself does better at that than any rule.
    """
    image, learnt = depends_on_image(found), depends_on_learnt(found)
    label, place = depends_on_class(found), finds_place(found, controls)
    return Verdict(all_of(image, learnt, place), all_of(image, learnt, label), (image, label, learnt, place))


def all_of(*tests: Test) -> bool | None:
    """One that fails decides; else one that could not be made leaves it open."""
    outcomes = [holds for _, holds, _ in tests]
    if False in outcomes:
        return False
    return None if None in outcomes else True


def of(found: Mapping[str, Summary], name: str) -> Summary:
    return found.get(name, UNKNOWN)


def depends_on_image(found: Mapping[str, Summary]) -> Test:
    name = "depends on the image"
    along, stayed = of(found, "moved_along"), of(found, "moved_stayed")
    if isnan(along.value) or isnan(stayed.value):
        return name, None, "Whether the maps move with their image could not be measured: they are empty."
    numbers = f"correlation {along.value:.2f} with the map moved along, {stayed.value:.2f} with the map where it was"
    if along.low > stayed.high:
        return name, True, f"When the image moves, its map moves along ({numbers})."
    return name, False, f"When the image moves, its map stays where it was ({numbers})."


def depends_on_class(found: Mapping[str, Summary]) -> Test:
    name = "depends on the class"
    contrast, cosine = of(found, "contrast"), of(found, "class_cosine_positive")
    if isnan(contrast.value) and isnan(cosine.value):
        return name, None, "Whether the maps of two classes differ could not be measured: no image has two that are not empty."
    if cosine.value >= ALIKE:
        return name, False, f"The maps of the two strongest classes are nearly the same (cosine {cosine.value:.2f})."
    if isnan(contrast.value):
        return name, False, "The maps of the two strongest classes never differ."
    share = f"{contrast.value:.0%} of {contrast.count:,} images, where a coin would have {COIN:.0%}"
    if contrast.low > TOLD_APART:
        return name, True, f"Where the maps of two classes differ is what tells these classes apart ({share})."
    return name, False, f"Where the maps of two classes differ is not what tells these classes apart ({share})."


def depends_on_learnt(found: Mapping[str, Summary]) -> Test:
    name = "depends on what was learnt"
    last, every = of(found, "last_random_spearman"), of(found, "all_random_spearman")
    if isnan(every.value):
        return name, True, "Of a network with random weights no map is left."
    numbers = f"rank correlation {every.value:.2f} with all layers random"
    numbers += "" if isnan(last.value) else f", {last.value:.2f} with the last one"
    if every.value >= LIKE_RANDOM or last.value >= LIKE_LAST:
        return name, False, f"A network that has learnt nothing has nearly the same maps ({numbers})."
    return name, True, f"A network that has learnt nothing has other maps ({numbers})."


def finds_place(found: Mapping[str, Summary], controls: Mapping[str, Mapping[str, Summary]]) -> Test:
    """By grids where the network takes them; else by insertion, against random pixels."""
    name = "finds the place"
    grid = of(found, "grid_pointing")
    if not isnan(grid.value):
        holds, chance = grid.low > 1 / CELLS, f"{grid.value:.0%} of their energy is on it, where chance has {1 / CELLS:.0%}"
        return (
            name,
            holds,
            f"Of {CELLS} images side by side the maps {'find' if holds else 'do not find'} the right one ({chance}).",
        )
    own, random = of(found, "insertion"), of(controls.get("random_pixels", {}), "insertion")
    if isnan(own.value) or isnan(random.value):
        return name, None, "Whether the maps find the place could not be measured."
    numbers = f"{own.value:.2f} of the probability with its strongest pixels alone, {random.value:.2f} with random ones"
    if own.low > random.high:
        return name, True, f"The network needs the pixels that the maps show ({numbers})."
    return name, False, f"The network needs the pixels that the maps show no more than any ({numbers})."
