"""Questions in a process of their own: the same rows as without, and an end to what would have none."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import storage.sql.sandboxed_query
from storage.errors import InputError
from storage.sql.read_only import connect, select
from storage.sql.sandboxed_query import ask, asks_reference

OLD_STORE = Path(__file__).parents[1] / "old_stores" / "v1"
PutRows = Callable[..., Path]
FilesOf = Callable[[Path], dict[str, str]]

TYPES = """
SELECT 1::HUGEINT AS h, uuid() IS NULL AS b, [1, NULL] AS l, {'a': 1} AS s, MAP {'a': 1} AS m, [1, 2]::INTEGER[2] AS a,
    'a'::ENUM ('a', 'b') AS e, TIMESTAMPTZ '2026-11-21 03:00:00+00' AS z, 1.5::DECIMAL(10, 2) AS d,
    'é' || chr(10) AS x, NULL AS n
"""


@pytest.fixture
def store(tmp_path: Path, put_rows: PutRows) -> Path:
    put_rows("a", "samples", [{"sample_index": index, "label": index % 2} for index in range(3)])
    put_rows("b", "samples", [{"sample_index": 0, "label": 1}])
    return tmp_path


@pytest.mark.parametrize("sql", ["SELECT * FROM samples ORDER BY ALL", "FROM runs", TYPES])
def test_rows_are_those_of_a_connection_in_this_process(sql: str) -> None:
    runs = [path.parent.name for path in OLD_STORE.glob("runs/*/manifest.json")]
    expected = select(connect(OLD_STORE, runs), sql)
    assert expected.num_rows
    assert ask(OLD_STORE, runs, sql).equals(expected)


def test_columns_of_one_name_are_told_apart(store: Path) -> None:
    sql = "SELECT 1 AS energy, 2 AS energy, 'x' AS \"o'\"\"'s\""
    names = ["energy", "energy_1", "o'\"'s"]
    assert ask(store, ["a"], sql).column_names == names
    assert ask(store, ["a"], sql, values="text").to_pylist() == [dict(zip(names, [1, 2, "x"], strict=True))]
    (text,) = ask(store, ["a"], sql, values="json").column("json").to_pylist()
    assert json.loads(text) == dict(zip(names, [1, 2, "x"], strict=True))


UNUSUAL = {
    # 2^128 - 1, which Arrow would take for -1
    "340282366920938463463374607431768211455::UHUGEINT": "340282366920938463463374607431768211455",
    "[340282366920938463463374607431768211455::UHUGEINT]": "[340282366920938463463374607431768211455]",
    "INTERVAL '1 year 2 days'": "1 year 2 days",
    "TIMETZ '03:00:01+02'": "03:00:01+02",
    "'101'::BIT": "101",
    "{'when': INTERVAL 1 DAY}": "{'when': 1 day}",
}


@pytest.mark.parametrize("values", ["arrow", "text"])
def test_what_arrow_has_no_type_for_is_in_duckdbs_words(store: Path, values: Any) -> None:
    sql = "SELECT " + ", ".join(f"{expression} AS v{number}" for number, expression in enumerate(UNUSUAL))
    assert list(ask(store, ["a"], sql, values=values).to_pylist()[0].values()) == list(UNUSUAL.values())


def test_both_runs_of_a_comparison_are_seen(store: Path) -> None:
    sql = "SELECT (SELECT count(*) FROM samples) AS here, count(*) AS there FROM reference.samples"
    assert ask(store, ["a"], sql, reference="b").to_pylist() == [{"here": 3, "there": 1}]
    assert asks_reference(store, sql)
    assert not asks_reference(store, "SELECT count(*) FROM samples AS reference")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("COPY (SELECT 1) TO '{}/x.csv'", "exactly one SELECT, and this is COPY"),
        ("FROM sample", "did you mean 'samples'"),
        ("SELECT 'é'::INT", "é"),
        ("SELECT error(chr(10) || 'word')", "the query cannot be run"),
        ("SELECT '\ud800'", "not valid UTF-8"),
        ("", "this is nothing"),
    ],
)
def test_what_is_refused_is_said_in_one_line_and_writes_nothing(store: Path, sql: str, message: str, files_of: FilesOf) -> None:
    before = files_of(store)
    with pytest.raises(InputError, match=message) as caught:
        ask(store, ["a"], sql.format(store))
    assert "\n" not in str(caught.value)
    assert files_of(store) == before


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE t AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM t) SELECT max(i) FROM t",
        "SELECT count(*) FROM range(1000000) AS a, range(1000000) AS b, range(1000000) AS c",
        # DuckDB cannot be interrupted in the midst of these.
        "SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))",
        "SELECT * FROM " + 20_000 * "(" + "samples" + 20_000 * ")",
    ],
    ids=["recursion", "product", "function", "parentheses"],
)
def test_what_has_no_end_is_stopped(store: Path, sql: str) -> None:
    with pytest.raises(InputError, match=r"took longer than 1 s and was stopped: ask for less"):
        ask(store, ["a"], sql, timeout_secs=1)
    asked = [child for child in psutil.Process().children() if "storage.sql.sandboxed_query" in " ".join(child.cmdline())]
    assert asked == []


@pytest.mark.parametrize(
    "sql",
    ["SELECT repeat('x', 1000000000000)", "SELECT length(repeat('x', 4200000000))", "SELECT generate_series(1, 3000000000)"],
)
def test_what_needs_too_much_memory_is_an_error(store: Path, sql: str) -> None:
    with pytest.raises(InputError, match=r"Out of Memory|Out of Range|Lists larger|memory that it may take"):
        ask(store, ["a"], sql)


def test_an_answer_that_is_too_large_is_not_taken(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.sql.sandboxed_query, "ANSWER_BYTES", 1 << 20)
    with pytest.raises(InputError, match=r"the answer is larger than .*: ask for less"):
        ask(store, ["a"], "SELECT * FROM range(1000000000000)")


def test_modules_of_the_working_directory_are_not_taken_for_ours(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("duckdb", "storage", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(storage.sql.sandboxed_query.__file__).parents[1]))
    assert ask(store, ["a"], "SELECT 1 AS n").to_pylist() == [{"n": 1}]


def limited(work: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a line of Python under the limits of a question."""
    script = f"from storage.sql.sandboxed_query import _limit_process; _limit_process(0); {work}"
    root = str(Path(storage.sql.sandboxed_query.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root}
    command: Any = [sys.executable, "-P", "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="the limits of a process are Linux's")
def test_its_process_can_write_no_file_nor_take_all_memory_nor_outlive_its_time(tmp_path: Path) -> None:
    assert "File too large" in limited("open('x', 'w').write('x' * 100000)", tmp_path).stderr
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0
    assert "MemoryError" in limited("bytearray(5 << 30)", tmp_path).stderr
    assert limited("import time; time.sleep(60)", tmp_path).returncode < 0
