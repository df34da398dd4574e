"""A CSV or Parquet table that lists images, their labels and whatever else is known of them."""

import hashlib
import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from storage.datasets.dataset import DatasetSpec, Samples
from storage.datasets.folder import ImageFiles
from storage.datasets.images import check_classes, check_count, check_labels, filesystem_of, nearest, numbered_classes
from storage.errors import InputError

ROWS_A_BATCH = 4096
LARGEST_TABLE = 4 << 30


class ManifestDataset:
    """A table with the columns `path` (relative to its folder), `label`, and further ones, kept as `meta_<snake_case>`.

    label: class index (integers), or class name (strings); null or −1 = unknown. Names default to the sorted labels. In
    CSV an empty field is null, and labels are indices where every one is an integer. Ids are the paths as written; a
    path that leads out of the folder is a failure of its sample. The table is held in memory, the images are not.

    Raises InputError: no such table, one that cannot be parsed, no rows, a missing column, columns whose names collide,
    or a label outside the classes. Rows are counted from 1, the header apart.
    """

    classes: tuple[str, ...]
    meta_schema: pa.Schema

    def __init__(self, spec: DatasetSpec) -> None:
        check_classes(spec)
        filesystem, path = filesystem_of(spec.path)
        try:
            table = _parse(filesystem.cat_file(path), spec.path)
        except OSError as error:
            raise InputError(f"{spec.path} cannot be read ({error}); check that it is there and accessible") from error
        for name in ("path", "label"):
            if name not in table.column_names:
                raise InputError(f"{spec.path} has no column {name!r}; {nearest(name, table.column_names)}: rename one")
        if table.num_rows == 0:
            raise InputError(f"{spec.path} has no rows; list at least one image")
        self._meta = _meta(table, spec.path)
        self.meta_schema = self._meta.schema
        labels, self.classes = _labels(table["label"], spec)
        if not _is_string(table["path"].type):
            raise InputError(f"{spec.path}: column 'path' is {table['path'].type}; write the paths as strings")
        paths = [name or "" for name in table["path"].to_pylist()]
        self._files = ImageFiles(filesystem, path.rpartition("/")[0], paths, labels)

    def __len__(self) -> int:
        return len(self._files.paths)

    def read(self, start: int, stop: int) -> Samples:
        """The samples of [start, stop). What cannot be read is a failure of its sample. Raises IndexError: no range."""
        files = self._files.read(start, stop)
        meta = self._meta.slice(start, stop - start) if self._meta.num_columns else None
        return Samples(files.ids, files.images, files.labels, files.hashes, files.failures, meta)

    def ids(self, start: int, stop: int) -> list[str]:
        """Paths as the manifest gives them."""
        return self._files.paths[start:stop]

    def content_hash(self) -> str:
        """SHA-256 over the classes, every (id, label, SHA-256 of the file), and meta's names, types and values."""
        total = hashlib.sha256(self._files.content_hash(self.classes).encode())
        total.update(json.dumps([[field.name, str(field.type)] for field in self.meta_schema]).encode())
        for start in range(0, len(self), ROWS_A_BATCH):
            batch = self._meta.slice(start, ROWS_A_BATCH)
            columns = [_countable(column).to_pylist() for column in batch.columns]
            total.update(json.dumps(columns, default=str).encode())
        return total.hexdigest()


def _parse(content: bytes, address: str) -> pa.Table:
    suffix = address.rpartition(".")[2].lower()
    if suffix not in ("csv", "parquet"):
        raise InputError(f"{address}: a manifest is a .csv or .parquet file; rename or convert it")
    try:
        if suffix == "parquet":
            table = _read_parquet(content, address)
        else:
            table = pa.csv.read_csv(
                io.BytesIO(content),
                parse_options=pa.csv.ParseOptions(newlines_in_values=True),
                convert_options=pa.csv.ConvertOptions(
                    column_types={"path": pa.string(), "label": pa.string()}, null_values=[""], strings_can_be_null=True
                ),
            )
            table = _with_integer_labels(table)
        table.validate(full=True)
        return pa.table([_decoded(column) for column in table.columns], names=table.column_names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{address} is no readable {suffix} table ({error}); write it again") from error


def _read_parquet(content: bytes, address: str) -> pa.Table:
    """Bit by bit: a few kilobytes of Parquet can unfold to any number of rows, or to any length."""
    with pa.parquet.ParquetFile(io.BytesIO(content)) as file:
        check_count(file.metadata.num_rows, address)
        batches: list[pa.RecordBatch] = []
        left = LARGEST_TABLE
        for batch in file.iter_batches(ROWS_A_BATCH):
            left -= batch.nbytes
            if left < 0:
                raise InputError(f"{address} is larger than {LARGEST_TABLE >> 20} MB when unpacked; drop columns, or split it")
            batches.append(batch)
        return pa.Table.from_batches(batches, file.schema_arrow).replace_schema_metadata(None)


def _with_integer_labels(table: pa.Table) -> pa.Table:
    position = table.schema.get_field_index("label")
    if position < 0:
        return table
    try:
        return table.set_column(position, "label", table.column(position).cast(pa.int64()))
    except pa.ArrowInvalid:  # at least one is a name
        return table


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with its plain type, where Arrow only stores it in another way."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string()) if _is_string(column.type) else column


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _meta(table: pa.Table, address: str) -> pa.Table:
    """The columns but path and label, under their `meta_` names."""
    origins: dict[str, str] = {}
    for column in table.column_names:
        name = column if column in ("path", "label") else f"meta_{_snake_case(column).removeprefix('meta_')}"
        if name == "meta_":
            raise InputError(f"{address}: column {column!r} has no letter or digit in its name; rename or drop it")
        if name in origins:
            raise InputError(f"{address}: columns {origins[name]!r} and {column!r} are both {name!r}; rename one")
        origins[name] = column
    return table.rename_columns(list(origins)).drop_columns(["path", "label"])


def _snake_case(name: str) -> str:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"[\W_]+", "_", spaced).strip("_").lower()


def _labels(column: pa.ChunkedArray, spec: DatasetSpec) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) int64, −1 = unknown, and the classes that they index."""
    if column.null_count == len(column):
        column = pa.chunked_array([pa.nulls(len(column))])
    if _is_string(column.type):
        return _named_labels(column, spec)
    if not (pa.types.is_null(column.type) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise InputError(f"{spec.path}: column 'label' is {column.type}; write class indices or class names")
    try:
        labels: np.ndarray = column.cast(pa.int64()).fill_null(-1).to_numpy()
    except pa.ArrowInvalid as error:
        raise InputError(f"{spec.path}: column 'label' ({error}); write whole class indices, or class names") from error
    classes = spec.classes or numbered_classes(labels, spec.path)
    check_labels(labels, classes, spec.path, "row", 1)
    return labels, classes


def _named_labels(column: pa.ChunkedArray, spec: DatasetSpec) -> tuple[np.ndarray, tuple[str, ...]]:
    classes = spec.classes or tuple(sorted(column.drop_null().unique().to_pylist()))
    indices = pc.index_in(column, value_set=pa.array(classes, pa.string()))
    unknown = pc.and_(column.is_valid(), indices.is_null()).to_numpy()
    if unknown.any():
        row = int(unknown.argmax())
        name = column[row].as_py()
        raise InputError(
            f"{spec.path}: row {row + 1} has label {name!r}, which is not among the {len(classes)} classes "
            f"({nearest(name, classes)}); mend the label, or add it to `classes`"
        )
    return indices.cast(pa.int64()).fill_null(-1).to_numpy(), classes


def _countable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as integers: as Python objects they lose nanoseconds."""
    if pa.types.is_temporal(column.type) and column.type.bit_width <= 64:
        return column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64())
    return column
