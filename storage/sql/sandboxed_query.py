"""Questions of users to the tables of published runs: each is asked in a process of its own, which is ended at its limits.

DuckDB can be interrupted only between the steps of a query, and counts only a part of the memory that it takes: one call of
one function (`levenshtein` of two long texts), the parsing of deep parentheses, or an answer without end would hold on for
hours. A process ends when it is told to.
"""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from storage.errors import InputError
from storage.local_cache import local_store
from storage.sql.read_only import connect, first_line, reads_reference, relation_of
from storage.sql.union import quote

# Imported where it is used, as in storage.sql.read_only.
if TYPE_CHECKING:
    import duckdb

Values = Literal["arrow", "text", "json"]
"""How an answer's values are given. arrow: in Arrow's types. text: numbers and Booleans in these, all else in DuckDB's words.
json: each row as one JSON object, in a single column. What a form has no type for is in DuckDB's words."""

QUESTION_SECS = 60.0
"""How long a question may take."""

PROCESS_BYTES = 4 << 30
"""What its process may take. DuckDB's own limit, `read_only.MEMORY_LIMIT`, counts neither strings nor lists at work."""

ANSWER_BYTES = 1 << 30
"""The largest answer, as Arrow holds it."""

BATCH_ROWS = 10_000

NUMBERS = {"boolean", "tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger", "ubigint"} | {
    "hugeint",
    "decimal",
    "float",
    "double",
}
MOMENTS = {"date", "time", "time_ns", "timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns", "timestamp with time zone"}
NESTED = {"list", "array", "struct", "tuple", "map"}
CARRIED = {
    "text": NUMBERS | {"varchar", "null"},
    "arrow": NUMBERS | {"varchar", "null", "blob", "uuid", "enum"} | MOMENTS | NESTED,
}
"""The types of DuckDB whose values Arrow, and a Parquet file, hold as they are: it takes a UHUGEINT above half of its range for a
negative number, and loses the zone of a time."""

REFUSED = 2
"""The exit code of a process whose last line on stderr is the message of an InputError."""


def ask(
    store: Path,
    runs: Sequence[str],
    sql: str,
    reference: str | None = None,
    timeout_secs: float = QUESTION_SECS,
    values: Values = "arrow",
) -> pa.Table:
    """The rows of one SELECT, from whoever wrote it. runs, reference: as for `read_only.connect`. values: see `Values`.

    Of columns with one name the second is called `name_1`, and so on. Raises InputError where the query is refused or cannot
    be run, or goes beyond a limit of time, memory or size.
    """
    place = local_store(store, runs if reference is None else [*runs, reference])
    question = {"store": str(place), "runs": list(runs), "sql": sql, "reference": reference, "values": values}
    return _exchange(question, timeout_secs)


def asks_reference(store: Path, sql: str) -> bool:
    """Whether a query reads the tables of the reference run. Raises InputError as `ask` does."""
    if "reference" not in sql.lower():
        return False
    found: bool = _exchange({"store": str(local_store(store, [])), "sql": sql}, QUESTION_SECS).column(0)[0].as_py()
    return found


def _exchange(question: dict[str, Any], timeout_secs: float) -> pa.Table:
    # -P: a module in the working directory is not to be taken for one of ours.
    command = [sys.executable, "-P", "-m", "clear_audit.running", "storage.sql.sandboxed_query", str(math.ceil(timeout_secs))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        timer = Timer(timeout_secs, process.kill)
        timer.start()
        try:
            with suppress(BrokenPipeError), process.stdin:  # it may have ended already: its code says why
                process.stdin.write(json.dumps(question).encode())
            answer = _read_answer(process)
            messages = process.stderr.read().decode(errors="replace").strip().splitlines()
            code = process.wait()
        finally:
            has_ended = timer.finished.is_set()
            timer.cancel()
            process.kill()
    if answer is not None and code == 0:
        return answer
    if code == REFUSED and messages:
        raise InputError(messages[-1])
    if has_ended:
        raise InputError(f"the query took longer than {timeout_secs:g} s and was stopped: ask for less, or of fewer runs")
    raise InputError(
        f"the query was stopped, most likely for it needs more than the {PROCESS_BYTES >> 30} GB of memory that it may take "
        f"({messages[-1] if messages else f'code {code}'}): ask for less, or of fewer runs"
    )


def _read_answer(process: "subprocess.Popen[bytes]") -> pa.Table | None:
    """What the process writes; None where it ends before that is whole. Raises InputError where it is too large."""
    assert process.stdout is not None
    batches: list[pa.RecordBatch] = []
    size = 0
    try:
        with pa.ipc.open_stream(process.stdout) as stream:
            for batch in stream:
                batches.append(batch)
                size += batch.nbytes
                if size > ANSWER_BYTES:
                    raise InputError(
                        f"the answer is larger than {ANSWER_BYTES >> 30} GB: ask for less, or read the Parquet files themselves"
                    )
            return pa.Table.from_batches(batches, stream.schema)
    except (pa.ArrowException, OSError):
        return None


def _limit_process(timeout_secs: int) -> None:
    """What holds whatever DuckDB does, and should the asking process be gone; on Windows only DuckDB's own limits do."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_DATA, (PROCESS_BYTES, PROCESS_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.alarm(timeout_secs + 1)


def _answer(question: dict[str, Any]) -> pa.RecordBatchReader:
    if "runs" not in question:
        found = reads_reference(connect(Path(question["store"]), []), question["sql"])
        return pa.table({"found": [found]}).to_reader()
    connection = connect(Path(question["store"]), question["runs"], reference=question["reference"])
    return _give(relation_of(connection, question["sql"]), question["values"]).to_arrow_reader(BATCH_ROWS)


def _give(relation: "duckdb.DuckDBPyRelation", values: Values) -> "duckdb.DuckDBPyRelation":
    """The same rows, with names that differ, and `values` as they are asked for."""
    relation = relation.project("*")  # which tells columns of one name apart
    names = ['"' + name.replace('"', '""') + '"' for name in relation.columns]
    if values == "json":
        pairs = ", ".join(f"{quote(name)}, {quoted}" for name, quoted in zip(relation.columns, names, strict=True))
        return relation.project(f"json_object({pairs})::VARCHAR AS json")
    given = [
        name if _is_carried(kind, CARRIED[values]) else f"{name}::VARCHAR AS {name}"
        for name, kind in zip(names, relation.types, strict=True)
    ]
    return relation.project(", ".join(given))


def _is_carried(kind: Any, carried: set[str]) -> bool:
    """Whether a type of DuckDB's is among those that are carried, with all types in it."""
    if kind.id not in carried:
        return False
    parts = [part for _, part in kind.children] if kind.id in NESTED else []
    return all(_is_carried(part, carried) for part in parts if not isinstance(part, int))  # an array's size is none


def _main() -> int:
    import duckdb

    _limit_process(int(sys.argv[1]))
    try:
        reader = _answer(json.loads(sys.stdin.buffer.read()))
        with pa.ipc.new_stream(sys.stdout.buffer, reader.schema) as stream:
            for batch in reader:
                stream.write_batch(batch)
    except InputError as error:
        message = str(error)
    except duckdb.Error as error:
        message = first_line(error)
    else:
        return 0
    print(" ".join(message.splitlines()), file=sys.stderr, flush=True)
    return REFUSED


if __name__ == "__main__":
    code = _main()
    sys.stdout.flush()
    os._exit(code)  # else DuckDB says at the end what it has not let go of
