"""Gates: questions with one number for an answer, and the limits it is held to."""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import pyarrow as pa

from reports.queries import FOLDER, fill, load
from storage.errors import InputError
from storage.runs.lookup import find_reference
from storage.runs.run import Run, read_plan
from storage.sql.read_only import connect, reads_reference, select, tables_in
from storage.sql.sandboxed_query import ask, asks_reference
from storage.tables import SCHEMAS

if TYPE_CHECKING:
    import duckdb

BUILT_IN = tuple(sorted(path.stem for path in FOLDER.glob("gates/*.sql")))
"""The gates that need no SQL, by name: each is `sql/gates/<name>.sql`."""

WITH_SAMPLES = tuple(sorted(path.stem for path in FOLDER.glob("gate_samples/*.sql")))
"""Those of them that images count against, which `sql/gate_samples/<name>.sql` finds."""


class Outcome(StrEnum):
    """What became of a gate. An error and a gate that was not evaluated never count as passed."""

    passed = "passed"
    warned = "warned"
    failed = "failed"
    error = "error"
    not_evaluated = "not evaluated"


NOT_JUDGED = "not judged"
LONGEST_VALUE = 200
"""Characters of an answer that is no number, in a message."""
WORST_FIRST = (Outcome.failed, Outcome.error, Outcome.not_evaluated, Outcome.warned, Outcome.passed)


@dataclass(frozen=True)
class Gate:
    """A question to a run's tables and what is allowed of its answer, one number; in the config, a `[[gates]]`.

    name: of a built-in gate, or any other with `sql`. sql: one SELECT of one number; the tables of an earlier run are
    `reference.<table>`. samples: one SELECT with a column `sample_index`, the images that count against it, worst first.
    min, max: limits of the number. max_drop, max_rise: of how far it may be below and above the reference's. severity: error
    or warn. min_samples: measured images below which the gate is not evaluated.
    """

    name: str
    sql: str | None = None
    min: float | None = None
    max: float | None = None
    max_drop: float | None = None
    max_rise: float | None = None
    severity: str = "error"
    min_samples: int = 1
    samples: str | None = None

    @property
    def text(self) -> str:
        """The SQL that is run."""
        if self.sql is not None:
            return self.sql
        return fill(load(f"gates/{self.name}"), {"min_samples": self.min_samples})

    @property
    def samples_text(self) -> str | None:
        """The SQL that finds the images that count against it; None where it has none."""
        if self.sql is not None or self.name not in WITH_SAMPLES:
            return self.samples
        return fill(load(f"gate_samples/{self.name}"), {"min_samples": self.min_samples})

    @property
    def moves(self) -> bool:
        """Whether a limit is relative to the reference."""
        return self.max_drop is not None or self.max_rise is not None


@dataclass(frozen=True)
class Judgement:
    """A gate's outcome, with a sentence that says why. A limit not kept at severity `warn` is warned, not failed.

    samples: the images that count against it, worst first, by their index.
    """

    gate: Gate
    outcome: Outcome
    message: str
    value: float | None = None
    reference_value: float | None = None
    samples: tuple[int, ...] = ()

    @property
    def fails(self) -> bool:
        """Whether it is to stop what waits for the audit."""
        return self.gate.severity == "error" and self.outcome is not Outcome.passed


class NotEvaluated(Exception):
    """There is nothing to judge by; the message says what is missing."""


def judge(gates: Iterable[Gate], run: Run, reference: Run | None) -> list[Judgement]:
    """Puts each gate to the run's tables, which need not be published yet. reference: an earlier run, where there is one.

    Raises InputError where a table is damaged.
    """
    with connect(run.store, [run.run_id], reference=None if reference is None else reference.run_id) as connection:
        return [judge_gate(connection, gate, run, reference) for gate in gates]


def readable_reference(run: Run, wanted: str) -> Run | None:
    """The run that gates compare with, see `find_reference`. Raises InputError where there is none, or it is damaged."""
    reference = find_reference(run, wanted)
    if reference is not None:
        read_plan(reference)
        connect(run.store, [], reference=reference.run_id).close()
    return reference


def judge_gate(connection: "duckdb.DuckDBPyConnection", gate: Gate, run: Run, against: Run | None) -> Judgement:
    def put(sql: str) -> pa.Table:
        if gate.sql is None:
            return select(connection, sql)
        return ask(run.store, [run.run_id], sql, reference=None if against is None else against.run_id)

    try:
        reads = reads_reference(connection, gate.text) if gate.sql is None else asks_reference(run.store, gate.sql)
        check_evidence(connection, gate, run, against, reads)
        value = one_number(put(gate.text))
        reference = None
        if gate.moves:
            reference = one_number(put(of_reference(connection, gate.text)))
        elif against is not None and not reads:
            # No limit holds it: it stands beside the value where there is one.
            with suppress(NotEvaluated, InputError):
                reference = one_number(put(of_reference(connection, gate.text)))
        samples = () if gate.samples_text is None else sample_indices(put(gate.samples_text))
    except NotEvaluated as error:
        return Judgement(gate, Outcome.not_evaluated, str(error))
    except InputError as error:
        return Judgement(gate, Outcome.error, str(error))
    breaches = list(find_breaches(gate, value, reference))
    if not breaches:
        return Judgement(gate, Outcome.passed, f"{show(value)} is within the limits", value, reference, samples)
    outcome = Outcome.failed if gate.severity == "error" else Outcome.warned
    return Judgement(gate, outcome, "; ".join(breaches), value, reference, samples)


def sample_indices(table: pa.Table) -> tuple[int, ...]:
    """The images that count against a gate, worst first. Raises InputError."""
    if "sample_index" not in table.column_names or not pa.types.is_integer(table.schema.field("sample_index").type):
        raise InputError("the gate's query for its images, 'samples', must return a column sample_index of whole numbers")
    return tuple(table["sample_index"].drop_null().to_pylist())


def check_evidence(connection: "duckdb.DuckDBPyConnection", gate: Gate, run: Run, against: Run | None, reads: bool) -> None:
    """Raises NotEvaluated where a run that is asked about is missing or too small. reads: its SQL names the reference."""
    needs_reference = gate.moves or reads
    if needs_reference and against is None:
        raise NotEvaluated("there is no earlier run to compare with: name one as the reference")
    for schema, what in (("main", "the run"), ("reference", "the reference")) if needs_reference else (("main", "the run"),):
        measured = one_number(select(connection, f"SELECT count(*) FROM {schema}.samples"))
        if measured < gate.min_samples:
            raise NotEvaluated(f"{what} has {measured:,.0f} measured images, and the gate wants at least {gate.min_samples:,}")


def of_reference(connection: "duckdb.DuckDBPyConnection", sql: str) -> str:
    """The same question to the reference's tables: its names of them stand before the run's."""
    names = ", ".join(f"{table} AS (SELECT * FROM reference.{table})" for table in tables_in(connection, "reference"))
    return f"WITH {names} SELECT * FROM ({sql.strip().rstrip(';')}\n)"


def one_number(table: pa.Table) -> float:
    """Raises InputError where a query's answer is not one number, NotEvaluated where it is NULL."""
    if table.shape != (1, 1):
        raise InputError(f"a gate's query must return one number, and this returns {table.num_rows} rows of {table.num_columns}")
    try:
        value = table.column(0)[0].as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise InputError(
            f"a gate's query must return one number, and this returns a {table.schema[0].type} out of range"
        ) from error
    if value is None:
        raise NotEvaluated("the answer is NULL: the tables have nothing that the gate asks for")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"a gate's query must return one number, and this returns {cut(value)}") from error
    if isinstance(value, str) or not math.isfinite(number):
        raise InputError(f"a gate's query must return one finite number, and this returns {cut(value)}")
    return number


def cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}… ({len(text):,} characters)"


def find_breaches(gate: Gate, value: float, reference: float | None) -> Iterable[str]:
    """A sentence for each limit that is not kept."""
    if gate.min is not None and value < gate.min:
        yield f"{show(value)} is below the least allowed, {show(gate.min)}"
    if gate.max is not None and value > gate.max:
        yield f"{show(value)} is above the most allowed, {show(gate.max)}"
    if reference is None:
        return
    change = value - reference
    if gate.max_drop is not None and -change > gate.max_drop:
        yield f"{show(value)} is {show(-change)} below the reference's {show(reference)}, and {show(gate.max_drop)} is allowed"
    if gate.max_rise is not None and change > gate.max_rise:
        yield f"{show(value)} is {show(change)} above the reference's {show(reference)}, and {show(gate.max_rise)} is allowed"


def show(value: float) -> str:
    return f"{value:.6g}"


def overall(results: Iterable[tuple[str, str]]) -> str:
    """What all gates came to: failed where one that may fail the audit did not pass, warned where any other did not.

    results: each gate's severity and outcome. Returns failed, warned, passed, or not judged where there is no gate.
    """
    results = list(results)
    if not results:
        return NOT_JUDGED
    if any(severity == "error" and outcome != Outcome.passed for severity, outcome in results):
        return "failed"
    return "passed" if all(outcome == Outcome.passed for _, outcome in results) else "warned"


def overall_of(judgements: Iterable[Judgement]) -> str:
    return overall((judgement.gate.severity, judgement.outcome) for judgement in judgements)


def worst_first(judgements: Sequence[Judgement]) -> list[Judgement]:
    return sorted(judgements, key=lambda judgement: (not judgement.fails, WORST_FIRST.index(judgement.outcome)))


def say_judgement(judgement: Judgement) -> str:
    """What became of a gate, and why, in a sentence."""
    weight = "" if judgement.fails else " (a warning)"
    return f"gate '{judgement.gate.name}' {judgement.outcome}{weight}: {judgement.message}"


def as_object(judgement: Judgement) -> dict[str, str | float | None]:
    """What became of a gate, as every JSON of ours has it."""
    return {
        "name": judgement.gate.name,
        "severity": judgement.gate.severity,
        "outcome": judgement.outcome.value,
        "value": judgement.value,
        "reference_value": judgement.reference_value,
        "message": judgement.message,
    }


def as_rows(judgements: Sequence[Judgement], reference: Run | None) -> pa.Table:
    """The rows of the table `gates`, in the config's order."""
    rows = [
        {
            "gate_name": judgement.gate.name,
            "outcome": judgement.outcome.value,
            "severity": judgement.gate.severity,
            "value": judgement.value,
            "reference_value": judgement.reference_value,
            "reference_run_id": None if reference is None else reference.run_id,
            "least": judgement.gate.min,
            "most": judgement.gate.max,
            "max_drop": judgement.gate.max_drop,
            "max_rise": judgement.gate.max_rise,
            "min_sample_count": judgement.gate.min_samples,
            "message": judgement.message,
            "sql": judgement.gate.text,
            "samples_sql": judgement.gate.samples_text,
        }
        for judgement in judgements
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMAS["gates"])
