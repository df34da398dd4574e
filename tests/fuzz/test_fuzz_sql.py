"""Whatever a query says: it has rows, or an InputError of one line; nothing is written, or read that is not its to read."""

import json
import re
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import InputError
from storage.runs.run import Run
from storage.sql.read_only import connect, select
from storage.tables import SCHEMAS, write_table
from tests.fuzz.conftest import Watch, check_sentence

SECRET = "xyzzy"
WORDS = re.split(
    r"\s+",
    """* ( ) , . ; = < || :: 1 2 0 -1 $1 ? $$ -- /* */ {} [1] {'a':1} 'x' "x" x y t NULL samples runs label
    sample_id main reference memory SELECT FROM WHERE GROUP BY ALL ORDER LIMIT WITH RECURSIVE UNION EXCEPT
    VALUES (1) JOIN LATERAL USING ON true DISTINCT CASE WHEN AS COPY TO ATTACH INSTALL LOAD PRAGMA SET RESET
    CALL EXECUTE PREPARE EXPORT DATABASE CHECKPOINT CREATE TABLE VIEW MACRO INSERT INTO UPDATE DELETE DROP
    ALTER DESCRIBE SUMMARIZE SHOW TABLES EXPLAIN ANALYZE PIVOT UNPIVOT TRUNCATE VACUUM MERGE RETURNING AT
    VERSION read_csv read_text read_blob read_parquet parquet_scan glob sniff_csv query query_table
    json_execute_serialized_sql json_serialize_sql range(3) unnest([1]) generate_series(1,2) getenv('HOME')
    current_setting('threads') getvariable('x') httpfs lambda COLUMNS(*) EXCLUDE REPLACE QUALIFY WINDOW OVER
    FILTER ARRAY STRUCT MAP INTERVAL DATE VARCHAR INT count(*) max(label)""",
)
PLACES = [
    "{out}",
    "{in}",
    "{stem}",
    "{stem}.parquet",
    "{tables}/**",
    "{tables}/x.csv",
    "/etc/passwd",
    "https://example.org/x.csv",
    ":memory:",
]
QUOTED = [quote + place + quote + end for quote in "'\"" for place in PLACES for end in ("", ".parquet", ".csv")]
WHOLE = [
    "SELECT * FROM samples",
    "SELECT label, count(*) FROM samples GROUP BY ALL ORDER BY ALL",
    "WITH t AS (SELECT 1 AS x) SELECT * FROM t",
    "WITH t AS (COPY (SELECT 1) TO '{tables}/x.csv') SELECT * FROM t",
    "SELECT * FROM read_text('{out}')",
    'SELECT * FROM "{stem}".parquet',
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM ''{stem}.parquet'''))",
    "COPY (SELECT 1) TO '{tables}/x.parquet'",
    "ATTACH '{tables}/x.db' AS x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{tables}/x.csv'",
    "DESCRIBE SELECT * FROM samples",
    "PREPARE x AS SELECT 1; EXECUTE x",
]
TOKEN = st.sampled_from(WORDS) | st.sampled_from(QUOTED) | st.sampled_from(WORDS) | st.text(max_size=3)


@st.composite
def queries(draw: st.DrawFn) -> str:
    """Words at random; or a whole query in which words are changed, put in, left out, or wrapped by another query."""
    if draw(st.booleans()):
        return " ".join(draw(st.lists(TOKEN, max_size=12)))
    words = draw(st.sampled_from(WHOLE)).split(" ")
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(words)))
        words[place : place + draw(st.integers(0, 2))] = draw(st.lists(TOKEN, max_size=2))
    text = " ".join(words)
    return draw(
        st.sampled_from(["{}", "{}", "SELECT * FROM ({})", "WITH t AS ({}) SELECT * FROM t", "DESCRIBE {}", "{};"])
    ).replace("{}", text)


def write_samples(store: Path, run: str, name: str) -> None:
    """Three rows with one name in a run's table of samples."""
    path = Run(store, run).table("samples")
    path.parent.mkdir(parents=True)
    rows = [{"sample_index": index, "label": index, "sample_id": name} for index in range(3)]
    write_table(pa.Table.from_pylist(rows, schema=SCHEMAS["samples"]), path)


def test_queries_of_any_words(tmp_path: Path, trials: settings, watch: Watch) -> None:
    store = tmp_path / "store"
    for run, name in {"a": "plain", "unfinished": SECRET}.items():
        write_samples(store, run, name)
    outside = tmp_path / "outside.csv"
    outside.write_text(f"a\n{SECRET}\n")
    unfinished = Run(store, "unfinished").table("samples")
    places = {
        "{out}": str(outside),
        "{in}": str(unfinished),
        "{stem}": str(unfinished.with_suffix("")),
        "{tables}": str(store / "tables"),
    }
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    here = sorted(Path.cwd().iterdir())
    connection = connect(store, ["a"], threads=1)
    answered = 0

    @trials
    @given(sql=queries())
    def check(sql: str) -> None:
        nonlocal answered
        for name, place in places.items():
            sql = sql.replace(name, place)
        with watch():
            try:
                rows = select(connection, sql)
            except InputError as error:
                check_sentence(error)
                text = str(error)
            else:
                answered += 1
                text = json.dumps(rows.to_pylist(), default=str)
        assert SECRET not in text

    check()
    assert answered, "some queries are harmless"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert sorted(Path.cwd().iterdir()) == here
    assert select(connection, "SELECT count(*) AS n, min(sample_id) AS id FROM samples").to_pylist() == [{"n": 3, "id": "plain"}]
