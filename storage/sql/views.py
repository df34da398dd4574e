"""What is worked out from the tables whenever it is asked, by one formula for reports, gates and users alike."""

from dataclasses import dataclass

import pyarrow as pa

from storage.tables import column


@dataclass(frozen=True)
class View:
    """A table that is not stored. source: the table whose columns it has. columns: those it adds, each with its SQL."""

    about: str
    source: str
    columns: tuple[tuple[pa.Field, str], ...]

    def select(self, schema: str) -> str:
        """The SELECT behind it, from the tables of a schema."""
        added = ", ".join(f"{expression} AS {field.name}" for field, expression in self.columns)
        return f"SELECT *, {added} FROM {schema}.{self.source}"


AGREES = column("agrees", pa.bool_(), "the dominant class is the prediction; false where there is none", "higher")
IS_FOR_ANOTHER_CLASS = column(
    "is_for_another_class", pa.bool_(), "the dominant class is another than the prediction; NULL = no positive response", "lower"
)

VIEWS = {
    "evidence_verdicts": View(
        "The measured samples, and which class their evidence is for. A sample without positive response for any class has no "
        "evidence: it does not agree, and whether its evidence is for another class is NULL.",
        "samples",
        (
            (AGREES, "dominant_class IS NOT DISTINCT FROM prediction"),
            (IS_FOR_ANOTHER_CLASS, "dominant_class <> prediction"),
        ),
    )
}
