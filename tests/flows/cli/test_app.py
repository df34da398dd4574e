"""The command line against a finished store, and what it says of bad input."""

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from storage.runs.lookup import published_runs
from storage.runs.run import read_manifest
from tests.flows.conftest import MODEL, Digits, write_idx
from tests.reports.stores import SMALL, make_store

runner = CliRunner()


@pytest.fixture
def old_store() -> Path:
    """A store that needs no audit to be there."""
    return Path(__file__).parents[2] / "storage" / "old_stores" / "v1"


def test_query_prints_a_table(finished: Path) -> None:
    result = runner.invoke(app, ["query", "SELECT 1.5 AS score, 'x' AS name, NULL AS none", "--store", str(finished)])
    assert result.exit_code == 0
    header, _, row = [line.split() for line in result.stdout.strip().splitlines()]
    assert header == ["score", "name", "none"]
    assert row == ["1.5", "x", "NULL"]


def test_query_prints_csv_and_json(finished: Path) -> None:
    sql = "SELECT label, count(*) AS n FROM samples GROUP BY label ORDER BY label"
    as_csv = runner.invoke(app, ["query", sql, "--store", str(finished), "--format", "csv"])
    as_json = runner.invoke(app, ["query", sql, "--store", str(finished), "--format", "json"])
    from_csv = [(int(row["label"]), int(row["n"])) for row in csv.DictReader(io.StringIO(as_csv.stdout))]
    from_json = [(row["label"], row["n"]) for row in map(json.loads, as_json.stdout.splitlines())]
    assert from_csv == from_json
    assert sum(count for _, count in from_csv) == 300


VALUES = {
    "'nan'::DOUBLE": (None, "nan", "nan"),
    "ln(0)": (None, "-inf", "-inf"),
    "[1.5, 'inf'::DOUBLE, NULL]": ([1.5, None, None], "[1.5, inf, NULL]", "[1.5, inf, NULL]"),
    "{'x': -'inf'::FLOAT}": ({"x": None}, "{'x': -inf}", "{'x': -inf}"),
    "'NaN, \"-Infinity\" \\'": ('NaN, "-Infinity" \\', 'NaN, "-Infinity" \\', 'NaN, "-Infinity" \\'),
    "(SELECT sum(range) FROM range(4))": (6, "6", "6"),
    "1.25::DECIMAL(10, 2)": (1.25, "1.25", "1.25"),
    "9007199254740993": (9007199254740993, "9007199254740993", "9007199254740993"),
    "340282366920938463463374607431768211455::UHUGEINT": (2**128 - 1, str(2**128 - 1), str(2**128 - 1)),
    "'abc\\xFF'::BLOB": ("abc\\xFF", "abc\\xFF", "abc\\xFF"),
    "MAP {1: 'x'}": ({"1": "x"}, "{1=x}", "{1=x}"),
    "DATE '2026-11-21'": ("2026-11-21", "2026-11-21", "2026-11-21"),
    "DATE 'infinity'": ("infinity", "infinity", "infinity"),
    "TIMESTAMP_NS '2026-11-21 03:00:00.123456789'": ("2026-11-21 03:00:00.123456789",) * 3,
    "INTERVAL 1 DAY": ("1 day", "1 day", "1 day"),
    "true": (True, "true", "True"),
    "NULL": (None, "", "NULL"),
}
"""What a query asks for: what it is in JSON, in CSV, and in a table."""


def test_values_of_a_query_in_each_form(old_store: Path) -> None:
    sql = "SELECT " + ", ".join(f"{expression} AS v{number}" for number, expression in enumerate(VALUES))

    def asked(form: str) -> str:
        result = runner.invoke(app, ["query", sql, "--store", str(old_store), "--format", form])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def refuse(token: str) -> None:
        raise ValueError(f"{token} is not JSON")

    in_json, in_csv, in_table = zip(*VALUES.values(), strict=True)
    assert list(json.loads(asked("json"), parse_constant=refuse).values()) == list(in_json)
    assert list(csv.reader(io.StringIO(asked("csv"))))[1] == list(in_csv)
    assert re.split(r" {3,}", asked("table").splitlines()[3].strip()) == list(in_table)


def test_no_column_is_lost_whose_name_occurs_twice(old_store: Path, tmp_path: Path) -> None:
    sql, path = "SELECT 1 AS energy, 2 AS energy", tmp_path / "rows"
    for form in ("json", "csv", "parquet"):
        result = runner.invoke(app, ["query", sql, "--store", str(old_store), "--format", form, "--output", str(path)])
        assert result.exit_code == 0
        rows = {
            "json": lambda: [json.loads(path.read_text())],
            "csv": lambda: [{name: int(value) for name, value in row.items()} for row in csv.DictReader(path.open())],
            "parquet": lambda: pq.read_table(path).to_pylist(),
        }
        assert rows[form]() == [{"energy": 1, "energy_1": 2}]


def test_query_writes_parquet(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    sql = "SELECT sample_index, sparseness FROM samples ORDER BY sample_index"
    result = runner.invoke(app, ["query", sql, "--store", str(finished), "--format", "parquet", "--output", str(path)])
    assert result.exit_code == 0
    assert pq.read_table(path).column("sample_index").to_pylist() == list(range(300))


def test_parquet_needs_a_file(finished: Path) -> None:
    result = runner.invoke(app, ["query", "SELECT 1", "--store", str(finished), "--format", "parquet"])
    assert result.exit_code == 2
    assert "--output" in result.stderr


def test_query_that_is_not_one_select_is_refused(finished: Path) -> None:
    result = runner.invoke(app, ["query", "DROP TABLE samples", "--store", str(finished)])
    assert result.exit_code == 2
    assert "exactly one SELECT" in result.stderr


def test_query_of_a_store_that_is_not_there(tmp_path: Path) -> None:
    result = runner.invoke(app, ["query", "SELECT 1", "--store", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert str(tmp_path / "none") in result.stderr
    assert not (tmp_path / "none").exists()


def test_a_query_without_an_end_is_stopped(finished: Path) -> None:
    sql = "WITH RECURSIVE t AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM t) SELECT max(i) FROM t"
    result = runner.invoke(app, ["query", sql, "--store", str(finished), "--timeout-secs", "1"])
    assert result.exit_code == 2
    assert result.stderr.strip().endswith("took longer than 1 s and was stopped: ask for less, or of fewer runs")


def test_ls_and_show_tell_of_the_run(finished: Path) -> None:
    (run,) = published_runs(finished)
    assert run.run_id in runner.invoke(app, ["ls", "--store", str(finished)]).stdout
    shown = runner.invoke(app, ["show", run.run_id[:12], "--store", str(finished)])
    assert shown.exit_code == 0
    assert str(run.report) in shown.stdout
    facts = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert (facts["is_folded"], facts["reduction"], facts["precision_agreement_frac"]) == ("True", "sum", "None")
    assert 0 < float(facts["fold_deviation"]) < 1e-5
    missing = runner.invoke(app, ["show", "nonesuch", "--store", str(finished)])
    assert missing.exit_code == 2
    assert "nonesuch" in missing.stderr


def test_show_tells_what_was_passed_over(tmp_path: Path) -> None:
    run = make_store(tmp_path, SMALL)
    changes = {"passed_over": {".heic": 2}, "empty_classes": ["owl"]}
    run.manifest.write_text(read_manifest(run).model_copy(update=changes).model_dump_json())
    shown = runner.invoke(app, ["show", "--store", str(tmp_path)]).stdout
    facts = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert facts["passed_over"] == "2 files with other suffixes (.heic 2)"
    assert facts["empty_classes"] == "1 ('owl')"


def test_report_is_written_again(finished: Path) -> None:
    (run,) = published_runs(finished)
    run.report.unlink()
    result = runner.invoke(app, ["report", "--store", str(finished)])
    assert result.exit_code == 0
    assert result.stdout.strip() == str(run.report)
    assert "<html" in run.report.read_text()


def test_store_comes_from_the_environment_and_the_flag_wins(finished: Path, tmp_path: Path) -> None:
    environment = {"CLEAR_AUDIT_STORE": str(finished)}
    assert runner.invoke(app, ["ls"], env=environment).exit_code == 0
    assert runner.invoke(app, ["ls", "--store", str(tmp_path / "none")], env=environment).exit_code == 2


def config_with_gates(folder: Path, gates: str) -> Path:
    """A config whose data need not be there: judging reads the run's tables alone."""
    path = folder / "gates.toml"
    path.write_text(
        '[dataset]\nformat = "idx"\npath = "none"\n[input]\nchannels = 1\nheight = 28\nwidth = 28\n'
        f'[model]\nfactory = "none:none"\n{gates}'
    )
    return path


GATE = '[[gates]]\nname = "{name}"\n{limits}\n'


@pytest.mark.parametrize(
    ("gates", "code", "said"),
    [
        (GATE.format(name="accuracy", limits="min = 0"), 0, ""),
        (GATE.format(name="accuracy", limits='min = 2\nseverity = "warn"'), 0, "gate 'accuracy' warned (a warning): "),
        (GATE.format(name="accuracy", limits="min = 2"), 1, "gate 'accuracy' failed: "),
        (GATE.format(name="mine", limits='min = 2\nsql = "SELECT no_column FROM samples"'), 1, "gate 'mine' error: "),
        (GATE.format(name="accuracy", limits="max_drop = 2"), 1, "gate 'accuracy' not evaluated: there is no earlier run"),
        (GATE.format(name="accuracy", limits="min = 0\nmin_samples = 301"), 1, "gate 'accuracy' not evaluated: the run has"),
        ("", 2, "has no gates"),
    ],
)
def test_check_ends_with_the_code_of_its_gates(finished: Path, tmp_path: Path, gates: str, code: int, said: str) -> None:
    config = config_with_gates(tmp_path, gates)
    result = runner.invoke(app, ["check", "latest", "--store", str(finished), "--config", str(config)])
    assert (result.exit_code, said in result.stderr) == (code, True)
    assert bool(result.stdout) == (code != 2)


def test_check_writes_its_outcomes_for_machines(finished: Path, tmp_path: Path) -> None:
    config = config_with_gates(tmp_path, GATE.format(name="accuracy", limits="max_rise = 0"))
    files = {name: tmp_path / name for name in ("json", "junit", "markdown")}
    flags = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    (run,) = published_runs(finished)
    arguments = ["check", "--store", str(finished), "--config", str(config), "--reference", run.run_id, *flags]
    assert runner.invoke(app, arguments).exit_code == 0
    document = json.loads(files["json"].read_text())
    assert (document["outcome"], document["reference_run_id"]) == ("passed", run.run_id)
    assert 'tests="1"' in files["junit"].read_text()
    assert files["markdown"].read_text().startswith("### clear-audit: gates passed")
    nowhere = runner.invoke(app, [*arguments, "--json", str(tmp_path / "none" / "x")])
    assert nowhere.exit_code == 2
    assert "cannot be written" in nowhere.stderr


def test_check_of_a_run_without_gates_says_how_to_name_some(finished: Path) -> None:
    result = runner.invoke(app, ["check", "--store", str(finished)])
    assert result.exit_code == 2
    assert "--config" in result.stderr


def test_check_against_a_run_that_is_not_there(finished: Path, tmp_path: Path) -> None:
    config = config_with_gates(tmp_path, GATE.format(name="accuracy", limits="max_drop = 2"))
    result = runner.invoke(app, ["check", "--store", str(finished), "--config", str(config), "--reference", "none"])
    assert result.exit_code == 2
    assert "'none' names no finished run" in result.stderr


def test_init_does_not_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "audit.toml"
    assert runner.invoke(app, ["init", str(path)]).exit_code == 0
    path.write_text("mine")
    again = runner.invoke(app, ["init", str(path)])
    assert again.exit_code == 2
    assert path.read_text() == "mine"


BAD_CONFIGS = {
    "unreadable": (None, ["audit.toml", "cannot be read"]),
    "not TOML": ("name = ", ["audit.toml", "not TOML"]),
    "unknown key": ('[dataset]\nformat = "idx"\npath = "x"\nlabel = "y"\n', ["audit.toml", "dataset.label", "dataset.labels"]),
    "no dataset": (
        '[dataset]\nformat = "idx"\npath = "nowhere.idx"\nlabels = "labels.idx"\n{rest}',
        ["[dataset]", "nowhere.idx"],
    ),
    "no images": ('[dataset]\nformat = "folder"\npath = "empty"\n{rest}', ["[dataset]", "empty"]),
    "label outside": (
        '[dataset]\nformat = "idx"\npath = "images.idx"\nlabels = "labels.idx"\nclasses = ["zero", "one"]\n{rest}',
        ["[dataset]", "labels.idx", "classes"],
    ),
    "no weights": ('[dataset]\nformat = "idx"\npath = "images.idx"\nlabels = "labels.idx"\n{rest}', ["nowhere.safetensors"]),
}
REST = MODEL.format(weights="nowhere.safetensors")


@pytest.mark.parametrize("fault", BAD_CONFIGS)
def test_bad_input_is_named_and_writes_nothing(fault: str, digits: Digits, tmp_path: Path) -> None:
    text, named = BAD_CONFIGS[fault]
    write_idx(tmp_path, digits)
    (tmp_path / "empty").mkdir()
    if text is not None:
        (tmp_path / "audit.toml").write_text(text.replace("{rest}", REST))
    store = tmp_path / "audits"
    result = runner.invoke(app, ["run", str(tmp_path / "audit.toml"), "--store", str(store)])
    assert result.exit_code == 2
    for name in named:
        assert name in result.stderr
    assert not store.exists()


def test_help_imports_nothing_heavy() -> None:
    """What `--help` loads is what makes it slow, on any machine."""
    script = (
        "import sys; from typer.testing import CliRunner; from flows.cli.app import app; "
        "result = CliRunner().invoke(app, ['--help']); assert result.exit_code == 0; "
        "print(sorted({'torch', 'prefect', 'dask', 'distributed', 'zarr', 'duckdb', 'pyarrow', 'altair'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_question_is_asked_without_pytorch(finished: Path) -> None:
    """Which takes seconds to import, and has nothing to do with tables."""
    script = (
        "import sys; from typer.testing import CliRunner; from flows.cli.app import app; "
        f"result = CliRunner().invoke(app, ['query', 'SELECT 1 FROM runs', '--store', {str(finished)!r}]); "
        "assert result.exit_code == 0; print(sorted({'torch', 'prefect', 'distributed', 'altair'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
