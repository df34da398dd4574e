"""DuckDB over the tables of published runs, and the read-only gate in front of it."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from storage.errors import InputError, nearest
from storage.filesystems import check_regular
from storage.local_cache import local_store
from storage.sql.union import quote, reading, source
from storage.sql.views import VIEWS
from storage.tables import SCHEMAS

# Imported where it is used: Prefect's threads keep modules alive until the very end, where DuckDB complains of that.
if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT = "2GB"
"""What DuckDB may hold of tables at work; nothing is written beside. A query that needs more is an error."""

READING = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
"""The parts of a SELECT that read; DuckDB's other ones (COPY_QUERY_NODE …) let a WITH write."""

FUNCTIONS = {"unnest", "range", "generate_series", "json_each", "json_tree"}
"""The table functions that a query may call: others read files, or run SQL that is hidden in a string."""

TABLE_NAME = re.compile(r"[a-z][a-z0-9_]*")

NAMING = {"BASE_TABLE", "SHOW_REF"}
SPACES = {"", "memory", "main", "reference", "system", "information_schema", "pg_catalog"}
"""The catalogs and schemas that there are."""


def connect(
    store: Path, runs: Iterable[str], threads: int | None = None, reference: str | None = None
) -> "duckdb.DuckDBPyConnection":
    """A connection that knows the tables by their names and can do nothing but read them.

    runs: ids of the runs whose rows are seen. Their files are listed one by one, so that what an unfinished run has
    written is never seen. Columns that an older version did not write are NULL. threads: all cores by default; with one,
    sums of floats come out the same every time. reference: another run, whose tables are `reference.<table>`.
    The connection cannot write, reach files outside the store's tables, load extensions, or be configured otherwise.
    """
    import duckdb

    runs = list(runs)
    folder = local_store(store, runs if reference is None else [*runs, reference]).absolute() / "tables"
    connection = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})
    create_views(connection, "main", folder, runs)
    if reference is not None:
        connection.execute("CREATE SCHEMA reference")
        create_views(connection, "reference", folder, [reference])
    if threads is not None:
        connection.execute(f"SET threads = {threads}")
    connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
    # Else what does not fit into memory is written to the folder that the program happens to be in.
    connection.execute("SET temp_directory = ''")
    connection.execute(f"SET allowed_directories = [{quote(str(folder))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def create_views(connection: "duckdb.DuckDBPyConnection", into: str, folder: Path, runs: list[str]) -> None:
    """Makes the tables of `runs`, and the views of them, known by their names in the schema `into`.

    Raises InputError where a file is damaged.
    """
    import duckdb

    for table in [*SCHEMAS, *further_tables(folder, runs)]:
        files = [str(path) for run in runs for path in sorted((folder / table / f"run_id={run}").glob("*.parquet"))]
        schema = SCHEMAS.get(table)
        if not files:
            assert schema is not None
            empty = pa.schema([*schema, pa.field("run_id", pa.string())]).empty_table()
            connection.from_arrow(empty).create(f"{into}.{table}")
            continue
        try:
            if schema is None:
                for file in files:
                    check_regular(Path(file))
                connection.execute(f"CREATE VIEW {into}.{table} AS SELECT * FROM {reading(files)}")
                continue
            known = connection.from_arrow(schema.empty_table())
            columns = ", ".join(f"NULL::{kind} AS {name}" for name, kind in zip(known.columns, known.types, strict=True))
            for file in files:
                check_regular(Path(file))
            rows = source(connection, into, table, files) if table == "samples" else f"SELECT * FROM {reading(files)}"
            connection.execute(f"CREATE VIEW {into}.{table} AS SELECT {columns} WHERE false UNION ALL BY NAME {rows}")
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            fault = str(error).split("\n")[0]
            raise InputError(
                f"table '{table}' cannot be read: 'clear-audit verify RUN' says what is damaged ({fault})"
            ) from error
    for name, view in VIEWS.items():
        connection.execute(f"CREATE VIEW {into}.{name} AS {view.select(into)}")


def further_tables(folder: Path, runs: Iterable[str]) -> list[str]:
    """The tables of analyses that not every run has, where one of `runs` has them. folder: of a store's tables."""
    found = {path.parents[1].name for run in runs for path in folder.glob(f"*/run_id={run}/*.parquet")}
    return sorted(name for name in found - SCHEMAS.keys() if TABLE_NAME.fullmatch(name))


def select(connection: "duckdb.DuckDBPyConnection", sql: str, parameters: dict[str, Any] | None = None) -> pa.Table:
    """The rows of one SELECT of ours: a user's is asked by `sandboxed_query`, which limits its time and memory.

    Raises InputError where the text is not exactly one SELECT, or DuckDB cannot run it.
    """
    import duckdb

    try:
        table: pa.Table = relation_of(connection, sql, parameters).to_arrow_table()
    except duckdb.Error as error:
        raise InputError(first_line(error)) from error
    return table


def relation_of(
    connection: "duckdb.DuckDBPyConnection", sql: str, parameters: dict[str, Any] | None = None
) -> "duckdb.DuckDBPyRelation":
    """One SELECT, checked and bound, that runs when its rows are fetched. Raises InputError as `select` does."""
    import duckdb

    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise InputError("the query is not valid UTF-8 text") from error
    try:
        kinds = [kind_of(statement) for statement in connection.extract_statements(sql)]
        if kinds != ["SELECT"]:
            found = ", ".join(kinds) or "nothing"
            raise InputError(f"a query must be exactly one SELECT, and this is {found}: the tables can only be read")
        check_reads_only(connection, sql)
        return connection.sql(sql, params=parameters)
    except duckdb.CatalogException as error:
        raise InputError(unknown_table(connection, error) or first_line(error)) from error
    except duckdb.Error as error:
        raise InputError(first_line(error)) from error


def kind_of(statement: "duckdb.Statement") -> str:
    try:
        return statement.type.name
    except ValueError:  # DuckDB has kinds that its Python package has no name for
        return "something else"


def check_reads_only(connection: "duckdb.DuckDBPyConnection", sql: str) -> None:
    """Raises InputError where a SELECT has a part that could do more than read the tables, wherever it is nested."""
    for part in parts_of(connection, sql):
        kind = part.get("type")
        if part.get("error") is True:
            raise InputError(f"the query cannot be run: {part['error_message']}")
        if isinstance(kind, str) and kind.endswith("_NODE") and kind not in READING:
            raise InputError(f"a query can only read the tables, and this has a {kind.split('_')[0]} in it")
        if kind == "TABLE_FUNCTION" and part["function"]["function_name"].lower() not in FUNCTIONS:
            called, allowed = part["function"]["function_name"], ", ".join(sorted(FUNCTIONS))
            raise InputError(f"a query can only read the tables, and this calls {called}: it may call {allowed}")
        if kind in NAMING and not is_a_table(part):
            read = ".".join(filter(None, (part["catalog_name"], part["schema_name"], part["table_name"])))
            raise InputError(f"a query can only read the tables, and this reads '{read}'")


def is_a_table(part: dict[str, Any]) -> bool:
    """Whether a name can only be of a table: DuckDB takes `'x.parquet'`, and `"x".parquet` too, for a file."""
    spaces = {part["catalog_name"].lower(), part["schema_name"].lower()}
    return spaces <= SPACES and "." not in part["table_name"]


def reads_reference(connection: "duckdb.DuckDBPyConnection", sql: str) -> bool:
    """Whether a query asks the tables of the reference run."""
    return any(
        part.get("type") == "BASE_TABLE" and part.get("schema_name", "").lower() == "reference"
        for part in parts_of(connection, sql)
    )


def parts_of(connection: "duckdb.DuckDBPyConnection", sql: str) -> Iterator[dict[str, Any]]:
    """The parts of a query as DuckDB parses it, in no order. Raises InputError."""
    rows = connection.sql("SELECT json_serialize_sql($sql)", params={"sql": sql}).fetchall()
    try:
        parts = [json.loads(text) for (text,) in rows]
    except RecursionError as error:
        raise InputError("the query is nested too deeply: split it with WITH") from error
    while parts:
        part = parts.pop()
        if isinstance(part, list):
            parts += part
        elif isinstance(part, dict):
            parts += part.values()
            yield part


def unknown_table(connection: "duckdb.DuckDBPyConnection", error: "duckdb.CatalogException") -> str | None:
    """DuckDB's own suggestion is often one of its internal tables."""
    match = re.search(r"Table with name (\S+) does not exist", str(error))
    if match is None:
        return None
    tables = tables_in(connection, "main")
    return f"table '{match[1]}' does not exist: did you mean '{nearest(match[1], tables)}'? The tables are {', '.join(tables)}"


def tables_in(connection: "duckdb.DuckDBPyConnection", schema: str) -> list[str]:
    """The tables that a connection knows in the schema `main`, or `reference`: those that every run has, and the others."""
    sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = $schema AND table_name NOT LIKE 'halves of%'"
    found = {name for (name,) in connection.sql(sql, params={"schema": schema}).fetchall()}
    return [*(name for name in SCHEMAS if name in found), *sorted(found - SCHEMAS.keys())]


def first_line(error: "duckdb.Error") -> str:
    return "the query cannot be run: " + str(error).split("\n")[0]
