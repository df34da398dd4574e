"""The declared statistics: what follows from them, against lists and sums written out."""

import statistics

import duckdb
import pyarrow as pa
import pytest

from auditor.measurement import Measurement
from auditor.statistics.map_statistics import SCORES
from storage.aggregates import sum_up
from storage.statistics import SCORES_OF_A_MAP, STATISTICS, SUMMARIES, Statistic, in_order
from storage.tables import SCHEMAS

NAMES = [statistic.name for statistic in STATISTICS]
OF_THE_ROWS = {"probability", "dominant_energy_frac", "prediction_energy_frac", "label_energy_frac"}
"""Those that are no value of a measurement, but one of its classes'."""


def test_samples_have_each_statistic_and_no_other_float() -> None:
    assert [field.name for field in SCHEMAS["samples"] if pa.types.is_floating(field.type)] == NAMES
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("statistic", STATISTICS, ids=NAMES)
def test_a_column_says_what_its_statistic_is(statistic: Statistic) -> None:
    field = SCHEMAS["samples"].field(statistic.name)
    assert field.type == pa.float32()
    assert field.metadata == {b"about": statistic.about.encode(), b"direction": statistic.direction.encode()}


@pytest.mark.parametrize("statistic", STATISTICS, ids=NAMES)
def test_a_summary_has_the_direction_of_its_statistic(statistic: Statistic) -> None:
    for table, summaries in {"class_stats": statistic.by_class, "runs": statistic.of_run}.items():
        for summary, about in summaries.items():
            field = SCHEMAS[table].field(f"{statistic.name}_{summary}")
            assert field.type == pa.float64()
            assert field.metadata == {b"about": about.encode(), b"direction": statistic.direction.encode()}


def test_summaries_stand_where_they_always_stood() -> None:
    """Those of statistics that came later may stand between them."""
    of_a_class = [
        "probability_mean",
        "label_energy_frac_mean",
        "prediction_energy_frac_mean",
        "sparseness_mean",
        "sparseness_p10",
        "sparseness_p50",
        "sparseness_p90",
        "complexity_mean",
        "dominance_margin_mean",
        "class_cosine_mean",
    ]
    assert [name for name in SCHEMAS["class_stats"].names if name in of_a_class] == of_a_class
    of_a_run = ["agreement_frac", "sparseness_mean", "dominance_margin_mean", "class_cosine_mean", "model_program"]
    start = SCHEMAS["runs"].names.index("agreement_frac")
    assert SCHEMAS["runs"].names[start : start + 5] == of_a_run
    start = SCHEMAS["runs"].names.index("fold_deviation")
    assert SCHEMAS["runs"].names[start + 1 : start + 3] == ["left_out_frac_mean", "left_out_frac_max"]


def test_scores_of_a_map_are_those_that_a_map_is_described_by() -> None:
    assert tuple(statistic.name for statistic in SCORES_OF_A_MAP) == SCORES


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OF_THE_ROWS])
def test_a_measurement_has_the_statistic_by_its_name(name: str) -> None:
    assert (name in SCORES) != (name in Measurement.__dataclass_fields__)


def test_summaries_of_numbers() -> None:
    """Of six values, one of them unknown."""
    values = [0.5, 0.125, None, 4.0, 0.25, 2.0]
    known = [value for value in values if value is not None]
    expected = {
        "x_mean": statistics.fmean(known),
        "x_p10": 0.125 + 0.4 * (0.25 - 0.125),
        "x_p50": statistics.median(known),
        "x_p90": 2.0 + 0.6 * (4.0 - 2.0),
        "x_max": max(known),
    }
    table = pa.table({"x": pa.array(values, pa.float32())})
    with duckdb.connect() as connection:
        connection.from_arrow(table).create("t")
        (row,) = (
            connection.sql(f"SELECT {', '.join(sum_up(Statistic('x', 'of a test'), SUMMARIES))} FROM t")
            .to_arrow_table()
            .to_pylist()
        )
    assert row == pytest.approx(expected)


def test_order() -> None:
    assert in_order() == list(STATISTICS)
    found = [statistic.name for statistic in in_order("spread", "probability")]
    assert found == ["spread", "probability", *(name for name in NAMES if name not in ("spread", "probability"))]


@pytest.mark.parametrize("statistic", [one for one in STATISTICS if "mean" in one.gates.values()], ids=lambda one: one.name)
def test_a_gate_of_a_mean_knows_which_images_count_against_it(statistic: Statistic) -> None:
    assert statistic.direction in ("higher", "lower")
