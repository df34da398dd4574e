"""Two runs side by side: their samples paired by content, and what differs between them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import binomtest, bootstrap

from reports.figures import FIGURES, figures_of
from reports.queries import Row, load
from storage.errors import InputError
from storage.runs.run import Run, read_plan
from storage.sql.read_only import connect, select
from storage.statistics import in_order

if TYPE_CHECKING:
    import pyarrow as pa

RESAMPLES = 1000
CONFIDENCE = 0.95
SEED = 0
BATCH_VALUES = 4_000_000
"""Most values drawn in one batch of resamples, which bounds the memory."""
METHOD = f"paired bootstrap of the mean, {RESAMPLES:,} resamples, {CONFIDENCE:.0%} percentile interval"
FLIP_METHOD = "McNemar's exact test, two-sided"

FIRST_FIGURES = (
    "probability",
    "prediction_energy_frac",
    "label_energy_frac",
    "sparseness",
    "complexity",
    "half_energy_area_frac",
)
"""The statistics that a comparison has first; the others follow in the order of their columns."""

PAIRED = {
    "accuracy": "{side}.is_correct::DOUBLE",
    "agreement": "{side}.agrees::DOUBLE",
    **{statistic.name: f"{{side}}.{statistic.name}" for statistic in in_order(*FIRST_FIGURES) if statistic.is_compared},
}
"""The figures compared, with the SQL that reads each from a sample: means over the pairs that have the figure in both runs."""
FACTS = ("sample_index", "sample_id", "label", "prediction", "dominant_class", "is_correct")

KINDS = {
    "right_to_wrong": "right before, wrong after",
    "wrong_to_right": "wrong before, right after",
    "other_evidence": "same prediction, evidence for another class",
}


@dataclass(frozen=True)
class PairedMean:
    """A mean in both runs, and the difference after − before with its confidence interval.

    count: the pairs that have it in both runs. low, high: ends of the interval, None where there are fewer than two pairs.
    """

    name: str
    count: int
    before: float
    after: float
    low: float | None
    high: float | None

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class FigurePair:
    """A figure of an analysis in both runs, see `reports.figures`."""

    name: str
    about: str
    before: float
    after: float


@dataclass(frozen=True)
class Flip:
    """A sample that changed. Classes by name, None where there is none; predictions and dominants: before and after."""

    kind: str
    before_index: int
    after_index: int
    sample_id: str
    label: str | None
    predictions: tuple[str, str]
    dominants: tuple[str | None, str | None]


@dataclass(frozen=True)
class Comparison:
    """Run `after` against run `before`.

    paired_count: samples that both runs have, matched by content. added, missing: rows of samples that only `after` or only
    `before` has. relabelled_count: pairs whose label differs. of_analyses: figures of analyses that both runs have. flips: by
    kind, see `KINDS`, in order of the index. flip_p_value: of right → wrong and wrong → right being equally likely, None where
    nothing flipped. drift: one row per class. lost_classes, new_classes: names of the classes that only `before` or only
    `after` has, in order.
    """

    before: Run
    after: Run
    paired_count: int
    added: list[Row]
    missing: list[Row]
    relabelled_count: int
    figures: list[PairedMean]
    of_analyses: list[FigurePair]
    flips: dict[str, list[Flip]]
    flip_p_value: float | None
    drift: list[Row]
    lost_classes: list[str]
    new_classes: list[str]


def compare(before: Run, after: Run) -> Comparison:
    """Compares two published runs of one store. Raises InputError where they have no sample in common."""
    with connect(after.store, [after.run_id], reference=before.run_id) as connection:
        pairs = select(connection, of_copies("pairs").replace("$columns", ",\n    ".join(pair_columns())))
        unpaired = select(connection, of_copies("unpaired")).to_pylist()
        drift = select(connection, load("compare/drift")).to_pylist()
    if not pairs.num_rows:
        raise InputError(f"runs '{before.run_id}' and '{after.run_id}' have no sample in common: there is nothing to compare")
    names = tuple(read_plan(run).class_names for run in (before, after))
    changed = list(find_flips(pairs, names))
    flips = {kind: [flip for flip in changed if flip.kind == kind] for kind in KINDS}
    worse, better = len(flips["right_to_wrong"]), len(flips["wrong_to_right"])
    return Comparison(
        before=before,
        after=after,
        paired_count=pairs.num_rows,
        added=[row for row in unpaired if row["change"] == "added"],
        missing=[row for row in unpaired if row["change"] == "missing"],
        relabelled_count=count_relabelled(pairs, names),
        figures=[figure for name in PAIRED if (figure := compare_figure(pairs, name)) is not None],
        of_analyses=pair_figures(before, after),
        flips=flips,
        flip_p_value=float(binomtest(worse, worse + better).pvalue) if worse + better else None,
        drift=drift,
        lost_classes=[name for name in names[0] if name not in names[1]],
        new_classes=[name for name in names[1] if name not in names[0]],
    )


def pair_figures(before: Run, after: Run) -> list[FigurePair]:
    """Those that both runs have."""
    old, new = (figures_of(run) for run in (before, after))
    return [
        FigurePair(name, figure.about, first, second)
        for name, figure in FIGURES.items()
        if (first := old[name]) is not None and (second := new[name]) is not None
    ]


def of_copies(name: str) -> str:
    """A query over `before` and `after`, the runs' samples; those of equal content are numbered, so that copies pair up."""
    return f"{load('compare/copies')}\n{load(f'compare/{name}')}"


def pair_columns() -> Iterator[str]:
    for side in ("before", "after"):
        yield from (f"{side}.{fact} AS {side}_{fact}" for fact in FACTS)
        yield from (f"{expression.format(side=side)} AS {side}_{name}" for name, expression in PAIRED.items())


def compare_figure(pairs: "pa.Table", name: str) -> PairedMean | None:
    """None where no pair has it in both runs."""
    before, after = (np.asarray(pairs[f"{side}_{name}"].to_numpy(), dtype=float) for side in ("before", "after"))
    known = ~(np.isnan(before) | np.isnan(after))
    before, after = before[known], after[known]
    if not len(before):
        return None
    low, high = interval(after - before)
    return PairedMean(name, len(before), float(before.mean()), float(after.mean()), low, high)


def interval(differences: np.ndarray) -> tuple[float | None, float | None]:
    """The confidence interval of a mean of differences, see `METHOD`. differences: (n,)."""
    if len(differences) < 2:
        return None, None
    found = bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_VALUES // len(differences)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def find_flips(pairs: "pa.Table", names: Sequence[Sequence[str]]) -> Iterator[Flip]:
    """names: the class names before and after. A pair whose label changed may be of two kinds."""
    for row in pairs.select([f"{side}_{fact}" for side in ("before", "after") for fact in FACTS]).to_pylist():
        predictions, dominants = (both(row, fact, names) for fact in ("prediction", "dominant_class"))
        label = name_of(names[1], row["after_label"])
        right = row["before_is_correct"], row["after_is_correct"]
        kinds = {
            "right_to_wrong": right == (True, False),
            "wrong_to_right": right == (False, True),
            "other_evidence": predictions[0] == predictions[1] and dominants[0] != dominants[1],
        }
        for kind in (kind for kind, holds in kinds.items() if holds):
            indices = row["before_sample_index"], row["after_sample_index"]
            yield Flip(kind, *indices, row["after_sample_id"], label, predictions, dominants)


def both(row: Row, fact: str, names: Sequence[Sequence[str]]) -> Any:
    return tuple(name_of(classes, row[f"{side}_{fact}"]) for side, classes in zip(("before", "after"), names, strict=True))


def name_of(names: Sequence[str], index: int | None) -> str | None:
    return None if index is None else names[index]


def count_relabelled(pairs: "pa.Table", names: Sequence[Sequence[str]]) -> int:
    labels = zip(pairs["before_label"].to_pylist(), pairs["after_label"].to_pylist(), strict=True)
    return sum(name_of(names[0], before) != name_of(names[1], after) for before, after in labels)
