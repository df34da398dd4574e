"""Rows and texts as a command writes them: on stdout, or into a file."""

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import InputError
from storage.text import printable

if TYPE_CHECKING:
    import pyarrow as pa

    from storage.sql.sandboxed_query import Values


class Form(StrEnum):
    """How rows are written. json: one object a line.

    NaN and infinities are null in JSON, which has no numbers for them, and `nan`, `inf`, `-inf` elsewhere; NULL is an empty
    field in CSV. Of columns with one name the second is called `name_1`. Bytes, dates, intervals and, but in JSON and
    Parquet, what is nested are as DuckDB writes them.
    """

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"

    @property
    def values(self) -> "Values":
        """How an answer's values are to be asked for."""
        forms: dict[Form, Values] = {Form.json: "json", Form.parquet: "arrow"}
        return forms.get(self, "text")


JSON_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|-?(?:NaN|Infinity)')
"""Strings, and what is no number in JSON: DuckDB writes it all the same."""


def write_text(path: Path, text: str) -> None:
    """Raises InputError."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"'{path}' cannot be written ({error.strerror}): name another path") from error


def write_rows(table: "pa.Table", form: Form, output: Path | None) -> None:
    """table: of values as `form` asks for. output: the file, where it is not stdout; parquet needs one. Raises OSError."""
    import pyarrow.csv

    from storage.tables import write_table

    if form is Form.parquet and output is not None:
        write_table(table, output)
        return
    if form is Form.csv:
        sink = pyarrow.BufferOutputStream()
        pyarrow.csv.write_csv(table, sink)
        text = sink.getvalue().to_pybytes().decode()
    elif form is Form.json:
        text = "".join(strict_json(row) + "\n" for row in table.column(0).to_pylist())
    else:
        text = draw_table(table)
    if output is None:
        # A terminal obeys what a file keeps.
        sys.stdout.write(printable(text, lines=True) if sys.stdout.isatty() else text)
    else:
        output.write_text(text, encoding="utf-8")


def strict_json(text: str) -> str:
    """JSON with null for what is no number in it."""
    return JSON_TOKENS.sub(lambda found: found[0] if found[0].startswith('"') else "null", text)


def draw_table(table: "pa.Table") -> str:
    """The rows as text, as wide as they are: a pipe must not lose columns."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD)
    for name, values in zip(table.column_names, table.columns, strict=True):
        is_number = str(values.type).startswith(("int", "uint", "float", "double", "decimal"))
        drawn.add_column(Text(printable(name)), justify="right" if is_number else "left", no_wrap=True)
    for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
        drawn.add_row(*(Text(show_value(value)) for value in row))
    console = Console(width=100_000, color_system=None)
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def show_value(value: object) -> str:
    if value is None:
        return "NULL"
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))
