"""Gates: five outcomes worked out by hand on a small store; the built-in questions against plain Python."""

from dataclasses import replace
from functools import partial
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

import pytest

from reports.gates.gates import (
    BUILT_IN,
    WITH_SAMPLES,
    Gate,
    Judgement,
    Outcome,
    as_rows,
    judge,
    overall,
    readable_reference,
    worst_first,
)
from storage.errors import InputError
from storage.runs.run import Run
from storage.sql.sandboxed_query import ask
from tests.reports.stores import SAMPLES, SMALL, Content, make_store, sample

EARLIER = "20261120T030000Z-digits-0001"
"""Of the small store: six correct of eight labelled; ten measured of twelve."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_store(tmp_path_factory.mktemp("gates"), SMALL)


@pytest.fixture(scope="module")
def reference(run: Run) -> Run:
    """An earlier run: seven correct of eight labelled, and half the sparseness."""
    rows = [row | {"sparseness": None if row["sparseness"] is None else row["sparseness"] / 2} for row in SAMPLES]
    rows[2] |= {"prediction": 0, "is_correct": True}
    return make_store(run.store, replace(SMALL, samples=rows, run_id=EARLIER))


def judge_one(gate: Gate, run: Run, reference: Run | None = None) -> Judgement:
    (judgement,) = judge([gate], run, reference)
    return judgement


ACCURACY = 6 / 8


@pytest.mark.parametrize(
    ("limits", "outcome", "message"),
    [
        ({"min": ACCURACY}, Outcome.passed, "0.75 is within the limits"),
        ({"min": ACCURACY, "max": ACCURACY}, Outcome.passed, "within"),
        ({"min": 0.751}, Outcome.failed, "0.75 is below the least allowed, 0.751"),
        ({"max": 0.749}, Outcome.failed, "0.75 is above the most allowed, 0.749"),
        ({"min": 0.8, "severity": "warn"}, Outcome.warned, "0.75 is below the least allowed, 0.8"),
        ({"min": 0.8, "max": 0.5}, Outcome.failed, "0.75 is below the least allowed, 0.8; 0.75 is above the most allowed, 0.5"),
        ({"min": 0, "min_samples": 10}, Outcome.passed, "within"),
        ({"min": 0, "min_samples": 11}, Outcome.not_evaluated, "the run has 10 measured images, and the gate wants at least 11"),
        ({"max_drop": 1}, Outcome.not_evaluated, "there is no earlier run to compare with"),
        ({"max_rise": 1, "severity": "warn"}, Outcome.not_evaluated, "there is no earlier run to compare with"),
    ],
)
def test_limits_of_one_number(limits: dict[str, float], outcome: Outcome, message: str, run: Run) -> None:
    judgement = judge_one(Gate("accuracy", **limits), run)  # type: ignore[arg-type]
    assert judgement.outcome is outcome
    assert message in judgement.message
    assert judgement.value == (None if outcome is Outcome.not_evaluated else ACCURACY)
    assert judgement.fails == (outcome is not Outcome.passed and limits.get("severity") != "warn")


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [
        ({"max_drop": 0.125}, Outcome.passed),
        ({"max_drop": 0.124}, Outcome.failed),
        ({"max_drop": 0.124, "severity": "warn"}, Outcome.warned),
        ({"max_rise": 0.0}, Outcome.passed),
        ({"min": 0.6, "max_drop": 0.2, "max_rise": 0.2}, Outcome.passed),
    ],
)
def test_limits_of_how_far_it_moved(limits: dict[str, float], outcome: Outcome, run: Run, reference: Run) -> None:
    judgement = judge_one(Gate("accuracy", **limits), run, reference)  # type: ignore[arg-type]
    assert (judgement.value, judgement.reference_value) == (ACCURACY, 7 / 8)
    assert judgement.outcome is outcome
    backwards = judge_one(Gate("accuracy", max_rise=0.124), reference, run)
    assert backwards.message == "0.875 is 0.125 above the reference's 0.75, and 0.124 is allowed"


def test_value_of_the_reference_stands_beside_what_no_move_limits(run: Run, reference: Run) -> None:
    for gate in (Gate("accuracy", min=0), Gate("mine", "SELECT avg(is_correct::INTEGER) FROM samples", min=0)):
        assert judge_one(gate, run, reference).reference_value == 7 / 8
        assert judge_one(gate, run).reference_value is None


def test_reference_without_an_answer_is_no_error_where_no_move_is_limited(run: Run, reference: Run) -> None:
    few = "SELECT CASE WHEN count(*) FILTER (is_correct) = 6 THEN 1 END FROM samples"
    judgement = judge_one(Gate("mine", few, max=1), run, reference)
    assert (judgement.outcome, judgement.value, judgement.reference_value) == (Outcome.passed, 1, None)
    assert judge_one(Gate("mine", few, max_rise=1), run, reference).outcome is Outcome.not_evaluated


@pytest.mark.parametrize(
    ("sql", "outcome", "message"),
    [
        ("SELECT 7", Outcome.passed, "7 is within"),
        ("SELECT count(*) FROM samples;", Outcome.passed, "10 is within"),
        ("WITH samples AS (SELECT 1) SELECT count(*) FROM samples", Outcome.passed, "1 is within"),
        ("SELECT true", Outcome.passed, "1 is within"),
        ("SELECT 1.5::DECIMAL(4, 2)", Outcome.passed, "1.5 is within"),
        ("SELECT NULL", Outcome.not_evaluated, "NULL"),
        ("SELECT avg(probability) FROM samples WHERE label = 77", Outcome.not_evaluated, "NULL"),
        ("SELECT TIMESTAMP '294246-01-01'", Outcome.error, "one number"),
        ("SELECT (2::HUGEINT ** 100)::DATE", Outcome.error, ""),
        ("SELECT '9' || repeat('9', 400)", Outcome.error, "one finite number"),
        ("SELECT ('9' || repeat('9', 400))::BIGNUM", Outcome.error, "one"),
        ("SELECT INTERVAL 3000000 YEAR", Outcome.error, "one number"),
        ("SELECT 'infinity'::DATE", Outcome.error, "one number"),
        ("SELECT count(*) FROM reference.samples", Outcome.not_evaluated, "no earlier run"),
        ("SELECT (SELECT count(*) FROM Reference.samples)", Outcome.not_evaluated, "no earlier run"),
        ("SELECT 'seven'", Outcome.error, "'seven'"),
        ("SELECT '7'", Outcome.error, "'7'"),
        ("SELECT 'nan'::DOUBLE", Outcome.error, "nan"),
        ("SELECT 'inf'::DOUBLE", Outcome.error, "inf"),
        ("SELECT sample_index FROM samples", Outcome.error, "10 rows of 1"),
        ("SELECT 1, 2", Outcome.error, "1 rows of 2"),
        ("SELECT 1 WHERE false", Outcome.error, "0 rows of 1"),
        ("SELECT count(*) FROM sample", Outcome.error, "did you mean 'samples'"),
        ("SELEC 1", Outcome.error, "cannot be run"),
        ("DROP TABLE samples", Outcome.error, "exactly one SELECT"),
        ("SELECT 1; SELECT 2", Outcome.error, "exactly one SELECT"),
        ("SELECT count(*) FROM read_csv('/etc/passwd')", Outcome.error, "read_csv"),
    ],
)
def test_any_question(sql: str, outcome: Outcome, message: str, run: Run) -> None:
    judgement = judge_one(Gate("mine", sql, min=0), run)
    assert judgement.outcome is outcome
    assert message in judgement.message
    assert judgement.fails == (outcome is not Outcome.passed)
    assert judge_one(Gate("mine", sql, min=0, severity="warn"), run).fails is False


def test_question_without_an_end_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reports.gates.gates.ask", partial(ask, timeout_secs=1))
    judgement = judge_one(Gate("mine", "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c", min=0), run)
    assert judgement.outcome is Outcome.error
    assert judgement.message.startswith("the query took longer than 1 s and was stopped")


@pytest.mark.parametrize("limits", [{"min": -1e9, "max": 1e9}, {"max_drop": 1e9, "max_rise": 1e9}])
def test_question_that_asks_both_runs(limits: dict[str, float], run: Run, reference: Run) -> None:
    sql = "SELECT avg(s.sparseness) - (SELECT avg(sparseness) FROM reference.samples) FROM samples AS s;"
    judgement = judge_one(Gate("mine", sql, **limits), run, reference)  # type: ignore[arg-type]
    sparseness = mean(row["sparseness"] for row in SAMPLES if row["sparseness"] is not None)
    assert judgement.value == pytest.approx(sparseness / 2)
    # Put to the reference, it compares the reference with itself.
    assert judgement.reference_value == (0 if "max_drop" in limits else None)


def test_reference_too_small(run: Run) -> None:
    small = make_store(run.store, Content(["cat", "dog"], SAMPLES[:2], run_id="20261119T030000Z-digits-0002"))
    judgement = judge_one(Gate("accuracy", max_drop=1, min_samples=5), run, small)
    assert judgement.outcome is Outcome.not_evaluated
    assert judgement.message == "the reference has 2 measured images, and the gate wants at least 5"
    assert judge_one(Gate("accuracy", min=0, min_samples=5), run, small).outcome is Outcome.passed, "it is not asked about"


def test_built_in_questions_by_hand(run: Run, reference: Run) -> None:
    mapped = [row for row in SAMPLES if row["dominant_class"] is not None]
    correct = [row for row in SAMPLES if row["is_correct"]]
    sparseness = [row["sparseness"] for row in mapped]
    halved = [value / 2 for value in sparseness]
    expected = {
        "accuracy": ACCURACY,
        "agreement": sum(row["dominant_class"] == row["prediction"] for row in SAMPLES) / 10,
        "class_accuracy": min(2 / 3, 2 / 3, 2 / 2),
        "class_cosine": 0.25,
        "failed": 2 / 12,
        "other_evidence": sum(row["dominant_class"] != row["label"] for row in correct) / len(correct),
        "sparseness_shift": (mean(sparseness) - mean(halved)) / stdev(halved),
    }
    found = {
        judgement.gate.name: judgement.value for judgement in judge([Gate(name, min=0) for name in BUILT_IN], run, reference)
    }
    assert found.pop("localization_shift") is None, "all areas of the reference are the same: nothing to measure the shift in"
    # Scores are stored in float32.
    assert found == pytest.approx(expected, rel=1e-5)


def test_shift_of_place_by_hand(run: Run) -> None:
    areas = [0.1, 0.2, 0.6]
    rows = [sample(i, 0, 0, 0.5, 0, (1, 1, 1)) | {"half_energy_area_frac": area} for i, area in enumerate(areas)]
    spread = make_store(run.store, Content(["cat", "dog"], rows, run_id="20261119T030000Z-digits-0003"))
    judgement = judge_one(Gate("localization_shift", max=1), run, spread)
    assert judgement.value == pytest.approx((0.3 - 0.125) / sqrt(0.07), rel=1e-5)


def test_class_too_small_is_not_the_floor(run: Run) -> None:
    """The third class has two labelled images, both right; the others three."""
    assert judge_one(Gate("class_accuracy", min=0, min_samples=3), run).value == pytest.approx(2 / 3)
    rows = [row | {"is_correct": False, "prediction": 1} if row["label"] == 2 else row for row in SAMPLES]
    other = make_store(run.store, replace(SMALL, samples=rows, run_id="20261119T030000Z-digits-0004"))
    assert judge_one(Gate("class_accuracy", min=0, min_samples=3), other).value == pytest.approx(2 / 3)
    assert judge_one(Gate("class_accuracy", min=0, min_samples=1), other).value == 0


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([], "not judged"),
        ([("error", "passed"), ("warn", "passed")], "passed"),
        ([("error", "passed"), ("warn", "warned")], "warned"),
        ([("error", "passed"), ("warn", "error")], "warned"),
        ([("error", "passed"), ("warn", "not evaluated")], "warned"),
        ([("warn", "passed"), ("error", "failed")], "failed"),
        ([("warn", "passed"), ("error", "error")], "failed"),
        ([("warn", "passed"), ("error", "not evaluated")], "failed"),
    ],
)
def test_what_all_gates_come_to(results: list[tuple[str, str]], expected: str) -> None:
    assert overall(results) == expected


def test_worst_come_first_and_rows_are_in_order(run: Run) -> None:
    gates = [
        Gate("accuracy", min=0),
        Gate("agreement", min=1, severity="warn"),
        Gate("unasked", "SELECT NULL", min=0),
        Gate("class_cosine", max=0.1),
        Gate("broken", "SELECT", min=0),
        Gate("quiet", "SELECT NULL", min=0, severity="warn"),
    ]
    judgements = judge(gates, run, None)
    order = ["class_cosine", "broken", "unasked", "quiet", "agreement", "accuracy"]
    assert [judgement.gate.name for judgement in worst_first(judgements)] == order
    rows = as_rows(judgements, None).to_pylist()
    assert [row["gate_name"] for row in rows] == [gate.name for gate in gates]
    assert [row["outcome"] for row in rows] == ["passed", "warned", "not evaluated", "failed", "error", "not evaluated"]
    assert rows[3]["most"] == 0.1
    assert rows[3]["sql"] == "SELECT avg(class_cosine) FROM samples"


def plain_samples(name: str) -> list[int]:
    """The images that count against a built-in gate, without SQL, of the small store against its reference."""
    rows = [row | {"gap": (row["dominant_energy_frac"] or 9) - (row["label_energy_frac"] or 0)} for row in SAMPLES]
    wrong = sorted((row for row in rows if row["is_correct"] is False), key=lambda row: -row["probability"])
    kept = [row for row in rows if row["is_correct"] and row["dominant_class"] != row["label"]]
    apart = [row for row in rows if row["dominant_class"] != row["prediction"]]
    halves = [row["sparseness"] / 2 for row in rows if row["sparseness"] is not None]
    away = {row["sample_index"]: abs(row["sparseness"] - mean(halves)) for row in rows if row["sparseness"] is not None}
    found = {
        "accuracy": [row["sample_index"] for row in wrong],
        "agreement": [row["sample_index"] for row in sorted(apart, key=lambda row: row["prediction_energy_frac"] or -1)],
        # The cat and the script both have two of three right: the first of them.
        "class_accuracy": [row["sample_index"] for row in wrong if row["label"] == 0],
        "class_cosine": [],
        "localization_shift": [],
        "other_evidence": [row["sample_index"] for row in sorted(kept, key=lambda row: -row["gap"])],
        "sparseness_shift": [index for index in sorted(away, key=lambda index: -away[index]) if away[index] > stdev(halves)],
    }
    return found[name]


@pytest.mark.parametrize("name", WITH_SAMPLES)
def test_images_that_count_against_a_built_in_gate(name: str, run: Run, reference: Run) -> None:
    assert list(judge_one(Gate(name, min=0), run, reference).samples) == plain_samples(name)


@pytest.mark.parametrize(
    ("sql", "samples"),
    [
        ("SELECT sample_index, label FROM samples WHERE sample_index < 2 ORDER BY 1 DESC", (1, 0)),
        ("SELECT NULL::INT AS sample_index", ()),
        ("SELECT sample_index FROM samples WHERE false", ()),
        (None, ()),
    ],
)
def test_images_that_count_against_a_gate_of_ones_own(sql: str | None, samples: tuple[int, ...], run: Run) -> None:
    judgement = judge_one(Gate("mine", "SELECT 1", min=0, samples=sql), run)
    assert (judgement.outcome, judgement.samples) == (Outcome.passed, samples)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT 1", "must return a column sample_index of whole numbers"),
        ("SELECT 1.5 AS sample_index", "must return a column sample_index of whole numbers"),
        ("SELECT 'x' AS sample_index", "must return a column sample_index of whole numbers"),
        ("SELECT nothing FROM samples", "the query cannot be run"),
        ("COPY samples TO 'x'", "must be exactly one SELECT"),
    ],
)
def test_a_gate_whose_images_cannot_be_found_is_an_error(sql: str, message: str, run: Run) -> None:
    judgement = judge_one(Gate("mine", "SELECT 1", min=0, samples=sql), run)
    assert judgement.outcome is Outcome.error
    assert message in judgement.message


def test_a_reference_that_is_damaged_is_named(tmp_path: Path) -> None:
    run, reference = make_store(tmp_path, SMALL), make_store(tmp_path, replace(SMALL, run_id=EARLIER))
    assert readable_reference(run, reference.run_id) == reference
    reference.table("samples").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="table 'samples' cannot be read"):
        readable_reference(run, reference.run_id)
    with pytest.raises(InputError, match="names no finished run"):
        readable_reference(run, "20200101T000000Z")


def test_an_answer_that_is_no_number_is_cut(run: Run) -> None:
    judgement = judge_one(Gate("mine", "SELECT repeat('x', 300000)", max=1), run)
    assert judgement.outcome is Outcome.error
    assert judgement.message.endswith("… (300,002 characters)")
    assert len(judgement.message) < 400
