"""The files of a table's runs, as one: the columns of a manifest may have other types from run to run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from storage.tables import SCHEMAS

if TYPE_CHECKING:
    import duckdb

INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}
MOMENTS = {"DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"}


def source(connection: "duckdb.DuckDBPyConnection", into: str, table: str, files: list[str]) -> str:
    """The SELECT that reads all rows of the files. into: the schema for what is read beside DuckDB.

    A column that has several types has the one that holds them all; where there is none, all of its values are text.
    Raises duckdb.Error or pyarrow.ArrowException where a file is damaged.
    """
    groups: dict[tuple[pa.Field, ...], list[str]] = {}
    for file in files:
        further = tuple(field for field in pq.read_schema(file) if field.name not in SCHEMAS[table].names)
        groups.setdefault(further, []).append(file)
    if len(groups) == 1 and not any(pa.types.is_float16(field.type) for group in groups for field in group):
        return f"SELECT * FROM {reading(files)}"
    kinds: dict[str, set[str]] = {}
    for group in groups.values():
        found = connection.sql(f"SELECT * FROM {reading(group[:1])}")
        for name, kind in zip(found.columns, map(str, found.types), strict=True):
            kinds.setdefault(name, set()).add(kind)
    types = {name: common_type(found) for name, found in kinds.items()}
    common = {name: kind for name, kind in types.items() if kind is not None}
    parts = []
    for fields, group in groups.items():
        halves = [field.name for field in fields if pa.types.is_float16(field.type)]
        casts = {field.name: common[field.name] for field in fields if field.name in common}
        if halves:
            parts += [select(mended(connection, into, file, halves), casts) for file in group]
        else:
            parts.append(select(reading(group), casts))
    return " UNION ALL BY NAME ".join(parts)


def common_type(kinds: Iterable[str]) -> str | None:
    """The type of DuckDB's to which values of these types are cast; None where DuckDB finds it by itself."""
    found = {*kinds} - {'"NULL"'}
    if len(found) < 2 or found <= INTEGERS:
        return None
    if all(kind in INTEGERS or kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL") for kind in found):
        return "DOUBLE"
    return "TIMESTAMP" if found <= MOMENTS else "VARCHAR"


def select(rows: str, casts: Mapping[str, str]) -> str:
    replaced = ", ".join(f"{quote_name(name)}::{kind} AS {quote_name(name)}" for name, kind in casts.items())
    return f"SELECT * {f'REPLACE ({replaced}) ' if casts else ''}FROM {rows}"


def reading(files: list[str]) -> str:
    listed = ", ".join(map(quote, files))
    return f"read_parquet([{listed}], hive_partitioning = true, hive_types = {{'run_id': VARCHAR}}, union_by_name = true)"


def mended(connection: "duckdb.DuckDBPyConnection", into: str, file: str, halves: list[str]) -> str:
    """What reads a file with floats of 16 bits, in an encoding of which DuckDB knows only those of 32 and 64 bits.

    They are held in memory. No version of now writes such a file.
    """
    name = f"{into}.{quote_name(f'halves of {Path(file).parent.name}')}"
    with pq.ParquetFile(file) as opened:
        columns = opened.read(columns=halves).cast(pa.schema([(half, pa.float32()) for half in halves]))
    connection.from_arrow(columns).create(name)
    replaced = ", ".join(f"halves.{quote_name(half)} AS {quote_name(half)}" for half in halves)
    excluded = ", ".join(map(quote_name, halves))
    return f"(SELECT file.* EXCLUDE ({excluded}), {replaced} FROM {reading([file])} AS file POSITIONAL JOIN {name} AS halves)"


def quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def quote_name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
