"""Gates put to tables: five outcomes worked out by hand on a small store; the built-in questions against plain Python."""

from dataclasses import replace
from functools import partial
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

import pytest

from reports.context import open_context
from reports.gates.gate import BUILT_IN, WITH_SAMPLES, Gate
from reports.gates.judgement import GateOutcome, Judgement
from reports.gates.judging import judge, readable_reference
from storage.errors import InputError
from storage.runs.run import Run
from storage.sql.read_only import select
from storage.sql.sandboxed_query import ask
from tests.reports.parts.test_gallery import random_rows
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
        ({"min": ACCURACY}, GateOutcome.passed, "0.75 is within the limits"),
        ({"min": ACCURACY, "max": ACCURACY}, GateOutcome.passed, "within"),
        ({"min": 0.751}, GateOutcome.failed, "0.75 is below the least allowed, 0.751"),
        ({"max": 0.749}, GateOutcome.failed, "0.75 is above the most allowed, 0.749"),
        ({"min": 0.8, "severity": "warn"}, GateOutcome.warned, "0.75 is below the least allowed, 0.8"),
        (
            {"min": 0.8, "max": 0.5},
            GateOutcome.failed,
            "0.75 is below the least allowed, 0.8; 0.75 is above the most allowed, 0.5",
        ),
        ({"min": 0, "min_samples": 10}, GateOutcome.passed, "within"),
        (
            {"min": 0, "min_samples": 11},
            GateOutcome.not_evaluated,
            "the run has 10 measured images, and the gate wants at least 11",
        ),
        ({"max_drop": 1}, GateOutcome.not_evaluated, "there is no earlier run to compare with"),
        ({"max_rise": 1, "severity": "warn"}, GateOutcome.not_evaluated, "there is no earlier run to compare with"),
    ],
)
def test_limits_of_one_number(limits: dict[str, float], outcome: GateOutcome, message: str, run: Run) -> None:
    judgement = judge_one(Gate("accuracy", **limits), run)  # type: ignore[arg-type]
    assert judgement.outcome is outcome
    assert message in judgement.message
    assert judgement.value == (None if outcome is GateOutcome.not_evaluated else ACCURACY)
    assert judgement.fails == (outcome is not GateOutcome.passed and limits.get("severity") != "warn")


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [
        ({"max_drop": 0.125}, GateOutcome.passed),
        ({"max_drop": 0.124}, GateOutcome.failed),
        ({"max_drop": 0.124, "severity": "warn"}, GateOutcome.warned),
        ({"max_rise": 0.0}, GateOutcome.passed),
        ({"min": 0.6, "max_drop": 0.2, "max_rise": 0.2}, GateOutcome.passed),
    ],
)
def test_limits_of_how_far_it_moved(limits: dict[str, float], outcome: GateOutcome, run: Run, reference: Run) -> None:
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
    assert (judgement.outcome, judgement.value, judgement.reference_value) == (GateOutcome.passed, 1, None)
    assert judge_one(Gate("mine", few, max_rise=1), run, reference).outcome is GateOutcome.not_evaluated


@pytest.mark.parametrize(
    ("sql", "outcome", "message"),
    [
        ("SELECT 7", GateOutcome.passed, "7 is within"),
        ("SELECT count(*) FROM samples;", GateOutcome.passed, "10 is within"),
        ("WITH samples AS (SELECT 1) SELECT count(*) FROM samples", GateOutcome.passed, "1 is within"),
        ("SELECT true", GateOutcome.passed, "1 is within"),
        ("SELECT 1.5::DECIMAL(4, 2)", GateOutcome.passed, "1.5 is within"),
        ("SELECT NULL", GateOutcome.not_evaluated, "NULL"),
        ("SELECT avg(probability) FROM samples WHERE label = 77", GateOutcome.not_evaluated, "NULL"),
        ("SELECT TIMESTAMP '294246-01-01'", GateOutcome.error, "one number"),
        ("SELECT (2::HUGEINT ** 100)::DATE", GateOutcome.error, ""),
        ("SELECT '9' || repeat('9', 400)", GateOutcome.error, "one finite number"),
        ("SELECT ('9' || repeat('9', 400))::BIGNUM", GateOutcome.error, "one"),
        ("SELECT INTERVAL 3000000 YEAR", GateOutcome.error, "one number"),
        ("SELECT 'infinity'::DATE", GateOutcome.error, "one number"),
        ("SELECT count(*) FROM reference.samples", GateOutcome.not_evaluated, "no earlier run"),
        ("SELECT (SELECT count(*) FROM Reference.samples)", GateOutcome.not_evaluated, "no earlier run"),
        ("SELECT 'seven'", GateOutcome.error, "'seven'"),
        ("SELECT '7'", GateOutcome.error, "'7'"),
        ("SELECT 'nan'::DOUBLE", GateOutcome.error, "nan"),
        ("SELECT 'inf'::DOUBLE", GateOutcome.error, "inf"),
        ("SELECT sample_index FROM samples", GateOutcome.error, "10 rows of 1"),
        ("SELECT 1, 2", GateOutcome.error, "1 rows of 2"),
        ("SELECT 1 WHERE false", GateOutcome.error, "0 rows of 1"),
        ("SELECT count(*) FROM sample", GateOutcome.error, "did you mean 'samples'"),
        ("SELEC 1", GateOutcome.error, "cannot be run"),
        ("DROP TABLE samples", GateOutcome.error, "exactly one SELECT"),
        ("SELECT 1; SELECT 2", GateOutcome.error, "exactly one SELECT"),
        ("SELECT count(*) FROM read_csv('/etc/passwd')", GateOutcome.error, "read_csv"),
    ],
)
def test_any_question(sql: str, outcome: GateOutcome, message: str, run: Run) -> None:
    judgement = judge_one(Gate("mine", sql, min=0), run)
    assert judgement.outcome is outcome
    assert message in judgement.message
    assert judgement.fails == (outcome is not GateOutcome.passed)
    assert judge_one(Gate("mine", sql, min=0, severity="warn"), run).fails is False


def test_question_without_an_end_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reports.gates.judging.ask", partial(ask, timeout_secs=1))
    judgement = judge_one(Gate("mine", "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c", min=0), run)
    assert judgement.outcome is GateOutcome.error
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
    assert judgement.outcome is GateOutcome.not_evaluated
    assert judgement.message == "the reference has 2 measured images, and the gate wants at least 5"
    assert judge_one(Gate("accuracy", min=0, min_samples=5), run, small).outcome is GateOutcome.passed, "it is not asked about"


def test_built_in_questions_by_hand(run: Run, reference: Run) -> None:
    mapped = [row for row in SAMPLES if row["dominant_class"] is not None]
    correct = [row for row in mapped if row["is_correct"]]
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


def test_headline_gate_and_view_have_one_number_where_images_have_no_dominant_class(tmp_path: Path) -> None:
    """Of 300 samples a quarter have none. An image without evidence is not for another class, nor in the gate's share."""
    rows = random_rows(300)
    run = make_store(tmp_path, Content(["a", "b", "c"], rows))
    correct = [row for row in rows if row["is_correct"] and row["dominant_class"] is not None]
    other = {row["sample_index"] for row in correct if row["dominant_class"] != row["prediction"]}
    agreeing = sum(row["dominant_class"] == row["prediction"] for row in rows)
    assert 0 < len(other) < len(correct) < sum(row["is_correct"] is True for row in rows)
    gates = {name: judge_one(Gate(name, min=0), run) for name in ("other_evidence", "agreement")}
    with open_context(run) as context:
        (headline,), facts = context.verdict.rows, context.facts.rows[0]
        by_class = {row["class_index"]: row for row in select(context.connection, "FROM class_stats").to_pylist()}
    (view,) = ask(run.store, [run.run_id], VERDICTS).to_pylist()
    assert headline["other_evidence_count"] == view["other"] == len(other)
    assert gates["other_evidence"].value == view["other"] / view["shown"] == len(other) / len(correct)
    assert set(gates["other_evidence"].samples) == other
    assert headline["agreement_count"] == view["agreeing"] == agreeing
    assert gates["agreement"].value == facts["agreement_frac"] == agreeing / 300
    assert len(gates["agreement"].samples) == 300 - agreeing
    for label, row in by_class.items():
        own = [row["dominant_class"] == row["prediction"] for row in rows if row["label"] == label]
        assert row["agreement_frac"] == sum(own) / len(own)


VERDICTS = """
SELECT
    count(*) FILTER (agrees) AS agreeing,
    count(*) FILTER (is_correct AND is_for_another_class) AS other,
    count(is_for_another_class) FILTER (is_correct) AS shown
FROM evidence_verdicts
"""


def test_without_any_evidence_nothing_is_said_of_other_classes(tmp_path: Path) -> None:
    rows = [sample(index, 0, 0, 0.5, None, (None, None, None)) for index in range(3)]
    run = make_store(tmp_path, Content(["a", "b"], rows))
    assert judge_one(Gate("other_evidence", max=1), run).outcome is GateOutcome.not_evaluated
    agreement = judge_one(Gate("agreement", min=0.5), run)
    assert (agreement.outcome, agreement.value, agreement.samples) == (GateOutcome.failed, 0, (0, 1, 2))


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


def plain_samples(name: str) -> list[int]:
    """The images that count against a built-in gate, without SQL, of the small store against its reference."""
    rows = [row | {"gap": (row["dominant_energy_frac"] or 0) - (row["label_energy_frac"] or 0)} for row in SAMPLES]
    wrong = sorted((row for row in rows if row["is_correct"] is False), key=lambda row: -row["probability"])
    kept = [row for row in rows if row["is_correct"] and row["dominant_class"] not in (row["label"], None)]
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
    assert (judgement.outcome, judgement.samples) == (GateOutcome.passed, samples)


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
    assert judgement.outcome is GateOutcome.error
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
    assert judgement.outcome is GateOutcome.error
    assert judgement.message.endswith("… (300,002 characters)")
    assert len(judgement.message) < 400
