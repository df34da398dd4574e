"""The statistics of each sample, each declared once: columns, means, compared figures and gates follow from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Summary = Literal["mean", "p10", "p50", "p90", "max"]

SUMMARIES: dict[Summary, str] = {
    "mean": "avg({name})",
    "p10": "quantile_cont({name}, 0.1)",
    "p50": "quantile_cont({name}, 0.5)",
    "p90": "quantile_cont({name}, 0.9)",
    "max": "max({name})",
}
"""What many samples' values of a statistic are summed up to, in SQL; its column is called `<name>_<summary>`."""

GateKind = Literal["mean", "shift"]
"""What a gate asks of a statistic. mean: its mean over the samples. shift: how far that is from the reference's mean, in standard
deviations over the reference's samples."""


@dataclass(frozen=True)
class Statistic:
    """A float32 of each sample, NULL where it is undefined.

    name: of its column in `samples`. about: what it is, with unit and range. direction: which values speak for the model's
    evidence: `higher`, `lower`, or `none` where neither do. by_class, of_run: the summaries of it that `class_stats` has over the
    samples of each label, and `runs` over all samples, each with what it is. is_compared: whether its mean is a figure of
    a comparison of two runs. gates: the built-in gates that ask for it, by name; a gate of its mean needs a direction.
    """

    name: str
    about: str
    direction: Literal["higher", "lower", "none"] = "none"
    by_class: Mapping[Summary, str] = field(default_factory=dict)
    of_run: Mapping[Summary, str] = field(default_factory=dict)
    is_compared: bool = False
    gates: Mapping[str, GateKind] = field(default_factory=dict)


SCORES_OF_A_MAP = (
    Statistic("energy", "sum of positive response"),
    Statistic("peak", "greatest positive response"),
    Statistic(
        "sparseness",
        "Gini index of positive response, in [0, 1) (Chalasani et al. 2020)",
        "higher",
        by_class={
            "mean": "mean sparseness of the dominant response map",
            "p10": "its 10th percentile",
            "p50": "its median",
            "p90": "its 90th percentile",
        },
        of_run={"mean": "mean sparseness of the dominant response map"},
        is_compared=True,
        gates={"sparseness_shift": "shift"},
    ),
    Statistic(
        "complexity",
        "entropy of positive response, in nats (Bhatt et al. 2020)",
        "lower",
        by_class={"mean": "mean complexity of the dominant response map, in nats"},
        is_compared=True,
    ),
    Statistic("centroid_y", "centroid's row, in pixels from the first"),
    Statistic("centroid_x", "centroid's column, in pixels from the first"),
    Statistic("spread", "root mean square distance from the centroid, in pixels", "lower"),
    Statistic(
        "half_energy_area_frac",
        "least share of pixels that holds half of the energy",
        "lower",
        is_compared=True,
        gates={"localization_shift": "shift"},
    ),
)
"""Those of the dominant response map that each class's response map has too, in `responses`."""

STATISTICS = (
    Statistic(
        "probability",
        "softmax of the predicted class",
        by_class={"mean": "mean probability of the prediction"},
        is_compared=True,
    ),
    Statistic("dominant_energy_frac", "share of the dominant response map's energy at pixels of the dominant class"),
    Statistic(
        "prediction_energy_frac",
        "the same share, of the predicted class",
        "higher",
        by_class={"mean": "mean share of energy dominated by the prediction"},
        is_compared=True,
    ),
    Statistic(
        "label_energy_frac",
        "the same share, of the label",
        "higher",
        by_class={"mean": "mean share of energy dominated by the label"},
        is_compared=True,
    ),
    Statistic("positive_area_frac", "share of pixels at which any class has positive response", is_compared=True),
    *SCORES_OF_A_MAP,
    Statistic(
        "dominance_margin",
        "lead of the strongest response over the second, as a share of the strongest, in [0, 1]",
        "higher",
        by_class={"mean": "mean dominance margin"},
        of_run={"mean": "mean dominance margin"},
        is_compared=True,
    ),
    Statistic(
        "class_cosine",
        "mean cosine between the response maps of two classes, in [−1, 1]",
        "lower",
        by_class={"mean": "mean class cosine"},
        of_run={"mean": "mean class cosine"},
        is_compared=True,
        gates={"class_cosine": "mean"},
    ),
    Statistic(
        "left_out_frac",
        "share of positive class response that method.top_k left out; 0 without it; NULL = no positive class response",
        "lower",
        of_run={
            "mean": "mean share of positive class response that top_k left out",
            "max": "the greatest share that it left out of a sample",
        },
    ),
)
"""In the order of their columns in `samples`."""


def in_order(*first: str) -> list[Statistic]:
    """All statistics: those named first, as they are named, then the others in the order of `STATISTICS`."""
    return sorted(STATISTICS, key=lambda statistic: first.index(statistic.name) if statistic.name in first else len(first))
