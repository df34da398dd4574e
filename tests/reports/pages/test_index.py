"""The page over all runs: what it says of each, and that it reads only what is new."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reports.gates.gate import Gate
from reports.pages import index
from reports.pages.index import refresh, write_index
from storage.runs.run import Run
from tests.reports.page import parse, plain
from tests.reports.stores import SAMPLES, SCRIPT, SMALL, Content, make_store

FIRST, SECOND = "20261119T030000Z-digits-0001", "20261120T030000Z-digits-0002"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_store(tmp_path, Content(SMALL.classes, SAMPLES[:3], run_id=FIRST))
    make_store(tmp_path, Content(SMALL.classes, SAMPLES, run_id=SECOND, gates=[Gate("accuracy", min=0.5)]))
    make_store(tmp_path, SMALL)
    return tmp_path


def test_runs_latest_first_with_their_verdicts(store: Path) -> None:
    page = parse(write_index(store).read_text(encoding="utf-8"))
    rows = [[plain(cell) for cell in row] for row in page.table("Runs of digits <audit>")]
    assert [row[0] for row in rows] == [SMALL.run_id, SECOND, FIRST]
    assert [row[2] for row in rows] == ["✗ failed, 1 of 5 passed", "✓ passed, 1 of 1 passed", "– not judged"]
    assert rows[0][1] == "2026-11-21 03:00"
    assert rows[0][3:6] == ["10", "2", "75.0 %"]
    links = [element.attributes["href"] for element in page.all("a")][1:]
    assert links == [f"{run_id}.html" for run_id in (SMALL.run_id, SECOND, FIRST)]
    assert page.all("svg")
    assert not page.all("script")


def test_only_new_runs_are_read(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[str]] = []
    read_runs = index.read_runs

    def counting(store: Path, runs: list[Run]) -> dict[str, index.IndexRow]:
        read.append([run.run_id for run in runs])
        return read_runs(store, runs)

    monkeypatch.setattr(index, "read_runs", counting)
    before = write_index(store).read_text(encoding="utf-8")
    assert write_index(store).read_text(encoding="utf-8") == before
    later = make_store(store, Content(SMALL.classes, SAMPLES, run_id="20261122T030000Z-digits-0003"))
    write_index(store)
    assert read == [[FIRST, SECOND, SMALL.run_id], [], [later.run_id]]


def test_a_run_that_is_gone_is_gone(store: Path) -> None:
    cache = store / "reports" / "index.json"
    write_index(store)
    (store / "runs" / SECOND / "manifest.json").unlink()
    assert [row["run_id"] for row in refresh(store, cache)[0]] == [FIRST, SMALL.run_id]
    assert SECOND not in write_index(store).read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", ["", "[]", "null", '{"schema": "clear-audit/index/1", "runs": []}', '{"runs": [{}]}', "\x00"])
def test_a_damaged_cache_is_made_again(store: Path, damage: str) -> None:
    cache = store / "reports" / "index.json"
    write_index(store)
    whole = cache.read_text(encoding="utf-8")
    cache.write_text(damage, encoding="utf-8")
    write_index(store)
    assert cache.read_text(encoding="utf-8") == whole


@pytest.mark.parametrize(
    "change",
    [
        {"correct_frac": 7},
        {"correct_frac": "x"},
        {"processed_count": 1 << 60},
        {"started_at": "yesterday"},
        {"gates": [["error", "shone"]]},
        {"gates": [["error"]]},
        {"more": 1},
        {"run_id": "../x"},
        {"sparseness_mean": []},
    ],
    ids=str,
)
def test_a_row_that_is_no_row_has_the_cache_made_again(store: Path, change: dict[str, object]) -> None:
    cache = store / "reports" / "index.json"
    write_index(store)
    whole = cache.read_text(encoding="utf-8")
    content = json.loads(whole)
    content["runs"][1] |= change
    cache.write_text(json.dumps(content), encoding="utf-8")
    write_index(store)
    assert cache.read_text(encoding="utf-8") == whole


def test_a_cache_that_somebody_changed_is_not_believed(store: Path) -> None:
    cache = store / "reports" / "index.json"
    write_index(store)
    whole = cache.read_text(encoding="utf-8")
    content = json.loads(whole)
    content["runs"][1]["correct_frac"] = 0.0123
    cache.write_text(json.dumps(content), encoding="utf-8")
    assert "1.2" not in write_index(store).read_text(encoding="utf-8").split(SECOND)[2][:600]
    assert cache.read_text(encoding="utf-8") == whole


def test_a_run_whose_times_are_out_of_range_holds_up_no_other(store: Path) -> None:
    path = Run(store, SECOND).table("runs")
    rows = pq.read_table(path, partitioning=None)
    field = rows.schema.field("started_at")
    pq.write_table(rows.set_column(rows.schema.names.index("started_at"), field, pa.array([2**63 - 1], field.type)), path)
    assert f"cannot be read, and is not shown: {SECOND}" in write_index(store).read_text(encoding="utf-8")


def test_a_cache_that_is_no_file_is_not_waited_for(store: Path) -> None:
    (store / "reports").mkdir()
    os.mkfifo(store / "reports" / "index.json")
    write_index(store)
    assert len(json.loads((store / "reports" / "index.json").read_text(encoding="utf-8"))["runs"]) == 3


@pytest.mark.parametrize("table", ["runs", "gates"])
def test_a_run_whose_tables_are_damaged_holds_up_no_other(store: Path, table: str) -> None:
    Run(store, SECOND).table(table).write_bytes(b"PAR1")
    page = write_index(store).read_text(encoding="utf-8")
    assert f"1 finished run cannot be read, and is not shown: {SECOND}" in page
    assert f'href="{FIRST}.html"' in page
    assert f'href="{SECOND}.html"' not in page


def test_a_store_without_runs(tmp_path: Path) -> None:
    assert "no finished run" in write_index(tmp_path).read_text(encoding="utf-8")


def test_names_are_escaped_and_old_runs_folded_away(store: Path) -> None:
    write_index(store)
    cache = store / "reports" / "index.json"
    row = json.loads(cache.read_text(encoding="utf-8"))["runs"][0]
    many = [row | {"run_id": f"20251119T{number:06d}Z-x", "name": SCRIPT} for number in range(5000)]
    (made,) = index.group(many)
    assert (len(made.latest), len(made.older)) == (index.SHOWN_RUNS, 5000 - index.SHOWN_RUNS)
    assert made.latest[0]["run_id"] == many[-1]["run_id"]
    html = index.fill_template("index.html.j2", groups=[made], figures=[], count=5000, unreadable=[])
    assert SCRIPT not in html
    assert len(html) < 4_000_000
