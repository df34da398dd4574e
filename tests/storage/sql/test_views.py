"""Views of the tables, against their meaning written out in Python."""

from itertools import product
from pathlib import Path

import pyarrow as pa
import pytest

from storage.errors import InputError
from storage.sql.read_only import connect, select
from storage.sql.sandboxed_query import ask
from storage.sql.views import VIEWS
from storage.tables import SCHEMAS, write_table

CLASSES = (None, 0, 1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, `a` and `b`, with every label, prediction and dominant class of two classes; in `b` the first is left out."""
    store = tmp_path_factory.mktemp("views")
    rows = [
        {"sample_index": index, "label": label, "prediction": prediction, "dominant_class": dominant}
        for index, (label, prediction, dominant) in enumerate(product(CLASSES, (0, 1), CLASSES))
    ]
    for run, first in (("a", 0), ("b", 1)):
        path = store / "tables" / "samples" / f"run_id={run}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        write_table(pa.Table.from_pylist(rows[first:], schema=SCHEMAS["samples"]), path)
    return store


def test_what_the_evidence_of_each_sample_is_for(store: Path) -> None:
    rows = select(connect(store, ["a"]), "FROM evidence_verdicts ORDER BY sample_index").to_pylist()
    assert len(rows) == 18
    for row in rows:
        prediction, dominant = row["prediction"], row["dominant_class"]
        assert row["agrees"] is (dominant is not None and dominant == prediction)
        assert row["is_for_another_class"] is (None if dominant is None else dominant != prediction)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_has_the_rows_and_columns_of_its_table_and_its_own(name: str, store: Path) -> None:
    view = VIEWS[name]
    for runs in (["a"], ["a", "b"], []):
        connection = connect(store, runs, reference="b")
        for schema in ("main", "reference"):
            found = select(connection, f"FROM {schema}.{name}")
            expected = select(connection, f"FROM {schema}.{view.source}")
            assert found.column_names == [*expected.column_names, *(field.name for field, _ in view.columns)]
            assert found.select(expected.column_names).equals(expected)
            assert [found.schema.field(field.name).type for field, _ in view.columns] == [field.type for field, _ in view.columns]


def test_users_ask_views_as_they_ask_tables(store: Path) -> None:
    sql = "SELECT (SELECT count(*) FROM evidence_verdicts) - (SELECT count(*) FROM reference.evidence_verdicts)"
    assert ask(store, ["a"], sql, reference="b").column(0).to_pylist() == [1]
    with pytest.raises(InputError, match="did you mean 'evidence_verdicts'"):
        ask(store, ["a"], "FROM evidence_verdict")
