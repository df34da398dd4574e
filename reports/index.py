"""The page over all runs of a store: what each came to, and how the main figures moved from run to run."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from reports.charts import trend
from reports.formats import UNDEFINED, count, decimal, percent
from reports.gates import overall
from reports.queries import Row, load
from reports.report import environment
from storage.places import replace_file
from storage.runs import Run, published_runs
from storage.sql import connect, select

SCHEMA = "clear-audit/index/1"
TREND_RUNS = 100
"""Of an audit's runs, the latest ones, that its trend shows."""
SHOWN_RUNS = 50
"""Of an audit's runs, the latest ones, that are seen at once; the others are folded away."""


@dataclass(frozen=True)
class AuditGroup:
    """The runs of one audit, latest first. chart: None where there is only one."""

    name: str
    chart: Markup | None
    alt: str
    latest: list[Row]
    older: list[Row]


def write_index(store: Path) -> Path:
    """Writes `reports/index.html`; returns where. Only runs that an earlier call has not seen are read."""
    folder = store / "reports"
    rows = refresh(store, folder / "index.json")
    replace_file(folder / "index.html", environment().get_template("index.html.j2").render(groups=group(rows), count=len(rows)))
    return folder / "index.html"


def refresh(store: Path, cache: Path) -> list[Row]:
    """A row a published run, oldest first: those known from `cache`, and the others from the tables."""
    runs = published_runs(store)
    known = {row["run_id"]: row for row in read_cache(cache)}
    fresh = [run for run in runs if run.run_id not in known]
    known |= {row["run_id"]: row for row in read_runs(store, fresh)}
    rows = [known[run.run_id] for run in runs if run.run_id in known]
    replace_file(cache, json.dumps({"schema": SCHEMA, "runs": rows}, indent=1, ensure_ascii=False) + "\n")
    return rows


def read_cache(cache: Path) -> list[Row]:
    """Nothing where there is none of this version: all runs are then read again."""
    try:
        content = json.loads(cache.read_bytes())
        rows: list[Row] = content["runs"]
        return rows if content["schema"] == SCHEMA and all(row.keys() >= {"run_id", "name"} for row in rows) else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def read_runs(store: Path, runs: Sequence[Run]) -> list[Row]:
    if not runs:
        return []
    with connect(store, [run.run_id for run in runs]) as connection:
        rows = select(connection, load("index/runs")).to_pylist()
    return [row | {"started_at": row["started_at"].isoformat()} for row in rows]


def group(rows: Iterable[Row]) -> list[AuditGroup]:
    """By the audit's name, the one that ran last first."""
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
    }
