"""Gates put to a run's tables: what is asked, whether there is enough to judge by, and which limits are kept."""

import math
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

import pyarrow as pa

from reports.figures import has_figure
from reports.gates.gate import Gate
from reports.gates.judgement import GateOutcome, Judgement, show
from storage.errors import InputError
from storage.runs.lookup import find_reference
from storage.runs.run import Run, read_plan
from storage.sql.read_only import connect, reads_reference, select, tables_in
from storage.sql.sandboxed_query import ask, asks_reference

if TYPE_CHECKING:
    import duckdb

LONGEST_VALUE = 200
"""Most characters that a message quotes of an answer that is not a number."""


class NotEvaluated(Exception):
    """A gate cannot be evaluated; the message says what is missing."""


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
        check_figure(connection, gate, against)
        check_evidence(connection, gate, run, against, reads)
        value = one_number(put(gate.text))
        reference = None
        if gate.moves:
            reference = one_number(put(of_reference(connection, gate.text)))
        elif against is not None and not reads:
            # No limit depends on it: it is only shown beside the value, where there is one.
            with suppress(NotEvaluated, InputError):
                reference = one_number(put(of_reference(connection, gate.text)))
        samples = () if gate.samples_text is None else sample_indices(put(gate.samples_text))
    except NotEvaluated as error:
        return Judgement(gate, GateOutcome.not_evaluated, str(error))
    except InputError as error:
        return Judgement(gate, GateOutcome.error, str(error))
    breaches = list(find_breaches(gate, value, reference))
    if not breaches:
        return Judgement(gate, GateOutcome.passed, f"{show(value)} is within the limits", value, reference, samples)
    outcome = GateOutcome.failed if gate.severity == "error" else GateOutcome.warned
    return Judgement(gate, outcome, "; ".join(breaches), value, reference, samples)


def sample_indices(table: pa.Table) -> tuple[int, ...]:
    """The images that count against a gate, worst first. Raises InputError."""
    if "sample_index" not in table.column_names or not pa.types.is_integer(table.schema.field("sample_index").type):
        raise InputError("the gate's query for its images, 'samples', must return a column sample_index of whole numbers")
    return tuple(table["sample_index"].drop_null().to_pylist())


def check_figure(connection: "duckdb.DuckDBPyConnection", gate: Gate, against: Run | None) -> None:
    """Raises NotEvaluated where the gate asks for a figure of an analysis that the run, or the reference, has not."""
    if gate.figure is None:
        return
    for schema, what in {"main": "the run", "reference": "the reference"}.items():
        is_asked = schema == "main" or (gate.moves and against is not None)
        if is_asked and not has_figure(connection, gate.figure, schema):
            raise NotEvaluated(f"{what} has not the analysis that makes table '{gate.figure.table}'")


def check_evidence(connection: "duckdb.DuckDBPyConnection", gate: Gate, run: Run, against: Run | None, reads: bool) -> None:
    """Raises NotEvaluated where the run or the reference is missing or too small. reads: whether the SQL names the reference."""
    needs_reference = gate.moves or reads
    if needs_reference and against is None:
        raise NotEvaluated("there is no earlier run to compare with: name one as the reference")
    for schema, what in (("main", "the run"), ("reference", "the reference")) if needs_reference else (("main", "the run"),):
        measured = one_number(select(connection, f"SELECT count(*) FROM {schema}.samples"))
        if measured < gate.min_samples:
            raise NotEvaluated(f"{what} has {measured:,.0f} measured images, and the gate wants at least {gate.min_samples:,}")


def of_reference(connection: "duckdb.DuckDBPyConnection", sql: str) -> str:
    """The same question put to the reference: its tables take the names of the run's."""
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
    """A sentence for each limit that the value breaks."""
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
