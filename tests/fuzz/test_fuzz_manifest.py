"""Whatever a manifest lists: it is read, or refused by an InputError, or its samples fail; nothing outside is read."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.datasets.manifest import ManifestDataset, ManifestSpec
from storage.errors import InputError
from tests.fuzz.conftest import Watch, check_sentence
from tests.fuzz.mutations import NUMBERS, TEXT, changed_bytes

PATHS = TEXT | st.sampled_from(
    ["a.png", "b/c.png", "./a.png", "out.png", "up/x.png", "loop.png", "file:///etc/passwd", "a.png/x"]
)
LABELS = TEXT | st.sampled_from(["cat", "dog", "0", "1", "-1", ""]) | st.sampled_from(NUMBERS).map(str)
NAMES = st.sampled_from(["path", "label", "site", "Site", "meta_site", "%", "", "run_id", "sample_id"]) | TEXT
TABLE = {"path": ["a.png", "b/c.png", "a.png"], "label": ["cat", "dog", None], "site": [1, None, 3]}


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    names = ["path", "label", *draw(st.lists(NAMES, max_size=2))]
    write = draw(st.sampled_from([str, quoted]))
    rows = [[draw(PATHS), draw(LABELS), *(draw(TEXT) for _ in names[2:])] for _ in range(draw(st.integers(0, 4)))]
    text = "\n".join(",".join(map(write, row)) for row in [names, *rows])
    return text.encode("utf-8", "surrogatepass")


@st.composite
def parquet_files(draw: st.DrawFn) -> bytes:
    paths = draw(st.lists(PATHS, min_size=1, max_size=4))
    kinds: list[pa.DataType] = [
        pa.string(),
        pa.int64(),
        pa.uint64(),
        pa.float64(),
        pa.binary(),
        pa.bool_(),
        pa.date64(),
        pa.int8(),
    ]
    kind = draw(st.sampled_from(kinds))
    labels = pa.array([str(draw(st.integers(-2, 3))) for _ in paths])
    if kind == pa.bool_() or kind == pa.date64():
        column = pa.nulls(len(paths), kind)
    else:
        column = labels.cast(pa.int64()).cast(kind, safe=False) if kind not in (pa.string(), pa.binary()) else labels.cast(kind)
    table = pa.table({"path": [path.encode("utf-8", "replace").decode() for path in paths], "label": column})
    return parquet(table)


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="snappy")
    return sink.getvalue()


def test_manifests_of_any_content(tmp_path: Path, trials: settings, watch: Watch) -> None:
    folder = tmp_path / "data"
    (folder / "b").mkdir(parents=True)
    for path in (folder / "a.png", folder / "b" / "c.png"):
        Image.new("L", (3, 2), 7).save(path)
    Image.new("L", (3, 2), 99).save(tmp_path / "x", "PNG")  # what `../x` and its like lead to
    Image.new("L", (3, 2), 99).save(tmp_path / "x.png")
    (folder / "out.png").symlink_to(tmp_path / "x.png")
    (folder / "up").symlink_to("..")
    (folder / "loop.png").symlink_to("loop.png")
    harmless = parquet(pa.table(TABLE))

    @trials
    @given(
        manifest=st.tuples(st.just("csv"), csv_files() | csv_files().flatmap(changed_bytes))
        | st.tuples(st.just("parquet"), parquet_files() | changed_bytes(harmless)),
        classes=st.sampled_from([None, ("cat", "dog"), ("0", "1", "2")]),
    )
    def check(manifest: tuple[str, bytes], classes: tuple[str, ...] | None) -> None:
        path = folder / f"list.{manifest[0]}"
        path.write_bytes(manifest[1])
        with watch():
            try:
                dataset = ManifestDataset(ManifestSpec("manifest", str(path), classes))
            except InputError as error:
                check_sentence(error, path)
                return
            samples = dataset.read(0, min(8, len(dataset)))
            for position, image in enumerate(samples.images):
                assert (image is None) == (position in samples.failures)
                assert image is None or np.unique(image).tolist() == [7], "what lies outside was read"
            assert ((samples.labels >= -1) & (samples.labels < len(dataset.classes))).all()
            if len(dataset) < 1000:
                assert len(dataset.content_hash()) == 64

    check()
