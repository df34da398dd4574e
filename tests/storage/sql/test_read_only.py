"""The gate in front of the tables: what a query sees, and all that it cannot do."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.errors import InputError
from storage.runs.run import Run
from storage.sql.read_only import connect, reads_reference, select, tables_in
from storage.sql.views import VIEWS
from storage.tables import SCHEMAS, write_table

OLD_STORE = Path(__file__).parents[1] / "old_stores" / "v1"
"""A run of twelve digits as schema version 1 left it, without its arrays."""

PutRows = Callable[..., Path]
FilesOf = Callable[[Path], dict[str, str]]


def ask(store: Path, sql: str, runs: tuple[str, ...] = ("a", "b"), **parameters: Any) -> list[dict[str, Any]]:
    return select(connect(store, runs), sql, parameters or None).to_pylist()


@pytest.fixture
def store(tmp_path: Path, put_rows: PutRows) -> Path:
    """Two published runs of three and two samples, and one that is not."""
    put_rows("a", "samples", [{"sample_index": index, "label": index % 2} for index in range(3)])
    put_rows("b", "samples", [{"sample_index": index, "label": 1} for index in range(2)])
    put_rows("unfinished", "samples", [{"sample_index": 77, "label": 7}])
    return tmp_path


# What a query sees.


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_table_is_there_and_empty_in_a_store_without_runs(tmp_path: Path, table: str) -> None:
    rows = select(connect(tmp_path, []), f"SELECT * FROM {table}")
    assert rows.num_rows == 0
    assert rows.column_names == [*SCHEMAS[table].names, "run_id"]
    assert rows.schema.field("run_id").type == pa.string()
    assert list(tmp_path.iterdir()) == []


def test_rows_carry_the_run_they_are_of(store: Path) -> None:
    counts = ask(store, "SELECT run_id, count(*) AS n, sum(label) AS s FROM samples GROUP BY ALL ORDER BY ALL")
    assert [(row["run_id"], row["n"], int(row["s"])) for row in counts] == [("a", 3, 1), ("b", 2, 2)]


@pytest.mark.parametrize(("runs", "expected"), [((), 0), (("a",), 3), (("b",), 2), (("a", "b"), 5)])
def test_only_rows_of_the_given_runs_are_seen(store: Path, runs: tuple[str, ...], expected: int) -> None:
    assert ask(store, "SELECT count(*) AS n FROM samples", runs) == [{"n": expected}]
    assert ask(store, "SELECT count(*) AS n FROM samples WHERE label = 7 OR sample_index = 77", runs) == [{"n": 0}]


def test_a_table_that_a_run_has_not_written_is_empty(store: Path) -> None:
    assert ask(store, "SELECT count(*) AS n FROM class_stats") == [{"n": 0}]


@pytest.mark.parametrize("run_id", ["2026-11-21", "20261121", "1e5", "true", "20261121T030000Z-mnist-4f2a", "null"])
def test_run_id_is_text_even_where_it_looks_like_something_else(tmp_path: Path, put_rows: PutRows, run_id: str) -> None:
    put_rows(run_id, "samples", [{"sample_index": 0}])
    sql = "SELECT run_id, typeof(run_id) AS kind FROM samples WHERE run_id = $run_id"
    assert ask(tmp_path, sql, (run_id,), run_id=run_id) == [{"run_id": run_id, "kind": "VARCHAR"}]


def test_runs_with_different_meta_columns_stand_side_by_side(tmp_path: Path, put_rows: PutRows) -> None:
    put_rows("a", "samples", [{"sample_index": 0, "meta_site": "Lyon"}], [pa.field("meta_site", pa.string())])
    put_rows("b", "samples", [{"sample_index": 1, "meta_age": 63}], [pa.field("meta_age", pa.int64())])
    rows = ask(tmp_path, "SELECT run_id, sample_index, meta_site, meta_age FROM samples ORDER BY run_id")
    assert rows == [
        {"run_id": "a", "sample_index": 0, "meta_site": "Lyon", "meta_age": None},
        {"run_id": "b", "sample_index": 1, "meta_site": None, "meta_age": 63},
    ]


def test_runs_of_an_older_version_stand_beside_those_of_this_one(tmp_path: Path, put_rows: PutRows) -> None:
    """What was written by version 1, as it was written, and a run of this version."""
    shutil.copytree(OLD_STORE / "tables", tmp_path / "tables")
    put_rows("new", "samples", [{"sample_index": 0, "left_out_frac": 0.25, "label": 3}])
    (old,) = (path.name.removeprefix("run_id=") for path in (tmp_path / "tables" / "samples").glob("*digits*"))
    sql = "SELECT run_id, count(*) AS n, max(left_out_frac) AS left_out, max(label) AS label FROM samples GROUP BY ALL ORDER BY n"
    of_new = {"run_id": "new", "n": 1, "left_out": 0.25, "label": 3}
    of_old = {"run_id": old, "n": 11, "left_out": None, "label": 9}
    assert ask(tmp_path, sql, (old, "new")) == [of_new, of_old]
    assert ask(tmp_path, sql, (old,)) == [of_old]


def test_another_runs_tables_are_the_references(tmp_path: Path, put_rows: PutRows) -> None:
    put_rows("a", "samples", [{"sample_index": 0}])
    put_rows("b", "samples", [{"sample_index": 1}, {"sample_index": 2}])
    connection = connect(tmp_path, ["a"], reference="b")
    sql = "SELECT (SELECT count(*) FROM samples) AS here, count(*) AS there FROM reference.samples"
    assert select(connection, sql).to_pylist() == [{"here": 1, "there": 2}]
    assert select(connection, "SELECT count(*) AS n FROM reference.gates").to_pylist() == [{"n": 0}]
    with pytest.raises(InputError, match="reference"):
        select(connect(tmp_path, ["a"]), sql)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1 FROM reference.samples", True),
        ("SELECT (SELECT count(*) FROM REFERENCE.runs)", True),
        ("WITH a AS (SELECT * FROM reference.runs) SELECT count(*) FROM a", True),
        ("SELECT 'reference.samples' FROM samples AS reference", False),
        ("SELECT reference.label FROM samples AS reference", False),
    ],
)
def test_queries_that_read_the_reference(tmp_path: Path, sql: str, expected: bool) -> None:
    assert reads_reference(connect(tmp_path, []), sql) is expected


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_table_of_an_older_version_has_the_columns_of_this_one(table: str) -> None:
    runs = [path.parent.name for path in OLD_STORE.glob("runs/*/manifest.json")]
    rows = select(connect(OLD_STORE, runs), f"SELECT * FROM {table}")
    assert rows.column_names == [*SCHEMAS[table].names, *(["meta_site"] if table == "samples" else []), "run_id"]
    plain = [field for field in SCHEMAS[table] if not pa.types.is_nested(field.type) and not pa.types.is_timestamp(field.type)]
    assert [rows.schema.field(field.name).type for field in plain] == [field.type for field in plain]
    assert rows.num_rows or table == "gates", "that version had none"


# A table that not every run has.

EXTRA = pa.table({"class_index": pa.array([0, 1], pa.int32()), "class_name": ["cat", "dog"]})


def put_extra(store: Path, run_id: str, name: str = "extra", rows: pa.Table = EXTRA) -> None:
    path = Run(store, run_id).table(name)
    path.parent.mkdir(parents=True)
    write_table(rows, path)


def test_a_further_table_is_there_where_one_of_the_runs_has_it(store: Path) -> None:
    for run_id in ("b", "unfinished"):
        put_extra(store, run_id)
    expected = [{"class_index": index, "class_name": name, "run_id": "b"} for index, name in enumerate(("cat", "dog"))]
    for runs in (("a", "b"), ("b",)):
        assert ask(store, "SELECT * FROM extra ORDER BY class_index", runs) == expected
        assert tables_in(connect(store, runs), "main") == [*SCHEMAS, *VIEWS, "extra"]
    with pytest.raises(InputError, match="table 'extra' does not exist"):
        ask(store, "SELECT * FROM extra", ("a",))
    assert tables_in(connect(store, ["a"]), "main") == [*SCHEMAS, *VIEWS]


def test_a_further_table_of_the_reference_is_apart_from_the_runs(store: Path) -> None:
    put_extra(store, "b")
    connection = connect(store, ["a"], reference="b")
    assert tables_in(connection, "main") == [*SCHEMAS, *VIEWS]
    assert tables_in(connection, "reference") == [*SCHEMAS, *VIEWS, "extra"]
    assert select(connection, "SELECT count(*) AS n FROM reference.extra").to_pylist() == [{"n": 2}]
    with pytest.raises(InputError, match="table 'extra' does not exist"):
        select(connection, "SELECT * FROM extra")


def test_a_folder_that_is_no_table_of_ours_is_none(store: Path) -> None:
    for name in ("Extra", "ex tra", "1x", 'x"; DROP TABLE samples; --'):
        put_extra(store, "a", name)
    assert tables_in(connect(store, ["a"]), "main") == [*SCHEMAS, *VIEWS]


def test_a_further_table_that_is_damaged_says_how_to_find_what_is(store: Path) -> None:
    put_extra(store, "a")
    path = Run(store, "a").table("extra")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="table 'extra' cannot be read: 'clear-audit verify RUN' says what is damaged"):
        connect(store, ["a"])


def test_a_store_may_lie_in_a_folder_with_a_quote_in_its_name(tmp_path: Path, put_rows: PutRows) -> None:
    put_rows("a", "samples", [{"sample_index": 0}])
    store = tmp_path / "l'été"
    store.mkdir()
    (tmp_path / "tables").rename(store / "tables")
    assert ask(store, "SELECT count(*) AS n FROM samples", ("a",)) == [{"n": 1}]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT max(sample_index) AS n FROM samples;", 2),
        ("WITH few AS (SELECT * FROM samples WHERE run_id = 'b') SELECT count(*) AS n FROM few", 2),
        ("WITH RECURSIVE t AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM t WHERE i < 4) SELECT max(i) AS n FROM t", 4),
        ("FROM samples SELECT count(*) AS n", 5),
        ("SELECT n FROM (VALUES (3), (4)) AS t(n) ORDER BY n LIMIT 1", 3),
        ("VALUES (9)", 9),
        ("SELECT count(*) AS n FROM range(6)", 6),
        ("SELECT count(*) AS n FROM (SELECT 1 UNION ALL SELECT 1)", 2),
        ("SELECT count(DISTINCT s.sample_index) AS n FROM samples s JOIN samples t USING (sample_index)", 3),
    ],
)
def test_every_form_of_select_works(store: Path, sql: str, expected: int) -> None:
    assert [list(row.values()) for row in ask(store, sql)] == [[expected]]


def test_describe_lists_the_columns(store: Path) -> None:
    names = [row["column_name"] for row in ask(store, "DESCRIBE confusion")]
    assert names == ["label", "prediction", "dominant_class", "sample_count", "energy_frac", "run_id"]


# What a query cannot do. {tables} lies inside the one folder that the connection may touch.

REFUSED = [
    "COPY samples TO '{tables}/x.csv'",
    "COPY (SELECT 1) TO '{tables}/x.parquet'",
    "COPY samples FROM '{outside}'",
    "ATTACH '{tables}/x.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "SET memory_limit = '99GB'",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "CREATE TABLE x (i INT)",
    "CREATE VIEW x AS SELECT 1",
    "CREATE MACRO x() AS 1",
    "CREATE SECRET (TYPE s3)",
    "INSERT INTO failures VALUES (1, 'a', 'b', 'c', 'd')",
    "UPDATE failures SET stage = 'x'",
    "DELETE FROM failures",
    "DROP VIEW samples",
    "ALTER VIEW samples RENAME TO x",
    "EXPORT DATABASE '{tables}/x'",
    "IMPORT DATABASE '{tables}/x'",
    "CALL pragma_version()",
    "CHECKPOINT",
    "BEGIN",
    "USE memory",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{tables}/x.csv'",
    "PREPARE x AS COPY (SELECT 1) TO '{tables}/x.csv'",
    # A SELECT that writes on its way: DuckDB 2 takes these inside a WITH.
    "WITH x AS (COPY (SELECT 1) TO '{tables}/x.parquet') SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO '{published}' (FORMAT parquet)) SELECT * FROM x",
    "SELECT * FROM (WITH x AS (COPY (SELECT 1) TO '{tables}/x.csv') SELECT * FROM x)",
    "DESCRIBE WITH x AS (COPY (SELECT 1) TO '{tables}/x.csv') SELECT 1",
    "WITH x AS (INSERT INTO failures VALUES (1, 'a', 'b', 'c', 'd') RETURNING *) SELECT * FROM x",
    "WITH x AS (UPDATE failures SET stage = 'x' RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM failures RETURNING *) SELECT * FROM x",
    "CREATE OR REPLACE VIEW samples AS SELECT 1",
    "CREATE TEMP TABLE x AS SELECT 1",
    "CREATE SEQUENCE x",
    "CREATE TYPE x AS ENUM ('a')",
    "CREATE FUNCTION x() AS TABLE SELECT 1",
    "MERGE INTO failures USING failures AS f ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE failures",
    "COMMENT ON VIEW samples IS 'x'",
    "SET VARIABLE x = 1",
    "SET SESSION threads = 1",
    "PRAGMA memory_limit = '99GB'",
    "DETACH memory",
    "COPY FROM DATABASE memory TO system",
    "FORCE CHECKPOINT",
    "VACUUM",
    "UPDATE EXTENSIONS",
    "PREPARE x AS SELECT 1",
    "EXECUTE x",
    "DEALLOCATE x",
    "ROLLBACK",
    "EXPLAIN SELECT 1",
    "CALL enable_logging()",
    "SELECT getenv('HOME')",
    "SELECT read_text('{outside}')",
    "SELECT nextval('x')",
    # SQL inside a string.
    "FROM query_table(['samples'])",
    "FROM histogram('samples', label)",
    "FROM summary((SELECT 1))",
    "FROM duckdb_settings()",
    "FROM duckdb_secrets()",
    "FROM which_secret('s3://bucket', 's3')",
    "FROM enable_logging(storage = 'file', storage_config = {{'path': '{tables}/x'}})",
    "FROM enable_profiling(save_location = '{tables}/x')",
    "FROM checkpoint()",
    "FROM pandas_scan(0)",
    "FROM python_map_function(0)",
    "FROM query('WITH x AS (COPY (SELECT 1) TO ''{tables}/x.csv'') SELECT 1')",
    "FROM system.main.QUERY('WITH x AS (COPY (SELECT 1) TO ''{tables}/x.csv'') SELECT 1')",
    "FROM json_execute_serialized_sql(json_serialize_sql('WITH x AS (COPY (SELECT 1) TO ''{tables}/x.csv'') SELECT 1'))",
    # Several statements, and none.
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '{tables}/x.csv'",
    "COPY (SELECT 1) TO '{tables}/x.csv'; SELECT 1",
    "",
    "   \n",
    ";",
    "-- only a comment",
    "/* only a comment */",
    # Files.
    "SELECT * FROM read_csv('{outside}')",
    "SELECT * FROM read_text('{outside}')",
    "SELECT * FROM read_blob('{outside}')",
    "SELECT * FROM read_json('{outside}')",
    "SELECT * FROM read_text('{tables}/../secret.csv')",
    "SELECT * FROM glob('{store}/*')",
    "SELECT * FROM '{outside}'",
    "SELECT (SELECT content FROM read_text('{outside}')) AS stolen",
    "SELECT * FROM sniff_csv('{outside}')",
    "SELECT * FROM read_text('/etc/passwd')",
    # The rows of a run that is not published.
    "SELECT * FROM read_parquet('{unfinished}')",
    "SELECT * FROM '{unfinished}'",
    "SELECT * FROM parquet_metadata('{unfinished}')",
    "SELECT * FROM glob('{tables}/**')",
    "SELECT * FROM '{stem}.parquet'",
    'SELECT * FROM "{stem}".parquet',
    'SELECT * FROM "{stem}"."PARQUET"',
    'SELECT (SELECT max(label) FROM "{stem}".parquet)',
    'TABLE "{stem}".parquet',
    'SHOW "{stem}".parquet',
    'SUMMARIZE "{stem}".parquet',
    'SELECT * FROM (DESCRIBE "{stem}".parquet)',
    'SELECT * FROM ""."{stem}".parquet',
    "SELECT * FROM parquet_scan('{unfinished}')",
    "SELECT * FROM parquet_schema('{unfinished}')",
    "SELECT * FROM read_single_parquet_file('{unfinished}')",
    "SELECT * FROM samples, LATERAL read_text('{outside}')",
    "SUMMARIZE '{outside}'",
    "DESCRIBE SELECT * FROM read_csv('{outside}')",
    # Other machines.
    "SELECT * FROM 'https://example.org/x.parquet'",
    'SELECT * FROM "https://example.org/x".parquet',
    "SELECT * FROM read_csv('https://example.org/x.csv')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    # A variable of the Python program.
    "SELECT * FROM rows",
]


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A store of a published run of three samples and one that is not, beside a secret; and a connection to it."""
    store = tmp_path_factory.mktemp("attacked")
    for run, labels in {"a": [0, 1, 0], "unfinished": [7]}.items():
        path = Run(store, run).table("samples")
        path.parent.mkdir(parents=True)
        write_table(pa.Table.from_pylist([{"label": label} for label in labels], schema=SCHEMAS["samples"]), path)
    (store / "secret.csv").write_text("word\nxyzzy\n")
    return store, connect(store, ["a"])


@pytest.mark.parametrize("template", REFUSED)
def test_what_is_more_than_a_select_of_the_tables_is_refused_and_writes_nothing(
    attacked: tuple[Path, Any], template: str, files_of: FilesOf
) -> None:
    store, connection = attacked
    published, unfinished = (Run(store, run).table("samples") for run in ("a", "unfinished"))
    sql = template.format(
        tables=store / "tables",
        store=store,
        outside=store / "secret.csv",
        published=published,
        unfinished=unfinished,
        stem=unfinished.with_suffix(""),
    )
    rows = pa.table({"word": ["xyzzy"]})
    before = files_of(store)
    with pytest.raises(InputError) as caught:
        select(connection, sql)
    assert files_of(store) == before
    assert "\n" not in str(caught.value)
    assert "xyzzy" not in str(caught.value)
    # The connection is as it was.
    assert select(connection, "SELECT count(*) AS n, max(label) AS most FROM samples").to_pylist() == [{"n": 3, "most": 1}]
    assert select(connection, "SELECT count(*) AS n FROM failures").to_pylist() == [{"n": 0}]
    assert rows.num_rows == 1


def test_the_refused_forms_do_write_where_nothing_stops_them(tmp_path: Path) -> None:
    """Else the test above proves nothing of them."""
    import duckdb

    inner = "WITH x AS (COPY (SELECT 1) TO ''{0}'') SELECT 1"
    forms = [inner.replace("''", "'"), f"FROM json_execute_serialized_sql(json_serialize_sql('{inner}'))"]
    duckdb.sql(f"COPY (SELECT 42 AS n) TO '{tmp_path / 'part.parquet'}'")
    assert duckdb.sql(f'SELECT n FROM "{tmp_path / "part"}".parquet').fetchall() == [(42,)]
    for number, sql in enumerate(forms):
        target = tmp_path / f"{number}.csv"
        connection = duckdb.connect()
        (statement,) = connection.extract_statements(sql.format(target))
        assert statement.type == duckdb.StatementType.SELECT
        connection.sql(sql.format(target)).to_arrow_table()
        assert target.exists()


@pytest.mark.parametrize(
    "template",
    [
        "SELECT * FROM read_text('{store}/secret.csv')",
        "SELECT * FROM glob('{store}/*')",
        "COPY (SELECT 1) TO '{store}/x.csv'",
        "ATTACH '{store}/x.db'",
        "INSTALL httpfs",
        "LOAD '{store}/x.duckdb_extension'",
        "SET enable_external_access = true",
        "SET allowed_directories = ['/']",
        "SET memory_limit = '99GB'",
        "SET lock_configuration = false",
    ],
)
def test_what_is_outside_the_tables_is_out_of_reach_even_behind_the_gate(store: Path, template: str, files_of: FilesOf) -> None:
    """The connection itself refuses: two locks, not one."""
    import duckdb

    (store / "secret.csv").write_text("xyzzy")
    before = files_of(store)
    connection = connect(store, ["a", "b"])
    with pytest.raises((duckdb.PermissionException, duckdb.InvalidInputException), match=r"disabled|locked|Cannot"):
        connection.sql(template.format(store=store))
    assert files_of(store) == before


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("sample", "samples"),
        ("Responces", "responses"),
        ("confusions", "confusion"),
        ("class_stat", "class_stats"),
        ("run", "runs"),
    ],
)
def test_an_unknown_table_names_the_nearest_of_ours(store: Path, wrong: str, right: str) -> None:
    with pytest.raises(InputError) as caught:
        ask(store, f"SELECT * FROM {wrong}")
    assert f"table '{wrong}' does not exist: did you mean '{right}'?" in str(caught.value)
    assert all(table in str(caught.value) for table in SCHEMAS)


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELEC label FROM samples", "SELEC"),
        ("SELECT label,\nFROM\n  samples\nWHERE WHERE", "WHERE"),
        ("SELECT nothing_like_it FROM samples", "nothing_like_it"),
        ("SELECT no_function(label) FROM samples", "no_function"),
        ("SELECT $label", "label"),
        ("SELECT 'x'::INT", "x"),
    ],
)
def test_a_faulty_query_is_explained_in_one_line(store: Path, sql: str, named: str) -> None:
    with pytest.raises(InputError, match=r"^the query cannot be run: ") as caught:
        ask(store, sql)
    assert "\n" not in str(caught.value)
    assert named in str(caught.value)


def test_parameters_are_values_and_never_sql(store: Path) -> None:
    sql = "SELECT count(*) AS n FROM samples WHERE run_id = $run_id"
    assert ask(store, sql, run_id="a' OR '1' = '1") == [{"n": 0}]
    assert ask(store, sql, run_id="a") == [{"n": 3}]
