"""Which types a manifest's further columns are kept in: those that a table, a query and its answer hold alike."""

import uuid

import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import InputError

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def keep(column: pa.ChunkedArray, name: str, address: str) -> pa.ChunkedArray:
    """The column with a type that it can be kept in, see `kept_type`.

    Bytes are text where all of them are UTF-8, else their hexadecimal digits.
    Raises InputError where there is no such type.
    """
    kind = column.type
    try:
        if isinstance(kind, pa.UuidType):
            values = [
                None if value is None else str(uuid.UUID(bytes=value))
                for chunk in column.chunks
                for value in chunk.storage.to_pylist()
            ]
            return pa.chunked_array([pa.array(values, pa.string())])
        if isinstance(kind, pa.BaseExtensionType):
            chunks = [chunk.storage for chunk in column.chunks]
            return keep(pa.chunked_array(chunks, kind.storage_type), name, address)
        if is_bytes(kind):
            return as_text(column)
        if pa.types.is_duration(kind):
            return pc.divide(column.cast(pa.int64()).cast(pa.float64(), safe=False), float(PER_SECOND[kind.unit]))
        if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):  # Arrow's cast leaves lists that are not whole
            return pa.chunked_array([pa.array(column.to_pylist(), kept_type(pa.list_(kind.value_type)))])
        kept = kept_type(kind)
        # Not safe: what is finer than a microsecond is cut off.
        return column if kept == kind else column.cast(kept, safe=not pa.types.is_temporal(kind))
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{address}: column {name!r} is {kind}, which no table can hold; write it as text or drop it") from error


def kept_type(kind: pa.DataType) -> pa.DataType:
    """The type that values of `kind` are kept in; raises ValueError where there is none.

    Floats of 16 bits become float32, decimals of more than 38 digits float64, dates and times have days or microseconds,
    durations are seconds (float64), bytes are text. Lists and structs are kept with what is in them. Others stay as they are.
    """
    types = pa.types
    if types.is_dictionary(kind):
        return kept_type(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or is_bytes(kind):
        return pa.string()
    if types.is_float16(kind):
        return pa.float32()
    if types.is_decimal(kind):
        return pa.float64() if kind.precision > 38 else pa.decimal128(kind.precision, kind.scale)
    if types.is_timestamp(kind):
        return pa.timestamp("us", None if kind.tz is None else "UTC")
    if types.is_date(kind):
        return pa.date32()
    if types.is_time(kind):
        return pa.time64("us")
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(kept_type(kind.value_type))
    if types.is_struct(kind) and kind.num_fields:
        return pa.struct([pa.field(field.name, kept_type(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(kept_type(kind.key_type), kept_type(kind.item_type))
    if types.is_null(kind) or types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind):
        return kind
    raise ValueError(f"{kind} has no such type")


def is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind) or types.is_binary_view(kind)
    )


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    content = column.cast(pa.binary())
    try:
        return content.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.chunked_array(
            [pa.array([None if value is None else value.hex() for value in content.to_pylist()], pa.string())]
        )
