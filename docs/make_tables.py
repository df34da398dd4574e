"""Writes docs/tables.md from the schemas: python docs/make_tables.py"""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from flows.analyses import known_schemas
from storage.sql.views import VIEWS
from storage.tables import SCHEMA_VERSION

HEAD = f"""# The tables

Schema version {SCHEMA_VERSION}. Every table also has `run_id`, its Hive partition. Undefined is NULL; a `_frac` is in [0, 1].
*Better* says which direction of a score speaks for the model's evidence, where one does. Columns of a manifest that the
audit does not know are in `samples` as `meta_*`; one whose type changes from run to run is text where no type holds all
its values. Made by `python docs/make_tables.py` from `storage/tables.py`, `storage/sql/views.py` and `flows/analyses/`.
"""


def tables_page() -> str:
    lines = [HEAD]
    for table, schema in known_schemas().items():
        lines += [f"## {table}", "", *columns_table(schema), ""]
    for name, view in VIEWS.items():
        about = f"{view.about} It is not stored, but asked like a table; it has the columns of `{view.source}`, and:"
        lines += [f"## {name}", "", about, "", *columns_table(field for field, _ in view.columns), ""]
    return "\n".join(lines)


def columns_table(fields: Iterable[pa.Field]) -> list[str]:
    """A line a column, below a head."""
    lines = ["| column | type | what | better |", "|---|---|---|---|"]
    for field in fields:
        metadata = {key.decode(): value.decode() for key, value in field.metadata.items()}
        better = metadata.get("direction", "").replace("none", "")
        lines.append(f"| `{field.name}` | {field.type} | {metadata['about']} | {better} |")
    return lines


if __name__ == "__main__":
    Path(__file__).with_name("tables.md").write_text(tables_page(), encoding="utf-8")
