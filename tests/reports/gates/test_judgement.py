"""What gates came to, all together."""

import pytest

from reports.gates.gate import Gate
from reports.gates.judgement import as_rows, overall, worst_first
from reports.gates.judging import judge
from storage.runs.run import Run


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


def test_worst_come_first_and_rows_are_in_order(small_run: Run) -> None:
    gates = [
        Gate("accuracy", min=0),
        Gate("agreement", min=1, severity="warn"),
        Gate("unasked", "SELECT NULL", min=0),
        Gate("class_cosine", max=0.1),
        Gate("broken", "SELECT", min=0),
        Gate("quiet", "SELECT NULL", min=0, severity="warn"),
    ]
    judgements = judge(gates, small_run, None)
    order = ["class_cosine", "broken", "unasked", "quiet", "agreement", "accuracy"]
    assert [judgement.gate.name for judgement in worst_first(judgements)] == order
    rows = as_rows(judgements, None).to_pylist()
    assert [row["gate_name"] for row in rows] == [gate.name for gate in gates]
    assert [row["outcome"] for row in rows] == ["passed", "warned", "not evaluated", "failed", "error", "not evaluated"]
    assert rows[3]["most"] == 0.1
    assert rows[3]["sql"] == "SELECT avg(class_cosine) FROM samples"
