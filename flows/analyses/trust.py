"""Whether the run's own maps can be believed: measured on a seeded sample, with controls beside them."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from flows.analyses.analysis import Analysis, Context, Result
from flows.analyses.sample import SampleOptions, read_unit, units
from reports.figures import Figure
from storage.joins import Append, Derive, Table
from storage.runs.plan import Plan, Unit
from storage.sql.read_only import select
from storage.tables import INDEX, column, mean, score, table_schema

if TYPE_CHECKING:
    import duckdb

    from auditor.trust.verdict import Summary, Verdict

RULE = "rule"

SOURCE = column("source", pa.string(), "what made the maps: `rule`, the audit's own, or a control")
MEASURE = column("measure", pa.string(), "what was measured, see docs/trust.md")

SAMPLES = table_schema([INDEX, SOURCE, MEASURE, score("value", "the measure of this image; NULL = undefined")])
MEANS = table_schema(
    [
        SOURCE,
        MEASURE,
        column("question", pa.string(), "what it is about: `image`, `class`, `learnt`, `where` or `grid`"),
        mean("value", "its mean over the images of the sample where it is defined"),
        mean("low", "lower end of the 95 % interval of the mean"),
        mean("high", "upper end of it"),
        column("sample_count", pa.int64(), "images where it is defined"),
        column("control", pa.string(), "the control that does best by this measure; NULL = none does, or it is a control itself"),
        mean("control_value", "the control's mean"),
    ]
)
VERDICTS = table_schema(
    [
        column("rule", pa.string(), "the rule that made the maps"),
        column("is_usable_for_place", pa.bool_(), "whether the maps can be used to say where; NULL = could not be measured"),
        column(
            "is_usable_for_classes",
            pa.bool_(),
            "whether the maps can be used to say for which class; NULL = could not be measured",
        ),
        column("test_names", pa.list_(pa.string()), "what was asked of the maps"),
        column("test_outcomes", pa.list_(pa.string()), "`passed`, `failed` or `not measured`, of each"),
        column("test_reasons", pa.list_(pa.string()), "a sentence for each"),
    ]
)


@dataclass(frozen=True)
class Measure:
    """question: what it is about. direction: which values are better; `none` where neither are by themselves."""

    question: str
    direction: str = "none"


MEASURES = {
    "moved_along": Measure("image", "higher"),
    "moved_stayed": Measure("image", "lower"),
    "image_correlation": Measure("image", "lower"),
    "contrast": Measure("class", "higher"),
    "leak": Measure("class", "lower"),
    "class_cosine_signed": Measure("class", "lower"),
    "class_cosine_positive": Measure("class", "lower"),
    "class_gain": Measure("class"),
    "random_logit_spearman": Measure("learnt", "lower"),
    "last_random_spearman": Measure("learnt", "lower"),
    "last_random_ssim": Measure("learnt", "lower"),
    "all_random_spearman": Measure("learnt", "lower"),
    "all_random_ssim": Measure("learnt", "lower"),
    "grid_pointing": Measure("where", "higher"),
    "kept_correct": Measure("where", "higher"),
    "removed_correct": Measure("where", "lower"),
    "insertion": Measure("where", "higher"),
    "deletion": Measure("where", "lower"),
    "cell_sparseness": Measure("grid"),
    "cell_half_energy_area": Measure("grid"),
    "variance_within_cells": Measure("grid"),
}
"""Of `auditor.trust.assess`, in the order in which they are told."""


class TrustOptions(SampleOptions):
    """samples: images that are measured; 0: none, as with run = false."""

    samples: Annotated[int, Field(ge=0)] = 500

    @model_validator(mode="before")
    @classmethod
    def none_is_off(cls, given: Any) -> Any:
        return given | {"run": False} if isinstance(given, dict) and given.get("samples") == 0 else given


def work(unit: Unit, context: Context) -> Result:
    assert isinstance(context.options, TrustOptions)
    worker, drawn = read_unit(unit, context)
    values: dict[str, dict[str, np.ndarray]] = {}
    if len(drawn.indices):
        import torch

        from auditor.trust.assess import assess

        labels = torch.from_numpy(drawn.labels).to(worker.device)
        found = assess(worker.clear, worker.tensor(drawn.pixels), labels, context.options.seed)
        values = {source: {name: one.cpu().numpy() for name, one in measured.items()} for source, measured in found.items()}
    return Result(len(drawn.indices), drawn.failed, {"trust_samples": as_rows(drawn.indices, values)})


def as_rows(indices: np.ndarray, values: dict[str, dict[str, np.ndarray]]) -> pa.Table:
    """The part of table `trust_samples`. indices: (n,). values: by source and measure, (n,) float32, NaN = undefined."""
    if not values:
        return SAMPLES.empty_table()
    keys = [(source, name) for source, measured in values.items() for name in MEASURES if name in measured]
    columns = {
        "sample_index": np.tile(indices, len(keys)),
        "source": np.repeat([source for source, _ in keys], len(indices)),
        "measure": np.repeat([name for _, name in keys], len(indices)),
        "value": np.concatenate([values[source][name] for source, name in keys]),
    }
    return pa.table(
        [pa.array(columns[field.name], field.type, from_pandas=field.name == "value") for field in SAMPLES], schema=SAMPLES
    )


def summarise(connection: "duckdb.DuckDBPyConnection") -> dict[str, dict[str, "Summary"]]:
    """Of each source, each measure over the images of the sample."""
    from auditor.trust.verdict import summary_of

    rows = select(
        connection,
        "SELECT source, measure, list(value ORDER BY sample_index) AS values FROM trust_samples GROUP BY ALL ORDER BY ALL",
    )
    found: dict[str, dict[str, Summary]] = {}
    for row in rows.to_pylist():
        values = np.array([value for value in row["values"] if value is not None])
        found.setdefault(row["source"], {})[row["measure"]] = summary_of(values)
    return found


def read_means(connection: "duckdb.DuckDBPyConnection") -> dict[str, dict[str, "Summary"]]:
    """The same from table `trust`, in which it stands already."""
    from auditor.trust.verdict import Summary

    found: dict[str, dict[str, Summary]] = {}
    for row in select(connection, "SELECT * FROM trust").to_pylist():
        value, low, high = (nan if row[name] is None else row[name] for name in ("value", "low", "high"))
        found.setdefault(row["source"], {})[row["measure"]] = Summary(value, low, high, row["sample_count"])
    return found


def join_means(connection: "duckdb.DuckDBPyConnection", plan: Plan) -> pa.Table:
    """Rows of table `trust`: the rule first, then the controls."""
    found = summarise(connection)
    order = sorted(found, key=lambda source: (source != RULE, source))
    return pa.Table.from_pylist([row for source in order for row in rows_of(source, found)], schema=MEANS)


def rows_of(source: str, found: "dict[str, dict[str, Summary]]") -> Iterable[dict[str, Any]]:
    for name, measure in MEASURES.items():
        if name in found[source]:
            own = found[source][name]
            control = best_control(name, found) if source == RULE else None
            numbers = {key: as_null(getattr(own, key)) for key in ("value", "low", "high")}
            yield {
                "source": source,
                "measure": name,
                "question": measure.question,
                **numbers,
                "sample_count": own.count,
                "control": control,
                "control_value": None if control is None else as_null(found[control][name].value),
            }


def best_control(name: str, found: "dict[str, dict[str, Summary]]") -> str | None:
    """None where no control has the measure, or neither direction is the better one."""
    sign = {"higher": -1, "lower": 1, "none": 0}[MEASURES[name].direction]
    known = [source for source in found if source != RULE and name in found[source] and found[source][name].count]
    return min(known, key=lambda source: sign * found[source][name].value) if known and sign else None


def as_null(value: float) -> float | None:
    return None if np.isnan(value) else value


def join_verdict(connection: "duckdb.DuckDBPyConnection", plan: Plan) -> pa.Table:
    """The row of table `trust_verdicts`."""
    from auditor.trust.verdict import judge

    found = read_means(connection)
    controls = {source: measured for source, measured in found.items() if source != RULE}
    verdict = judge(found.get(RULE, {}), controls)
    return pa.Table.from_pylist([row_of(plan.config["method"]["rule"], verdict)], schema=VERDICTS)


def row_of(rule: str, verdict: "Verdict") -> dict[str, Any]:
    outcomes = {True: "passed", False: "failed", None: "not measured"}
    return {
        "rule": rule,
        "is_usable_for_place": verdict.says_where,
        "is_usable_for_classes": verdict.says_class,
        "test_names": [name for name, _, _ in verdict.tests],
        "test_outcomes": [outcomes[holds] for _, holds, _ in verdict.tests],
        "test_reasons": [reason for _, _, reason in verdict.tests],
    }


def warn(connection: "duckdb.DuckDBPyConnection") -> list[str]:
    """What the maps cannot be used for, and why."""
    (row,) = select(connection, "SELECT * FROM trust_verdicts").to_pylist()
    uses = {"is_usable_for_place": "where the evidence is", "is_usable_for_classes": "which class it is for"}
    barred = [use for name, use in uses.items() if row[name] is False]
    if not barred:
        return []
    reasons = [reason for outcome, reason in zip(row["test_outcomes"], row["test_reasons"], strict=True) if outcome == "failed"]
    return [f"maps: those of rule '{row['rule']}' cannot be used to say {' or '.join(barred)}: {' '.join(reasons)}"]


ANALYSIS = Analysis(
    name="trust",
    about="whether the maps can be believed",
    options=TrustOptions,
    tables=(
        Table("trust_samples", SAMPLES, Append()),
        Table("trust", MEANS, Derive(join_means)),
        Table("trust_verdicts", VERDICTS, Derive(join_verdict)),
    ),
    units=units,
    work=work,
    figures=(
        Figure(
            "maps_for_class",
            "1 where the maps can be used to say for which class evidence is, 0 where not",
            "trust_verdicts",
            "SELECT is_usable_for_classes::INT FROM trust_verdicts",
            heading="Maps say which class",
        ),
        Figure(
            "maps_for_where",
            "1 where the maps can be used to say where evidence is, 0 where not",
            "trust_verdicts",
            "SELECT is_usable_for_place::INT FROM trust_verdicts",
            heading="Maps say where",
        ),
    ),
    warn=warn,
)
