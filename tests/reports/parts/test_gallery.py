"""Which samples a reviewer sees first, against the same choice in plain Python."""

import hashlib
import json
import random
from pathlib import Path

import pytest

from reports.gates.gate import Gate
from reports.gates.judgement import GateOutcome, Judgement
from reports.parts.gallery import Choice, choose_samples, read_gallery
from storage.errors import InputError
from storage.runs.run import Run
from storage.sql.read_only import connect
from tests.reports.stores import SMALL, Content, Row, make_store, many_classes, sample, write_gallery


def plain_choice(rows: list[Row], count: int, seed: int) -> list[Choice]:
    """`choose_samples` without SQL."""
    other = [row for row in rows if row["is_correct"] and row["dominant_class"] not in (None, row["prediction"])]
    other.sort(key=lambda row: (row["prediction_energy_frac"] - row["dominant_energy_frac"], row["sample_index"]))
    errors = [row for row in rows if row["is_correct"] is False]
    errors.sort(key=lambda row: (-row["probability"], row["sample_index"]))
    drawn = sorted(rows, key=lambda row: hashlib.md5(f"{row['sample_index']} {seed}".encode()).hexdigest())
    cells: dict[tuple[int, int], Row] = {}
    for row in sorted(rows, key=lambda row: (-(row["dominant_energy_frac"] or 0), row["sample_index"])):
        none = 99
        place = tuple(none if row[name] is None else row[name] for name in ("label", "dominant_class"))
        cells.setdefault(place, row)
    groups = {"other_evidence": other[:count], "confident_error": errors[:count], "random": drawn[:count]}
    groups["cell"] = [cells[place] for place in sorted(cells)] if count else []
    return [Choice(row["sample_index"], reason) for reason, chosen in groups.items() for row in chosen]


def random_rows(count: int) -> list[Row]:
    """Rows with many ties: values are eighths, which float32 holds exactly."""
    generator = random.Random(5)

    def eighth() -> float:
        return generator.randrange(1, 9) / 8

    rows = []
    for index in range(count):
        label = generator.choice([None, 0, 1, 2])
        dominant = generator.choice([None, 0, 1, 2])
        shares = (eighth(), eighth(), eighth()) if dominant is not None else (None, None, None)
        rows.append(sample(index, label, generator.randrange(3), eighth(), dominant, shares))
    return rows


@pytest.fixture(scope="module")
def random_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_store(tmp_path_factory.mktemp("random"), Content(["a", "b", "c"], random_rows(300)))


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (1, 0), (8, 0), (8, 1), (1000, 2)])
def test_choice_equals_plain_python(random_run: Run, count: int, seed: int) -> None:
    connection = connect(random_run.store, [random_run.run_id])
    assert choose_samples(connection, random_run.run_id, count, seed, 3, []) == plain_choice(random_rows(300), count, seed)


def test_choice_worked_by_hand(small_run: Run) -> None:
    chosen = choose_samples(connect(small_run.store, [small_run.run_id]), small_run.run_id, 2, 7, 3, [])
    assert [choice for choice in chosen if choice.reason not in ("random", "cell")] == [
        Choice(1, "other_evidence"),
        Choice(6, "other_evidence"),
        Choice(2, "confident_error"),
        Choice(5, "confident_error"),
    ]


def test_samples_that_count_against_a_gate_stand_first(small_run: Run) -> None:
    """Of a gate that passed there is no group; what counts against it is known all the same. Sample 10 was not measured."""
    missed = Judgement(Gate("missed", "SELECT 1", min=0), GateOutcome.warned, "", samples=(10, 6, 1, 4))
    kept = Judgement(Gate("kept", "SELECT 1", min=0), GateOutcome.passed, "", samples=(2, 1))
    chosen = choose_samples(connect(small_run.store, [small_run.run_id]), small_run.run_id, 2, 7, 3, [kept, missed])
    assert chosen[:3] == [
        Choice(6, "gate:missed", ("missed",)),
        Choice(1, "gate:missed", ("kept", "missed")),
        Choice(1, "other_evidence", ("kept", "missed")),
    ]
    assert Choice(2, "confident_error", ("kept",)) in chosen


def test_of_many_classes_the_cells_off_the_diagonal_are_shown(tmp_path: Path) -> None:
    run = make_store(tmp_path, many_classes(60))
    chosen = choose_samples(connect(run.store, [run.run_id]), run.run_id, 1, 7, 60, [])
    assert [choice.sample_index for choice in chosen if choice.reason == "cell"] == list(range(50))


def test_random_draw_depends_on_the_seed_alone(random_run: Run) -> None:
    def draw(seed: int) -> list[int]:
        connection = connect(random_run.store, [random_run.run_id])
        chosen = choose_samples(connection, random_run.run_id, 8, seed, 3, [])
        return [choice.sample_index for choice in chosen if choice.reason == "random"]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)
    assert max(draw(3)) > 8


def test_no_gallery_where_nothing_was_drawn(tmp_path: Path) -> None:
    run = make_store(tmp_path, Content(SMALL.classes, SMALL.samples))
    assert read_gallery(run) is None
    run.gallery.mkdir()
    assert read_gallery(run) is None
    write_gallery(run, ["#000000"] * 3, [])
    assert read_gallery(run) is None


@pytest.mark.parametrize("color", ["red;background:url(http://x)", "#12345", "#12345g", "#1234567"])
def test_a_color_that_is_not_one_is_refused(tmp_path: Path, color: str) -> None:
    run = make_store(tmp_path, Content(SMALL.classes, SMALL.samples))
    run.gallery.mkdir()
    (run.gallery / "gallery.json").write_text(json.dumps({"colors": [color], "samples": []}))
    with pytest.raises(InputError, match=r"gallery\.json"):
        read_gallery(run)
