"""The SQL of the built-in gates that ask for a statistic, put to a few values by hand."""

from typing import Literal

import duckdb
import pyarrow as pa
import pytest

from reports.gates import gate
from reports.gates.gate import BUILT_IN, WITH_SAMPLES, Gate
from storage.statistics import Statistic


def test_built_in_gates_have_the_names_that_configs_give() -> None:
    other = ("accuracy", "agreement", "class_accuracy", "class_cosine", "failed", "localization_shift", "other_evidence")
    assert {*other, "sparseness_shift"} <= {*BUILT_IN}
    assert {*BUILT_IN} - {*WITH_SAMPLES} == {"failed"}


@pytest.mark.parametrize(("direction", "worst_first"), [("lower", [3, 0]), ("higher", [2, 1])])
def test_worse_than_the_mean_is_what_speaks_against_the_evidence(
    monkeypatch: pytest.MonkeyPatch, direction: Literal["lower", "higher"], worst_first: list[int]
) -> None:
    """Of a mean of 3."""
    statistic = Statistic("x", "of a test", direction, gates={"mine": "mean"})
    monkeypatch.setattr(gate, "OF_STATISTICS", {"mine": (statistic, "mean")})
    for names in ("BUILT_IN", "WITH_SAMPLES"):
        monkeypatch.setattr(gate, names, ("mine",))
    asked = Gate("mine", max=1)
    assert asked.samples_text is not None
    samples = pa.table({"sample_index": [0, 1, 2, 3, 4], "x": [4.0, 2.0, 1.0, 5.0, None]})
    with duckdb.connect() as connection:
        connection.from_arrow(samples).create("samples")
        assert connection.sql(asked.text).fetchall() == [(3.0,)]
        assert [index for (index,) in connection.sql(asked.samples_text).fetchall()] == worst_first


def test_the_text_of_a_shift_is_that_of_its_statistic() -> None:
    shift = Gate("localization_shift", max=1)
    assert shift.samples_text == (
        "SELECT sample_index\n"
        "FROM samples, (SELECT avg(half_energy_area_frac) AS mean, stddev_samp(half_energy_area_frac) AS deviation "
        "FROM reference.samples)\n"
        "WHERE abs(half_energy_area_frac - mean) > deviation\n"
        "ORDER BY abs(half_energy_area_frac - mean) DESC, sample_index"
    )
    assert shift.text == Gate("sparseness_shift", max=1).text.replace("sparseness", "half_energy_area_frac")
