"""The page over all runs of a store: what each came to, and how the main figures moved from run to run."""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from markupsafe import Markup
from pydantic import Field, ValidationError

from reports.figures import FIGURES, Figure, figures_of
from reports.formats import UNDEFINED, count, decimal, percent
from reports.gates.judgement import GateOutcome, overall
from reports.pages.template import fill_template
from reports.parts.charts import trend
from reports.queries import Row, load
from storage.errors import InputError
from storage.filesystems import replace_file
from storage.json_records import Count, Fraction, Name, Record, read_record
from storage.runs.lookup import published_runs
from storage.runs.run import Run
from storage.sql.read_only import connect, select

SCHEMA = "clear-audit/index/3"
TREND_RUNS = 100
"""How many of an audit's latest runs its trend shows."""
SHOWN_RUNS = 50
"""How many of an audit's latest runs are listed openly; older ones are folded away."""


@dataclass(frozen=True)
class AuditGroup:
    """The runs of one audit, latest first. chart: None where there is only one."""

    name: str
    chart: Markup | None
    alt: str
    latest: list[Row]
    older: list[Row]


class IndexRow(Record):
    """What the page shows of a run. figures: of analyses, by name. gates: the severity and outcome of each."""

    run_id: Name
    name: str
    started_at: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d")]
    processed_count: Count
    failed_count: Count
    correct_frac: Fraction | None
    agreement_frac: Fraction | None
    sparseness_mean: float | None
    class_cosine_mean: float | None
    figures: dict[str, float | None]
    gates: list[tuple[Literal["error", "warn"], GateOutcome]]


class IndexCache(Record):
    """`index.json`: the rows of the runs read so far, so that they need not be read again."""

    format: Annotated[Literal["clear-audit/index/3"], Field(alias="schema")]
    sha256: str
    runs: list[IndexRow]

    @property
    def is_whole(self) -> bool:
        return self.sha256 == digest_of([row.model_dump(mode="json") for row in self.runs])


def write_index(store: Path, changed: Collection[str] = ()) -> Path:
    """Writes `reports/index.html` and returns its path. Only runs that no earlier call has read are read.

    changed: ids of runs to read again, as they got an analysis more. Runs whose tables are damaged are named on the page; the
    others are shown all the same.
    """
    folder = store / "reports"
    rows, unreadable = refresh(store, folder / "index.json", changed)
    page = fill_template("index.html.j2", groups=group(rows), figures=indexed(), count=len(rows), unreadable=unreadable)
    replace_file(folder / "index.html", page)
    return folder / "index.html"


def indexed() -> list[Figure]:
    """The figures of analyses that have a column on the page."""
    return [figure for figure in FIGURES.values() if figure.heading is not None]


def refresh(store: Path, cache: Path, changed: Collection[str] = ()) -> tuple[list[Row], list[str]]:
    """One row per published run, oldest first, from `cache` where it has the run, else from the tables; and the ids of runs whose
    tables cannot be read.
    """
    runs = published_runs(store)
    names = {figure.name for figure in indexed()}
    known = {run_id: row for run_id, row in read_cache(cache).items() if row.figures.keys() == names and run_id not in changed}
    known |= read_runs(store, [run for run in runs if run.run_id not in known])
    rows = [known[run.run_id].model_dump(mode="json") for run in runs if run.run_id in known]
    content = {"schema": SCHEMA, "sha256": digest_of(rows), "runs": rows}
    replace_file(cache, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return rows, [run.run_id for run in runs if run.run_id not in known]


def read_cache(cache: Path) -> dict[str, IndexRow]:
    """Empty where there is no cache of this version: all runs are then read again."""
    try:
        found = read_record(IndexCache, cache)
    except InputError:
        return {}
    return {row.run_id: row for row in found.runs} if found.is_whole else {}


def digest_of(rows: Sequence[Row]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def read_runs(store: Path, runs: Sequence[Run]) -> dict[str, IndexRow]:
    """The rows of the runs that can be read, by run id."""
    if not runs:
        return {}
    try:
        with connect(store, [run.run_id for run in runs]) as connection:
            rows = select(connection, load("index/runs")).to_pylist()
        figures = {run.run_id: figures_of(run, indexed()) for run in runs}
        read = [
            IndexRow.model_validate(row | {"started_at": row["started_at"].isoformat(), "figures": figures[row["run_id"]]})
            for row in rows
        ]
    except (InputError, ValidationError, AttributeError, ValueError, OverflowError):
        # One of them is damaged: read each by itself.
        if len(runs) == 1:
            return {}
        return {run_id: row for run in runs for run_id, row in read_runs(store, [run]).items()}
    return {row.run_id: row for row in read}


def group(rows: Iterable[Row]) -> list[AuditGroup]:
    """The runs grouped by the audit's name; the audit that ran last comes first."""
    names: dict[str, list[Row]] = {}
    for row in rows:
        names.setdefault(row["name"], []).append(row)
    groups = [make_group(name, own) for name, own in names.items()]
    return sorted(groups, key=lambda made: str(made.latest[0]["run_id"]), reverse=True)


def make_group(name: str, rows: Sequence[Row]) -> AuditGroup:
    shown = [present(row) for row in reversed(rows)]
    points = rows[-TREND_RUNS:]
    alt = f"Lines over the latest {len(points):,} runs of {name}: accuracy, agreement and sparseness. The table has the values."
    return AuditGroup(
        name=name,
        chart=trend(points) if len(points) > 1 else None,
        alt=alt,
        latest=shown[:SHOWN_RUNS],
        older=shown[SHOWN_RUNS:],
    )


def present(row: Row) -> dict[str, Any]:
    """A run as the page shows it."""
    gates = [tuple(pair) for pair in row["gates"]]
    return {
        "run_id": row["run_id"],
        "report": f"{row['run_id']}.html",
        "started": row["started_at"][:16].replace("T", " "),
        "verdict": overall(gates),
        "gates": f"{sum(outcome == 'passed' for _, outcome in gates)} of {len(gates)} passed" if gates else UNDEFINED,
        "images": count(row["processed_count"]),
        "failed": count(row["failed_count"]),
        "accuracy": percent(row["correct_frac"]),
        "agreement": percent(row["agreement_frac"]),
        "sparseness": decimal(row["sparseness_mean"], 3),
        "class_cosine": decimal(row["class_cosine_mean"], 3),
        "figures": {name: decimal(value, 3) for name, value in row["figures"].items()},
    }
