"""A CSV or Parquet table that lists images, their labels and whatever else is known of them."""

import codecs
import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from pydantic.dataclasses import dataclass

from storage.addresses import filesystem_of, open_file
from storage.datasets.classes import empty_classes, nearest, plain
from storage.datasets.columns import is_bytes, keep
from storage.datasets.dataset import Samples
from storage.datasets.files import ImageFiles
from storage.datasets.images import check_count
from storage.datasets.labels import read_labels
from storage.errors import InputError
from storage.options import STRICT

ROWS_A_BATCH, NESTED_ROWS = 4096, 16
LEAST_BYTES = 4
"""That a value takes in memory, or a value and where it stands."""
LARGEST_TABLE, SMALL_TABLE, LARGEST_RATIO = 4 << 30, 256 << 20, 100
"""Bytes that a table may take in memory: so many times those of its file, but not fewer nor more than this."""
LONGEST_HEADER = 1 << 16
DELIMITERS = ",;\t|"
NEEDED = ("path", "label")
PANDAS_INDEX = ("", "Unnamed: 0")
"""What pandas calls the column of row numbers that it writes unasked."""
INDEX = "index"
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, config=STRICT)
class ManifestSpec:
    """path: the CSV or Parquet file that lists the images. classes: see `DatasetSpec`."""

    format: Literal["manifest"]
    path: str
    classes: tuple[str, ...] | None = None
    addresses: ClassVar[tuple[str, ...]] = ("path",)


class ManifestDataset:
    """A table with the columns `path` (relative to its folder), `label`, and further ones, kept as `meta_<snake_case>`.

    label: class index, or class name; null or −1 = unknown; what is what, see `read_labels`. In CSV, whose fields may be
    separated by commas, semicolons, tabs or bars, an empty field is null. The names of the two columns may be written in any
    case; a first column without a name is pandas' index, `meta_index`. Ids are the paths as written; a path that leads out of
    the folder is a failure of its sample. In what types further columns are kept, see `kept_type`. The table is held in memory,
    the images are not.

    Raises InputError: no such table, one that cannot be parsed, no rows, a missing column, columns whose names collide, or of
    a type that cannot be kept, or labels that are outside the classes or can be read in two ways. Rows are counted from 1, the
    header apart.
    """

    classes: tuple[str, ...]
    meta_schema: pa.Schema
    passed_over: Mapping[str, int]
    empty_classes: tuple[str, ...]

    def __init__(self, spec: ManifestSpec) -> None:
        filesystem, path = filesystem_of(spec.path)
        try:
            with open_file(spec.path) as file:
                content = file.read()
            table = _parse(content, spec.path)
        except OSError as error:
            raise InputError(f"{spec.path} cannot be read ({error}); check that it is there and accessible") from error
        for name in NEEDED:
            if name not in table.column_names:
                raise InputError(f"{spec.path} has no column {name!r}; {nearest(name, table.column_names)}: rename one")
        if table.num_rows == 0:
            raise InputError(f"{spec.path} has no rows; list at least one image")
        self._meta = _meta(table, spec.path)
        self.meta_schema = self._meta.schema
        labels, self.classes = read_labels(table["label"], spec, is_typed=not spec.path.lower().endswith(".csv"))
        self.passed_over = {}
        self.empty_classes = empty_classes(self.classes, labels)
        if not pa.types.is_string(table["path"].type):
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
        return self._files.ids[start:stop]

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
        table = _read_parquet(content, address) if suffix == "parquet" else _read_csv(content, address)
        table.validate(full=True)
        columns = [keep(column, name, address) for name, column in zip(table.column_names, table.columns, strict=True)]
        return pa.table(columns, names=_renamed(table.column_names))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{address} is no readable {suffix} table ({error}); write it again") from error


def _read_parquet(content: bytes, address: str) -> pa.Table:
    """Bit by bit, and text as the file has it, each value once: a few kilobytes of Parquet can unfold to any length."""
    most = min(LARGEST_TABLE, max(SMALL_TABLE, LARGEST_RATIO * len(content)))
    too_large = InputError(f"{address} is larger than {most >> 20} MB when unpacked; drop columns, or split it")
    with pa.parquet.ParquetFile(io.BytesIO(content)) as file:
        schema, metadata = file.schema_arrow, file.metadata
    check_count(metadata.num_rows, address)
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    values = sum(group.column(column).num_values for group in groups for column in range(group.num_columns))
    if max(sum(group.total_byte_size for group in groups), LEAST_BYTES * values) > most:
        raise too_large
    # Of text within lists and the like it is not known beforehand what it takes.
    rows = ROWS_A_BATCH if not any(map(pa.types.is_nested, schema.types)) else NESTED_ROWS
    texts = [field.name for field in schema if is_text(field.type)]
    batches: list[pa.RecordBatch] = []
    with pa.parquet.ParquetFile(io.BytesIO(content), read_dictionary=texts) as file:
        for batch in file.iter_batches(rows):
            most -= sum(map(unfolded_bytes, batch.columns))
            if most < 0:
                raise too_large
            columns = [
                (column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).cast(field.type)
                for column, field in zip(batch.columns, schema, strict=True)
            ]
            batches.append(pa.record_batch(columns, schema=schema))
    return pa.Table.from_batches(batches, schema).replace_schema_metadata(None)


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or is_bytes(kind))


def unfolded_bytes(column: pa.Array) -> int:
    """What a column takes when each of its values is written out."""
    if not pa.types.is_dictionary(column.type) or not is_text(column.type.value_type):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary).take(column.indices)
    return int(pc.sum(lengths).as_py() or 0) + 4 * len(column)


def _read_csv(content: bytes, address: str) -> pa.Table:
    if content.startswith(UTF_16) or b"\0" in content[:LONGEST_HEADER]:
        raise InputError(f"{address} is written in UTF-16, and a CSV is read in UTF-8; save it as that")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{address}: line {row} is not in UTF-8 (perhaps in Latin-1, as older programs of Windows write); save it as UTF-8"
        ) from error
    delimiter, names = _dialect(content)
    return pa.csv.read_csv(
        io.BytesIO(content),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in names if _folded(name) in NEEDED},
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


def _dialect(content: bytes) -> tuple[str, list[str]]:
    """What separates the fields of a CSV, by its header, and the header's names."""
    header = content[:LONGEST_HEADER].decode("utf-8-sig", errors="replace")
    for delimiter in DELIMITERS:
        try:
            names = next(csv.reader(io.StringIO(header, newline=""), delimiter=delimiter), [])
        except csv.Error:
            continue
        if {*NEEDED} <= {*map(_folded, names)}:
            return delimiter, names
    return DELIMITERS[0], [*NEEDED]


def _renamed(names: Sequence[str]) -> list[str]:
    """The names, with `path` and `label` for the columns that are called so in another case, or with blanks around."""
    folded = [*map(_folded, names)]
    meant = {name for name in NEEDED if name not in names and folded.count(name) == 1}
    renamed = [plainly if plainly in meant else name for name, plainly in zip(names, folded, strict=True)]
    return [INDEX if place == 0 and name in PANDAS_INDEX else name for place, name in enumerate(renamed)]


def _folded(name: str) -> str:
    return plain(name).casefold()


def _meta(table: pa.Table, address: str) -> pa.Table:
    """The columns but path and label, under their `meta_` names."""
    origins: dict[str, str] = {}
    for column in table.column_names:
        name = column if column in NEEDED else f"meta_{_snake_case(column).removeprefix('meta_')}"
        if name == "meta_":
            raise InputError(f"{address}: column {column!r} has no letter or digit in its name; rename or drop it")
        if name in origins:
            raise InputError(f"{address}: columns {origins[name]!r} and {column!r} are both {name!r}; rename one")
        origins[name] = column
    return table.rename_columns(list(origins)).drop_columns([*NEEDED])


def _snake_case(name: str) -> str:
    composed = unicodedata.normalize("NFC", name)
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", composed)
    return re.sub(r"[\W_]+", "_", spaced).strip("_").lower()


def _countable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times as integers: as Python objects they lose nanoseconds."""
    if pa.types.is_temporal(column.type) and column.type.bit_width <= 64:
        return column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64())
    return column
