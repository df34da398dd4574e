"""Columns of tables of gates."""

from reports.formats import UNDEFINED, significant
from reports.parts.blocks import Column
from reports.queries import Row

GLYPHS = {"passed": "✓", "warned": "!", "failed": "✗", "error": "⚠", "not evaluated": "?"}


def say_outcome(row: Row) -> str:
    """A glyph and a word: nothing is said by colour alone."""
    is_warning = row["severity"] == "warn" and row["outcome"] in ("error", "not evaluated")
    return f"{GLYPHS[row['outcome']]} {row['outcome']}" + (", a warning" if is_warning else "")


def answer_column(title: str, column: str) -> Column:
    """Of the number that answers a gate."""
    return Column(title, lambda row: UNDEFINED if row[column] is None else significant(row[column]))


def say_limits(row: Row) -> str:
    limits = {"least": "≥ {}", "most": "≤ {}", "max_drop": "no more than {} below", "max_rise": "no more than {} above"}
    return ", ".join(text.format(significant(row[name])) for name, text in limits.items() if row[name] is not None)


GATE = Column("Gate", lambda row: row["gate_name"], is_number=False)
OUTCOME = Column("Outcome", say_outcome, is_number=False)
ALLOWED = Column("Allowed", say_limits, is_number=False)
WHY = Column("Why", lambda row: row["message"], is_number=False)
