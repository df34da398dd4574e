"""Writes docs/tables.md from the schemas: python docs/make_tables.py"""

from pathlib import Path

from flows.analyses import known_schemas
from storage.tables import SCHEMA_VERSION

HEAD = f"""# The tables

Schema version {SCHEMA_VERSION}. Every table also has `run_id`, its Hive partition. Undefined is NULL; a `_frac` is in [0, 1].
*Better* says which direction of a score speaks for the model's evidence, where one does. Columns of a manifest that the
audit does not know are in `samples` as `meta_*`; one whose type changes from run to run is text where no type holds all
its values. Made by `python docs/make_tables.py` from `storage/tables.py` and `flows/analyses/`.
"""


def tables_page() -> str:
    lines = [HEAD]
    for table, schema in known_schemas().items():
        lines += [f"## {table}", "", "| column | type | what | better |", "|---|---|---|---|"]
        for field in schema:
            metadata = {key.decode(): value.decode() for key, value in field.metadata.items()}
            better = metadata.get("direction", "").replace("none", "")
            lines.append(f"| `{field.name}` | {field.type} | {metadata['about']} | {better} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("tables.md").write_text(tables_page(), encoding="utf-8")
