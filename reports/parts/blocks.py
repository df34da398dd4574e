"""What a report is made of: charts and tables, each with the query behind it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from reports.queries import Answer, Row

TABLE_ROWS = 50
CHART_CLASSES = 20


@dataclass(frozen=True)
class Chart:
    """An SVG drawing.

    see: one line, what in it a reader should look for. alt: what it shows, in words, for readers who do not see it. has_links:
    whether it contains links.
    """

    svg: Markup
    see: str
    caption: str
    alt: str
    has_links: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and how its text is read from a query's row."""

    title: str
    read: Callable[[Row], str]
    is_number: bool = True


@dataclass(frozen=True)
class Table:
    """Cells as text. The first column heads its row."""

    caption: str
    columns: Sequence[Column]
    rows: list[list[str]]
    left_out: int = 0


@dataclass(frozen=True)
class Block:
    """A query and what is shown of its answer. note: what a reader has to know, or why nothing is shown."""

    answer: Answer
    chart: Chart | None = None
    table: Table | None = None
    note: str = ""


def tabulate(
    caption: str, columns: Sequence[Column], rows: Sequence[Row], limit: int = TABLE_ROWS, total: int | None = None
) -> Table:
    """The first `limit` rows as text. total: how many rows there are, where `rows` is not all of them."""
    shown = rows[:limit]
    cells = [[column.read(row) for column in columns] for row in shown]
    return Table(caption, columns, cells, (len(rows) if total is None else total) - len(shown))


def facts_table(caption: str, facts: Sequence[tuple[str, str]]) -> Table:
    """A table of names and values, in the order given."""
    columns = [
        Column("Fact", lambda row: row["name"], is_number=False),
        Column("Value", lambda row: row["value"], is_number=False),
    ]
    return tabulate(caption, columns, [{"name": name, "value": value} for name, value in facts], limit=len(facts))
