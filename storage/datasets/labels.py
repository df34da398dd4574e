"""What the labels of a manifest mean: indices of classes, or their names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage.datasets.classes import ClassNames, check_labels, nearest, numbered_classes, plain
from storage.datasets.dataset import DatasetSpec
from storage.errors import InputError

ABSENT = frozenset(("nan", "nat", "none", "null", "na", "n/a", "<na>", "#n/a"))
"""What programs write for a value that is not there; in a column of names it may as well be a name."""

INTEGER = re.compile(r"([+-]?[0-9]{1,10})(?:[.]0*|,0)?")
"""An integer, also as what writes a column with gaps has it: 1.0, or 1,0."""

FLOAT = re.compile(r"[+-]?(?:[0-9]+[.]?[0-9]*|[.][0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
LARGEST = 1 << 31


@dataclass(frozen=True)
class Column:
    """A column of labels: its different values, and which of them each row has.

    texts: without blanks around them. codes: (N,) int64, positions in `texts`, −1 = the row has none. is_typed: whether
    the table itself says that they are text, as Parquet does and CSV cannot.
    """

    address: str
    texts: list[str]
    codes: np.ndarray
    is_typed: bool

    def row(self, position: int) -> int:
        """The first row, counted from 1, that has that value."""
        return int((self.codes == position).argmax()) + 1

    def say(self, position: int) -> str:
        return f"row {self.row(position)} has label {self.texts[position]!r}"

    def spread(self, meanings: Sequence[int]) -> np.ndarray:
        """(N,) int64: what each row's label means. meanings: of each text, −1 = unknown."""
        labels: np.ndarray = np.array([*meanings, -1], dtype=np.int64)[self.codes]
        return labels


def read_labels(column: pa.ChunkedArray, spec: DatasetSpec, is_typed: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) int64, −1 = unknown, and the classes that they index.

    Whole numbers, however they are written, are indices; anything else is a name of `spec.classes`, or, without these, of
    the sorted labels. Numbers that are names in `spec.classes` are names where they cannot be indices, or where a table
    with types has them as text (is_typed: it has types).

    Raises InputError: a label outside the classes, indices and names in one column, or labels that can be read both ways.
    """
    read = read_column(column, spec.path, is_typed)
    if spec.classes is None:
        return unnamed(read)
    classes = ClassNames(spec.classes, spec.path)
    return named(read, classes), classes.names


def read_column(column: pa.ChunkedArray, address: str, is_typed: bool) -> Column:
    """Raises InputError where values of that type are no labels."""
    kind = column.type
    is_text = pa.types.is_string(kind)
    if not (is_text or pa.types.is_null(kind) or pa.types.is_boolean(kind) or is_number(kind)):
        raise InputError(f"{address}: column 'label' is {kind}; write class indices or class names")
    if pa.types.is_null(kind) or (not is_text and not pa.types.is_integer(kind) and not pa.types.is_boolean(kind)):
        column = column.cast(pa.string() if pa.types.is_null(kind) else pa.float64())
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    texts: dict[str, int] = {}
    places = np.full(len(values) + 1, -1, dtype=np.int64)
    for place, value in enumerate(values):
        text = as_text(value)
        if text:
            places[place] = texts.setdefault(text, len(texts))
    codes = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    return Column(address, list(texts), places[codes], is_typed and is_text)


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def as_text(value: object) -> str:
    """A label as plain text; empty where there is none."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None or value != value else plain(str(value))  # NaN is not itself


def whole_number(text: str) -> int | None:
    """The integer that a text is, in any of the ways in which programs write one."""
    found = INTEGER.fullmatch(text)
    if found is not None:
        number = int(found[1])
    elif FLOAT.fullmatch(text) and float(text).is_integer():
        number = int(float(text))
    else:
        return None
    return number if abs(number) < LARGEST else None


def is_odd(text: str) -> bool:
    """Whether an integer is written as numbers are not, but names may be: 01, +1, 1e3."""
    found = INTEGER.fullmatch(text)
    return "." not in text if found is None else str(int(found[1])) != found[1]


def named(column: Column, classes: ClassNames) -> np.ndarray:
    """Labels (N,) where the classes have names."""
    texts = column.texts
    numbers = [whole_number(text) for text in texts]
    # A class "01" is also meant by 1 and 1.0: zeros are lost wherever a column is taken for numbers.
    by_number: dict[int | None, list[int]] = {}
    for index, name in enumerate(classes.names):
        by_number.setdefault(whole_number(plain(name)), []).append(index)
    by_number[None] = []
    found = [classes.find(text) or by_number.get(number, []) for text, number in zip(texts, numbers, strict=True)]
    known = [place for place, number in enumerate(numbers) if found[place] or not (number == -1 or is_absent(texts[place]))]
    count = len(classes.names)
    by_index = [-1] * len(texts)
    for place in known:
        number = numbers[place]
        by_index[place] = count if number is None else number
    may_be_indices = all(-1 <= by_index[place] < count for place in known)
    if all(found[place] for place in known):
        if not may_be_indices or column.is_typed or all(found[place] == [numbers[place]] for place in known):
            return column.spread(
                [classes.only(found[place], column.say(place)) if found[place] else -1 for place in range(len(texts))]
            )
        place = next(place for place in known if found[place] != [numbers[place]])
        raise InputError(
            f"{column.address}: {column.say(place)}, which is the name of class {found[place][0]} and the index of class "
            f"{classes.names[by_index[place]]!r}; give the classes names in `classes` that are no numbers"
        )
    strangers = [place for place in known if not found[place]]
    if all(numbers[place] is not None for place in strangers) and not any(
        found[place] and numbers[place] is None for place in known
    ):
        labels = column.spread(by_index)
        check_labels(labels, classes.names, column.address, "row", 1)
        return labels
    stranger = next((place for place in strangers if numbers[place] is None), strangers[0])
    raise InputError(
        f"{column.address}: {column.say(stranger)}, which is not among the {count} classes "
        f"({nearest(texts[stranger], classes.names)}); mend the label, or add it to `classes`"
    )


def unnamed(column: Column) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,), and the classes, where nobody has named these."""
    texts = column.texts
    numbers = [whole_number(text) for text in texts]
    known = [place for place, number in enumerate(numbers) if not (number == -1 or is_absent(texts[place]))]
    others = [place for place in known if numbers[place] is None]
    if not others:
        return indexed(column, numbers, known)
    fraction = next((place for place in others if FLOAT.fullmatch(texts[place])), None)
    if fraction is not None:
        raise InputError(
            f"{column.address}: {column.say(fraction)}, which is no class index; write whole class indices, or class names"
        )
    if len(others) < len(known):
        index = next(place for place in known if numbers[place] is not None)
        raise InputError(
            f"{column.address}: {column.say(others[0])}, a name, and {column.say(index)}, an index; write one or the other, or "
            "name every class in `classes`"
        )
    absent = next((place for place, text in enumerate(texts) if is_absent(text)), None)
    if absent is not None:
        raise InputError(
            f"{column.address}: {column.say(absent)}, which may be a class or stand for no label; name the classes in `classes`, "
            "or leave the field empty"
        )
    classes = tuple(sorted(texts[place] for place in others))
    indices = {name: index for index, name in enumerate(classes)}
    return column.spread([indices.get(text, -1) for text in texts]), classes


def indexed(column: Column, numbers: Sequence[int | None], known: Sequence[int]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels (N,) that are all whole numbers, and the classes "0", "1", …"""
    meanings = [-1] * len(numbers)
    for place in known:
        meanings[place] = numbers[place] or 0
    written = next((place for place in known if column.is_typed or is_odd(column.texts[place])), None)
    if written is not None and sorted(meanings[place] for place in known) != list(range(len(known))):
        raise InputError(
            f"{column.address}: {column.say(written)}, which may be the index {meanings[written]} or a name; name the classes in "
            "`classes`, in the order of the model's outputs, or write indices as plain integers"
        )
    labels = column.spread(meanings)
    classes = numbered_classes(labels, column.address)
    check_labels(labels, classes, column.address, "row", 1)
    return labels, classes


def is_absent(text: str) -> bool:
    return text.casefold() in ABSENT
